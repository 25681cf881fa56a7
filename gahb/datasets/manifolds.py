"""Images on manifolds of known dimension: disks (5), sinusoids (2) and the multiples of one image (1).

Each picture is a smooth function of its parameters, so its tangent space is exact (Kadkhodaie et al., ICLR 2024,
section 4.2, figures 5, 19 and 20). Everything concerns one image; `jax.vmap` makes batches.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gahb.datasets.calpha import low_pass

# Parameters of a picture, and therefore the dimension of its class.
DISK = ("row", "column", "radius", "background", "foreground")
SINUSOID = ("phase", "intensity")
DIMENSIONS = {"disks": len(DISK), "sinusoids": len(SINUSOID), "scaled_image": 1}

SMALLEST_DISK = 16  # pixels of an image in which the ranges of radius and centre make sense


def render_disk(parameters: jax.Array, size: int) -> jax.Array:
    """Returns an anti-aliased disk `[size, size, 1]`: b + (f - b) clip(r - distance to the centre + 1/2, 0, 1).

    `parameters [5]`: row and column of the centre, radius r (in pixels, whose centres have integer coordinates),
    background b and foreground f in [0, 1]. Differentiable in all five almost everywhere.
    """
    row, column, radius, background, foreground = parameters
    grid = jnp.arange(size, dtype=parameters.dtype)
    square = (grid[:, None] - row) ** 2 + (grid[None, :] - column) ** 2
    # At the centre itself the distance has no derivative, but the clip is flat there; 1 keeps the product finite.
    distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return (background + (foreground - background) * jnp.clip(radius - distance + 0.5, 0, 1))[..., None]


def draw_disk(key: jax.Array, size: int) -> jax.Array:
    """Returns `parameters [5]` of `render_disk`, uniform in the ranges of the paper's disks, which have 80 pixels.

    To that scale, the centre is at least size / 8 pixels inside, the radius from size / 16 to 1 pixel before the
    nearest border, and both grays are from [0, 1].
    """
    keys = jax.random.split(key, 3)
    centre = jax.random.uniform(keys[0], (2,), minval=size / 8, maxval=size - 1 - size / 8)
    nearest = jnp.minimum(centre, size - 1 - centre).min() + 0.5
    radius = jax.random.uniform(keys[1], (1,), minval=size / 16, maxval=nearest - 1)
    return jnp.concatenate([centre, radius, jax.random.uniform(keys[2], (2,))])


def hard_disk(
    parameters: jax.Array, size: int, *, antialias: int = 0, extension: str = "periodic", gain: float = 1.0
) -> jax.Array:
    """Returns the original's disk: foreground where the distance to the centre is at most the radius.

    `parameters` as for `render_disk`, in pixels of a canvas of `size` 2^antialias pixels; distances are those of a
    torus. The canvas is halved `antialias` times. The original has gain 2 each time, which leaves the range [0, 1],
    and with extension "reflect" pictures larger than `size`.
    """
    row, column, radius, background, foreground = parameters
    canvas = size * 2**antialias
    grid = jnp.arange(canvas, dtype=parameters.dtype)
    down, across = ((grid - centre + canvas / 2) % canvas - canvas / 2 for centre in (row, column))
    inside = down[:, None] ** 2 + across[None, :] ** 2 <= radius**2
    image = jnp.where(inside, foreground, background)[..., None]
    for _ in range(antialias):
        image = low_pass(image, extension=extension, gain=gain)
    return image


def draw_hard_disk(key: jax.Array, size: int, *, wrap: bool = False, integer: bool = False) -> jax.Array:
    """Returns `parameters [5]` of `hard_disk` by the original's rule.

    The radius is from U(3, (size - 3) // 2), each coordinate of the centre from U(r, size - r) or, with `wrap`, from
    U(0, size). `integer` rounds these three down.
    """
    keys = jax.random.split(key, 3)
    rounded = jnp.floor if integer else (lambda x: x)
    radius = rounded(jax.random.uniform(keys[0], (1,), minval=3.0, maxval=(size - 3) // 2))
    low, high = (0.0, float(size)) if wrap else (radius, size - radius)
    centre = rounded(jax.random.uniform(keys[1], (2,), minval=low, maxval=high))
    return jnp.concatenate([centre, radius, jax.random.uniform(keys[2], (2,))])


def render_sinusoid(parameters: jax.Array, size: int, *, frequency: tuple[int, int] = (1, 0)) -> jax.Array:
    """Returns a (1 + cos(2 pi (k1 i + k2 j) / size + phase)) / 2 at row i and column j, `[size, size, 1]`.

    `parameters [2]`: phase (radian) and intensity a; `frequency` k is in cycles a picture. All phases and intensities
    form a cone over a circle, of dimension 2.
    """
    phase, intensity = parameters
    place = np.arange(size) * (2 * np.pi / size)
    angle = frequency[0] * place[:, None] + frequency[1] * place[None, :]
    # The cosine of the sum from tables: the same bits in every compiled program, and no cosine for each pixel.
    cosine, sine = (jnp.asarray(table, parameters.dtype) for table in (np.cos(angle), np.sin(angle)))
    return (intensity * (1 + cosine * jnp.cos(phase) - sine * jnp.sin(phase)) / 2)[..., None]


def draw_sinusoid(key: jax.Array) -> jax.Array:
    """Returns `parameters [2]` of `render_sinusoid`: a phase from U(0, 2 pi) and an intensity from U(0, 1)."""
    return jax.random.uniform(key, (2,)) * jnp.asarray([2 * jnp.pi, 1.0])


def tangent_space(render: Callable[[jax.Array], jax.Array], parameters: jax.Array) -> jax.Array:
    """Returns an orthonormal basis of the tangent space at `render(parameters [D])`, as pictures `[D, H, W, C]`.

    The derivatives are exact (forward mode). Their span has dimension D only where they are independent; a disk of the
    colour of its background, for example, has no contour to move.
    """
    jacobian = jax.jacfwd(render)(parameters)
    basis, _ = jnp.linalg.qr(jacobian.reshape(-1, parameters.shape[0]))
    return basis.T.reshape(-1, *jacobian.shape[:-1])
