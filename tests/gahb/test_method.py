"""What a config becomes: checks before anything runs, and functions with the config's values inside."""

import json
import re

import jax
import numpy as np
import pytest

from common import config as configs
from common.cli.dispatch import main
from common.data.source import ArraySource
from common.errors import InputError
from common.method import Variables
from configs.gahb.base import base
from gahb import method as methods
from gahb.__main__ import APP
from gahb.experiments import study
from gahb.metrics.generalisation import trajectories
from gahb.networks import BFCNN, BFCNNRF, UNet, denoiser
from gahb.sampler_settings import SamplerSettings

TINY = {
    "data.size": 8,
    "data.fit": "none",
    "model.num_kernels": 2,
    "model.num_blocks": 1,
    "evaluate.sigmas": (25 / 255, 50 / 255),
    "evaluate.curve_db": (20.0, 10.0),
    "evaluate.num_images": 3,
    "evaluate.panel_images": 2,
    "evaluate.wiener_images": 6,
    "sampler.num": 5,
    "sampler.max_steps": 4,
}


def tiny(**changes):
    return configs.from_dict({}, base(), {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture
def images(monkeypatch):
    """Replaces the data sources by ten bright images to train on and four dark ones to test on."""
    rng = np.random.default_rng(0)
    train = rng.integers(128, 256, (10, 8, 8, 1), np.uint8)
    test = rng.integers(0, 128, (4, 8, 8, 1), np.uint8)
    sources = {"train": ArraySource({"image": train}), "test": ArraySource({"image": test})}
    monkeypatch.setattr(methods, "build_sources", lambda config: sources)
    return {"train": train / np.float32(255), "test": test / np.float32(255)}


def variables_of(method) -> Variables:
    return method.init(jax.random.key(1), {"image": np.zeros((1, 8, 8, 1), np.float32)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.network": "unett"},
            'config.model.network: expected one of "unet", "bf_cnn", "bf_cnn_rf", got "unett"',
        ),
        ({"model.gain_init": "one"}, 'config.model.gain_init: expected one of "released", "unit", got "one"'),
        ({"noise.rule": "linaer"}, 'got "linaer"; did you mean "linear"?'),
        (
            {"data.size": 30, "model.num_blocks": 3},
            "config.data.size: expected a multiple of 8, got 30; use 32 or set ",
        ),
        ({"data.size": 30, "model.num_blocks": 3}, "use 32 or set model.num_blocks=1"),
        ({"data.size": 31, "model.num_blocks": 3}, "config.data.size: expected a multiple of 8, got 31; use 32"),
        ({"data.size": 3, "model.num_blocks": 3}, "config.data.size: expected a multiple of 8, got 3; use 8"),
        ({"evaluate.curve_db": (1e30,)}, "config.evaluate.curve_db: expected PSNRs from -100 to 100 dB, at least one"),
        ({"evaluate.panel_size": 9}, "config.evaluate.panel_size: expected a multiple of 2, got 9; use 8"),
        ({"model.num_blocks": 0}, "config.model.num_blocks: expected at least 1, got 0"),
        ({"model.num_blocks": 10**11}, "config.model.num_blocks: expected 1 to 16, got 100000000000; use 16 or less"),
        ({"model.network": "bf_cnn", "model.num_layers": 10**9}, "config.model.num_layers: expected 3 to 1000, got"),
        ({"model.num_kernels": 4 * 10**9}, "config.model.num_kernels: expected 1 to 65536, got 4000000000"),
        ({"model.network": "bf_cnn_rf", "model.receptive_field": 10}, "expected one of 5, 9, 13, 23, 43, got 10"),
        ({"noise.sigma_min": 0.9, "noise.sigma_max": 0.3}, "config.noise: expected 0 <= sigma_min <= sigma_max"),
        ({"noise.sigma_min": 0.0, "noise.sigma_max": 0.0}, "config.noise: expected 0 <= sigma_min <= sigma_max"),
        ({"noise.sigma_max": 255.0}, "config.noise: expected 0 <= sigma_min <= sigma_max"),
        ({"noise.freeze_after": 1.5}, "config.noise.freeze_after: expected a fraction of the run, got 1.5"),
        ({"evaluate.sigmas": ()}, "config.evaluate.sigmas: expected positive numbers up to 10"),
        ({"evaluate.sigmas": (0.0,)}, "config.evaluate.sigmas: expected positive numbers up to 10"),
        ({"evaluate.sigmas": (0.1, 25.0)}, "config.evaluate.sigmas: expected positive numbers up to 10"),
        ({"sampler.beta": 0.0}, "config.sampler.beta: expected a number in (0, 1], got 0.0"),
        ({"sampler.sigma_L": 1.0}, "config.sampler: expected 0 < sigma_L < sigma_0, got sigma_L=1, sigma_0=1"),
        ({"sampler.num": 0}, "config.sampler.num: expected at least 1, got 0"),
    ],
)
def test_impossible_configs(changes, message):
    with pytest.raises(InputError) as error:
        methods.build(configs.from_dict({}, base(), {**TINY, **changes}))
    assert message in str(error.value)


def test_cnn_takes_a_size_that_the_unet_refuses():
    with pytest.raises(InputError, match="config.data.size"):
        methods.build(tiny(data__size=7))
    assert methods.build(tiny(model__network="bf_cnn", data__size=7)).name == "gahb"


def test_networks_of_configs():
    assert methods.build_network(tiny()) == UNet(2, 1, 1)
    assert methods.build_network(tiny(model__network="bf_cnn", model__num_layers=5)) == BFCNN(2, 5)
    linear = tiny(model__network="bf_cnn", model__first_layer_linear=True, model__gain_init="unit", data__channels=3)
    assert methods.build_network(linear) == BFCNN(2, 21, 3, True, gain_init="unit")
    assert methods.build_network(tiny(model__network="bf_cnn_rf", model__receptive_field=9)) == BFCNNRF(2, 9)
    half = methods.build_network(tiny(compute_dtype="bfloat16", train__remat=True), axis_name="batch")
    assert half == UNet(2, 1, 1, dtype=jax.numpy.bfloat16, axis_name="batch", remat=True)


def test_loss_uses_the_noise_section(images):
    """With one noise level and a network that returns zero, the loss is the noise's energy."""
    batch = {"image": images["train"], "position": np.arange(10, dtype=np.int32), "progress": np.float32(0)}
    for sigma in (25 / 255, 50 / 255):
        method = methods.build(tiny(noise__sigma_min=sigma, noise__sigma_max=sigma))
        variables = variables_of(method)
        zero = Variables(jax.tree.map(np.zeros_like, variables.params), variables.stats)
        loss, aux = method.loss(zero, jax.random.key(0), batch)
        np.testing.assert_allclose(loss, 64 * sigma**2, rtol=0.15)
        np.testing.assert_allclose(aux.metrics["psnr"], -20 * np.log10(sigma), atol=0.7)


def test_running_deviations_freeze_at_the_stated_fraction(images):
    method = methods.build(tiny(noise__freeze_after=0.5))
    variables = variables_of(method)
    for progress, frozen in ((0.49, False), (0.5, True)):
        batch = {"image": images["train"], "position": np.arange(10, dtype=np.int32), "progress": np.float32(progress)}
        _, aux = method.loss(variables, jax.random.key(0), batch)
        same = jax.tree.map(np.array_equal, aux.stats, variables.stats)
        assert all(jax.tree.leaves(same)) == frozen


def test_augmentation_makes_unit_floats(images):
    raw = {"image": np.arange(64, dtype=np.uint8).reshape(8, 8, 1)}
    keys = jax.random.split(jax.random.key(0), 20)
    plain = raw["image"] / np.float32(255)
    never, sometimes = (methods.build(tiny(data__flip=flip)).augment for flip in (False, True))
    for key in keys[:3]:
        np.testing.assert_allclose(never(key, raw)["image"], plain, atol=1e-7)
    flipped = 0
    for key in keys:
        image = sometimes(key, raw)["image"]
        mirrored = image[0, 0, 0] > image[0, -1, 0]
        np.testing.assert_allclose(image, plain[:, ::-1] if mirrored else plain, atol=1e-7)
        flipped += int(mirrored)
    assert 0 < flipped < 20


def test_example_is_what_augmentation_gives(images):
    method = methods.build(tiny())
    found = jax.eval_shape(method.augment, jax.random.key(0), dict(method.sources()["train"][0]))
    assert {name: (x.shape, x.dtype) for name, x in found.items()} == {
        name: (x.shape, x.dtype) for name, x in method.example().items()
    }


def test_samples_do_not_depend_on_their_batches(images):
    whole = methods.build(tiny(sampler__batch_size=8, model__gain_init="unit"))
    parts = methods.build(tiny(sampler__batch_size=2, model__gain_init="unit"))
    variables = variables_of(whole)
    one, two = (method.sample(variables, jax.random.key(3)) for method in (whole, parts))
    assert one.arrays["samples"].shape == (5, 8, 8, 1)
    for name in ("samples", "sigmas", "steps", "nfe"):
        np.testing.assert_allclose(one.arrays[name], two.arrays[name], atol=1e-5)
    nfe = one.arrays["nfe"]
    assert one.info == two.info == {"nfe": 5, "nfe_mean": nfe.mean(), "num_samples": 5, "num_converged": 0}
    assert one.images.min() >= 0 and one.images.max() <= 1
    different = whole.sample(variables, jax.random.key(4)).arrays["samples"]
    assert np.abs(different - one.arrays["samples"]).max() > 0.1


def test_evaluation_uses_held_out_images(images):
    method = methods.build(tiny())
    found = method.evaluate(variables_of(method), jax.random.key(0))
    assert found.numbers["num_images"] == 3 and [row["sigma"] for row in found.numbers["table"]] == [25 / 255, 50 / 255]
    np.testing.assert_array_equal(found.arrays["panel.clean"], images["test"][[0, 2]])
    assert found.arrays["curve.wiener.per_image"].shape == (2, 3)
    without = methods.build(tiny(evaluate__wiener_images=0)).evaluate(variables_of(method), jax.random.key(0))
    assert "wiener" not in without.numbers["table"][0] and "gain" not in without.numbers["table"][0]


def test_preview_ends_with_the_clean_image(images):
    method = methods.build(tiny())
    (image,) = method.preview(variables_of(method), jax.random.key(0)).values()
    assert image.shape == (3 * 10 - 2, 3 * 10 - 2, 1)
    for column in range(3):
        np.testing.assert_array_equal(image[20:, column * 10 : column * 10 + 8], images["test"][0])


def test_panel_takes_whole_scenes_where_training_takes_crops(monkeypatch):
    asked = []

    def build(data):
        asked.append((data.fit, data.size, data.square))
        image = np.zeros((2, data.size, data.size, 1), np.uint8)
        return ArraySource({"image": image})

    monkeypatch.setattr(methods, "held_out", build)
    method = methods.build(tiny(data__fit="crop", evaluate__panel_size=12))
    method.preview(variables_of(method), jax.random.key(0))
    assert asked == [("resize", 12, 12)]


@pytest.mark.parametrize(("train", "test"), [(40, 20), (20, 40)])
def test_only_held_out_images_must_hold_the_panel_and_training_finds_out_first(tmp_path, capsys, train, test):
    np.savez(tmp_path / "images.npz", train=np.zeros((4, train, train)), test=np.zeros((2, test, test)))
    changes = {**TINY, "data.fit": "crop", "data.source": f"npz:{tmp_path}/images.npz", "evaluate.panel_size": 32}
    words = [f"--config.{key}={value}" for key, value in changes.items()]
    argv = ["train", "--config", "photographs", "--workdir", str(tmp_path / "run"), *words, "--dry-run"]
    method = methods.build(tiny(**{key.replace(".", "__"): value for key, value in changes.items()}))
    if test > 32:
        assert main(argv, APP) == 0, capsys.readouterr().err
        assert main([*argv, "--config.train.preview_every=1"], APP) == 0, capsys.readouterr().err
        method.check_evaluate()
        return
    message = r"config.evaluate.panel_size: expected a square that fits into the held-out images, got 32 \(.*20x20"
    with pytest.raises(InputError, match=message + ".*; use a smaller one, or 0"):
        method.check_evaluate()
    assert main([*argv, "--config.train.preview_every=1"], APP) == 2
    assert re.search(message, capsys.readouterr().err)
    assert main([*argv, "--config.train.preview_every=0"], APP) == 0  # then no panel is shown


def test_a_stored_config_of_the_first_version_is_read_in_today_s_units(tmp_path):
    values = configs.to_dict(base())
    del values["noise"]["sigma_min"], values["noise"]["sigma_max"], values["evaluate"]["sigmas"]
    del values["classes"]["sigmas"], values["classes"]["window_db"]
    values["noise"] |= {"low": 5.1, "high": 51.0}
    values["evaluate"]["levels"] = [25.5, 255.0]
    values["classes"] |= {"levels": [10.2], "moderate_db": [3.0, 9.0], "names": ["calpha-2", "cone", "ray"]}
    values["data"]["source"] = "ray"
    for version in ({}, {"config_version": 1}):
        (tmp_path / "config.json").write_text(json.dumps({**version, **values}))
        config = configs.read(tmp_path, base())
        np.testing.assert_allclose([config.noise.sigma_min, config.noise.sigma_max], [0.02, 0.2])
        np.testing.assert_allclose(config.evaluate.sigmas, [0.1, 1.0])
        np.testing.assert_allclose(config.classes.sigmas, [0.04])
        assert tuple(config.classes.window_db) == (3.0, 9.0)
        assert tuple(config.classes.names) == ("calpha-2", "sinusoids", "scaled_image")
        assert config.data.source == "scaled_image"
    configs.write(config, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["config_version"] == 2 and stored["noise"]["sigma_max"] == 0.2
    assert configs.digest(configs.read(tmp_path, base())) == configs.digest(config)


def test_every_setting_of_the_sampler_goes_everywhere(images):
    values = {
        "sigma_0": 0.7,
        "sigma_L": 0.11,
        "mean": 0.4,
        "step": 0.21,
        "beta": 0.33,
        "hold": 7,
        "h0": 0.02,
        "fixed_step": True,
        "max_steps": 9,
        "divergence": 1.7,
    }
    assert tuple(values) == SamplerSettings._fields
    config = tiny(data__flip=False, **{f"sampler__{name}": value for name, value in values.items()})
    record = methods.sampler_settings(config)
    assert record == SamplerSettings(**values)
    assert study.build(config).sampler == record
    method = methods.build(config)
    assert {name: method.sampler.settings[name] for name in values} == values
    # A trajectory with these settings is the way to its sample.
    variables, key = variables_of(method), jax.random.key(2)
    drawn = method.sample(variables, key).arrays["samples"]
    denoise = denoiser(variables, methods.build_network(config))
    found = trajectories([denoise], key, (5, 8, 8, 1), record, every=2)
    np.testing.assert_allclose(found["frames"][0, -1], drawn, atol=1e-5)


def test_the_published_algorithm_is_a_number_in_the_config():
    assert methods.sampler_settings(tiny()).h0 is None
    assert methods.sampler_settings(tiny(sampler__h0=0.01)).h0 == 0.01
    with pytest.raises(InputError, match=r"^config.sampler.h0: expected a number in \(0, 1\], got 2.0"):
        methods.build(tiny(sampler__h0=2.0))
    with pytest.raises(InputError, match="^config.sampler.hold: expected at least 0, got -1"):
        methods.build(tiny(sampler__hold=-1))


def test_a_run_says_how_its_samples_ended(images):
    method = methods.build(tiny())
    run = method.sample(variables_of(method), jax.random.key(3))
    assert run.summary == "4 steps; 0 of 5 converged (0.00), 5 not a denoiser"
    assert method.sampler.summary({"steps": np.array([3, 5]), "outcome": np.array([0, 1])}.get) == (
        "3 to 5 steps; 1 of 2 converged (0.50), 1 unfinished"
    )
