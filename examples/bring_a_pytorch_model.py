# %% [markdown]
# # Bring a PyTorch model
#
# `common.imports` reads tensors from PyTorch and safetensors files, without PyTorch and without running code from the
# file. A map from the file's names to the leaves of a JAX network does the rest.
#
# This tutorial first writes such a file, without PyTorch: two convolutions without biases that predict noise, with
# PyTorch's names and layout `[out, in, height, width]`. Where PyTorch is installed, it also runs the module itself.

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


def with_scipy(image):  # [H, W]
    first, second = state_dict["net.0.weight"][:, 0], state_dict["net.2.weight"][0]
    hidden = [np.maximum(scipy.signal.correlate2d(image, kernel, mode="same"), 0) for kernel in first]
    noise = sum(
        scipy.signal.correlate2d(part, kernel, mode="same") for part, kernel in zip(hidden, second, strict=True)
    )
    return image - noise


y = rng.uniform(size=(12, 12)).astype(np.float32)
ours = apply(params, jnp.asarray(y)[None, ..., None])[0, ..., 0]
print("largest difference:", float(np.abs(ours - with_scipy(y)).max()))

# %% [markdown]
# ## Use it
#
# As a denoiser it enters every analysis and the sampler. `Partial` passes the weights as arguments, so that another
# file with the same network compiles nothing.

# %%
denoise = gahb.as_denoiser(Partial(apply, params))
basis = eigenbasis.top_k(denoise, jnp.asarray(y)[..., None], k=3)
print("leading factors:", basis.values)
batch = jax.random.uniform(jax.random.key(0), (2, 12, 12, 1))
print("a batch:", denoise(batch).shape)

# %% [markdown]
# ## Or keep it in PyTorch
#
# `gahb.from_torch` wraps a module as it is, for images `[B, H, W, C]`. The eigenbasis needs products with its Jacobian,
# which come from `torch.func`. JAX calls the module on the host: slower than the network above, and not trainable.

# %%
try:
    import torch
except ImportError:
    print("PyTorch is not installed: this cell needs `pip install torch`.")
else:

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            first = torch.nn.Conv2d(1, WIDTH, 3, padding=1, bias=False)
            second = torch.nn.Conv2d(WIDTH, 1, 3, padding=1, bias=False)
            self.net = torch.nn.Sequential(first, torch.nn.ReLU(), second)

        def forward(self, y):
            return y - self.net(y)

    module = Residual()
    module.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    in_torch = gahb.from_torch(module.eval())
    print("largest difference:", float(jnp.abs(in_torch(batch) - denoise(batch)).max()))
    in_torch_basis = eigenbasis.top_k(in_torch, jnp.asarray(y)[..., None], k=3)
    print("leading factors:", in_torch_basis.values)

# %% [markdown]
# `gahb.from_callback(function, jvp=..., vjp=...)` does the same for other code outside JAX. Sampling and PSNR curves
# need the function alone, the eigenbasis needs both products too.

# %%
wrapped = gahb.from_callback(lambda images: np.stack([with_scipy(image) for image in images[..., 0]])[..., None])
print("largest difference:", float(jnp.abs(wrapped(batch) - denoise(batch)).max()))

# %% [markdown]
# The authors' released models of the three papers need no map of your own: `python -m METHOD import-weights FILE`,
# see [import weights](../how_to/import_weights.md).
