"""Learned tables: the exact map of Gaussian data, better samples of a mixture, files, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import phase_bridge
from common.errors import InputError
from phase_bridge.bridge import Bridge
from phase_bridge.learned import learn_table, load_table, save_table
from phase_bridge.processes import EDM, Flow
from phase_bridge.sampling import sample
from phase_bridge.toy import mixture, toy

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEAN, STD = np.array([0.4, -0.3]), 0.5


def away(model, start, reference, **options):
    """Returns the root mean square distance of samples from those of the reference from the same start."""
    made, info = sample(model, 0, reference.shape, start=start, **options)
    return float(jnp.sqrt(jnp.mean((made - reference) ** 2))), info["nfe"]


@pytest.mark.parametrize(("process", "nfe"), [(EDM(), 2), (Bridge(), 3)], ids=["edm", "bridge"])
def test_gaussian_data_are_mapped_exactly(process, nfe):
    """Of such data the flow is affine, x = mean + std * (u - mean) / hypot(std, sigma) for one part."""
    model = mixture(process, MEAN[None], [1.0], STD)
    options = {"kind": "levels", "sigma_max": 5.0, "sigma_min": 0.3}
    learned = learn_table(
        model,
        nfe,
        jax.random.key(0),
        (2,),
        schedule=options,
        batch_size=64,
        num_batches=400,
        learning_rate=0.01,
    )
    assert learned.losses[-1] < 0.02 * learned.losses[0]
    if process.parts == 1:
        start = 5.0 * jax.random.normal(jax.random.key(5), (500, 2))
        exact = MEAN + STD * (start - MEAN) / np.hypot(STD, 5.0)
    else:
        start = process.prior(jax.random.key(5), (500, 2))
        exact, _ = sample(model, 0, (500, 2), start=start, nfe=400, solver="data_multistep", schedule={"last": 0.999})
    before, _ = away(model, start, exact, nfe=nfe, schedule=options)
    after, made = away(model, start, exact, solver=learned.table)
    assert made == nfe and after < 2e-3 and before > 20 * after


@pytest.mark.parametrize("process", [EDM(), Bridge()], ids=["edm", "bridge"])
def test_a_table_is_better_on_other_noise_and_kept_by_a_file(process, tmp_path):
    model = phase_bridge.denoiser_model(process, toy("mixture").denoise)
    options = {"kind": "levels", "sigma_max": 4.0, "sigma_min": 0.08}
    start = process.prior(jax.random.key(7), (1000, 2)) * (4 / 80 if process.parts == 1 else 1)
    fine = {"kind": "levels", "sigma_max": 4.0, "sigma_min": 0.002}
    reference, _ = sample(model, 0, start.shape[:1] + (2,), start=start, nfe=60, solver="unipc", schedule=fine)
    learned = learn_table(
        model,
        3,
        jax.random.key(0),
        (2,),
        solver="unipc",
        schedule=options,
        batch_size=256,
        num_batches=250,
        teacher_nfe=30,
        learning_rate=0.01,
    )

    def distance(**chosen):
        made, _ = sample(model, 0, reference.shape, start=start, **chosen)
        return float(jnp.mean(jnp.linalg.norm(made - reference, axis=-1)))

    assert distance(solver=learned.table) < 0.6 * distance(nfe=3, solver="unipc", schedule=options)
    save_table(tmp_path / "table.npz", learned.table)
    again = load_table(tmp_path / "table.npz")
    assert again.process == process
    jax.tree.map(np.testing.assert_array_equal, again.steps, learned.table.steps)


def test_what_does_not_fit_is_refused(tmp_path):
    model = mixture(EDM(), MEAN[None], [1.0], STD)
    table = learn_table(model, 2, jax.random.key(0), (2,), num_samples=4, num_batches=1, teacher_nfe=3).table
    assert sample(model, 0, (3, 2), solver=table, nfe=2)[1]["nfe"] == 2
    for path in (Flow(), EDM(sigma_max=40.0)):
        with pytest.raises(InputError, match="solver: expected a table for"):
            sample(model.along(path), 0, (3, 2), solver=table)
    for option in ({"nfe": 3}, {"degree": 1}, {"schedule": "levels"}):
        with pytest.raises(InputError, match="expected none with a table of 2 evaluations"):
            sample(model, 0, (3, 2), solver=table, **option)
    with pytest.raises(InputError, match='solver: expected one evaluation a step, got "heun"'):
        learn_table(model, 3, 0, (2,), solver="heun")
    with pytest.raises(InputError, match="teacher_nfe"):
        learn_table(model, 3, 0, (2,), teacher_nfe=2)
    (tmp_path / "other.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="other.npz: expected a table of steps"):
        load_table(tmp_path / "other.npz")
    np.savez(tmp_path / "other.npz", process="edm", times=[1.0])
    with pytest.raises(InputError, match="other.npz: expected a table of steps"):
        load_table(tmp_path / "other.npz")
