# %% [markdown]
# # Bring a PyTorch model
#
# `common.imports` reads tensors from PyTorch and safetensors files, without PyTorch and without running code from the
# file. A map from the file's names to the leaves of a JAX network does the rest.
#
# Without PyTorch at hand, this tutorial first writes such a file: two convolutions without biases that predict noise,
# with PyTorch's names and layout `[out, in, height, width]`.

# %%
import pathlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
from jax.tree_util import Partial
from safetensors.numpy import save_file

import gahb
from common.imports import Slot, assign, load
from gahb import eigenbasis

WIDTH = 8  # channels of the hidden layer

rng = np.random.default_rng(0)
path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
state_dict = {
    "net.0.weight": (rng.normal(size=(WIDTH, 1, 3, 3)) / 9).astype(np.float32),
    "net.2.weight": (rng.normal(size=(1, WIDTH, 3, 3)) / 9).astype(np.float32),
}
save_file(state_dict, path)

# %% [markdown]
# ## Read it
#
# `load` takes `.pt`, `.pth` and `.safetensors`. It returns NumPy arrays by their names in the file.

# %%
tensors = load(path)
print({name: array.shape for name, array in tensors.items()})

# %% [markdown]
# ## The same network in Flax
#
# Flax stores kernels as `[height, width, in, out]`. A `Slot` names the tensor, its expected shape and the change of
# layout; `assign` refuses a file with missing, unexpected or differently shaped tensors and lists them.


# %%
class Network(nn.Module):
    width: int

    @nn.compact
    def __call__(self, y):
        hidden = nn.relu(nn.Conv(self.width, (3, 3), use_bias=False, name="first")(y))
        return nn.Conv(1, (3, 3), use_bias=False, name="second")(hidden)


def to_flax(kernel):
    return kernel.transpose(2, 3, 1, 0)


slots = {
    "first": Slot("net.0.weight", (WIDTH, 1, 3, 3), to_flax),
    "second": Slot("net.2.weight", (1, WIDTH, 3, 3), to_flax),
}
kernels = assign(tensors, slots, field=path.name)
params = {name: {"kernel": jnp.asarray(kernel)} for name, kernel in kernels.items()}
network = Network(WIDTH)


def apply(params, y):  # the file's network predicts noise
    return y - network.apply({"params": params}, y)


# %% [markdown]
# ## Check it
#
# Compare with an independent computation before you trust a number. PyTorch's convolution is a correlation with zeros
# outside the image.

# %%
y = rng.uniform(size=(12, 12))
hidden = [scipy.signal.correlate2d(y, kernel[0], mode="same") for kernel in state_dict["net.0.weight"]]
noise = sum(
    scipy.signal.correlate2d(np.maximum(each, 0), kernel, mode="same")
    for each, kernel in zip(hidden, state_dict["net.2.weight"][0], strict=True)
)
ours = apply(params, jnp.asarray(y, jnp.float32)[None, ..., None])[0, ..., 0]
print("largest difference:", float(np.abs(ours - (y - noise)).max()))

# %% [markdown]
# ## Use it
#
# As a denoiser it enters every analysis and the sampler. `Partial` passes the weights as arguments, so that another
# file with the same network compiles nothing.

# %%
denoise = gahb.as_denoiser(Partial(apply, params))
basis = eigenbasis.top_k(denoise, jnp.asarray(y, jnp.float32)[..., None], k=3)
print("leading factors:", basis.values)
batch = jax.random.uniform(jax.random.key(0), (2, 12, 12, 1))
print("a batch:", denoise(batch).shape)

# %% [markdown]
# The authors' released models of the three papers need no map of your own: `python -m METHOD import-weights FILE`,
# see [import weights](../how_to/import_weights.md).
