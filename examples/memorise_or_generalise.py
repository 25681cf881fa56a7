# %% [markdown]
# # Memorise or generalise
#
# Train two denoisers on disjoint sets of N faces and sample both from the same noise. Models that memorise return faces
# of their own sets. Models that generalise return the same new face, since both have learned the same distribution
# (Kadkhodaie, Guth, Simoncelli and Mallat, ICLR 2024, section 2).
#
# This page does so at the smallest scale: 100 faces of 24x24 pixels that come with scikit-image, and a small UNet. The
# command `python -m gahb study` is the experiment itself, and the [results](../gahb.md) have its numbers.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import skimage.data

import gahb
from common.method import Variables
from gahb.networks import UNet, init
from gahb.objective import loss

STEPS = 250  # of training, for each of the four models
KERNELS = 16  # channels of the network
BATCH = 8
COUNT = 6  # samples of each model

faces = jnp.asarray(skimage.data.lfw_subset()[:100, :24, :24, None], jnp.float32)  # in [0, 1]
sets = {n: (faces[:n], faces[50 : 50 + n]) for n in (1, 50)}

# %% [markdown]
# ## Train
#
# Each step of Adam lowers the mean squared error of the estimated noise, at noise levels from 0 to 1. All four models
# run the same compiled program: batch and weights are its arguments.

# %%
network = UNet(num_kernels=KERNELS, num_blocks=2)
optimizer = optax.adam(optax.cosine_decay_schedule(6e-3, STEPS))


@jax.jit
def update(variables, state, key, images, progress):
    batch = {"image": images, "position": jnp.arange(BATCH), "progress": progress}

    def objective(params):
        value, aux = loss(network, variables._replace(params=params), key, batch, freeze_after=0.6)
        return value, aux.stats

    (_, stats), gradient = jax.value_and_grad(objective, has_aux=True)(variables.params)
    change, state = optimizer.update(gradient, state)
    return Variables(optax.apply_updates(variables.params, change), stats), state


def train(images, seed):
    """Returns the denoiser trained on `images [N, 24, 24, 1]`."""
    key = jax.random.key(seed)
    variables = init(network, key, images[:1])
    state = optimizer.init(variables.params)
    for step in range(STEPS):
        step_key = jax.random.fold_in(key, step)
        batch = images[jax.random.randint(step_key, (BATCH,), 0, len(images))]
        variables, state = update(variables, state, step_key, batch, step / STEPS)
    return gahb.denoiser(variables, network)


pairs = {n: [train(images, seed) for seed, images in enumerate(pair)] for n, pair in sets.items()}

# %% [markdown]
# ## Sample both from the same noise
#
# The key decides the start and the noise of all iterations, so two samplers with the same key differ in the denoiser
# alone. Similarity is the correlation of two images; `nearest` is the largest one with a training face.

# %%
key = jax.random.key(7)
samples = {
    n: [gahb.sample(each, key, (COUNT, 24, 24, 1), sigma_L=0.08)[0] for each in pair] for n, pair in pairs.items()
}


def correlation(a, b):
    """Returns the correlations `[A, B]` of two sets of images."""
    a, b = (np.asarray(each).reshape(len(each), -1) for each in (a, b))
    a, b = ((each - each.mean(1, keepdims=True)) / each.std(1, keepdims=True) for each in (a, b))
    return a @ b.T / a.shape[1]


between, nearest = {}, {}
for n, (first, second) in samples.items():
    between[n] = np.diag(correlation(first, second)).mean()
    nearest[n] = np.mean(
        [correlation(x, images).max(1).mean() for x, images in zip((first, second), sets[n], strict=True)]
    )
    print(f"N = {n}: the two models' samples {between[n]:.2f}, sample and nearest training face {nearest[n]:.2f}")

# %% [markdown]
# Rows: model 1 and model 2 for N = 1, then for N = 50; columns: one noise each.

# %%
figure, axes = plt.subplots(4, COUNT, figsize=(COUNT, 4.3), layout="constrained")
rows = [x for pair in samples.values() for x in pair]
for row, images in zip(axes, rows, strict=True):
    for axis, image in zip(row, images, strict=True):
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.axis("off")

# %% [markdown]
# With one face each, both models return their face from any noise. With 50, the two models' samples are nearer to each
# other than to any training face. This does not prove that they generalise: models with too few steps agree too, since
# they make the same smooth blobs, and these have few steps. The [results](../gahb.md) have a control for that.
