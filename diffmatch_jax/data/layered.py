"""Pairs that no smooth flow explains: textured planes, a moving camera, objects of their own motion, exact masks.

A scene is 2 to 4 planes n . X = 1 in the target's camera, the first without an end, the others with random outlines.
Between the views a plane moves by X' = R X + t, so that its pixels move by the homography K (R + t n^T) K^-1 (Hartley &
Zisserman, Multiple View Geometry, equation 13.2). Both views show the same continuous scene, the nearest plane at every
place. So flow is exact, and so is what hides a pixel in the source. A plane may carry a periodic texture, with equal
places a lattice apart, or one colour.

Everything is a function of seed, index and photographs, in NumPy's float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from common.errors import choice, input_error

KINDS = ("repeated", "objects", "flat", "planes")
_WAVES = 5  # harmonics of an outline
_SUBPIXELS = 2  # positions a side whose mean is a pixel
_BLEND = 0.25  # of a tile, over which its ends are faded into each other
_CANDIDATES = 8  # windows of a photograph, of which the one of most contrast is taken


@dataclass(frozen=True)
class LayeredConfig:
    """Sizes and motions of scenes; hashable. Lengths are in sides of the image, distances in its focal length.

    depth: of planes, log-uniform, the endless one is at `background`; shift: of the camera, sideways; zoom: forwards or
    backwards; roll, pan: degrees of its rotation about and across its axis; tilt: slope of planes; outline, object:
    radii of planes and of moving objects; move, turn: of objects, sides and degrees; period: of repeated textures;
    roughness: of outlines; sharpness: photograph pixels to a target pixel.
    patch: radius in pixels of the neighbourhood that is evidence for a pixel; faint: standard deviation in it, gray
    levels, below which it is flat; edge: pixels from a boundary of planes that count as its edge.
    """

    background: float = 4.0
    depth: tuple[float, float] = (1.2, 3.0)
    shift: tuple[float, float] = (0.1, 0.2)
    zoom: float = 0.15
    roll: float = 10.0
    pan: float = 3.0
    tilt: float = 0.4
    outline: tuple[float, float] = (0.2, 0.35)
    object: tuple[float, float] = (0.12, 0.22)
    move: tuple[float, float] = (0.06, 0.18)
    turn: float = 20.0
    period: tuple[float, float] = (0.1, 0.2)
    roughness: float = 0.35
    sharpness: tuple[float, float] = (0.75, 1.0)
    patch: int = 8
    faint: float = 2.0
    edge: int = 8


class Texture(NamedTuple):
    """Colours `[h, w, 3]` in [0, 1], at position `linear p + offset`; periodic or mirrored beyond their end."""

    image: np.ndarray
    linear: np.ndarray
    offset: np.ndarray
    periodic: bool = False

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Returns the colours `[n, 3]` of places `[n, 2]` by bilinear interpolation."""
        x, y = (places @ self.linear.T + self.offset).T
        mode = "grid-wrap" if self.periodic else "mirror"
        planes = np.moveaxis(self.image, -1, 0)
        return np.stack([ndimage.map_coordinates(each, (y, x), order=1, mode=mode) for each in planes], -1)

    @property
    def lattice(self) -> np.ndarray:
        """The two shortest steps (rows) between equal places of a periodic texture, pixels of the target."""
        return (np.linalg.inv(self.linear) @ np.diag(self.image.shape[1::-1])).T


class Outline(NamedTuple):
    """A star-shaped outline around `middle [2]`: r(angle) = radius (1 + sum_k size_k cos(k angle + phase_k))."""

    middle: np.ndarray
    radius: float
    sizes: np.ndarray
    phases: np.ndarray

    def covers(self, places: np.ndarray) -> np.ndarray:
        """Returns which places `[..., 2]` are inside."""
        x, y = np.moveaxis(places - self.middle, -1, 0)
        waves = np.arange(2, 2 + len(self.sizes))
        angle = np.arctan2(y, x)[..., None]
        radius = self.radius * (1 + (self.sizes * np.cos(waves * angle + self.phases)).sum(-1))
        return np.hypot(x, y) < radius


class Layer(NamedTuple):
    """A plane `normal . X = 1`, its motion X' = rotation X + translation, texture and outline in target pixels."""

    normal: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    texture: Texture
    outline: Outline | None = None
    moving: bool = False

    @property
    def source_normal(self) -> np.ndarray:
        """The plane in the source's camera."""
        turned = self.rotation @ self.normal
        return turned / (1 + turned @ self.translation)


class Scene(NamedTuple):
    """Layers and the matrix `[3, 3]` of the camera that takes both views, `size` pixels a side."""

    camera: np.ndarray
    layers: tuple[Layer, ...]
    size: int

    def homography(self, index: int) -> np.ndarray:
        """Returns the map `[3, 3]` from target to source pixels of a layer."""
        layer = self.layers[index]
        moved = layer.rotation + np.outer(layer.translation, layer.normal)
        return self.camera @ moved @ np.linalg.inv(self.camera)

    def nearest(self, places: np.ndarray, *, source: bool) -> np.ndarray:
        """Returns the index of the layer that is seen at places `[..., 2]` of the target, or of the source."""
        rays = _homogeneous(places) @ np.linalg.inv(self.camera).T
        closeness = []
        for index, layer in enumerate(self.layers):
            near = rays @ (layer.source_normal if source else layer.normal)  # 1 / depth
            if layer.outline is not None:
                at = project(np.linalg.inv(self.homography(index)), places) if source else places
                near = np.where(layer.outline.covers(at), near, -np.inf)
            closeness.append(near)
        return np.argmax(closeness, axis=0)

    def view(self, *, source: bool) -> np.ndarray:
        """Returns the picture of the target, or of the source, as bytes `[size, size, 3]`."""
        steps = (np.arange(self.size * _SUBPIXELS) + 0.5) / _SUBPIXELS - 0.5
        places = np.stack(np.meshgrid(steps, steps), -1)
        seen = self.nearest(places, source=source)
        colours = np.empty((*seen.shape, 3))
        for index, layer in enumerate(self.layers):
            here = seen == index
            at = places[here]
            colours[here] = layer.texture(project(np.linalg.inv(self.homography(index)), at) if source else at)
        blocks = colours.reshape(self.size, _SUBPIXELS, self.size, _SUBPIXELS, 3)
        return np.round(255 * np.clip(blocks.mean((1, 3)), 0, 1)).astype(np.uint8)


class LayeredPair(NamedTuple):
    """Both views `[S, S, 3]` (bytes), flow `[S, S, 2]` of every target pixel, seen in the source or not, and masks.

    layer: of each target pixel; covisible: seen in both views; occluded: its place in the source is hidden by another
    layer; outside: it is beyond the source's frame (these three are all pixels). Of the covisible pixels: ambiguous:
    the neighbourhood is periodic and other places of the source are equal; flat: it has no texture; edges: within a
    few pixels of a boundary of layers; moving: of an independently moving object.
    equal `[M, S, S, 2]`: flows of ambiguous pixels to all equal places, the true one among them, NaN where there are no
    more.
    """

    source: np.ndarray
    target: np.ndarray
    flow: np.ndarray
    layer: np.ndarray
    covisible: np.ndarray
    occluded: np.ndarray
    outside: np.ndarray
    ambiguous: np.ndarray
    flat: np.ndarray
    edges: np.ndarray
    moving: np.ndarray
    equal: np.ndarray


def project(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns places `[..., 2]` under a homography `[3, 3]`."""
    moved = _homogeneous(places) @ matrix.T
    return moved[..., :2] / moved[..., 2:]


def _homogeneous(places):
    return np.concatenate([places, np.ones((*places.shape[:-1], 1))], -1)


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Returns the rotation `[3, 3]` by angles in degrees about the axes, x first."""
    matrix = np.eye(3)
    for angle, (i, j) in zip(np.radians([x, y, z]), ((1, 2), (2, 0), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i] = np.sin(angle)
        turn[i, j] = -turn[j, i]
        matrix = turn @ matrix
    return matrix


def scene(
    photographs: Sequence[np.ndarray],
    *,
    seed: int,
    index: int,
    size: int = 256,
    kind: str | None = None,
    settings: LayeredConfig | None = None,
) -> Scene:
    """Returns the scene of `seed` and `index`, made of windows of photographs `[H, W, 3]` (bytes).

    kind: one of `KINDS`, None for each in turn. "planes" move with the camera alone, "objects" have motions of their
    own, of "repeated" and "flat" scenes one layer has a periodic texture or a single colour. Raises `InputError`
    without photographs, below 64 pixels and for unknown kinds.
    """
    settings = settings or LayeredConfig()
    if not len(photographs) or size < 64:
        got = f"{len(photographs)} photographs and {size} pixels"
        raise input_error("layered", expected="photographs and at least 64 pixels", got=got, fix="use 256 pixels")
    kind = choice("kind", kind or KINDS[index % len(KINDS)], KINDS)
    rng = np.random.default_rng([seed, index])
    middle = (size - 1) / 2
    camera = np.array([[size, 0, middle], [0, size, middle], [0, 0, 1.0]])
    direction = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(*settings.shift) * np.array([np.cos(direction), np.sin(direction)])
    translation = np.array([*shift, rng.uniform(-settings.zoom, settings.zoom)])
    pan = rng.uniform(-settings.pan, settings.pan, 2)
    turned = rotation(pan[0], pan[1], rng.uniform(-settings.roll, settings.roll))
    planes = {"planes": rng.integers(1, 4), "objects": 1}.get(kind, rng.integers(1, 3))
    objects = rng.integers(1, 3) if kind == "objects" else rng.integers(0, 2) if kind == "repeated" else 0
    moving = [False] * (1 + planes) + [True] * objects
    special = rng.integers(len(moving)) if kind in ("repeated", "flat") else -1
    of_photographs = rng.permutation(len(photographs))
    layers = []
    for i, moves in enumerate(moving):
        photograph = np.asarray(photographs[of_photographs[i % len(photographs)]])
        plain = i == special and kind == "repeated"  # faces the camera, so that equal places look equal
        slope = np.zeros(2) if plain else rng.uniform(-settings.tilt, settings.tilt, 2) * (0.5 if i == 0 else 1)
        low, high = settings.depth
        depth = settings.background if i == 0 else np.exp(rng.uniform(np.log(low), np.log(high)))
        # Objects are in front of the planes that are not.
        depth = 0.8 * low if moves else depth
        radius = size * rng.uniform(*(settings.object if moves and i != special else settings.outline))
        spot = size * rng.uniform(0.15, 0.85, 2)
        through = np.array([*((spot - middle) / size if i else np.zeros(2)), 1]) * depth
        normal = np.array([*slope, 1.0]) / (np.array([*slope, 1.0]) @ through)
        own = turned, translation
        if moves:
            own = _moved(rng, through, turned, translation, settings)
        texture = _texture(rng, photograph, spot if i else np.full(2, middle), size, settings)
        if i == special:
            texture = _periodic(rng, texture, spot, size, settings) if kind == "repeated" else _single(texture, spot)
        outline = _outline(rng, spot, radius, settings) if i else None
        layers.append(Layer(normal, *own, texture, outline, moves))
    return Scene(camera, tuple(layers), size)


def _moved(rng, middle, turned, translation, settings):
    """Returns rotation and translation of an object around `middle [3]` that moves before the camera does."""
    spin = rotation(0, 0, rng.uniform(-settings.turn, settings.turn))
    direction = rng.uniform(0, 2 * np.pi)
    step = rng.uniform(*settings.move) * middle[2] * np.array([np.cos(direction), np.sin(direction), 0])
    return turned @ spin, turned @ (middle + step - spin @ middle) + translation


def _outline(rng, middle, radius, settings) -> Outline:
    waves = np.arange(2, 2 + _WAVES)
    sizes = settings.roughness * rng.uniform(size=_WAVES) / (waves - 1)
    return Outline(middle, float(radius), sizes, rng.uniform(0, 2 * np.pi, _WAVES))


def _texture(rng, photograph, middle, size, settings) -> Texture:
    """Returns a window of a photograph around a place of the target, of several the one of most contrast."""
    height, width = photograph.shape[:2]
    scale = rng.uniform(*settings.sharpness)
    reach = np.minimum([width, height], size * scale)
    corners = rng.uniform(size=(_CANDIDATES, 2)) * ([width, height] - reach)
    spreads = []
    for x, y in np.round(corners).astype(int):
        window = photograph[y : y + int(reach[1]), x : x + int(reach[0])]
        # The least contrast of its sixteenths: none of them should be flat.
        rows, columns = (np.array_split(np.arange(n), 4) for n in window.shape[:2])
        spreads.append(min(window[np.ix_(a, b)].std() for a in rows for b in columns))
    corner = corners[np.argmax(spreads)]
    linear = scale * np.eye(2)
    return Texture(photograph / 255.0, linear, corner + reach / 2 - linear @ middle)


def _periodic(rng, texture, middle, size, settings) -> Texture:
    """Returns a tile of a texture around a place of the target, whose ends are faded into each other, and its turn."""
    period = round(size * rng.uniform(*settings.period))
    blend = max(1, round(_BLEND * period))
    steps = np.arange(period + blend) - period / 2
    places = np.stack(np.meshgrid(steps, steps), -1) + middle
    tile = texture(places.reshape(-1, 2)).reshape(*places.shape[:2], 3)
    for axis in (0, 1):
        tile = np.moveaxis(tile, axis, 0)
        weight = ((np.arange(blend) + 0.5) / blend)[:, None, None]
        tile = np.concatenate([weight * tile[:blend] + (1 - weight) * tile[period:], tile[blend:period]])
        tile = np.moveaxis(tile, 0, axis)
    spread = tile.std()
    tile = np.clip(0.5 + (tile - tile.mean((0, 1))) * max(1.0, 0.15 / max(spread, 0.01)), 0, 1)
    angle = rng.uniform(0, np.pi / 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return Texture(tile, turn, rng.uniform(0, period, 2), periodic=True)


def _single(texture, middle) -> Texture:
    """Returns the colour of a texture at a place of the target, everywhere."""
    colour = texture(middle[None])[0]
    return Texture(np.broadcast_to(colour, (2, 2, 3)), np.eye(2), np.zeros(2))


def pair(of: Scene, *, settings: LayeredConfig | None = None) -> LayeredPair:
    """Returns both views of a scene with flow and masks."""
    settings = settings or LayeredConfig()
    size = of.size
    y, x = np.mgrid[:size, :size].astype(np.float64)
    pixels = np.stack([x, y], -1)
    layer = of.nearest(pixels, source=False)
    moved = np.empty_like(pixels)
    for index in range(len(of.layers)):
        moved[layer == index] = project(of.homography(index), pixels[layer == index])
    within = ((moved >= 0) & (moved <= size - 1)).all(-1)
    covisible = within & (of.nearest(moved, source=True) == layer)
    target = of.view(source=False)
    ambiguous, equal = _ambiguous(of, pixels, layer, covisible, settings.patch)
    side = 2 * settings.patch + 1
    gray = target.mean(-1)
    mean = ndimage.uniform_filter(gray, side, mode="nearest")
    variance = ndimage.uniform_filter((gray - 128) ** 2, side, mode="nearest") - (mean - 128) ** 2
    changes = np.zeros((size, size), bool)
    for axis in (0, 1):
        change = np.diff(layer, axis=axis) != 0
        changes |= np.pad(change, [(0, int(axis == a)) for a in (0, 1)])
        changes |= np.pad(change, [(int(axis == a), 0) for a in (0, 1)])
    far: Any = ndimage.distance_transform_edt(~changes) if changes.any() else np.full((size, size), np.inf)
    of_objects = np.isin(layer, [i for i, each in enumerate(of.layers) if each.moving])
    return LayeredPair(
        source=of.view(source=True),
        target=target,
        flow=(moved - pixels).astype(np.float32),
        layer=layer,
        covisible=covisible,
        occluded=within & ~covisible,
        outside=np.logical_not(within),
        ambiguous=ambiguous,
        flat=covisible & ~ambiguous & (variance < settings.faint**2),
        edges=covisible & (far < settings.edge),
        moving=covisible & of_objects,
        equal=equal,
    )


def _ambiguous(of: Scene, pixels, layer, covisible, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pixels have several equal places in the source, and the flows `[M, S, S, 2]` to them."""
    none = np.zeros(layer.shape, bool), np.zeros((0, *pixels.shape), np.float32)
    index = next((i for i, each in enumerate(of.layers) if each.texture.periodic), None)
    if index is None:
        return none
    square = np.ones((2 * patch + 1,) * 2, bool)
    inner: Any = ndimage.binary_erosion(layer == index, square)
    inner_source = ndimage.binary_erosion(of.nearest(pixels, source=True) == index, square)
    at = project(of.homography(index), pixels[inner])
    kept = covisible[inner] & _looked_up(inner_source, at)
    inner[inner] = kept
    chosen = pixels[inner]
    if not len(chosen):
        return none
    lattice = of.layers[index].texture.lattice
    reach = int(np.ceil(1.5 * of.size / np.linalg.norm(lattice, axis=1).min()))
    steps = [(m, n) for m in range(-reach, reach + 1) for n in range(-reach, reach + 1)]
    flows = []
    for step in sorted(steps, key=lambda step: (step != (0, 0), step)):  # the true one first
        at = project(of.homography(index), chosen + np.asarray(step) @ lattice)
        seen = _looked_up(inner_source, at)
        if seen.any():
            flows.append(np.where(seen[:, None], at - chosen, np.nan))
    several = np.isfinite(np.stack(flows)[..., 0]).sum(0) > 1
    ambiguous = inner.copy()
    ambiguous[inner] = several
    equal = np.full((len(flows), *pixels.shape), np.nan, np.float32)
    equal[:, ambiguous] = np.stack(flows)[:, several]
    return ambiguous, equal


def _looked_up(mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns a mask at the pixels nearest to places `[n, 2]`, False beyond its frame."""
    last = np.asarray(mask.shape[::-1]) - 1
    within = ((places >= 0) & (places <= last)).all(-1)
    column, row = np.round(np.clip(places, 0, last)).astype(int).T
    return within & mask[row, column]
