"""Stage 2 after accelerator.py: 256x256 cells instead of 64x64, trained on crops of 64x64, bfloat16.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/accelerator_stage2.py --workdir runs/large2 \
        --config.stage2.stage1=runs/large
    python -m diffmatch_jax evaluate --workdir runs/large2

PREPARED, NOT RUN YET: there are no numbers of it, neither of its speed nor of its accuracy.
Data: as bsds_stage2.py. Network: that of accelerator.py with the inputs of a second stage, 23.1 million parameters, as
a regression like bsds_stage2.py. Hardware: meant for one H100. Expected time, an estimate: a step of 32 pairs is 5.8
TFLOP (counted: 183 GFLOP a pair, most of them stage 1's prediction and features), 20 ms at 30 % of the 989 TFLOP/s of
bfloat16; 20,000 steps take 7 minutes, and ten with compilation and evaluation.
"""

from configs.diffmatch_jax import accelerator, bsds_stage2


def get_config():
    config, refining = accelerator.get_config(), bsds_stage2.get_config()
    config.task = refining.task
    config.process.update(refining.process)
    config.objective.update(refining.objective)
    config.stage2.update(refining.stage2)
    config.process.noise_correlation = 16.0  # as large in the pairs as in bsds_stage2.py; not measured at this size

    config.train.steps = 20_000
    return config
