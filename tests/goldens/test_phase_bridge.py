"""The bridge, its samplers and its guides against numbers of the original code, and against exact ones."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from common.solvers.linear import recorded_noise
from phase_bridge import bridge as bridges
from phase_bridge import phase_solvers as phase
from phase_bridge import released, sampling, schedules
from phase_bridge.bridge import Bridge
from phase_bridge.conditioning import inpainting, stroke
from phase_bridge.processes import join
from phase_bridge.sampling import estimate_model
from phase_bridge.toy import mixture

DTYPES = ("float32", "float64")
DRIFTS = ("single", "gmm", "smooth")
GRIDS = ("uniform", "quadratic", "power_from_0")
SPLIT = 0.99  # the release loses digits beyond


@contextlib.contextmanager
def precision(dtype):
    with jax.enable_x64(dtype == "float64"):
        yield


def bridge_of(row):
    p, k, varx, varv = (float(number) for number in row)
    return Bridge(p, -k, varx, varv)


def close(got, want, *, rtol=0.0, atol=0.0):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def quantities(b, t):
    xx, xv, vv = bridges.covariance(b, t)
    l_xx, l_xv, l_vv = bridges.cholesky(b, t)
    c_x, c_v = bridges.mean_coefficients(b, t)
    zero, one = 0 * t[:, None], 1 + 0 * t[:, None]
    state = zero.repeat(2, 1)
    pull = bridges.control(b, state, one, t)[:, 0]  # of x1 = 1 on x = v = 0
    brake = -bridges.control(b, state + jnp.asarray([0.0, 1.0]), zero, t)[:, 0]
    return {
        "g": bridges.diffusion(b, t),
        "g2P10": 1.5 * pull,  # 6/s^2 and 4/s, entries of the original's Riccati solution
        "g2P11": brake,
        "sigmaxx": xx,
        "sigmavx": xv,
        "sigmavv": vv,
        "Lxx": l_xx,
        "Lxv": l_xv,
        "Lvv": l_vv,
        "ell": bridges.score_coefficient(b, t),
        "normalizer_sde": bridges.force_scale(b, t, kind="sde"),
        "normalizer_ode": bridges.force_scale(b, t, kind="ode"),
        "normalizer_ode_fixed": bridges.force_scale(b, t, kind="ode", sign=-1),
        "mean_x": c_x,
        "mean_v": c_v,
    }


ROUNDED = {"Lxx", "Lxv", "Lvv", "ell", "normalizer_sde", "normalizer_ode"}  # in the original, to float32
PLAIN = {"g", "g2P10", "g2P11", "mean_x", "mean_v"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_dynamics(golden, dtype):
    d = golden("phase_bridge", "dynamics")
    far = d["t"] > SPLIT
    for i, row in enumerate(d["params"]):
        b = bridge_of(row)
        with precision(dtype):
            found = quantities(b, jnp.asarray(d["t"], dtype))
        assert {f"exact_{name}" for name in found} == {name for name in d if name.startswith("exact_")}
        for name, got in found.items():
            assert got.dtype == dtype
            atol = 2e-6 if name in ("sigmavx", "Lxv") and dtype == "float32" else 0
            # Times themselves are rounded, and s = 1 - t keeps that error whole.
            unit = np.finfo(dtype).eps / (1 - d["t"])
            double = np.maximum(1e-13 if name in PLAIN else 1e-11, 3 * unit)
            rtol = double if dtype == "float64" else np.maximum(1e-4, 3 * unit)
            error = np.abs(np.asarray(got) - d[f"exact_{name}"][i])
            assert (error <= atol + rtol * np.abs(d[f"exact_{name}"][i])).all(), name
            if name == "normalizer_ode_fixed":
                continue
            want = d[f"orig_{name}"][i]
            if name in ROUNDED:
                near = 5e-6 if dtype == "float64" else 1e-4
                rtol = np.maximum(np.where(far, 3e-4, near), 3 * unit)
            elif dtype == "float64":
                rtol = np.maximum(1e-12 if name in PLAIN else 1e-11, 3 * unit)
            error = np.abs(np.asarray(got) - want)
            assert (error <= atol + rtol * np.abs(want)).all(), name


def test_mean_from_any_start(golden):
    d = golden("phase_bridge", "dynamics")
    starts = (d[f"mean_in_{name}"] for name in ("x0", "v0", "x1"))
    x, v = bridges.mean(Bridge(), d["t"], *starts)
    close(x, d["orig_mean_out_x"], rtol=1e-11, atol=1e-12)
    close(v, d["orig_mean_out_v"], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["vec", "img"])
def test_bridge_samples_and_targets(golden, case, dtype):
    d = golden("phase_bridge", "bridge")

    def last(array):
        return np.moveaxis(array, -3, -1) if case == "img" else array

    double = dtype == "float64"
    with precision(dtype):
        t = jnp.asarray(d[f"{case}_t"], dtype)
        x1 = jnp.asarray(last(d[f"{case}_x1"]), dtype)
        noise = jnp.asarray(np.concatenate([last(d[f"{case}_epsx"]), last(d[f"{case}_epsv"])], -1), dtype)
        scale = 1 / jnp.sqrt(1 - t)
        close(scale, d[f"{case}_orig_lambda"], rtol=1e-5)
        for i, row in enumerate(d["params"]):
            b = bridge_of(row)
            m = b.perturb(x1, noise, t)
            for name, got in zip(("xt", "vt"), bridges.split(m), strict=True):
                assert got.dtype == dtype
                want = last(d[f"{case}_exact_{name}"][i])
                close(got, want, **({"rtol": 1e-9, "atol": 1e-9} if double else {"atol": 1e-5}))
                close(got, last(d[f"{case}_orig_{name}"][i]), atol=1e-5)
            for kind in bridges.KINDS:
                target = bridges.target(b, x1, noise, t, kind=kind)
                force = bridges.force(b, x1, noise, t, kind=kind)
                tight = {"rtol": 1e-9, "atol": 1e-9}
                close(target, last(d[f"{case}_exact_target_{kind}"][i]), **(tight if double else {"atol": 2e-5}))
                loose = {"rtol": 1e-9, "atol": 1e-7} if double else {"rtol": 1e-3, "atol": 5e-3}
                close(force, last(d[f"{case}_exact_force_{kind}"][i]), **loose)
                close(target, last(d[f"{case}_orig_target_{kind}"][i]), atol=3e-5)
                close(force, last(d[f"{case}_orig_force_{kind}"][i]), rtol=0 if double else 1e-3, atol=5e-3)
                error = (last(d[f"{case}_pred"]) - target) * scale.reshape(-1, *[1] * (x1.ndim - 1))
                assert jnp.mean(error**2) == pytest.approx(d[f"{case}_orig_loss_{kind}"][i], rel=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", bridges.KINDS)
def test_data_estimates(golden, kind, dtype):
    d = golden("phase_bridge", "est_x1")
    count = len(d["t"]) * d["x"].shape[1]
    double = dtype == "float64"
    with precision(dtype):

        def flat(array):
            return jnp.asarray(array.reshape(count, -1), dtype)

        t = jnp.asarray(np.repeat(d["t"], d["x"].shape[1]), dtype)
        m = join(flat(d["x"]), flat(d["v"]))
        for i, row in enumerate(d["params"]):
            b = bridge_of(row)
            force = flat(d["F"]) * bridges.force_scale(b, t, kind=kind)[:, None]
            want = d[f"force_{kind}"][i].reshape(count, -1)
            close(force, want, rtol=1e-9 if double else 1e-4, atol=0 if double else 1e-4)
            got = bridges.data_estimate(b, m, flat(d[f"force_{kind}"][i]), t, kind=kind)
            exact = d[f"exact_est_x1_{kind}"][i].reshape(count, -1)
            close(got, exact, **({"rtol": 1e-9, "atol": 1e-9} if double else {"atol": 5e-5}))
            atol = 5e-5 if not double else 1e-12 if kind == "sde" else 5e-6
            close(got, d[f"orig_est_x1_{kind}"][i].reshape(count, -1), atol=atol)


def times_of(kind, nfe, last, order, first=1e-5):
    """Returns the times of the original's `Euler`, `quad` or `rev-quad` grid."""
    options = {"power": float(order)} if GRIDS[kind] == "power_from_0" else {}
    return schedules.schedule(Bridge(), int(nfe), kind=GRIDS[kind], first=float(first), last=float(last), **options)


def test_discretisations(golden):
    d = golden("phase_bridge", "discretizers")
    for i, kind in enumerate(d["cfg_kind"]):
        nfe, last = int(d["cfg_nfe"][i]), d["cfg_T"][i]
        grid = times_of(kind, nfe, last, d["cfg_order"][i], d["cfg_t0"][i])
        close(grid[:-1], d[f"ts_{i}"], atol=1e-12 if GRIDS[kind] == "power_from_0" else 2e-7)
        steps = d[f"dts_{i}"]
        close(np.diff(grid), steps[:nfe], atol=3e-8 if GRIDS[kind] == "power_from_0" else 2e-7)
        close(steps[nfe:], np.full(len(steps) - nfe, schedules.END - last), atol=2e-7)


def single(x1, m, t):
    return jnp.broadcast_to(x1, (*m.shape[:-1], x1.shape[-1])).astype(m.dtype)


def smooth(numbers, m, t):
    a, b, c, d = numbers
    x, v = bridges.split(m)
    return (1 - t) * (jnp.sin(a * x + b * v) + c * jnp.cos(d * t + jnp.arange(x.shape[-1], dtype=x.dtype)))


def drift(d, name, b, kind, dtype):
    """Returns the field of a drift that the README describes."""
    if name == "single":
        model = estimate_model(b, Partial(single, jnp.asarray(d["drift_single_x1"], dtype)))
        return released.outputs(model, kind=kind)
    if name == "gmm":
        return released.outputs(mixture(b, d["drift_gmm_mu"], d["drift_gmm_w"], d["drift_gmm_sd"]), kind=kind)
    return Partial(smooth, jnp.asarray(d["drift_smooth_abcd"], dtype))


def cases(d):
    """Yields number, bridge, and times at which the steps of each case begin and end."""
    for i, row in enumerate(d["cfg_param"]):
        t, count = d[f"ts_{i}"].astype(float), int(d["cfg_nfe"][i])
        assert len(t) == count
        grid = times_of(d["cfg_kind"][i], count, d["cfg_T"][i], d["cfg_order"][i])
        close(t, grid[:-1], atol=2e-7)
        end = t + d[f"dts_{i}"][:count]
        close(end, grid[1:], atol=2e-7)
        yield i, bridge_of(d["params"][row]), t, end


def test_coefficients_of_the_exponential_integrator(golden):
    d = golden("phase_bridge", "gddim")
    for i, b, t, end in cases(d):
        for r in d["cfg_r"]:
            make = functools.partial(released.gddim, b, t, end, degree=int(r))
            for sign, name in ((1, "exact_coef"), (-1, "exact_coef_signfixed")):
                want = d[f"{name}_{i}_r{r}"]
                size = np.abs(want).sum(1, keepdims=True)
                close(make(sign=sign).weights / size, want / size, atol=1e-9)
            want = d[f"orig_coef_{i}_r{r}"]
            size = np.abs(want).sum(1, keepdims=True)
            close(make().weights / size, want / size, atol=2e-4)


@jax.jit
def along(field, states, times):
    """Evaluates a field at `states [B, N, 2C]`, each at its own of `times [N]`."""
    return jax.vmap(field, (1, 0), 1)(states, times)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DRIFTS)
def test_exponential_integrator(golden, name, dtype):
    d = golden("phase_bridge", "gddim")
    double = dtype == "float64"
    with precision(dtype):
        for i, b, t, end in cases(d):
            field = drift(d, name, b, "ode", dtype)
            start = jnp.asarray(d[f"m0_{i}"], dtype)
            shape = (len(start), start.shape[1] // 2)
            for r in d["cfg_r"].tolist():
                steps = released.gddim(b, t, end, degree=r)
                # With zeros for older outputs all orders are one compiled program.
                older = ((0, 0), (0, int(d["cfg_r"].max()) - r), (0, 0))
                steps = steps._replace(weights=np.pad(steps.weights, older))
                _, info = sampling.run(
                    field,
                    steps,
                    jax.random.key(0),
                    shape,
                    b,
                    start=start,
                    output="state",
                    store_states=True,
                    store_estimates=True,
                    dtype=dtype,
                )
                tag = f"{i}_r{r}_{name}"
                atol = 5e-4 if r == 3 else 1e-4
                states, estimates = np.asarray(info["states"]), np.asarray(info["estimates"])
                assert states.dtype == dtype
                close(states[:, :-1], d[f"orig_ms_{tag}"][:, :-1], atol=atol)
                close(estimates, d[f"orig_est_x1_{tag}"], atol=atol)
                outputs = along(field, states[:, :-1], jnp.asarray(t, dtype))
                close(outputs, d[f"orig_F_{tag}"], atol=2e-3)
                for want in (d[f"orig_ms_{tag}"][:, -1], d[f"orig_mT_{tag}"]):
                    close(states[:, -1], want, atol=5e-4 * max(1, np.abs(want).max()))

                tight = 1e-7 if double else 1e-3
                for got, want in ((states[:, -2], "mlast"), (estimates[:, -1], "est_x1_last")):
                    want = d[f"exact_{want}_{tag}"]
                    close(got, want, atol=tight * max(1, np.abs(want).max()))
                want = d[f"exact_mT_{tag}"]
                close(states[:, -1], want, atol=(1e-6 if double else 1e-3) * np.abs(want).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_splitting_as_released(golden, dtype):
    d = golden("phase_bridge", "sscs")
    atol = 1e-4 if dtype == "float64" else 1e-3
    with precision(dtype):
        for i, b, t, end in cases(d):
            field = drift(d, "single", b, "sde", dtype)
            start = jnp.asarray(d[f"m0_{i}"], dtype)
            options = {
                "output": "state",
                "noise": recorded_noise(d[f"noise_{i}"]),
                "start": start,
                "store_states": True,
                "store_estimates": True,
                "dtype": dtype,
            }
            table = released.splitting(b, t, end)
            shape = (len(start), start.shape[1] // 2)
            end_x, info = sampling.run(field, table, jax.random.key(0), shape, b, **options)
            states, ms = np.asarray(info["states"]), d[f"orig_ms_{i}"]
            close(states[:, 1:-1], ms[:, :-2], atol=atol)
            for want in (ms[:, -1], d[f"orig_mT_{i}"]):
                close(states[:, -1], want, atol=atol)
            np.testing.assert_array_equal(end_x, states[:, -1, : shape[1]])
            close(info["estimates"], d[f"orig_est_x1_{i}"], atol=atol)

            # The last column but one is the state after a last step that ends like all others.
            weights = table.weights.copy()
            weights[-1, 0, 0] /= 2
            ordinary = table._replace(transition=table.before, noise=table.before_noise, weights=weights)
            _, info = sampling.run(field, ordinary, jax.random.key(0), shape, b, **options)
            close(info["state"], ms[:, -2], atol=atol)

            z = np.moveaxis(d[f"noise_{i}"][:, 0], 0, 1)
            (z_x, z_v), (x, v) = bridges.split(z), bridges.split(states[:, :-1])
            (l_xx, _), (l_xv, l_vv) = np.moveaxis(table.before_noise[..., None], 0, -2)
            half = (end - t)[:, None] / 2
            middle = join(x + half * v + l_xx * z_x, v + l_xv * z_x + l_vv * z_v)
            outputs = along(field, jnp.asarray(middle, dtype), jnp.asarray(t, dtype))
            close(outputs, d[f"orig_F_{i}"], atol=10 * atol)


def test_noise_of_free_flight(golden):
    d = golden("phase_bridge", "sscs")
    b, t, h = Bridge(p=float(d["substep_p"])), d["substep_t"], d["substep_h"]
    for make, name, rtol in (
        (phase.flight_covariance, "exact_substep_cov", 1e-12),
        (released.flight_covariance, "orig_substep_cov", 1e-5),
    ):
        close(np.stack(make(b, t, h), -1), d[name], rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["dyn", "inpaint"])
def test_velocities_given_an_image(golden, case, dtype):
    d = golden("phase_bridge", "conditional")

    def nhwc(name):
        return jnp.asarray(np.moveaxis(d[name], -3, -1), dtype)

    with precision(dtype):
        m, noise, estimate = nhwc("m"), nhwc("noise"), nhwc("est_x1")
        channels = estimate.shape[-1]
        if case == "dyn":
            condition = stroke(nhwc("stroke"), fraction=1.0)
        else:
            condition = inpainting(nhwc("stroke_masked"), nhwc("stroke_masked") != -1)
        for i, row in enumerate(d["params"]):
            b = bridge_of(row)
            for rows, name, atol in (
                (released.rows, "orig", 5e-5),
                (lambda b, condition, t: condition.rows(b, t), "exact", 1e-6 if dtype == "float64" else 5e-5),
            ):
                table = rows(b, condition, d["t"])
                for n in range(len(d["t"])):
                    want = np.moveaxis(d[f"{name}_v_{case}"][i, n], -3, -1)
                    z = noise[n][..., channels:]
                    row = jnp.asarray(table[n], dtype)
                    after = condition.impose(lambda *_, z=z: z, None, n, row, m[n], estimate[n])
                    assert after.dtype == dtype
                    np.testing.assert_array_equal(after[..., :channels], m[n][..., :channels])
                    close(after[..., channels:], want, atol=atol)
