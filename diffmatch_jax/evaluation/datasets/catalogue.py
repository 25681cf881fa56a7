"""Data sets by name, as a command line gives them: `oxford:DIR,stereo,warps`."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from common.data.source import digest
from common.errors import choice, input_error
from diffmatch_jax.evaluation.datasets import layered, motion, planar, record, sparse, synthetic
from diffmatch_jax.evaluation.datasets.record import Dataset


class Options(NamedTuple):
    """Options of all data sets.

    side: longer side to which larger images are shrunk, where the protocol leaves that open (None: as they are); count:
    pairs at most, spread evenly (None: all; generated warps: 32, scenes: 72); size, seed: of generated pairs.
    """

    side: int | None = None
    count: int | None = None
    size: int = 256
    seed: int = 0


class Kind(NamedTuple):
    """A data set that may be named: what it is, whether it needs a directory, and how it is opened."""

    summary: str
    open: Callable[[str, Options], Dataset]
    where: str = "DIR"


def _photographs(where: str, most: int | None) -> list[np.ndarray]:
    """Returns the first test photographs of any data source, `photographs` by default, at most so many."""
    from common.data import pipeline

    config = pipeline.DataConfig(source=where or "photographs", size=512, channels=3, fit="pad")
    held_out = pipeline.sources(config)["test"]
    elements = (held_out[i] for i in range(min(len(held_out), most or len(held_out))))
    return [each["image"][: each["size"][0], : each["size"][1]] for each in elements]


def _warps(where: str, options: Options) -> Dataset:
    """Opens warps of the test photographs of any data source."""
    # Few photographs are warped often, of many each once.
    photographs = _photographs(where, options.count or 32)
    return synthetic.warps(photographs, count=options.count or 32, size=options.size, seed=options.seed)


def _layered(where: str, options: Options) -> Dataset:
    """Opens layered scenes made of the test photographs of any data source."""
    return layered.layered(_photographs(where, None), count=options.count or 72, size=options.size, seed=options.seed)


def _unrelated(where: str, options: Options) -> Dataset:
    """Opens pairs of different test photographs of any data source."""
    return layered.unrelated(_photographs(where, None), count=options.count, size=options.size)


def _shrunk(dataset: Dataset, side: int | None) -> Dataset:
    """Returns a data set of sparse or dense flow whose pairs are shrunk when they are read."""
    if side is None:
        return dataset
    load = dataset.load
    return replace(
        dataset,
        load=lambda i: record.resized(load(i), side),
        fingerprint=digest(dataset.fingerprint, side),
    )


KINDS: dict[str, Kind] = {
    "oxford": Kind("scenes with homographies", lambda where, o: planar.scenes(where, side=o.side, name="oxford")),
    "hpatches": Kind("HPatches viewpoints I-V, original size", lambda where, o: planar.hpatches(where)),
    "hpatches-240": Kind("HPatches viewpoints I-V at 240 x 240", lambda where, o: planar.hpatches(where, size=240)),
    "hpatches-exact": Kind(
        "HPatches viewpoints I-V, original size, homographies to half a pixel",
        lambda where, o: planar.hpatches(where, half_pixel=True, name="hpatches-exact"),
    ),
    "hpatches-240-exact": Kind(
        "HPatches viewpoints I-V at 240 x 240, homographies to half a pixel",
        lambda where, o: planar.hpatches(where, size=240, half_pixel=True, name="hpatches-240-exact"),
    ),
    "eth3d": Kind("ETH3D at seven intervals", lambda where, o: sparse.eth3d(where)),
    "megadepth": Kind("1600 pairs of MegaDepth", lambda where, o: sparse.megadepth(where)),
    "wxbs": Kind("WxBS, points clicked by hand", lambda where, o: _shrunk(sparse.wxbs(where), o.side)),
    "cameras": Kind("images with cameras.json: poses", lambda where, o: _shrunk(sparse.posed(where), o.side)),
    "kitti": Kind("KITTI flow", lambda where, o: _shrunk(motion.kitti(where), o.side)),
    "kitti-noc": Kind(
        "KITTI flow without occlusions",
        lambda where, o: _shrunk(motion.kitti(where, occluded=False, name="kitti-noc"), o.side),
    ),
    "sintel": Kind("Sintel, clean", lambda where, o: _shrunk(motion.sintel(where), o.side)),
    "sintel-final": Kind("Sintel, final", lambda where, o: _shrunk(motion.sintel(where, render="final"), o.side)),
    "middlebury": Kind("Middlebury stereo", lambda where, o: _shrunk(motion.middlebury(where), o.side)),
    "middlebury-noc": Kind(
        "Middlebury stereo without occlusions",
        lambda where, o: _shrunk(motion.middlebury(where, occluded=False, name="middlebury-noc"), o.side),
    ),
    "stereo": Kind("the stereo pair in scikit-image", lambda where, o: motion.stereo(side=o.side), where=""),
    "warps": Kind("generated warps of held-out photographs", _warps, where="[SOURCE]"),
    "layered": Kind("generated scenes of moving planes, with regions", _layered, where="[SOURCE]"),
    "unrelated": Kind("pairs of different photographs", _unrelated, where="[SOURCE]"),
}


def open_datasets(text: str, options: Options = Options()) -> list[Dataset]:  # noqa: B008
    """Returns the data sets of a list `NAME[:WHERE],...`; WHERE of generated pairs is a data source, `prepared:DIR`.

    Raises `InputError` for unknown names, missing directories, and names that occur twice.
    """
    found: list[Dataset] = []
    for each in filter(None, (part.strip() for part in text.split(","))):
        name, _, where = each.partition(":")
        kind = KINDS[choice("--data", name, KINDS)]
        if kind.where == "DIR" and not where:
            raise input_error(
                f"--data {name}", expected=f"{name}:DIR", got=each, fix=f"name the directory of {kind.summary}"
            )
        if not kind.where and where:
            raise input_error(f"--data {name}", expected=name, got=each, fix="leave out what follows the colon")
        dataset = kind.open(os.path.expanduser(where) if kind.where == "DIR" else where, options)
        if options.count is not None and kind.where != "[SOURCE]":
            dataset = record.subset(dataset, options.count)
        if dataset.name in [other.name for other in found]:
            raise input_error("--data", expected="each name once", got=text, fix="leave one out")
        found.append(dataset)
    if not found:
        raise input_error(
            "--data", expected=f"some of {', '.join(KINDS)}", got=repr(text), fix="for example stereo,warps"
        )
    return found
