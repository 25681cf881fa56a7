"""Masks of the pixels that are matched: those of the user, and uniform frames, which are detected and left out."""

from typing import Any

import numpy as np
from scipy import ndimage

from common.arrays import as_array
from common.errors import input_error

TOLERANCE = 6  # gray levels of 255 by which a frame's pixels differ from its corner at most
RELATIVE = 0.1  # the same, of the image's contrast (standard deviation of its channels)
FAINT = 8.0  # contrast, in gray levels, below which regions are equal by rounding and none is searched for
SMALLEST = 0.01  # fraction of the image that a uniform region at a corner takes to count as a frame


def of(images: np.ndarray, mask: Any, field: str) -> np.ndarray:
    """Returns masks `[B, H, W, 1]` of images `[B, H, W, C]`, float32, 1 where they may be matched.

    Args:
      images: bytes, or floating point in [0, 1].
      mask: `[H, W]` or `[B, H, W]`, booleans or numbers 0 and 1, True where the image counts; None finds frames.
      field: what an error calls the mask.

    Raises:
      InputError: a mask of another shape or type, or one that leaves nothing of an image.
    """
    shape = images.shape[:3]
    if mask is None:
        return np.stack([~frame(image) for image in images])[..., None].astype(np.float32)
    given = np.asarray(as_array(mask, field, fix="give one number a pixel"))
    if given.shape not in (shape, shape[1:]):
        fix = "give one number a pixel, True where the image counts"
        raise input_error(field, expected=f"shape {list(shape[1:])}, as the image", got=list(given.shape), fix=fix)
    if not (given.dtype == bool or np.isin(given, (0, 1)).all()):
        raise input_error(field, expected="booleans, or 0 and 1", got=str(given.dtype), fix="give mask > 0")
    given = np.broadcast_to(given.astype(bool), shape)
    if not given.any(axis=(1, 2)).all():
        raise input_error(field, expected="at least one pixel that counts", got="none", fix="is the mask inverted?")
    return given[..., None].astype(np.float32)


def frame(image: np.ndarray) -> np.ndarray:
    """Returns which pixels `[H, W]` of an image `[H, W, C]` belong to a uniform frame around it.

    That is what touches a corner and differs from it by at most 6 gray levels and a tenth of the image's standard
    deviation, where it takes at least 1 % and not the whole of the image; an image of low contrast has none.
    """
    x = image.astype(np.float32) * (1 if image.dtype == np.uint8 else 255)
    height, width = x.shape[:2]
    found = np.zeros((height, width), bool)
    contrast = float(x.std(axis=(0, 1)).max())
    if contrast < FAINT:
        return found
    tolerance = min(TOLERANCE, RELATIVE * contrast)
    for corner in ((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)):
        if found[corner]:
            continue
        near = (np.abs(x - x[corner]) <= tolerance).all(-1)
        found_labels: Any = ndimage.label(near)
        labels = found_labels[0]
        found |= labels == labels[corner]
    fraction = found.mean()
    return found if SMALLEST <= fraction < 1 else np.zeros_like(found)
