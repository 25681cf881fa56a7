"""The section `model` of the `phase_bridge` experiments: which network, and every number of it."""

from ml_collections import ConfigDict


def model() -> ConfigDict:
    """Returns the keys of all networks, as the paper has them for CIFAR-10 (song_unet) and ImageNet-64 (adm_unet)."""
    model = ConfigDict()
    model.network = "song_unet"  # "mlp" (points) | "song_unet" | "adm_unet" (images)
    model.num_classes = 0  # classes on which U-Nets are conditioned, with data.labels (0 = none)

    model.patch = 1  # U-Nets: side of the cells that images are cut into, pixels; each is a vector of channels
    model.channels = 128  # U-Nets: channels of the first level
    model.multipliers = (2, 2, 2)  # of the channels, by level; each level halves the image once more
    model.num_blocks = 4  # blocks a level
    model.attention = (16,)  # sides of the images, in pixels or cells, at whose levels blocks attend
    model.heads = 1  # of the attention (adm_unet: 0 = as many as channels_per_head makes)
    model.channels_per_head = 64  # adm_unet
    model.embedding = "fourier"  # of the time: "fourier" | "positional"
    model.noise_multiplier = 2  # song_unet: features of the embedded time, times channels
    model.encoder = "residual"  # song_unet: "standard" | "skip" | "residual"
    model.decoder = "standard"  # song_unet: "standard" | "skip" | "residual"
    model.filter = (1.0, 3.0, 3.0, 1.0)  # taps by which blocks halve and double images
    model.dropout = 0.0  # probability that a block's activation is dropped while training
    model.fused_attention = True  # the platform's kernel, in bfloat16 on a GPU; without forward-mode derivatives

    model.width = 128  # mlp: width of the hidden layers
    model.depth = 20  # mlp: their number, beside the first
    model.time = "log"  # mlp: how the time enters: "log" | "raw" | "sinusoidal"
    model.num_frequencies = 8  # mlp, "sinusoidal"
    model.highest = 16.0  # mlp, "sinusoidal": periods of the fastest in a unit of time

    return model
