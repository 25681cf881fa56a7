"""Images as fewer cells of more channels, so that a U-Net computes at a fraction of their pixels."""

import flax.linen as nn
import jax

from common.errors import input_error


def to_cells(x: jax.Array, side: int) -> jax.Array:
    """Returns `x [B, H, W, C]` as cells of side x side pixels, `[B, H/side, W/side, side side C]`; `InputError`."""
    batch, height, width, channels = x.shape
    if height % side or width % side:
        expected, got = f"height and width divisible by {side}", f"{height}x{width}"
        raise input_error("x", expected=expected, got=got, fix="crop the image or use a smaller patch")
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // side, width // side, side * side * channels)


def to_pixels(x: jax.Array, side: int) -> jax.Array:
    """Returns the image `[B, side H, side W, C]` of cells `x [B, H, W, side side C]`: the inverse of `to_cells`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, side, side, channels // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * side, width * side, -1)


class Patched(nn.Module):
    """`network` on cells of `side` x `side` pixels: it sees, and makes, side^2 times the channels of an image."""

    network: nn.Module
    side: int

    @nn.compact
    def __call__(self, x: jax.Array, *args) -> jax.Array:
        return to_pixels(self.network(to_cells(x, self.side), *args), self.side)
