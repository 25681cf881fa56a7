"""Pairs whose two images are corrupted, each with independent random numbers, and their true flow."""

from collections.abc import Callable

import numpy as np

from common.errors import choice
from diffmatch_jax.evaluation import corruptions
from diffmatch_jax.evaluation.corruptions import truth
from diffmatch_jax.evaluation.datasets.record import Example

_SPARSE = 0.1  # fraction of known pixels below which these are single matches, not areas


def corruption(kind: str, severity: int = 5, seed: int = 0) -> Callable[[Example, int], Example]:
    """Returns a function of a pair and the pair's own seed that corrupts both images independently.

    Raises `InputError` for unknown kinds and severities. `identity` on it is what decides its results (plain values).
    """
    choice("--corruptions", kind, ("clean", *corruptions.KINDS))
    if severity not in corruptions.SEVERITIES:
        corruptions.corrupt(np.zeros((corruptions.LEAST,) * 2 + (3,), np.uint8), kind, severity, 0)  # its message

    def corrupt(example: Example, own: int) -> Example:
        source, target = (
            corruptions.corrupt(image, kind, severity, (seed, own, which))
            for which, image in enumerate((example.source, example.target))
        )
        flow, mask = example.flow, example.mask
        if source.flow is not None or target.flow is not None:
            sparse = mask.mean() < _SPARSE
            flow, mask = truth.compose(flow, mask, target=target.flow, source=source.flow, sparse=sparse)
        if flow is not example.flow:  # no homography or pose holds for what was displaced
            return Example(example.name, source.image, target.image, flow, mask)
        return example._replace(source=source.image, target=target.image)

    corrupt.identity = [kind, severity, seed]
    return corrupt
