"""Points to learn from, made where they are needed, each set with the exact distance to its support.

Element i is a function of fold_in(key(seed), i) alone, so a stream never repeats a point, needs no memory, and is the
same on any number of devices. The jitted training step makes its own batch. Points are of order 1: spiral and mixture
as the published code draws them, checkerboard and moons in the square of side 3 about the origin. "product" has eight
dimensions and a known density, the others are of the plane.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from common.data.source import MAX_LENGTH, OnDevice, Source, digest
from common.errors import choice, input_error
from phase_bridge.processes import Process, beside
from phase_bridge.sampling import Model, denoiser_model

_BLOCK = 4096  # points made at once on request of the host

# Spiral: five Swiss rolls, radius _TURN theta, theta from _INNER to _OUTER.
_TURN, _INNER, _OUTER, _ROLL_NOISE = 0.05, 1.5 * np.pi, 4.5 * np.pi, 0.015
_ROLLS = np.array([(0, 0), (1.2, 1.2), (1.2, -1.2), (-1.2, -1.2), (-1.2, 1.2)])

# Mixture: a square lattice turned by 45 degrees.
_CELLS = np.array([(x, y) for x in (-0.5, 0.0, 0.5) for y in (-0.5, 0.0, 0.5)])
_CENTRES = _CELLS @ (np.array([(1, -1), (1, 1)]) / np.sqrt(2))
_MODE = 0.04

# Checkerboard: the eight squares (i, j) of a 4x4 board with i + j even.
_SIDE = 0.75
_SQUARES = np.array([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]) * _SIDE - 1.5

# Moons: two half circles of radius _RADIUS.
_RADIUS, _MOON_NOISE = 0.95, 0.05
_MOONS = np.array([(-0.475, -0.2375), (0.475, 0.2375)])

# Product: y_i is _PRODUCT with probability _UPPER_i, else -_PRODUCT, with noise of deviation _SPREAD_i; x = _TURNED y.
_PRODUCT, _SPREAD, _UPPER = 0.6, np.geomspace(0.03, 0.3, 8), np.linspace(0.5, 0.7, 8)
_PAIR = np.array([(1, 1), (1, -1)]) / np.sqrt(2)
_TURNED = np.kron(_PAIR, np.kron(_PAIR, _PAIR))  # of Hadamard, its own inverse


class Toy(NamedTuple):
    """A set of points: `draw(key) -> [C]`, `distance([N, C]) -> [N]` to its support, and numbers that describe it.

    The support is the curve, the centres or the squares that noise is added to. Data lies within `radius` of it but for
    a fraction of at most 4e-4; all of it lies within `extent` of the origin in each coordinate, but for the noise's
    tail. `std` is the standard deviation of a coordinate, over all. `size` is C. "product" has a density that is known
    everywhere: its `distance` is sqrt(2 ln(p_max / p)), in standard deviations from the most probable mode.
    `denoise(u, sigma) -> E[x1 | x1 + sigma e = u]` and, of equal isotropic modes in the plane, `centres` and their
    standard deviation `mode` are there where they are known.
    """

    name: str
    draw: Callable[[jax.Array], jax.Array]
    distance: Callable[[np.ndarray], np.ndarray]
    radius: float
    extent: float
    std: float
    centres: np.ndarray | None = None
    mode: float = 0.0
    denoise: Callable[[jax.Array, Any], jax.Array] | None = None
    size: int = 2


def _draw_spiral(key):
    roll, place, noise = jax.random.split(key, 3)
    theta = jax.random.uniform(place, minval=_INNER, maxval=_OUTER)
    point = _TURN * theta * jnp.stack([jnp.cos(theta), jnp.sin(theta)])
    centre = jnp.asarray(_ROLLS, jnp.float32)[jax.random.randint(roll, (), 0, len(_ROLLS))]
    return centre + point + _ROLL_NOISE * jax.random.normal(noise, (2,))


def _spiral_distance(points):
    return np.min([_roll_distance(points - centre) for centre in _ROLLS], axis=0)


def _roll_distance(points):
    """Returns the distance to one roll: Newton steps from the places at the point's own angle, and from both ends."""
    angle, place = np.arctan2(points[:, 1], points[:, 0]), np.array([_INNER, _OUTER])
    starts = angle + 2 * np.pi * np.arange(4)[:, None]
    theta = np.clip(np.concatenate([np.broadcast_to(place[:, None], (2, len(points))), starts]), _INNER, _OUTER)

    def squared(theta):
        x, y = points[:, 0] - _TURN * theta * np.cos(theta), points[:, 1] - _TURN * theta * np.sin(theta)
        return x**2 + y**2

    least = squared(theta).min(0)
    for _ in range(8):
        cos, sin = np.cos(theta), np.sin(theta)
        across, along = points[:, 0] * cos + points[:, 1] * sin, points[:, 1] * cos - points[:, 0] * sin
        # Half of d/dtheta |p - c theta e(theta)|^2 over c, and its derivative, kept positive so that steps go down.
        slope = _TURN * theta - across - theta * along
        curvature = _TURN - 2 * along + theta * across
        theta = np.clip(theta - slope / np.maximum(curvature, 0.5 * _TURN), _INNER, _OUTER)
        least = np.minimum(least, squared(theta).min(0))
    return np.sqrt(least)


def _draw_mixture(key):
    which, noise = jax.random.split(key)
    centre = jnp.asarray(_CENTRES, jnp.float32)[jax.random.randint(which, (), 0, len(_CENTRES))]
    return centre + _MODE * jax.random.normal(noise, (2,))


def _mixture_distance(points):
    return np.linalg.norm(points[:, None] - _CENTRES, axis=-1).min(1)


def _draw_checkerboard(key):
    which, place = jax.random.split(key)
    corner = jnp.asarray(_SQUARES, jnp.float32)[jax.random.randint(which, (), 0, len(_SQUARES))]
    return corner + _SIDE * jax.random.uniform(place, (2,))


def _checkerboard_distance(points):
    middle = _SQUARES + _SIDE / 2
    beyond = np.maximum(np.abs(points[:, None] - middle) - _SIDE / 2, 0)
    return np.linalg.norm(beyond, axis=-1).min(1)


def _draw_moons(key):
    which, place, noise = jax.random.split(key, 3)
    lower = jax.random.bernoulli(which)
    angle = jnp.pi * (jax.random.uniform(place) + lower)
    centre = jnp.asarray(_MOONS, jnp.float32)[lower.astype(int)]
    point = centre + _RADIUS * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return point + _MOON_NOISE * jax.random.normal(noise, (2,))


def _moons_distance(points):
    found = []
    for centre, sign in zip(_MOONS, (1, -1), strict=True):
        x, y = (points - centre).T * np.array([[1], [sign]])
        on_the_side = np.abs(np.hypot(x, y) - _RADIUS)
        found.append(np.where(y >= 0, on_the_side, np.hypot(np.abs(x) - _RADIUS, y)))
    return np.min(found, axis=0)


def _draw_product(key):
    which, noise = jax.random.split(key)
    sign = jnp.where(jax.random.uniform(which, (8,)) < jnp.asarray(_UPPER, jnp.float32), 1.0, -1.0)
    y = _PRODUCT * sign + jnp.asarray(_SPREAD, jnp.float32) * jax.random.normal(noise, (8,))
    # _TURNED y by sums and differences: a product of matrices would be rounded by the number of points.
    y = y.reshape(2, 2, 2)
    for axis in range(3):
        one, other = y.take(0, axis), y.take(1, axis)
        y = jnp.stack([one + other, one - other], axis)
    return y.reshape(8) * 8**-0.5


def _product_distance(points):
    y = points @ _TURNED
    near = [np.log(weight) - ((y - centre) / _SPREAD) ** 2 / 2
            for weight, centre in ((_UPPER, _PRODUCT), (1 - _UPPER, -_PRODUCT))]  # fmt: skip
    return np.sqrt(np.maximum(2 * (np.log(_UPPER) - np.logaddexp(*near)).sum(-1), 0))


def _denoise_product(u, sigma):
    y, sigma = u @ jnp.asarray(_TURNED, u.dtype), beside(jnp.asarray(sigma, u.dtype), u)
    spread, odds = jnp.asarray(_SPREAD, u.dtype), jnp.asarray(np.log(_UPPER / (1 - _UPPER)), u.dtype)
    total = spread**2 + sigma**2
    centre = _PRODUCT * jnp.tanh(odds / 2 + _PRODUCT * y / total)
    return (centre + spread**2 / total * (y - centre)) @ jnp.asarray(_TURNED, u.dtype)


def _denoise_mixture(u, sigma):
    weights = np.full(len(_CENTRES), 1 / len(_CENTRES))
    centres, weights, std = (jnp.asarray(each, u.dtype) for each in (_CENTRES, weights, _MODE))
    return posterior_mean(centres, weights, std, u, sigma)


_SETS = (
    Toy("spiral", _draw_spiral, _spiral_distance, 0.06, 1.95, 1.1253),
    Toy("mixture", _draw_mixture, _mixture_distance, 0.16, 0.87, 0.4103, _CENTRES, _MODE, _denoise_mixture),
    Toy("checkerboard", _draw_checkerboard, _checkerboard_distance, 0.02, 1.5, 0.8660),
    Toy("moons", _draw_moons, _moons_distance, 0.2, 1.7, 0.6719),
    Toy("product", _draw_product, _product_distance, 5.55, 2.2, 0.6022, denoise=_denoise_product, size=8),
)
NAMES = tuple(each.name for each in _SETS)


def toy(name: str, field: str = "toy") -> Toy:
    """Returns the set of that name; raises `InputError` naming `field` if there is none."""
    found = {each.name: each for each in _SETS}[choice(field, name, NAMES)]
    return found._replace(
        distance=lambda points: found.distance(np.asarray(points, np.float64).reshape(-1, found.size))
    )


class Points(Source):
    """`length` points of a toy set as a `common.data.source.Source` of elements `{"point": float32 [C]}`."""

    def __init__(self, name: str, *, seed: int, length: int = MAX_LENGTH):
        if not 1 <= length <= MAX_LENGTH:
            raise input_error("length", expected=f"1 to {MAX_LENGTH}", got=length, fix="leave it out for fresh points")
        self._toy = toy(name)
        self._length = length
        # An explicit kind of key: another default generator must not make other points.
        self._key = np.asarray(jax.random.key_data(jax.random.key(seed, impl="threefry2x32")))
        self._label = f"{name}, seed={seed}"
        # Of what decides the points, not of them: their last bits depend on the compiler and the device.
        self.fingerprint = digest("points", self._label, length)

    def __repr__(self) -> str:
        return f"Points({self._label}, {self.fingerprint})"

    def __len__(self) -> int:
        return self._length

    @functools.cached_property
    def earlier_fingerprints(self) -> tuple[str, ...]:
        """The hashes of the first points, as the compiler makes them with its optimisations and without."""
        indices = np.pad(np.arange(8), (0, _BLOCK - 8), mode="edge").astype(np.uint32)
        lowered = _compiled.lower(self._toy.draw, self._key, indices)
        quick: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        usual: dict[str, Any] = {"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False}
        made = [lowered.compile(options) for options in (usual, quick)]
        first = [np.asarray(program(self._key, indices))[:8] for program in made]
        return tuple(digest("points", self._label, self._length, each) for each in first)

    def read(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        del random
        return {"point": _made(self._toy, self._key, index)}

    @property
    def nbytes(self) -> int:
        """Bytes of the key, all that is stored."""
        return self._key.nbytes

    def on_device(self) -> OnDevice:
        def gather(arrays: Any, index: Any, random: Any = None) -> Mapping[str, Any]:
            del random
            return {"point": _points(self._toy.draw, arrays["key"], index)}

        return OnDevice({"key": self._key}, gather)


def draw(name: str, *, seed: int, count: int, first: int = 0) -> np.ndarray:
    """Returns points `first` to `first + count` of the stream of `seed`, float32 `[count, C]`."""
    key = np.asarray(jax.random.key_data(jax.random.key(seed, impl="threefry2x32")))
    return _made(toy(name), key, np.arange(first, first + count))


def posterior_mean(centres: jax.Array, weights: jax.Array, std: jax.Array, u: jax.Array, sigma) -> jax.Array:
    """Returns E[x1 | u = x1 + sigma e] `[..., C]` for isotropic Gaussians at `centres [K, C]` with `weights [K]`.

    With k^2 = std^2 + sigma^2: responsibilities softmax(log w_i - |u - c_i|^2 / 2 k^2), and means c_i + std^2 / k^2
    (u - c_i).
    """
    sigma = beside(sigma, u)
    total = std**2 + sigma**2
    # |u|^2 is the same for all and may be large.
    logits = jnp.log(weights) + (u @ centres.T - jnp.square(centres).sum(-1) / 2) / total
    mean = jax.nn.softmax(logits, -1) @ centres
    return mean + std**2 / total * (u - mean)


def mixture(process: Process, centres: ArrayLike, weights: ArrayLike, std: float, *, kind: str = "ode") -> Model:
    """Returns the exact model of a mixture of isotropic Gaussians along a path.

    centres `[K, C]`, weights `[K]` (normalised here), std of every component. Its numbers travel as arguments of the
    compiled sampler.

    >>> from phase_bridge import Bridge, sample
    >>> points, info = sample(mixture(Bridge(), [[0.0, 0.0]], [1.0], 0.1), jax.random.key(0), (4, 2), nfe=5)
    >>> points.shape, info["nfe"]
    ((4, 2), 5)
    """
    arrays = [jnp.asarray(each, jnp.result_type(float)) for each in (centres, weights, std)]
    arrays[1] = arrays[1] / arrays[1].sum()
    return denoiser_model(process, Partial(posterior_mean, *arrays), kind=kind)


def density(points: np.ndarray, extent: float, *, side: int = 128) -> np.ndarray:
    """Returns a picture `[side, side, 1]` of how many points fall where, dark on white, the square of +-1.15 extent.

    Of points of more than two dimensions the first two are shown.
    """
    half = 1.15 * extent
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=side, range=[[-half, half]] * 2)
    return (1 - np.minimum(1, counts / max(np.quantile(counts, 0.995), 1)))[::-1, :, None]


def _made(of: Toy, key: np.ndarray, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    indices = np.asarray(indices, np.int64).reshape(-1)
    block = 1 if len(indices) == 1 else _BLOCK  # two shapes, hence two compilations for all requests
    parts = []
    for start in range(0, len(indices), block):
        part = indices[start : start + block]
        made = _compiled(of.draw, key, np.pad(part, (0, block - len(part)), mode="edge").astype(np.uint32))
        parts.append(np.asarray(made)[: len(part)])
    return np.concatenate(parts) if parts else np.empty((0, of.size), np.float32)


def _points(rule, key: Any, indices: Any) -> jax.Array:
    key = jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(indices).astype(jnp.uint32))
    # Fused with what follows, the last operations could be rounded in another way than on their own.
    return jax.lax.optimization_barrier(jax.vmap(rule)(keys))


_compiled = functools.partial(jax.jit, static_argnums=0)(_points)
