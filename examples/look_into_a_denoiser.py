# %% [markdown]
# # Look into a denoiser
#
# A blind, bias-free denoiser is locally linear: near a noisy image $y$ it acts as its Jacobian,
#
# $$
# f(y) = J(y)\, y, \qquad J = \frac{\partial f}{\partial y},
# $$
#
# so the eigenvectors of $J$ are the basis in which it shrinks noise at this image, and the eigenvalues the factors
# (Kadkhodaie, Guth, Simoncelli and Mallat, ICLR 2024, section 3).
#
# First train one for a short while, on photographs that come with scikit-image. The same command with
# `--config.train.steps=5000` takes about 90 s on two CPU cores and gives the pictures in the results.

# %%
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import skimage.data
import skimage.transform

import gahb
from gahb import eigenbasis

STEPS = 1200  # of training
SIDE = 48  # pixels of the image whose basis is computed
TOP = 12  # eigenvectors

run = tempfile.mkdtemp()
words = f"-m gahb train --config photographs --workdir {run} --config.train.steps={STEPS}".split()
subprocess.run([sys.executable, *words], check=True, capture_output=True)
denoise = gahb.load_denoiser(run)  # y [B, H, W, C] in [0, 1] -> x_hat

# %% [markdown]
# ## Denoise
#
# The held-out image is a square of the camera man, the noise has a standard deviation of 0.2 (51 of 255).

# %%
square = skimage.data.camera()[80:224, 190:334] / 255.0
clean = jnp.asarray(skimage.transform.resize(square, (SIDE, SIDE, 1), anti_aliasing=True))
noisy = clean + 0.2 * jax.random.normal(jax.random.key(0), clean.shape)
restored = denoise(noisy[None])[0]


def psnr(image):
    return float(-10 * jnp.log10(jnp.mean((image - clean) ** 2)))


print(f"PSNR: noisy {psnr(noisy):.1f} dB, denoised {psnr(restored):.1f} dB")
figure, axes = plt.subplots(1, 3, figsize=(8, 2.8), layout="constrained")
for axis, image, title in zip(axes, (clean, noisy, restored), ("clean", "noisy", "denoised"), strict=True):
    axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(title)
    axis.axis("off")

# %% [markdown]
# ## The leading eigenvectors
#
# `eigenbasis.top_k` finds the largest eigenvalues of the symmetric part of the Jacobian by products alone, without
# forming the matrix. `residuals` say how exact each pair is.

# %%
basis = eigenbasis.top_k(denoise, noisy, k=TOP)
print("factors  ", basis.values.round(2))
print("residuals", basis.residuals.max())

figure, axes = plt.subplots(2, TOP // 2, figsize=(TOP, 4.4), layout="constrained")
for axis, value, vector in zip(axes.flat, basis.values, basis.vectors, strict=False):
    limit = abs(vector).max()
    axis.imshow(vector[..., 0], cmap="RdBu", vmin=-limit, vmax=limit)
    axis.set_title(f"{value:.2f}", fontsize=9)
    axis.axis("off")

# %% [markdown]
# ## Bias-free means homogeneous
#
# Scaling the input scales the output, so the denoiser adapts to contrast and to the noise level.

# %%
twice = denoise(2 * noisy[None])[0]
print("largest deviation from f(2 y) = 2 f(y):", float(jnp.abs(twice - 2 * restored).max()))

# %% [markdown]
# ## Any denoiser
#
# `top_k` takes every function of `[B, H, W, C]` that JAX can trace, here a circular moving average, whose eigenvectors
# are sines and whose factors are $(1 + 2 \cos \omega) / 3$.


# %%
def blur(y):
    return (y + jnp.roll(y, 1, axis=1) + jnp.roll(y, -1, axis=1)) / 3


print(eigenbasis.top_k(blur, jnp.ones((16, 1, 1)), k=5).values.round(3))
