"""Gray faces at 32x32 as one denoiser for every path, on cells of 2x2 pixels: `phase_bridge.load("faces32")`.

    python -m phase_bridge train    --config configs/phase_bridge/faces32.py --workdir runs/faces32
    python -m phase_bridge sample   --workdir runs/faces32 --config.sampler.nfe=10
    python -m phase_bridge evaluate --workdir runs/faces32
    python -m phase_bridge export   --workdir runs/faces32 --weights phase_bridge/weights/faces32.npz

Data: 3,520 training and 342 test faces of `faces_gray80/1.0.0` in $SCOREBRIDGE_DATA, data or ../shared/data, resized.
Network: SongUNet (DDPM++) with 48 channels on 16x16 cells, 2.6 million parameters.
Hardware: any; half an hour of one CPU core: 3,000 steps of 32 images, 96,000 images in 1,800 CPU seconds.
Expected numbers: docs/phase_bridge.md.
"""

from configs.base import prepared
from configs.phase_bridge.base import base


def get_config():
    config = base()

    config.model.patch = 2
    config.model.channels = 48
    config.model.multipliers = (1, 2, 2)
    config.model.num_blocks = 1
    config.model.attention = (8,)
    config.model.embedding = "positional"
    config.model.noise_multiplier = 1
    config.model.encoder = "standard"
    config.model.filter = (1.0, 1.0)

    config.data.source = prepared("faces_gray80/1.0.0")
    config.data.size = 32
    config.data.channels = 1
    config.data.fit = "resize"
    config.data.flip = True

    config.objective.name = "denoiser"
    config.objective.noise = "log_normal"

    config.train.steps = 3000
    config.train.batch_size = 32
    config.train.log_every = 25
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 100
    config.optimizer.clip_norm = 1.0
    config.ema.decay = 0.998
    config.checkpoint.every = 100

    config.evaluate.num = 342
    config.evaluate.batch_size = 342
    config.evaluate.repeats = 2
    config.sampler.num = 64
    return config
