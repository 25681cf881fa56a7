"""When denoisers generalise, with equal training for every N: pairs of models on disjoint sets of N faces, 32x32, gray.

    python -m gahb study   --config configs/gahb/study_faces32.py --workdir runs/study_faces32
    python -m gahb figures --workdir runs/study_faces32

Each of its models is an ordinary run: `python -m gahb train --config configs/gahb/study_faces32.py --workdir DIR` with
data.half and data.subset set trains one alone, `study --only 100/1` one in its place. Checkpoints are kept every 2000
steps: the study measures the memorised fraction and the held-out PSNR at each of them.

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, section 2; Bonnaire et al., NeurIPS 2025 (times of generalisation and
of memorisation); Kamb and Ganguli, arXiv 2412.20292 (score machines).
Data: `faces_gray80/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data (3,520 training and 342 test faces, one of each
person), resized to 32x32. Network: UNet with 32 kernels and two blocks.
Training: the recipe of photographs.py, 40,000 steps of 8 images for every N, so that only the number of images differs.
Hardware: two CPU cores, about 1,250 CPU seconds a model, ten models and a control. The command may be stopped and given
again at any time.
Expected numbers: not measured yet.
"""

from configs.gahb import study_faces20


def get_config():
    config = study_faces20.get_config()

    config.model.num_blocks = 2
    config.data.size = 32

    config.train.steps = 40_000
    config.checkpoint.every = 2000
    config.checkpoint.keep = 40

    config.study.steps = (40_000,)
    config.study.patch = 8
    return config
