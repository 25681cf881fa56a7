"""The true flow of a pair whose pictures were moved by a corruption."""

import numpy as np
from scipy import ndimage, spatial

_STEPS = 8  # of Newton's method
_CLOSE = 0.02  # pixels that are left at most


def compose(
    flow: np.ndarray,
    mask: np.ndarray,
    *,
    target: np.ndarray | None = None,
    source: np.ndarray | None = None,
    sparse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns flow `[H, W, 2]` and mask `[H, W]` between corrupted pictures, from those between the original ones.

    target `[H, W, 2]` and source `[h, w, 2]` are the flows from each corrupted picture into its original
    (`Corrupted.flow`), None for pictures that did not move. Where the source is folded, or does not show a place any
    more, nothing is known. With few valid pixels (`sparse`) a place takes the motion of the nearest one within a pixel.
    """
    size = flow.shape[:2]
    flow = np.where(mask[..., None], flow, 0).astype(np.float64)
    mask = mask.astype(bool)
    pixels = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(np.float64)
    if target is not None:
        at = pixels + target
        if sparse:
            near = np.round(at).astype(int)
            near = np.clip(near[..., 1], 0, size[0] - 1), np.clip(near[..., 0], 0, size[1] - 1)
            flow, mask = flow[near] + target, mask[near]
        else:
            mask = look(mask[..., None].astype(np.float64), at)[..., 0] > 1 - 1e-6
            flow = look(flow, at) + target
    if source is not None:
        found, close = inverse(source, (pixels + flow)[mask])
        flow[mask] = found - pixels[mask]
        mask[mask] = close
    return np.where(mask[..., None], flow, 0).astype(np.float32), mask


def look(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns `values [H, W, C]` at positions `[..., 2]` (x, y) bilinearly, its edge beyond the border."""
    where = at[..., 1], at[..., 0]
    return np.stack([ndimage.map_coordinates(values[..., c], where, order=1, mode="nearest")
                     for c in range(values.shape[-1])], -1)  # fmt: skip


def inverse(flow: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions q `[n, 2]` with q + flow(q) = `places [n, 2]`, and which of them were found `[n]`."""
    height, width = flow.shape[:2]
    last = np.asarray([width - 1, height - 1])
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
    mapping = pixels + flow
    _, start = spatial.KDTree(mapping.reshape(-1, 2)).query(places)
    q = pixels.reshape(-1, 2)[start]
    slopes = np.concatenate([np.gradient(mapping, axis=1), np.gradient(mapping, axis=0)], -1)
    best, error = q, np.full(len(q), np.inf)
    for _ in range(_STEPS + 1):
        off = look(mapping, q) - places
        length = np.hypot(*off.T)
        best = np.where((length < error)[:, None], q, best)
        error = np.minimum(length, error)
        # Columns are the derivatives along x and along y.
        slope = look(slopes, q).reshape(-1, 2, 2).swapaxes(1, 2)
        det = np.linalg.det(slope)
        slope = np.where((np.abs(det) > 1e-3)[:, None, None], slope, np.eye(2))
        step = np.linalg.solve(slope, off[..., None])[..., 0]
        q = np.clip(q - np.clip(step, -1, 1), 0, last)
    return best, error <= _CLOSE
