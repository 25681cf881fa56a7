"""The residual perceptron against outputs of the original's toy network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phase_bridge.mlp import ResidualMLP

NAME = "resnet_mlp"


def parameters(arrays, dtype):
    """Collects the original's linear layers, in their order, under our names."""
    names = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]

    def place(name):  # first, hidden ones by number, last: the sizes tell
        rows, columns = arrays[f"{name}.weight"].shape
        hidden = int(arrays["cfg_hidden_dim"])
        if columns == hidden + 1 and rows == hidden:
            return 1, [int(part) for part in name.split(".") if part.isdigit()]
        return (0, []) if rows == hidden else (2, [])

    return {
        f"layer_{i}": {
            "kernel": jnp.asarray(arrays[f"{name}.weight"].T, dtype),
            "bias": jnp.asarray(arrays[f"{name}.bias"], dtype),
        }
        for i, name in enumerate(sorted(names, key=place))
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 5e-6)])
def test_outputs(golden, dtype, tolerance):
    arrays = golden("phase_bridge", NAME)
    with jax.enable_x64(dtype == "float64"):
        network = ResidualMLP(2, width=int(arrays["cfg_hidden_dim"]), depth=int(arrays["cfg_n_hidden_layers"]))
        m, t = jnp.asarray(arrays["m"], dtype), jnp.asarray(arrays["t_net"], dtype)
        params = parameters(arrays, dtype)

        def apply(time):
            return network.apply({"params": params}, m, time)

        for name, got in (
            ("out", apply(t)),
            ("wrapper_out", apply(1 - t)),
            ("wrapper_out_precond", (1 - t)[:, None] * apply(1 - t)),
        ):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, arrays[name], rtol=0, atol=tolerance, err_msg=name)


def test_every_array_is_read(golden):
    arrays = golden("phase_bridge", NAME)
    linear = 2 * len(parameters(arrays, "float32"))
    assert sum(name.startswith("param/") for name in arrays) == linear
    assert linear == 2 * (int(arrays["cfg_n_hidden_layers"]) + 2)
