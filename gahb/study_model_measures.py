"""Everything measured of one model of the generalisation study: over its training time, and beside score machines."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from common.method import Samples
from gahb import memorisation, score_machines
from gahb.analysis import psnr_curve
from gahb.denoisers import Denoiser
from gahb.implied_noise import implied_noise
from gahb.study_measures import LEAST_CONVERGED, came_down

SHOWN = 8  # samples of each checkpoint kept as images
_SPLITS = ("train", "held_out")


class CheckpointSettings(NamedTuple):
    """Settings of the measures over training time; configs/gahb/base.py says what each means."""

    samples: int
    input_db: tuple[float, ...]
    num_images: int
    ratio: float
    level: float
    settled_db: float
    batch_size: int


class MachineSettings(NamedTuple):
    """Settings of the score machines and of the implied noise level; configs/gahb/base.py says what each means."""

    num_images: int
    input_db: tuple[float, ...]
    windows: tuple[int, ...]
    equivariant_images: int
    probes: int


def sigmas_of(input_db: Sequence[float]) -> np.ndarray:
    """Returns the noise standard deviations (intensity units) of noisy images of these PSNRs in dB."""
    return 10 ** (-np.asarray(input_db, np.float64) / 20)


def measure_checkpoint(
    denoise: Denoiser,
    training: np.ndarray,
    held_out: np.ndarray,
    samples: Samples,
    settings: CheckpointSettings,
    *,
    key: jax.Array,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)` of one checkpoint: memorised fraction of its samples, PSNR of both kinds of images.

    The memorised fraction is that of the samples that came down, None where fewer than two images were trained on or
    fewer than `LEAST_CONVERGED` of the samples came down: by the distances of the images, and of their standardised
    versions, which brightness and contrast do not change.
    """
    converged = came_down(samples)
    # The few that converge of many are a choice of the sampler, not samples of the model.
    counted = converged & (converged.mean() >= LEAST_CONVERGED)
    images = samples.arrays["samples"]
    near = memorisation.two_nearest(images, training)
    shapes = memorisation.two_nearest(memorisation.standardised(images), memorisation.standardised(training))
    arrays = {
        "converged": converged,
        "nearest_index": near.index,
        "nearest": near.first,
        "second_nearest": near.second,
        "standardised.nearest": shapes.first,
        "standardised.second_nearest": shapes.second,
        "samples": images[:SHOWN],
        "nearest_images": training[near.index[:SHOWN]],
    }
    numbers: dict[str, Any] = {
        "converged": {"samples": int(converged.sum()), "of": len(converged)},
        "memorised": _memorised(near, counted, settings.ratio),
        "memorised_standardised": _memorised(shapes, counted, settings.ratio),
    }
    sigmas = sigmas_of(settings.input_db)
    # A small set is repeated, each time in other noise, so that its PSNR is as precise as that of the held-out images.
    repeated = training[np.arange(max(min(len(training), settings.num_images), len(held_out))) % len(training)]
    for i, (name, clean) in enumerate(zip(_SPLITS, (repeated, held_out), strict=True)):
        curve = psnr_curve(denoise, clean, sigmas, jax.random.fold_in(key, i), batch_size=settings.batch_size)
        numbers[f"psnr_{name}"] = curve.mean_psnr
        arrays[f"psnr_{name}.per_image"] = curve.per_image
    return numbers, arrays


def over_time(
    checkpoints: Sequence[tuple[int, dict[str, Any], dict[str, np.ndarray]]],
    training: np.ndarray,
    held_out: np.ndarray,
    settings: CheckpointSettings,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)` of a run from its checkpoints, `(step, numbers, arrays)` each, ascending in steps.

    `held_out_memorised` is the control: the memorised fraction that the criterion finds among held-out images.
    """
    steps = [step for step, _, _ in checkpoints]
    memorised, standardised = ([n[name] for _, n, _ in checkpoints] for name in ("memorised", "memorised_standardised"))
    quality = np.array([numbers["psnr_held_out"] for _, numbers, _ in checkpoints], np.float64).mean(1)
    how = {"settled": settings.settled_db, "level": settings.level}
    tau, tau_standardised = (
        memorisation.times(steps, quality, [np.nan if each is None else each for each in fractions], **how)
        for fractions in (memorised, standardised)
    )
    everything = np.ones(len(held_out), bool)
    control = memorisation.two_nearest(held_out, training)
    shapes = memorisation.two_nearest(memorisation.standardised(held_out), memorisation.standardised(training))
    numbers = {
        "steps": steps,
        "sigma": sigmas_of(settings.input_db),
        "memorised": memorised,
        "memorised_standardised": standardised,
        "held_out_memorised": _memorised(control, everything, settings.ratio),
        "held_out_memorised_standardised": _memorised(shapes, everything, settings.ratio),
        "converged": [numbers["converged"] for _, numbers, _ in checkpoints],
        **{f"psnr_{name}": [numbers[f"psnr_{name}"] for _, numbers, _ in checkpoints] for name in _SPLITS},
        "tau_gen": tau.generalises,
        "tau_mem": tau.memorises,
        "tau_mem_standardised": tau_standardised.memorises,
        "criterion": {"ratio": settings.ratio, "level": settings.level, "settled_db": settings.settled_db},
    }
    arrays = {
        name: np.stack([arrays[name] for _, _, arrays in checkpoints])
        for name in checkpoints[0][2]
        if not name.startswith("psnr_")
    }
    return numbers, {"steps": np.asarray(steps), **arrays}


def _memorised(near: memorisation.TwoNearest, counted: np.ndarray, threshold: float) -> float | None:
    fraction = memorisation.memorised_fraction(memorisation.distance_ratio(near)[counted], threshold=threshold)
    return None if np.isnan(fraction) else fraction


def num_machine_measures(settings: MachineSettings) -> int:
    """Returns how often `measure_machines` calls `add`."""
    return len(_SPLITS) * (1 + len(score_machines.NAMES)) + 1


def measure_machines(
    denoise: Denoiser,
    training: np.ndarray,
    held_out: np.ndarray,
    settings: MachineSettings,
    *,
    key: jax.Array,
    twin: Denoiser | None = None,
    add: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)`: fractions of a denoiser that each machine explains, and the noise it implies.

    Measured on training images (the first ones) and on held-out images, in the same noise for all machines; windows are
    chosen on the second half of the images and everything is measured on the first. `twin`, the model trained on the
    other set, is measured as a machine too: as much as anything that knows no image of this set can explain.
    """
    sigmas = sigmas_of(settings.input_db)
    numbers: dict[str, Any] = {"sigma": sigmas, "explained": {}, "windows": {}}
    arrays: dict[str, np.ndarray] = {"sigma": sigmas}
    for i, (name, clean) in enumerate(zip(_SPLITS, (training, held_out), strict=True)):
        shown = clean[np.arange(2 * settings.num_images) % len(clean)]
        measured, chosen_on = shown[: settings.num_images], shown[settings.num_images :]
        own = jax.random.fold_in(key, i)
        windows = score_machines.best_windows(
            denoise, training, chosen_on, sigmas, jax.random.fold_in(own, 1), windows=settings.windows
        )
        add(1)
        made = score_machines.machines(
            training,
            dict(zip(sigmas.tolist(), windows, strict=True)),
            equivariant_images=settings.equivariant_images,
        )
        if twin is not None:
            made["twin"] = lambda sigma: twin
        numbers["windows"][name] = windows
        numbers["explained"][name] = {}
        for label, machine in made.items():
            found = score_machines.explained(denoise, machine, measured, sigmas, own)
            numbers["explained"][name][label] = {
                "output": found.output_of_sums,
                "residual": found.residual_of_sums,
            }
            arrays |= {f"{name}.{label}.output": found.output, f"{name}.{label}.residual": found.residual}
            if label != "twin":
                add(1)
    noise = implied_noise(
        denoise, held_out[: settings.num_images], sigmas, jax.random.fold_in(key, 2), num=settings.probes
    )
    add(1)
    numbers["implied_noise"] = {
        "implied": noise.implied_of_means,
        "residual": np.sqrt(np.square(noise.residual).mean(1)),
        "trace": noise.trace.mean(1),
    }
    arrays |= {f"implied_noise.{name}": value for name, value in noise._asdict().items()}
    return numbers, arrays
