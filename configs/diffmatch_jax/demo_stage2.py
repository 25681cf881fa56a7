"""The second stage of `python -m diffmatch_jax demo`: finer cells, after the first stage that the demonstration trains.

    python -m diffmatch_jax train    --config configs/diffmatch_jax/demo_stage2.py --workdir runs/demo-matcher2 \
        --config.stage2.stage1=runs/demo-matcher
    python -m diffmatch_jax evaluate --workdir runs/demo-matcher2

Data: as demo.py. Network: U-Net with 16 and 32 channels on 128x128 cells, trained on crops of 32x32. Hardware: any;
two CPU cores take 55 s. Expected after demo.py, seed 0: 1.79 px on 8 held-out warps, stage 1 alone 3.31, the refined
fit without networks 1.76. Without stage2.stage1 it goes on from the robust fit.
"""

from configs.diffmatch_jax import bsds_stage2, demo


def get_config():
    config = demo.get_config()
    refining = bsds_stage2.get_config()
    config.task = refining.task
    config.model.update(refining.model)
    config.process.update(refining.process)
    config.objective.update(refining.objective)
    config.stage2.update(refining.stage2)
    config.stage2.size = 32
    config.model.channels = 16
    config.model.multipliers = (1, 2)

    config.train.steps = 12
    config.train.batch_size = 4
    config.checkpoint.every = 30
    config.optimizer.warmup = 5
    return config
