"""Sources of images that are generated instead of read, and a fixed shuffling of the pixels of any source.

Element i is a function of fold_in(key(seed), i) alone. A resident source holds no image: the jitted training step
generates its batch. On CPUs a compiled step and the host make the same bits.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.data import pipeline
from common.data.source import MAX_LENGTH, OnDevice, Source, choose, digest, permutation
from common.errors import choice, input_error, nearest
from gahb.datasets import calpha, manifolds
from gahb.reference.gaussian import contour_variances, wiener_mse

KINDS = ("calpha", "disks", "sinusoids", "scaled_image")

# Names of classes in fingerprints, by which runs of earlier versions know their data.
_STORED = {"sinusoids": "cone", "scaled_image": "ray"}
_BLOCK = 64  # images made at once on request of the host
_PIXELS = 301  # the purpose of the order of pixels

Generate = Callable[[Mapping[str, Any], jax.Array], jax.Array]


class Geometry(NamedTuple):
    """The part of an image that the oracle knows: `known(arrays, key)` gives the mask `[N, N]` and the amplitudes `[2]`
    of the backgrounds, `power [N, N]` is that of their fields; see `gahb.reference.gaussian`."""

    known: Callable[[Mapping[str, Any], jax.Array], tuple[jax.Array, jax.Array]]
    power: np.ndarray


class Rule(NamedTuple):
    """The generator of a class of images: `generate(arrays, key)`, its arrays, and a label of its settings.

    `tangent(arrays, key)` is an orthonormal basis `[D, H, W, C]` of the directions in which that image can change.
    `geometry` belongs to images of two stationary backgrounds along a contour.
    """

    generate: Generate
    arrays: Mapping[str, np.ndarray]
    label: str
    tangent: Generate | None = None
    geometry: Geometry | None = None


class Generated(Source):
    """`length` images `generate(arrays, key of element i) -> [H, W, C]`, clipped to [0, 1]; none of them is stored.

    `arrays` are what the images are made of, an argument of the compiled program. `label` names class and settings and
    enters the fingerprint with `seed`, `length` and `arrays`. `chosen` takes the elements with these numbers only.
    `tangent` and `geometry`: see `Rule`.
    """

    def __init__(
        self,
        generate: Generate,
        *,
        shape: tuple[int, int, int],
        seed: int,
        length: int,
        label: str,
        arrays: Mapping[str, np.ndarray] | None = None,
        chosen: Sequence[int] | np.ndarray | None = None,
        tangent: Generate | None = None,
        geometry: Geometry | None = None,
    ):
        self._generate = generate
        self._tangent = tangent
        self._geometry = geometry
        self._shape = shape
        self._label = f"{label}, {'x'.join(map(str, shape))}, seed={seed}"
        # An explicit kind of key: another default generator must not make other images.
        key = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
        self._arrays = {"key": np.asarray(key), "of": {name: np.asarray(each) for name, each in (arrays or {}).items()}}
        self._length = length
        content = [each for name, array in sorted(self._arrays["of"].items()) for each in (name, array)]
        if chosen is not None:
            self._arrays["chosen"] = np.asarray(chosen, np.int32)
            self._length = len(self._arrays["chosen"])
            content += ["chosen", self._arrays["chosen"]]
        self.fingerprint = digest("generated", self._label, length, *content)

    def __repr__(self) -> str:
        return f"Generated({self._label}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return self._length

    def read(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        del random
        indices = np.asarray(index, np.int32).reshape(-1)
        block = 1 if len(indices) == 1 else _BLOCK  # two shapes, hence two compilations for all requests
        images = []
        for start in range(0, len(indices), block):
            part = indices[start : start + block]
            made = _compiled(self._generate, self._arrays, np.pad(part, (0, block - len(part)), mode="edge"))
            images.append(np.asarray(made)[: len(part)])
        return {"image": np.concatenate(images)}

    def tangents(self, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Returns a basis of the tangent space at each image, `[N, D, H, W, C]`; None for a class that is no manifold.

        The images are those of the class, before their intensities are clipped to [0, 1].
        """
        if self._tangent is None:
            return None
        return np.stack(
            [np.asarray(_keyed(self._tangent, self._arrays, np.asarray([i], np.int32))[0]) for i in indices]
        )

    @property
    def has_oracle(self) -> bool:
        """Returns whether `oracle_mse` can be computed for this class."""
        return self._geometry is not None

    def oracle_mse(
        self,
        indices: Sequence[int] | np.ndarray,
        sigmas: Sequence[float] | np.ndarray,
        *,
        add: Callable[[int], object] = lambda count: None,
    ) -> np.ndarray | None:
        """Returns the squared error per pixel of the denoiser that knows the contour, `[S, N]`, at noise `sigmas [S]`.

        One decomposition of a matrix of H W rows for each image; `add(1)` is called after it. None for classes that
        are not made of two stationary backgrounds. See `gahb.reference.gaussian`.
        """
        if self._geometry is None:
            return None
        errors = []
        for i in indices:
            mask, amplitudes = _keyed(self._geometry.known, self._arrays, np.asarray([i], np.int32))
            variances = contour_variances(np.clip(mask[0], 0, 1), self._geometry.power, amplitudes[0])
            errors.append(wiener_mse(variances, sigmas))
            add(1)
        return np.stack(errors, axis=1)

    @property
    def nbytes(self) -> int:
        """Bytes of what the images are made of."""
        return sum(array.nbytes for array in jax.tree.leaves(self._arrays))

    def on_device(self) -> OnDevice:
        def gather(arrays: Any, index: Any, random: Any = None) -> dict[str, Any]:
            del random
            return {"image": _images(self._generate, arrays, index)}

        return OnDevice(self._arrays, gather)


def _of_keys(generate: Generate, arrays: Mapping[str, Any], indices: Any) -> jax.Array:
    if "chosen" in arrays:
        indices = jnp.asarray(arrays["chosen"]).at[indices].get(mode="promise_in_bounds")
    key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]), impl="threefry2x32")
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(indices).astype(jnp.uint32))
    return jax.vmap(lambda key: generate(arrays["of"], key))(keys)


def _images(generate: Generate, arrays: Mapping[str, Any], indices: Any) -> jax.Array:
    images = jnp.clip(_of_keys(generate, arrays, indices), 0.0, 1.0)
    # Fused with what follows, the last operations could be rounded in another way than on their own.
    return jax.lax.optimization_barrier(images)


_compiled = jax.jit(_images, static_argnums=0)
_keyed = jax.jit(_of_keys, static_argnums=0)


def pixel_order(height: int, width: int, *, seed: int) -> np.ndarray:
    """Returns a seeded permutation of the pixels of a picture, int64 `[height * width]`, equal on every machine."""
    return permutation(height * width, seed=seed, purpose=_PIXELS)


def shuffle_pixels(image: Any, order: Any) -> Any:
    """Returns `[..., H, W, C]` whose pixel p (row by row, all channels together) is the pixel `order[p]` of `image`."""
    flat = image.reshape(*image.shape[:-3], -1, image.shape[-1])
    return flat[..., order, :].reshape(image.shape)


def unshuffle_pixels(image: Any, order: np.ndarray) -> Any:
    """Undoes `shuffle_pixels`; for pictures of what was computed on shuffled pixels."""
    return shuffle_pixels(image, np.argsort(order))


class Shuffled(Source):
    """Another source with one permutation of the pixels applied to all its images (Kadkhodaie et al., figure 21)."""

    def __init__(self, source: Source, *, seed: int):
        self._source, self._seed = source, seed
        self.order = pixel_order(*source[0]["image"].shape[:2], seed=seed)
        self.num_classes, self.num_random = source.num_classes, source.num_random
        self.fingerprint = digest("shuffled", source.fingerprint, seed)

    def __repr__(self) -> str:
        return f"{self._source!r}.shuffled(seed={self._seed})"

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        return self._source.name(index)

    def origin(self, index: int) -> int:
        return self._source.origin(index)

    def read(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        return self._apply(self._source.read(index, random), self.order)

    @staticmethod
    def _apply(element: Mapping[str, Any], order: Any) -> dict[str, Any]:
        return {**element, "image": shuffle_pixels(element["image"], order)}

    @property
    def nbytes(self) -> int | None:
        return self._source.nbytes

    def on_device(self) -> OnDevice:
        inner = self._source.on_device()

        def gather(arrays: Any, index: Any, random: Any = None) -> dict[str, Any]:
            return self._apply(inner.gather(arrays["of"], index, random), jnp.asarray(arrays["order"]))

        return OnDevice({"of": inner.arrays, "order": self.order.astype(np.int32)}, gather)

    def fixed(self) -> "Shuffled":
        return Shuffled(self._source.fixed(), seed=self._seed)


def build(config, read: Callable[[Any], Mapping[str, Source]] = pipeline.build) -> dict[str, Source]:
    """Returns {"train": Source, "test": Source} for a config: generated, or those that exist; shuffled if asked.

    `read(config.data)` opens what exists. Raises `InputError` for values that cannot work.
    """
    data, made = config.data, config.synthetic
    check(config)
    if data.source in KINDS:
        rule = _RULES[data.source](config, read)
        chosen = None
        if data.half or data.subset:
            chosen = choose(made.num_train, half=data.half, subset=data.subset, seed=data.split_seed)
        sources: dict[str, Any] = {
            split: Generated(
                rule.generate,
                shape=(data.size, data.size, data.channels),
                seed=2 * made.seed + number,  # the splits come from one rule, each with its own seed
                length=length,
                label=f"{_STORED.get(data.source, data.source)}: {rule.label}",
                arrays=rule.arrays,
                chosen=chosen if split == "train" else None,
                tangent=rule.tangent,
                geometry=rule.geometry,
            )
            for number, (split, length) in enumerate((("train", made.num_train), ("test", made.num_test)))
        }
    else:
        sources = dict(read(data))
    if made.shuffle:
        sources = {split: Shuffled(source, seed=made.shuffle_seed) for split, source in sources.items()}
    return sources


def _calpha(config, _) -> Rule:
    size, made = config.data.size, config.synthetic
    settings = {
        "alpha": made.alpha,
        "beta": made.alpha if made.beta < 0 else made.beta,
        "blur": tuple(made.blur),
        "background": made.background,
        "wrap": made.wrap,
        "antialias": made.antialias,
    }
    canvas = size * 2**made.antialias

    def known(_, key):
        draws = calpha.draw(key, size)
        below = calpha.blurred_mask(draws, alpha=made.alpha, blur=settings["blur"], wrap=made.wrap)
        return below, calpha.amplitudes(draws, beta=settings["beta"], kind=made.background)

    geometry = None
    if made.background != "constant" and not made.antialias:
        separable = made.background == "separable"
        geometry = Geometry(known, calpha.gain_2d(size, separable=separable) ** (2 * settings["beta"]) / 3)
    return Rule(
        lambda _, key: calpha.render(calpha.draw(key, canvas), **settings), {}, str(settings), geometry=geometry
    )


def _disks(config, _) -> Rule:
    size, made = config.data.size, config.synthetic
    if made.disk == "smooth":
        return _manifold(functools.partial(manifolds.render_disk, size=size), manifolds.draw_disk, size, label="smooth")
    levels, canvas = made.antialias, size * 2**made.antialias
    rule = {"wrap": made.wrap, "integer": made.integer}

    def hard(_, key):
        parameters = manifolds.draw_hard_disk(key, canvas, **rule)
        return manifolds.hard_disk(parameters, size, antialias=levels)

    return Rule(hard, {}, f"hard, {rule}, antialias={levels}")


def _sinusoids(config, _) -> Rule:
    size, frequency = config.data.size, tuple(config.synthetic.frequency)
    render = functools.partial(manifolds.render_sinusoid, size=size, frequency=frequency)
    return _manifold(render, lambda key, _: manifolds.draw_sinusoid(key), size, label=f"frequency={frequency}")


def _manifold(render, draw, size: int, *, label: str) -> Rule:
    """Returns the class of the pictures `render(draw(key, size))`."""
    return Rule(
        lambda _, key: render(draw(key, size)),
        {},
        label,
        lambda _, key: manifolds.tangent_space(render, draw(key, size)),
    )


def _scaled_image(config, read) -> Rule:
    with_image = config.data.copy_and_resolve_references()
    with with_image.unlocked():
        with_image.source, with_image.half, with_image.subset = config.synthetic.image, 0, 0
    source, index = read(with_image)["train"], config.synthetic.image_index
    if not 0 <= index < len(source):
        expected = f"0 to {len(source) - 1}, a training image of {config.synthetic.image}"
        raise input_error("config.synthetic.image_index", expected=expected, got=index, fix="use 0")
    image = source[index]["image"]
    image = image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 1)
    return Rule(
        lambda arrays, key: arrays["image"] * jax.random.uniform(key),
        {"image": image},
        "U(0, 1)",
        lambda arrays, key: (arrays["image"] / jnp.linalg.norm(arrays["image"].ravel()))[None],
    )


_RULES = {"calpha": _calpha, "disks": _disks, "sinusoids": _sinusoids, "scaled_image": _scaled_image}


def check(config) -> None:
    """Raises `InputError` for what can be known of the generated classes without making an image."""
    data, made = config.data, config.synthetic
    if data.source not in KINDS:
        close = None if ":" in data.source else nearest(data.source, (*KINDS, "photographs"))
        if close in KINDS:
            raise input_error(
                "config.data.source", expected="a known source", got=data.source, fix=f'did you mean "{close}"?'
            )
    else:
        _check_class(data, made)
    if made.shuffle and data.flip:
        expected = "False with synthetic.shuffle, since a mirrored image has another permutation"
        raise input_error("config.data.flip", expected=expected, got=True, fix="set config.data.flip=False")


def _check_class(data, made) -> None:
    choice("config.synthetic.background", made.background, calpha.BACKGROUNDS)
    choice("config.synthetic.disk", made.disk, ("smooth", "hard"))
    if data.channels != 1 and data.source != "scaled_image":
        fix = "set config.data.channels=1"
        raise input_error("config.data.channels", expected=f"1 for {data.source}", got=data.channels, fix=fix)
    if data.drop_duplicates:
        fix = "set config.data.drop_duplicates=False"
        raise input_error("config.data.drop_duplicates", expected=f"False for {data.source}", got=True, fix=fix)
    smallest = manifolds.SMALLEST_DISK if data.source == "disks" else 2
    for field, value, least, most in (
        ("data.size", data.size, smallest, 4096),
        ("synthetic.num_train", made.num_train, 1, MAX_LENGTH),
        ("synthetic.num_test", made.num_test, 1, MAX_LENGTH),
        ("synthetic.seed", made.seed, 0, 2**30),
        ("synthetic.alpha", made.alpha, 0, 100),
        ("synthetic.antialias", made.antialias, 0, 4),
        *((f"synthetic.blur[{axis}]", count, 1, data.size) for axis, count in enumerate(made.blur)),
    ):
        if not least <= value <= most:
            fix = f"use {least} or more" if value < least else f"use {most} or less"
            raise input_error(f"config.{field}", expected=f"{least} to {most}", got=value, fix=fix)
    for field, value in (("blur", made.blur), ("frequency", made.frequency)):
        if len(value) != 2:
            raise input_error(
                f"config.synthetic.{field}", expected="(rows, columns)", got=tuple(value), fix="give two numbers"
            )
    if data.source == "sinusoids" and not 0 < max(map(abs, made.frequency)) <= data.size // 2:
        expected = f"cycles a picture, at most {data.size // 2} and not both 0"
        raise input_error("config.synthetic.frequency", expected=expected, got=tuple(made.frequency), fix="use (1, 0)")
    if data.source == "disks" and made.disk == "smooth":
        for field, value in (("wrap", made.wrap), ("integer", made.integer), ("antialias", made.antialias)):
            if value:
                fix = 'set it to 0, or synthetic.disk to "hard"'
                raise input_error(f"config.synthetic.{field}", expected="0 for smooth disks", got=value, fix=fix)
