"""Training pairs: a warp of a photograph, then discontinuities, objects, mirroring and changes of the pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from common.arrays import to_unit
from common.errors import input_error
from diffmatch_jax.data import augment, objects
from diffmatch_jax.data.augment import Photometric, perturb
from diffmatch_jax.data.warps import Pair, Warps, make_pair


@dataclass(frozen=True)
class PairConfig:
    """Settings of pairs made of photographs; hashable. `elastic` and `objects` are fractions of the pairs, 0 to 1."""

    size: int = 256
    warps: Warps = Warps()
    flip: bool = True
    photometric: Photometric | None = None
    elastic: float = 0.0
    objects: float = 0.0

    def __post_init__(self):
        if self.size < 16:
            raise input_error("config.pairs.size", expected="at least 16", got=self.size, fix="use 256")
        for name in ("elastic", "objects"):
            if not 0 <= getattr(self, name) <= 1:
                got = getattr(self, name)
                raise input_error(f"config.pairs.{name}", expected="a share from 0 to 1", got=got, fix="use 0")


def pair_of(pair_config: PairConfig, key: jax.Array, example: Mapping[str, jax.Array]) -> Pair:
    """Returns the pair that a key makes of `example`: `image [H, W, 1 or 3]`, the first `size [2]` of it if given.

    An example that is a pair already (`source`, `target`, `flow`, `mask`) is not warped; all else happens to it too.
    Objects are those of `example` (`object_image`, `object_mask`), or pieces of the image or the source itself.
    """
    made = "source" in example
    image = example["source" if made else "image"]
    image = jnp.broadcast_to(image, (*image.shape[:2], 3))
    extent = example["size"] if "size" in example else jnp.asarray(image.shape[:2], jnp.int32)
    keys = dict(zip(("warp", "flip", "elastic", "objects", "source", "target"), jax.random.split(key, 6), strict=True))
    settings = {"size": pair_config.size, "settings": pair_config.warps}
    if made:
        none = jnp.zeros((), jnp.int32)
        pair = Pair(to_unit(image), to_unit(example["target"]), example["flow"], example["mask"], none, none)
    else:
        pair = make_pair(keys["warp"], image, extent, **settings)
    if pair_config.elastic:
        pair = _sometimes(keys["elastic"], pair_config.elastic, perturb, pair)
    if pair_config.objects:

        def paste(k, p):
            if "object_image" in example:
                return objects.paste_cutout(k, p, objects.Cutout(example["object_image"], example["object_mask"]))
            return objects.paste(k, p, image, extent)

        pair = _sometimes(keys["objects"], pair_config.objects, paste, pair)
    if pair_config.flip:
        coin = jax.random.bits(keys["flip"], (), jnp.uint8) >= 128
        pair = jax.tree.map(lambda a, b: jnp.where(coin, a, b), mirrored(pair), pair)
    if pair_config.photometric is not None:
        pair = pair._replace(
            source=augment.change(keys["source"], pair.source, pair_config.photometric),
            target=augment.change(keys["target"], pair.target, pair_config.photometric),
        )
    return pair


def _sometimes(key: jax.Array, share: float, change: Callable[[jax.Array, Pair], Pair], pair: Pair) -> Pair:
    of_coin, of_change = jax.random.split(key)
    coin = jax.random.uniform(of_coin) < share
    return jax.tree.map(lambda a, b: jnp.where(coin, a, b), change(of_change, pair), pair)


def mirrored(pair: Pair) -> Pair:
    """Returns the pair seen in a mirror, left for right."""
    flow = pair.flow[:, ::-1] * jnp.asarray([-1, 1], pair.flow.dtype)
    return pair._replace(source=pair.source[:, ::-1], target=pair.target[:, ::-1], flow=flow, mask=pair.mask[:, ::-1])


def augmentation(pair_config: PairConfig) -> Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Returns what makes `source, target [S, S, 3], flow [S, S, 2], mask [S, S]` of a raw example and its key."""

    def augment(key: jax.Array, example: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        pair = pair_of(pair_config, key, example)
        return {"source": pair.source, "target": pair.target, "flow": pair.flow, "mask": pair.mask}

    return augment
