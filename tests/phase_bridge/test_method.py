"""The method from config to samples: what is trained, sampled and measured; and what is refused, in words."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import phase_bridge
from common import config as configs
from common import sampling
from common.cli.dispatch import main
from common.errors import InputError
from configs.phase_bridge.spiral import get_config
from phase_bridge import method, toy
from phase_bridge.__main__ import APP
from phase_bridge.bridge import Bridge
from phase_bridge.evaluation import evaluate
from phase_bridge.processes import CLD, EDM, Flow

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "model.width": 8, "model.depth": 1, "train.steps": 4, "train.batch_size": 16, "train.log_every": 2,
    "optimizer.warmup": 1, "checkpoint.every": 2, "sampler.num": 32, "sampler.batch_size": 16, "sampler.nfe": 3,
    "evaluate.num": 64, "evaluate.batch_size": 64, "evaluate.nfe": (2, 3), "evaluate.repeats": 2,
}  # fmt: skip


def config(**changes):
    return configs.from_dict(get_config().to_dict(), overrides={**SMALL, **changes})


def variables_of(made):
    return made.init(jax.random.key(0), {"data": jnp.zeros((2, 2))})


PROCESSES = [
    {"objective.name": "denoiser"},
    {"objective.name": "denoiser", "sampler.kind": "sde", "sampler.solver": "", "sampler.degree": -1},
    {"objective.name": "denoiser", "sampler.process": "flow"},
    {"objective.name": "force", "model.time": "log"},
    {"objective.name": "force", "objective.kind": "sde", "model.time": "log"},
    {"objective.name": "force", "objective.kind": "sde", "sampler.kind": "ode", "model.time": "log"},
    {"objective.name": "velocity", "objective.process": "flow"},
    {"objective.name": "velocity", "objective.process": "flow", "objective.coupling": 8},
    {"objective.name": "denoiser", "objective.process": "edm", "objective.noise": "log_uniform"},
    {"objective.name": "denoiser", "objective.process": "cld"},
]


@pytest.mark.parametrize("changes", PROCESSES, ids=lambda each: "-".join(map(str, each.values())))
def test_every_process_learns_and_samples(changes):
    made = method.build(config(**changes))
    variables = variables_of(made)
    points = toy.draw("spiral", seed=0, count=64)
    batch = {"data": jnp.asarray(points), "position": jnp.arange(64), "progress": jnp.zeros(())}

    @jax.jit
    def loss(variables, key):
        return made.loss(variables, key, batch)[0]

    value, grads = jax.value_and_grad(lambda v: loss(v, jax.random.key(1)))(variables)
    moved = jax.tree.map(lambda v, g: v - 1e-3 * g, variables, grads)
    assert np.isfinite(value) and loss(moved, jax.random.key(1)) < value
    drawn = made.sample(variables, jax.random.key(2))
    assert drawn.arrays["samples"].shape == (32, 2) and np.isfinite(drawn.arrays["samples"]).all()
    assert drawn.info["nfe"] <= 3
    # The few are the first of the many, and do not depend on how many are drawn at once.
    many = sampling.draw(made.sampler, variables, jax.random.key(2), num=5, batch_size=5)["samples"]
    np.testing.assert_allclose(many, drawn.arrays["samples"][:5], rtol=1e-5, atol=1e-6)


def test_trajectories_of_a_bridge():
    made = method.build(config())
    drawn = made.sample(variables_of(made), jax.random.key(0))
    assert drawn.arrays["states"].shape == (32, 4, 4) and drawn.arrays["estimates"].shape == (32, 3, 2)
    np.testing.assert_allclose(drawn.arrays["estimates"][:, -1], drawn.arrays["samples"], rtol=1e-4, atol=1e-5)


def test_an_untrained_denoiser_is_the_best_linear_estimate():
    """Its last layer begins at zero, so the first data estimate is that of Gaussian data: skip times the copy."""
    model = method.as_model(method.build_setup(config()), variables_of(method.build(config())))
    m, std, b = jax.random.normal(jax.random.key(0), (6, 4)), 1.1253, model.process
    copy, sigma = b.observe(m, 0.5)
    want = std**2 / (std**2 + sigma**2) * copy
    np.testing.assert_allclose(model.estimate(m, 0.5), want, rtol=1e-3, atol=1e-4)
    for process in (Flow(), EDM(), CLD()):
        own = model.along(process)
        t = float(process.time_at(np.float64(0.7)))
        state = process.perturb(copy, jnp.zeros((6, 2 * process.parts)), t)
        np.testing.assert_allclose(own.estimate(state, t), std**2 / (std**2 + 0.49) * copy, rtol=1e-3, atol=1e-3)


def test_a_denoiser_serves_both_kinds():
    made = method.build(config(**{"sampler.kind": "sde"}))
    drawn = made.sample(variables_of(made), jax.random.key(0))
    assert drawn.info["kind"] == "sde" and np.isfinite(drawn.arrays["samples"]).all()


def test_evaluation_knows_the_data():
    made = method.build(config())
    found = made.evaluate(variables_of(made), jax.random.key(0))
    assert [row["nfe"] for row in found.numbers["table"]] == ["data", 2, 3]
    data, *drawn = found.numbers["table"]
    # Samples of an untrained network are too wide: they reach all data, and few of them lie among them.
    assert data["recall"] > 0.8 and drawn[-1]["recall"] > 0.8
    assert data["coverage"] > 0.7 > max(row["coverage"] for row in drawn)
    assert data["beyond"] == 0 and data["w2"] < min(row["w2"] for row in drawn)
    assert all(row["distance"] > 0.05 > data["distance"] for row in drawn)


def test_images_are_scaled_and_mirrored(tmp_path):
    images = np.zeros((6, 4, 4, 3), np.uint8)
    images[:, :, 0] = 255
    np.savez(tmp_path / "images.npz", train=images, test=images)
    changes = {
        "data.source": f"npz:{tmp_path}/images.npz", "data.size": 4, "data.channels": 3, "data.flip": True,
        "model.network": "song_unet", "model.channels": 8, "model.multipliers": (1,), "model.num_blocks": 1,
        "model.attention": (), "evaluate.num": 4, "sampler.num": 2,
    }  # fmt: skip
    made = method.build(config(**changes))
    source = made.sources()["train"]
    keys = jax.random.split(jax.random.key(0), 64)
    data = np.stack([made.augment(key, dict(source[0]))["data"] for key in keys])
    assert set(np.unique(data)) == {-1.0, 1.0} and data.dtype == np.float32
    share = (data[:, 0, 0, 0] == 1).mean()
    assert 0.25 < share < 0.75
    np.testing.assert_array_equal(
        data[:, :, 0] == 1, np.broadcast_to(share > 0, data[:, :, 0].shape) & (data[:, :, 0] == 1)
    )
    np.testing.assert_array_equal(made.sampler.to_unit(jnp.asarray([-1.0, 1.0])), [0.0, 1.0])
    assert method.held_out(config(**changes), made.sources)(0, 3).min() == -1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.process": "bride"}, 'config.objective.process: expected one of "bridge"'),
        ({"objective.name": "best"}, 'config.objective.name: expected one of "force", "denoiser", "velocity"'),
        ({"objective.output": "force"}, 'config.objective.output: expected "" but for "force", got "force"'),
        ({"objective.noise": "normal"}, "config.objective.noise: expected one of"),
        ({"objective.coupling": 4}, 'config.objective.coupling: expected 0 but for "velocity", got 4'),
        ({"objective.sigma_data": 0.0}, "config.objective.sigma_data: expected a positive number"),
        (
            {"objective.name": "force", "objective.process": "flow"},
            'config.objective.process: expected "bridge" for "force", got "flow"',
        ),
        ({"objective.name": "force", "sampler.process": "edm"}, 'process: expected "bridge" with the objective force'),
        (
            {
                "objective.name": "velocity",
                "objective.process": "flow",
                "objective.coupling": 2,
                "sampler.process": "edm",
            },
            'process: expected "flow" with the objective velocity',
        ),
        ({"data.source": "toy:spirals"}, 'config.data.source: .*did you mean "spiral"'),
        ({"model.network": "song_unet"}, 'config.model.network: expected "mlp" for points'),
        ({"sampler.nfe": 0}, "nfe: expected a whole number"),
        ({"sampler.num": 0}, "config.sampler.num: expected at least 1"),
        ({"objective.first": 2.0}, "config.objective: expected 0 < first < last < 1, got first=2, last=0.999"),
        ({"sampler.schedule": "level"}, "schedule: expected one of"),
        ({"sampler.process": "edm", "sampler.solver": "gddim"}, 'solver: expected one for the path "edm"'),
        ({"sampler.process": "edm", "sampler.kind": "sde"}, 'kind: expected "ode" for the path "edm"'),
        ({"bridge.correlation": 1.0}, "bridge.correlation: expected a number between -1 and 1"),
        ({"bridge.p": 1e308}, r"bridge.p: expected a positive number, at most 1e\+06, got 1e\+308"),
        ({"bridge.varx": 1e200}, "bridge.varx: expected a positive number, at most"),
        ({"sampler.nfe": 10**12}, "config.sampler.nfe: expected a whole number, at least 1 and at most 100000, got"),
        ({"model.width": 10**12}, "config.model.width: expected 1 to 65536, got 1000000000000"),
        ({"model.depth": 10**9}, "config.model.depth: expected 1 to 1000, got 1000000000"),
        # What the config of the run holds, and the command did not say, is named by its key.
        (
            {"sampler.solver": "euler", "sampler.degree": 2},
            'config.sampler.degree: expected none with solver "euler", got 2; set config.sampler.degree=-1',
        ),
        (
            {"sampler.schedule": "uniform", "sampler.power": 2.0},
            'config.sampler.power: expected none with schedule "uniform", got 2.0; set config.sampler.power=0',
        ),
    ],
)
def test_mistakes_are_reported_first(changes, message):
    with pytest.raises(InputError, match=message):
        method.build(config(**changes))


def test_an_evaluation_is_checked_before_anything_is_compiled(tmp_path):
    heun = {"sampler.solver": "heun", "sampler.degree": -1, "sampler.corrector": "", "sampler.nfe": 5}
    method.build(config(**heun, **{"evaluate.nfe": (3, 5)})).check_evaluate()
    made = method.build(config(**heun, **{"evaluate.nfe": (3, 10**6)}))  # trains and samples all the same
    with pytest.raises(InputError, match="config.evaluate.nfe: expected a whole number, .* at most 100000, got"):
        made.check_evaluate()
    with pytest.raises(InputError, match=r"config.evaluate.nfe: expected at least one number, got \(\)"):
        method.build(config(**{"evaluate.nfe": ()})).check_evaluate()
    with pytest.raises(InputError, match="config.data.points: expected 0 to 2147483647, got -1"):
        method.build(config(**{"data.points": -1})).sources()
    images = {"data.source": f"npz:{tmp_path}/images.npz", "data.size": 8, "data.channels": 1}
    images |= {"model.network": "song_unet", "model.attention": ()}
    images["evaluate.features"] = f"inception:{tmp_path}/weights.pt"
    np.savez(tmp_path / "images.npz", train=np.zeros((4, 8, 8)), test=np.zeros((2, 8, 8)))
    with pytest.raises(InputError, match="weights.pt: expected a checkpoint file, got nothing there"):
        method.build(config(**images)).check_evaluate()


def test_from_the_command_line(tmp_path, capsys):
    config_file = "configs/phase_bridge/spiral.py"
    changes = [f"--config.{key}={value}" for key, value in SMALL.items()]
    run = ["--workdir", str(tmp_path)]
    for command in (["train", "--config", config_file, *changes], ["sample"], ["evaluate"], ["figures"]):
        assert main([*command, *run], APP) == 0, capsys.readouterr().err
    numbers = json.loads(next((tmp_path / "samples").glob("step-4-seed-0-*.json")).read_text())
    assert numbers["nfe"] == 3 and numbers["process"] == "bridge" and numbers["bridge"]["p"] == 3.0
    for name in ("training", "quality", "by-nfe", "samples", "trajectories", "estimates"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
    assert "early ones are samples" in (tmp_path / "index.html").read_text()
    model = phase_bridge.load(tmp_path)
    assert model.sampler.nfe == 3 and model.shape == (2,) and model.process == Bridge()
    assert model.weights.params["layer_0"]["kernel"].shape == (3, 8)
    points, info = phase_bridge.sample(model, 0, (5, *model.shape))
    assert info["nfe"] == 3 and np.isfinite(points).all()
    # Results of other settings stand beside these.
    assert main(["sample", *run, "--config.sampler.nfe=2"], APP) == 0, capsys.readouterr().err
    assert main(["sample", *run, "--config.sampler.kind=sde"], APP) == 0, capsys.readouterr().err
    assert main(["evaluate", *run, "--config.sampler.kind=sde"], APP) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "samples").glob("step-4-seed-0-*.json"))) == 3
    assert len(list((tmp_path / "results").glob("evaluate-*.json"))) == 2


def test_the_floor_of_images_is_other_images(tmp_path):
    """However few held-out images there are, the floor is not what they are to themselves."""
    random = np.random.default_rng(0)
    arrays = {split: random.integers(0, 256, (6, 4, 4, 1), np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "images.npz", **arrays)
    changes = {"data.source": f"npz:{tmp_path}/images.npz", "data.size": 4, "data.channels": 1}
    made = config(**changes, **{"model.network": "song_unet", "model.channels": 8})
    sources = functools.cache(lambda: method.build_all_sources(made))
    for other, split in ((False, "test"), (True, "train")):
        found = method.held_out(made, sources, other=other)(1, 6)
        want = 2 * (arrays[split] / np.float32(255)) - 1
        np.testing.assert_allclose(np.sort(found.ravel()), np.sort(want.ravel()), atol=1e-6)
    sets = {"data": lambda i, count: np.zeros((count, 16)), "other": lambda i, count: np.ones((count, 16))}
    found = evaluate({}, jax.random.key(0), num=6, batch_size=6, repeats=2, points=None, **sets)
    assert abs(found.numbers["table"][0]["w2"] - 1) < 0.2
