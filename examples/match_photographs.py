# %% [markdown]
# # Match your own photographs
#
# `diffmatch_jax.match` takes two images of any size and returns, for every pixel of the second one (the target), its
# place in the first one (the source), with a confidence. The weights come with the package.
#
# Replace the two lines that load images by your own, for instance `np.asarray(PIL.Image.open("left.jpg"))`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import skimage.transform
from scipy.ndimage import map_coordinates

import diffmatch_jax

SIDE = 741  # pixels of the longer side; smaller images need less memory, the matcher works on a fixed grid

left, right, _ = skimage.data.stereo_motorcycle()
source, target = (
    skimage.transform.resize(image, (SIDE * 500 // 741, SIDE), anti_aliasing=True) for image in (right, left)
)
result = diffmatch_jax.match(source, target)
print("flow", result.flow.shape, "confidence", result.confidence.shape)

# %% [markdown]
# ## The flow
#
# `result.flow[y, x]` is the displacement in pixels, x to the right and y down: pixel `(x, y)` of the target lies at
# `(x, y) + flow[y, x]` in the source. Two views of a stereo pair differ along x alone, by more where an object is
# nearer.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
for axis, image, title in zip(axes, (source, target), ("source", "target"), strict=False):
    axis.imshow(image)
    axis.set_title(title)
shown = axes[2].imshow(result.flow[..., 0], cmap="viridis")
axes[2].set_title("flow along x, pixels")
figure.colorbar(shown, ax=axes[2])
for axis in axes:
    axis.axis("off")

# %% [markdown]
# ## Warp the source to the target
#
# A correct flow brings the source onto the target. Places that the source does not show have no match; the confidence
# is low there.

# %%
height, width = target.shape[:2]
y, x = np.mgrid[:height, :width]
place = np.stack([y + result.flow[..., 1], x + result.flow[..., 0]])
warped = np.stack([map_coordinates(source[..., c], place, order=1, mode="nearest") for c in range(3)], -1)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].imshow(warped)
axes[0].set_title("source, warped to the target")
shown = axes[1].imshow(result.confidence, cmap="magma", vmin=0, vmax=1)
axes[1].set_title("confidence")
figure.colorbar(shown, ax=axes[1])
for axis in axes:
    axis.axis("off")

difference = np.abs(warped - target).mean(-1)
confident = result.confidence > np.median(result.confidence)
print(f"mean difference of intensity before {np.abs(source - target).mean():.3f}, after {difference.mean():.3f}")
print(f"of the confident half {difference[confident].mean():.3f}, of the other {difference[~confident].mean():.3f}")

# %% [markdown]
# ## Keep the matches to trust
#
# A threshold on the confidence leaves a semi-dense set of point pairs, for a fundamental matrix or a reconstruction.

# %%
kept = np.argwhere(result.confidence > 0.5)[:: max(1, SIDE // 8)]
points_in_target = kept[:, ::-1]
points_in_source = points_in_target + result.flow[kept[:, 0], kept[:, 1]]
print(len(kept), "pairs; the first:", points_in_target[:1].tolist(), "->", points_in_source[:1].round(1).tolist())

# %% [markdown]
# ## Options
#
# - `source_mask` and `target_mask` (`[H, W]`, True where an image counts) leave out what should not match.
# - `search=False` skips the search over rotations and zooms, which runs only where few matches agree.
# - A batch `[B, H, W, 3]` of pairs runs in one compiled program.
# - The same from the shell: `python -m diffmatch_jax match A.jpg B.jpg --out runs/pair`.
