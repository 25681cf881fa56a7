"""The method as training, sampling and the command line know it: the one place that reads its configs."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from common import config as configs
from common.checkpoint import restore_params
from common.checkpoint.shelf import Shelf
from common.data import batches
from common.data.pipeline import build as build_sources
from common.data.pipeline import held_out
from common.errors import InputError, at_least, choice, input_error, within
from common.io.results import as_unit, strip
from common.method import Evaluation, Method, Sampler, Samples, Variables
from common.training.parallel import AXIS
from configs.gahb.base import base
from gahb import objective
from gahb.datasets import synthetic
from gahb.metrics.psnr import denoise_at, evaluate
from gahb.networks import BFCNN, BFCNNRF, RECEPTIVE_FIELDS, UNet, denoiser
from gahb.networks import init as init_network
from gahb.reference import fit
from gahb.sampler_settings import SamplerSettings, check, outcomes
from gahb.sampling import gaussian_noise, sample

NAME = "gahb"
SHELF = Shelf(Path(__file__).with_name("weights"), base)
MAX_SIGMA = 10.0  # a larger one was meant in 1/255
MAX_DB = 100  # beyond, noise or image is lost in rounding
PREVIEW_SIGMAS = (25 / 255, 50 / 255, 100 / 255)


def build(config) -> Method:
    """Returns the blind denoiser that `config` describes; raises `InputError` for what cannot work."""
    _check(config)
    data, noise, checks, sampler = config.data, config.noise, config.evaluate, config.sampler
    network = build_network(config)
    trained_network = build_network(config, axis_name=AXIS if config.parallel == "pmap" else None)
    sources = functools.cache(lambda: synthetic.build(config, build_sources))
    as_made = data.source in synthetic.KINDS or config.synthetic.shuffle  # then there are no larger pictures to show
    panels = functools.cache(lambda: (None if as_made else _panel_source(data, checks.panel_size)) or sources()["test"])
    shape = (data.size, data.size, data.channels)

    def loss(variables, key, batch):
        return objective.loss(
            trained_network,
            variables,
            key,
            batch,
            sigma_min=noise.sigma_min,
            sigma_max=noise.sigma_max,
            rule=noise.rule,
            freeze_after=noise.freeze_after,
        )

    how = sampler_settings(config)

    def draw(variables: Variables, key: jax.Array) -> Samples:
        batch_size = min(sampler.num, sampler.batch_size)
        return _draw(denoiser(variables, network), key, (sampler.num, *shape), how, batch_size=batch_size)

    def draw_rows(variables: Variables, keys: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
        noise = Partial(_noise_of, keys)
        samples, info = sample(denoiser(variables, network), keys[0], (len(keys), *shape), how, noise=noise)
        return {"samples": samples, **{name: info[name] for name in ("converged", "outcome", "steps", "sigma", "nfe")}}

    def measure(variables: Variables, key: jax.Array) -> Evaluation:
        prior = fit(spread(sources()["train"].fixed(), checks.wiener_images)) if checks.wiener_images else None
        test = sources()["test"]
        return evaluate(
            denoiser(variables, network),
            key,
            images=spread(test, checks.num_images),
            origins=[test.origin(i) for i in spread_indices(test, checks.num_images)],
            sigmas=checks.sigmas,
            curve_db=checks.curve_db,
            panel=spread(panels(), checks.panel_images),
            prior=prior,
            batch_size=checks.batch_size,
        )

    def preview(variables: Variables, key: jax.Array):
        clean = spread(panels(), 1)
        noisy, denoised = denoise_at(denoiser(variables, network), key, clean, PREVIEW_SIGMAS)
        rows = [noisy[:, 0], denoised[:, 0], np.repeat(clean, len(PREVIEW_SIGMAS), axis=0)]
        return {"noisy-denoised-clean": strip(rows)}

    return Method(
        name=NAME,
        init=lambda key, batch: init_network(network, key, batch["image"]),
        loss=loss,
        augment=batches.augment_images(flip=data.flip),
        sources=sources,
        sample=draw,
        evaluate=measure,
        preview=preview,
        example=lambda: {"image": jax.ShapeDtypeStruct(shape, jnp.float32)},
        sampler=Sampler(
            draw=draw_rows,
            # The number of calls of the denoiser differs between samples.
            settings={"nfe": None, "size": data.size, "compute_dtype": config.compute_dtype, **how._asdict()},
            num=sampler.num,
            batch_size=sampler.batch_size,
            to_unit=lambda samples: samples,
            summary=lambda load: outcomes({name: load(name) for name in ("steps", "outcome")}),
        ),
        check_preview=panels,
        check_evaluate=panels,
        uses_progress=(f"noise.freeze_after={noise.freeze_after:g}",) if noise.freeze_after < 1 else (),
    )


def _noise_of(own_keys, keys, t, like):
    return gaussian_noise(own_keys, t, like)


def build_network(config, *, axis_name: str | None = None) -> nn.Module:
    """Returns the network of a config; `axis_name` is the mapped axis over which a training batch is spread, if any."""
    model = config.model
    shared = {
        "num_kernels": model.num_kernels,
        "channels": config.data.channels,
        # None computes in the type of the operands, so an analysis in float64 needs no other network.
        "dtype": jnp.bfloat16 if config.compute_dtype == "bfloat16" else None,
        "axis_name": axis_name,
        "gain_init": model.gain_init,
        "remat": config.train.remat,
    }
    if model.network == "unet":
        return UNet(num_blocks=model.num_blocks, **shared)
    if model.network == "bf_cnn":
        return BFCNN(num_layers=model.num_layers, first_layer_linear=model.first_layer_linear, **shared)
    return BFCNNRF(receptive_field=model.receptive_field, **shared)


def load(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> tuple[nn.Module, Variables]:
    """Returns network and variables of the run in `workdir`, or of packed weights; raises `InputError`.

    Needs neither data nor optimizer. workdir: a directory, a file of `export --weights`, or the name of a denoiser that
    comes with the package (an unknown one lists them).
    """
    if packed := SHELF.opened(workdir, step=step):
        return build_network(packed.config), packed.variables
    method = configs.method_of(workdir)
    if method != NAME:
        raise input_error(
            f"workdir {workdir}", expected=f"a run of {NAME}", got=f"one of {method}", fix="name another workdir"
        )
    config = configs.read(workdir, base())
    return build_network(config), restore_params(workdir, ema=ema, step=step)


def load_denoiser(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> Partial:
    """Returns the denoiser that was trained (or imported) in `workdir`: averaged weights if there are any, newest step.

    workdir: directory of a run; or the name of a denoiser that comes with the package, such as "photographs", or a file
    written by `export --weights`, which hold one set of weights in half precision. Needs no data and no optimizer. Its
    input is that of `gahb.denoiser`. Raises `InputError` if the directory holds no readable checkpoint, and for an
    unknown name, with those that are known.

    >>> x_hat = load_denoiser("runs/x")(y)  # doctest: +SKIP
    """
    network, variables = load(workdir, ema=ema, step=step)
    # On the device once, instead of with every call.
    return denoiser(jax.tree.map(jax.numpy.asarray, variables), network)


def _check(config) -> None:
    """Raises `InputError` for a config that cannot run, before anything is compiled or read."""
    model, noise, checks = config.model, config.noise, config.evaluate
    choice("config.model.network", model.network, ("unet", "bf_cnn", "bf_cnn_rf"))
    choice("config.model.gain_init", model.gain_init, ("released", "unit"))
    choice("config.noise.rule", noise.rule, objective.RULES)
    synthetic.check(config)
    at_least({
        "config.model.num_kernels": (model.num_kernels, 1),
        "config.model.num_blocks": (model.num_blocks, 1),
        "config.model.num_layers": (model.num_layers, 3),
        "config.evaluate.num_images": (checks.num_images, 1),
        "config.evaluate.batch_size": (checks.batch_size, 1),
        "config.evaluate.wiener_images": (checks.wiener_images, 0),
        "config.evaluate.panel_images": (checks.panel_images, 1),
        "config.evaluate.panel_size": (checks.panel_size, 0),
        "config.sampler.num": (config.sampler.num, 1),
        "config.sampler.batch_size": (config.sampler.batch_size, 1),
    })  # fmt: skip
    for field, least, most in (("num_kernels", 1, 2**16), ("num_blocks", 1, 16), ("num_layers", 3, 1000)):
        within(f"config.model.{field}", model[field], least, most)
    if model.network == "unet":
        _check_multiple("config.data.size", config.data.size, model.num_blocks)
        _check_multiple("config.evaluate.panel_size", checks.panel_size, model.num_blocks)
    if model.network == "bf_cnn_rf" and model.receptive_field not in RECEPTIVE_FIELDS:
        raise input_error(
            "config.model.receptive_field",
            expected=f"one of {', '.join(map(str, RECEPTIVE_FIELDS))}",
            got=model.receptive_field,
            fix="use 43 for all kernels 3x3",
        )
    if not 0 <= noise.sigma_min <= noise.sigma_max or not 0 < noise.sigma_max <= MAX_SIGMA:
        got = f"sigma_min={noise.sigma_min:g}, sigma_max={noise.sigma_max:g}"
        expected = f"0 <= sigma_min <= sigma_max, 0 < sigma_max <= {MAX_SIGMA:g}, for images in [0, 1]"
        raise input_error("config.noise", expected=expected, got=got, fix=_fix_sigma(noise.sigma_max))
    if not 0 <= noise.freeze_after <= 1:
        fix = "1 never freezes"
        raise input_error(
            "config.noise.freeze_after", expected="a fraction of the run", got=noise.freeze_after, fix=fix
        )
    check_sigmas("config.evaluate.sigmas", checks.sigmas)
    if not checks.curve_db or not all(-MAX_DB <= each <= MAX_DB for each in checks.curve_db):
        expected, fix = f"PSNRs from -{MAX_DB} to {MAX_DB} dB, at least one", "for example (30.0, 20.0, 10.0)"
        raise input_error("config.evaluate.curve_db", expected=expected, got=checks.curve_db, fix=fix)


def check_sigmas(field: str, sigmas: Sequence[float] | np.ndarray) -> None:
    """Raises `InputError` unless `sigmas` are noise standard deviations for images in [0, 1], at least one."""
    if not sigmas or not all(0 < sigma <= MAX_SIGMA for sigma in sigmas):
        expected = f"positive numbers up to {MAX_SIGMA:g}, for images in [0, 1], at least one"
        raise input_error(field, expected=expected, got=tuple(sigmas), fix=_fix_sigma(max(sigmas, default=0.0)))


def _fix_sigma(largest: float) -> str:
    return "divide noise levels in 1/255 by 255" if largest > MAX_SIGMA else "for example 0.1"


def sampler_settings(config) -> SamplerSettings:
    """Returns the settings of the sampler that `config.sampler` describes; raises `InputError` for impossible ones."""
    sampler = config.sampler
    found = {name: sampler[name] for name in SamplerSettings._fields}
    # A number in the config, so that it has one type; zero is no step.
    settings = SamplerSettings(**{**found, "h0": sampler.h0 or None})
    if not 0 < settings.sigma_L < settings.sigma_0:
        got = f"sigma_L={settings.sigma_L:g}, sigma_0={settings.sigma_0:g}"
        raise input_error("config.sampler", expected="0 < sigma_L < sigma_0", got=got, fix="the paper has 0.05 and 1")
    try:
        check(settings)
    except InputError as error:
        raise InputError(f"config.sampler.{error}") from None
    return settings


def _check_multiple(field: str, size: int, num_blocks: int) -> None:
    multiple = 2**num_blocks
    if size % multiple == 0:
        return
    possible = max((blocks for blocks in range(1, num_blocks) if size % 2**blocks == 0), default=0)
    rounded = max(multiple, round(size / multiple) * multiple)
    fix = f"use {rounded}" + (f" or set model.num_blocks={possible}" if possible else "")
    raise input_error(field, expected=f"a multiple of {multiple}", got=size, fix=fix)


def _panel_source(data, size: int):
    """Returns central squares of `size` pixels of the held-out images, None if these have to stay as they are."""
    if size == 0 or data.fit != "crop":
        return None
    whole = data.copy_and_resolve_references()
    with whole.unlocked():
        whole.fit, whole.size, whole.square = "resize", size, size
    try:
        return held_out(whole)
    except InputError as error:
        expected, got = "a square that fits into the held-out images", f"{size} ({error})"
        fix = "use a smaller one, or 0 for crops as in training"
        raise input_error("config.evaluate.panel_size", expected=expected, got=got, fix=fix) from None


def spread(source, count: int) -> np.ndarray:
    """Returns up to `count` images, float32 `[N, H, W, C]` in [0, 1], evenly spread over the source."""
    return as_unit(source.read(spread_indices(source, count))["image"])


def spread_indices(source, count: int) -> list[int]:
    """Returns the numbers of the images that `spread` takes."""
    count = min(count, len(source))
    return [i * len(source) // count for i in range(count)]


def _draw(denoise, key: jax.Array, shape: tuple[int, ...], settings: SamplerSettings, *, batch_size: int) -> Samples:
    """Draws samples in batches; sample i depends on the key and on i alone."""
    count = shape[0]
    parts: list[tuple[slice, Any, dict]] = []
    for start in range(0, count, batch_size):
        # The last batch reaches back instead of being shorter, so that one program serves all.
        first = min(start, count - batch_size)
        images, info = sample(denoise, key, (batch_size, *shape[1:]), settings, first=first)
        parts.append((slice(start - first, None), images, info))
    arrays = {
        name: np.concatenate([np.asarray(info[name])[rows] for rows, _, info in parts])
        for name in ("converged", "outcome", "steps", "sigma", "nfe", "sigmas", "means")
    }
    arrays["samples"] = np.concatenate([np.asarray(images)[rows] for rows, images, _ in parts])
    longest = int(arrays["steps"].max()) + 2
    arrays |= {name: arrays[name][:, :longest] for name in ("sigmas", "means")}
    info = {
        "nfe": int(arrays["nfe"].max()),
        "nfe_mean": float(arrays["nfe"].mean()),
        "num_samples": count,
        "num_converged": int(arrays["converged"].sum()),
    }
    return Samples(arrays, np.clip(arrays["samples"], 0.0, 1.0), info, summary=outcomes(arrays))
