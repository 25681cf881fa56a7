"""AGM-ODE on ImageNet at 64x64 with the paper's network and recipe, without classes as there.

    python -m phase_bridge train    --config configs/phase_bridge/imagenet64.py --workdir runs/imagenet64
    python -m phase_bridge sample   --workdir runs/imagenet64 --config.sampler.nfe=20 --config.sampler.last=0.99
    python -m phase_bridge fidelity --workdir runs/imagenet64 --num 50000 --weights inception.pth --reference train

Chen et al., ICLR 2024: FID of 50,000 samples 10.55 with 20 evaluations (the authors' README; T = 0.99).

Told the class of each image (295,904,451 parameters), then asked for class 207:

    python -m phase_bridge train    --config configs/phase_bridge/imagenet64.py --workdir runs/imagenet64-classes \\
        --config.data.labels=True --config.model.num_classes=1000
    python -m phase_bridge sample   --workdir runs/imagenet64-classes --config.sampler.label=207

Data: `imagenet_resized/64x64`, prepared by TFDS. The paper mirrors every image once; here a coin decides in each epoch.
Network: ADM U-Net, 295,136,451 parameters. Hardware: 5,000,000 steps of 512 images need a cluster for weeks.
"""

from configs.phase_bridge import cifar10


def get_config():
    config = cifar10.get_config()

    config.model.network = "adm_unet"
    config.model.channels = 192
    config.model.multipliers = (1, 2, 3, 4)
    config.model.num_blocks = 3
    config.model.attention = (32, 16, 8)
    config.model.heads = 0
    config.model.channels_per_head = 64
    config.model.filter = (1.0, 1.0)
    config.model.dropout = 0.1

    config.data.source = "tfds:imagenet_resized/64x64"
    config.data.size = 64

    config.train.steps = 5_000_000
    config.optimizer.learning_rate = 2e-4
    return config
