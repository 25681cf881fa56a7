"""The record of pure functions by which training, sampling and the command line know a method."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

PyTree = Any


class Variables(NamedTuple):
    """Variables of a network: trained `params` and running `stats` (an empty dict if it has none)."""

    params: PyTree
    stats: PyTree


class Aux(NamedTuple):
    """Side results of a loss: the updated running `stats`, and scalar float32 `metrics` averaged over the batch."""

    stats: PyTree
    metrics: Mapping[str, jax.Array]


class Samples(NamedTuple):
    """The samples of a run, for the file writer.

    `arrays` go into one `.npz`; `images` (`[N, H, W, C]` in [0, 1], may be None) into a `.png` grid; `info` (plain
    JSON values, with at least `nfe`) into the `.json` beside them. `settings` (plain JSON values) is what decides the
    samples besides weights, seed and config, such as the fingerprint of data they are made from. `summary`, a line on
    how the run went, is printed.
    """

    arrays: Mapping[str, np.ndarray]
    images: np.ndarray | None
    info: Mapping[str, Any]
    settings: Mapping[str, Any] = MappingProxyType({})
    summary: str = ""


class Sampler(NamedTuple):
    """The sampler of a method: independent samples, so that any number of them can be split up and resumed.

    `draw(variables, keys [B], index [B]) -> {"samples": [B, ...], ...}` is traced; row i may depend on the variables,
    `keys[i]` and the sample's number `index[i]` alone (a class label is a function of these too). `to_unit` maps
    samples to images in [0, 1], None where they are none. `settings` (plain JSON values, at least `nfe`, None where it
    differs between samples) name all that decides the values besides weights and key. `num` and `batch_size` are the
    config's; every device draws `batch_size` at once. `summary(load)` returns a line on how the samples ended, from the
    arrays `load(name) [N, ...]`.
    """

    draw: Callable[[Variables, jax.Array, jax.Array], Mapping[str, jax.Array]]
    settings: Mapping[str, Any]
    num: int
    batch_size: int
    to_unit: Callable[[jax.Array], jax.Array] | None = None
    summary: Callable[[Callable[[str], np.ndarray]], str] | None = None


class Evaluation(NamedTuple):
    """Results of an evaluation: `numbers` (plain JSON values) and `arrays` for one `.npz`."""

    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class Method(NamedTuple):
    """A method as pure functions, made by `build(config)` and by nothing else.

    A batch is a mapping with the method's own arrays (`image [B, H, W, C]`, ...) plus what the training step adds:
    `position` int32 `[B]` (the example's place in the global batch; random numbers are keyed by it, so they do not
    depend on the number of devices) and `progress` float32 `[]` in [0, 1) (step divided by the number of steps).
    `example` gives shapes and dtypes of the method's own arrays for one example, where they are known without data.
    `sampler`, where there is one, serves `sample --num N`, which draws any number of samples and resumes.
    `uses_progress` names the settings (`key=value`) through which the loss depends on `progress`, and thereby on the
    length of the run. `check_preview` and `check_evaluate` raise `InputError` for settings and data that `preview` and
    `evaluate` could not use; they run before anything is compiled.
    """

    name: str
    init: Callable[[jax.Array, Mapping[str, jax.Array]], Variables]  # (key, batch)
    loss: Callable[..., tuple[jax.Array, Aux]]  # (variables, key, batch); mean over the batch
    augment: Callable[[jax.Array, Mapping[str, jax.Array]], Mapping[str, jax.Array]]  # one example's (key, raw example)
    sources: Callable[[], Mapping[str, Any]]  # () -> {"train": Source, "test": Source}
    sample: Callable[[Variables, jax.Array], Samples]  # (variables, key)
    evaluate: Callable[[Variables, jax.Array], Evaluation]  # (variables, key)
    preview: Callable[[Variables, jax.Array], Mapping[str, np.ndarray]]  # -> {name: [H, W, C] in [0, 1]}
    example: Callable[[], Mapping[str, jax.ShapeDtypeStruct]] | None = None
    sampler: Sampler | None = None
    uses_progress: tuple[str, ...] = ()
    check_preview: Callable[[], object] = lambda: None
    check_evaluate: Callable[[], object] = lambda: None
