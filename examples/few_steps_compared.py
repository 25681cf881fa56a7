# %% [markdown]
# # Samplers of few steps, compared
#
# A sampler's error and a network's error are easily confused. Here the denoiser is exact, that of a mixture
# of Gaussians, so all error is the sampler's. Every sampler starts from the same states; the reference takes many
# steps.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import phase_bridge

COUNT = 2000  # samples
REFERENCE = 400  # evaluations of the reference

bridge = phase_bridge.Bridge()
means = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
model = phase_bridge.mixture(bridge, means, [0.25] * 4, 0.08)
key = jax.random.key(0)


def draw(nfe, **sampler):
    points, _ = phase_bridge.sample(model, key, (COUNT, 2), nfe=nfe, **sampler)
    return np.asarray(points)


reference = draw(REFERENCE, solver="gddim", schedule={"last": 0.999})

# %% [markdown]
# ## The rules
#
# `gddim` extrapolates the force and is the published one; `data_multistep` extrapolates the data estimate; a corrector
# improves each step by the evaluation that the next step needs anyway, so it costs none.

# %%
samplers = {
    "euler": {"solver": "euler"},
    "gddim, degree 2 (published)": {"solver": "gddim"},
    "gddim, degree 1, corrector": {"solver": "gddim", "degree": 1, "corrector": True},
    "data_multistep, degree 1, corrector": {"solver": "data_multistep", "degree": 1, "corrector": True},
}
evaluations = (5, 10, 20)
points = {name: {nfe: draw(nfe, **sampler) for nfe in evaluations} for name, sampler in samplers.items()}
errors = {
    name: [float(np.sqrt(np.mean((found - reference) ** 2))) for found in each.values()]
    for name, each in points.items()
}
print(f"{'root mean square distance from the reference':45}", *(f"{nfe:>6}" for nfe in evaluations), "NFE")
for name, row in errors.items():
    print(f"{name:45}", *(f"{error:6.3f}" for error in row))

# %%
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, row in errors.items():
    axis.loglog(evaluations, row, marker="o", label=name)
axis.set_xlabel("network evaluations")
axis.set_ylabel("distance from the reference")
axis.legend(fontsize=8)

# %% [markdown]
# ## The samples
#
# With five evaluations the distances are those of a few points between the modes; with 20 the order decides.

# %%
shown = ("euler", "gddim, degree 2 (published)", "data_multistep, degree 1, corrector")
figure, axes = plt.subplots(2, 4, figsize=(10, 5), layout="constrained", sharex=True, sharey=True)
for row, nfe in zip(axes, (5, 20), strict=True):
    for axis, name in zip(row, shown, strict=False):
        axis.plot(*points[name][nfe].T, ",", color="tab:blue")
        axis.set_title(f"{name}, {nfe} NFE", fontsize=8)
    row[3].plot(*reference.T, ",", color="black")
    row[3].set_title("reference", fontsize=8)

# %% [markdown]
# ## The paths
#
# The same denoiser along EDM's path and along flow matching's, each with its default sampler. The standard deviation
# around the nearest mode should be 0.08; points between the modes raise it.

# %%
paths = {"bridge": bridge, "EDM": phase_bridge.EDM(), "flow matching": phase_bridge.Flow()}
spreads = {}
for name, path in paths.items():
    along = phase_bridge.mixture(path, means, [0.25] * 4, 0.08)
    for nfe in (3, 5, 10):
        samples, _ = phase_bridge.sample(along, key, (COUNT, 2), nfe=nfe)
        nearest = np.linalg.norm(np.asarray(samples)[:, None] - np.array(means), axis=-1).min(1)
        spreads[name, nfe] = float(np.sqrt(np.mean(nearest**2) / 2))
for name in paths:
    print(f"{name:15}", *(f"{spreads[name, nfe]:6.3f}" for nfe in (3, 5, 10)), "at 3, 5, 10 NFE")

# %% [markdown]
# Rules for every number of evaluations, the SDE's too: [which sampler](../methods/phase_bridge.md#which-sampler). With
# trained networks the ranking at 3 to 5 evaluations also depends on the path:
# [comparison with flow matching and EDM](../phase_bridge.md).
