"""Everything measured in the generalisation study, as numbers and arrays for result files.

Of a pair of models (`measure`), and of one model: over its training time, and beside score machines.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from common.method import Samples
from gahb.denoisers import Denoiser
from gahb.metrics import generalisation as g
from gahb.metrics import score_machines
from gahb.metrics.psnr import PsnrCurve, psnr_curve
from gahb.metrics.similarity import closest_patches
from gahb.sampler_settings import SamplerSettings

# From which fraction of converged pairs on the study speaks of agreement: fewer samples are a choice of the sampler.
LEAST_CONVERGED = 0.5
AGREEMENT = ("pair", "other_noise")  # similarities that compare samples of two models


class Settings(NamedTuple):
    """Settings of the measures of a pair; configs/gahb/base.py describes each."""

    curve_db: tuple[float, ...]
    num_images: int
    bootstrap: int
    patch: int
    copy_similarity: float
    trajectories: int
    trajectory_every: int
    batch_size: int


class Pair(NamedTuple):
    """Two denoisers, what each was trained on (`[N, H, W, C]` in [0, 1]), and samples of both from the same noise."""

    denoisers: Sequence[Denoiser]
    training: Sequence[np.ndarray]
    samples: Sequence[Samples]


def measure(
    pair: Pair,
    held_out: np.ndarray,
    settings: Settings,
    sampler: SamplerSettings,
    *,
    key: jax.Array,
    sample_key: jax.Array,
    add: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)` of a pair; `held_out [M, H, W, C]` is in neither training set.

    `sample_key` is the one from which the samples were drawn, so that trajectory i is the way to sample i. `add(1)` is
    called after each of the `num_measures(settings)` measures.

    Means over samples take those that came down from the first noise level to the last, in both models where two are
    compared; the arrays hold all of them and say which did (`converged [2, N]`). Where fewer than `LEAST_CONVERGED` of
    the samples did in both models, no agreement is stated: "pair" and "other_noise" are None.
    """
    noise_key, bootstrap_key = jax.random.split(key)
    images = np.stack([each.arrays["samples"] for each in pair.samples])
    converged = np.stack([came_down(each) for each in pair.samples])
    arrays: dict[str, np.ndarray] = {"samples": images, "converged": converged, "held_out": held_out}
    numbers = {
        "num_held_out": len(held_out),
        "converged": {
            "models": converged.sum(1).tolist(),
            "both": int(converged.all(0).sum()),
            "of": int(converged.shape[1]),
        },
        "agreement_stated": bool(converged.all(0).mean() >= LEAST_CONVERGED),
        **_denoising(pair, held_out, noise_key, bootstrap_key, settings, sampler.sigma_L, arrays, add),
        "similarity": _likeness(pair, held_out, converged, jax.random.fold_in(bootstrap_key, 2), settings, arrays, add),
        "origins": _origins(pair, held_out, converged, settings, arrays, add),
    }
    if settings.trajectories:
        shape = (settings.trajectories, *held_out.shape[1:])
        found = g.trajectories(pair.denoisers, sample_key, shape, sampler, every=settings.trajectory_every)
        arrays |= {f"trajectory.{name}": value for name, value in found.items()}
        add(1)
    return numbers, arrays


def came_down(samples: Samples) -> np.ndarray:
    """Returns which samples converged `[N]`: they left the first noise level and reached the last.

    A denoiser that returns its input stops where it starts; such samples are the sampler's noise and always agree.
    """
    return np.asarray(samples.arrays["converged"], bool) & (np.asarray(samples.arrays["steps"]) > 0)


def num_measures(settings: Settings) -> int:
    """Returns how often `measure` calls `add`: four curves, one distance, features, four origins, trajectories."""
    return 4 + 1 + len(g.FEATURES) + 4 + bool(settings.trajectories)


def _denoising(pair, held_out, noise_key, bootstrap_key, settings, lowest, arrays, add) -> dict[str, Any]:
    """PSNR of training and held-out images, their gap, and how far the two denoisers are apart on held-out images."""
    sigmas = 10 ** (-np.asarray(settings.curve_db, np.float64) / 20)
    curves: dict[str, list[PsnrCurve]] = {"train": [], "test": []}
    for m, (denoise, own) in enumerate(zip(pair.denoisers, pair.training, strict=True)):
        # A small set is repeated, each time in other noise, so that its curve is as precise as the others.
        shown = own[np.arange(max(min(len(own), settings.num_images), len(held_out))) % len(own)]
        for i, (name, clean) in enumerate((("train", shown), ("test", held_out))):
            curve_key = jax.random.fold_in(noise_key, i)
            curve = psnr_curve(denoise, clean, sigmas, curve_key, batch_size=settings.batch_size)
            curves[name].append(curve)
            arrays |= {f"psnr.{name}.{m}.{field}": value for field, value in curve._asdict().items()}
            add(1)
    gaps: dict[str, list[g.Interval]] = {}
    for measure_name in ("sigma", "log"):
        weights = g.level_weights(sigmas, measure=measure_name)
        gaps[measure_name] = [
            g.bootstrap(
                jax.random.fold_in(bootstrap_key, m),
                weights @ curves["train"][m].per_image,
                weights @ curves["test"][m].per_image,
                draws=settings.bootstrap,
            )
            for m in range(2)
        ]
    # The noise of the test curves, so that the errors beside it are those of the same denoised images.
    first, second = pair.denoisers
    apart = g.squared_distances(
        first, second, held_out, sigmas, jax.random.fold_in(noise_key, 1), batch_size=settings.batch_size
    )
    add(1)
    arrays |= {"scores.sigma": sigmas, "scores.squared_distance": apart}
    size = held_out[0].size
    errors = [10 ** (-curves["test"][m].per_image / 10) * size for m in range(2)]
    drawn = jax.random.fold_in(bootstrap_key, 3)
    numbers: dict[str, Any] = {
        "gap": {name: [each._asdict() for each in both] for name, both in gaps.items()},
        "psnr": {
            name: [
                {"curve": curve.mean_psnr, "error": curve.mean_psnr_error, "mean": curve.mean_psnr.mean()}
                for curve in both
            ]
            for name, both in curves.items()
        },
        # The distance of the two denoisers over the sum of their errors, level by level: 1 where errors are unrelated.
        "scores": {"relative": (apart.mean(1) / (errors[0] + errors[1]).mean(1)), "sigma": sigmas, "lowest": lowest},
    }
    if len(sigmas) > 1 and sigmas.max() > lowest:
        disagreement = g.score_disagreement(sigmas, apart, size=size, lowest=lowest)
        arrays["scores.disagreement"] = disagreement
        numbers["scores"]["disagreement"] = g.bootstrap(drawn, disagreement, draws=settings.bootstrap)._asdict()
    return numbers


def _likeness(pair, held_out, converged, key, settings, arrays, add) -> dict[str, Any]:
    """Similarity of the models' samples to each other and to training images, beside what chance would give."""
    first, second = arrays["samples"]
    both = converged.all(0)
    stated = both.mean() >= LEAST_CONVERGED
    # Sample i of one model beside sample i + 1 of the other: agreement that owes nothing to the shared noise.
    shifted = np.roll(second, -1, axis=0)
    shifted_both = converged[0] & np.roll(converged[1], -1)
    numbers = {}
    for f, (name, feature) in enumerate(g.FEATURES.items()):
        found = {
            "pair": g.pair_similarity(first, second, feature),
            "other_noise": g.pair_similarity(first, shifted, feature),
        }
        counted = {"pair": both, "other_noise": shifted_both}
        for label, shown, training in (
            ("nearest", arrays["samples"], pair.training),
            ("nearest_other_set", arrays["samples"], pair.training[::-1]),
            ("held_out", [held_out, held_out], pair.training),
        ):
            matches = [g.nearest(x, t, feature) for x, t in zip(shown, training, strict=True)]
            found[label] = np.stack([each.value for each in matches])
            counted[label] = converged if label != "held_out" else np.ones(found[label].shape, bool)
            if label == "nearest":
                index = np.stack([each.index for each in matches])
                arrays[f"similarity.{name}.nearest_index"] = index
                if name == "pixels":
                    arrays["nearest"] = np.stack([t[i] for t, i in zip(pair.training, index, strict=True)])
        arrays |= {f"similarity.{name}.{label}": value for label, value in found.items()}
        feature_key = jax.random.fold_in(key, f)
        numbers[name] = {
            label: _summary(value[counted[label]], feature_key, settings.bootstrap)
            if stated or label not in AGREEMENT
            else None
            for label, value in found.items()
        }
        add(1)
    return numbers


def _summary(values: np.ndarray, key: jax.Array, draws: int) -> dict[str, float] | None:
    return {**g.bootstrap(key, values, draws=draws)._asdict(), "count": len(values)} if len(values) else None


def _origins(pair, held_out, converged, settings, arrays, add) -> dict[str, Any]:
    """Fractions of copies, recombinations and new images among samples and, as a control, held-out images."""
    found: dict[str, list[np.ndarray]] = {"samples": [], "held_out": []}
    one: dict[str, list[np.ndarray]] = {"samples": [], "held_out": []}
    for m, training in enumerate(pair.training):
        for name, images in (("samples", arrays["samples"][m]), ("held_out", held_out)):
            patches = closest_patches(images, training, size=settings.patch, stride=settings.patch)
            label = "nearest" if name == "samples" else "held_out"
            whole = arrays[f"similarity.pixels.{label}"][m]
            arrays |= {f"patches.{name}.{m}.index": patches.index, f"patches.{name}.{m}.value": patches.value}
            found[name].append(g.classify(patches, whole, least=settings.copy_similarity))
            one[name].append(g.one_origin(patches.index))
            add(1)
    numbers = {}
    for name, classes in found.items():
        arrays[f"origin.{name}"] = np.stack(classes)
        counted = converged if name == "samples" else np.ones(arrays[f"origin.{name}"].shape, bool)
        chosen = arrays[f"origin.{name}"][counted]
        fractions = {label: float((chosen == i).mean()) for i, label in enumerate(g.ORIGINS)} if len(chosen) else None
        alone = float(np.stack(one[name])[counted].mean()) if len(chosen) else None
        numbers[name] = {"fractions": fractions, "one_origin": alone, "count": len(chosen)}
    return numbers


SHOWN = 8  # samples of each checkpoint kept as images
_SPLITS = ("train", "held_out")


class CheckpointSettings(NamedTuple):
    """Settings of the measures over training time; configs/gahb/base.py describes each."""

    samples: int
    input_db: tuple[float, ...]
    num_images: int
    ratio: float
    level: float
    settled_db: float
    batch_size: int


class MachineSettings(NamedTuple):
    """Settings of the score machines and of the implied noise level; configs/gahb/base.py describes each."""

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
    near = g.two_nearest(images, training)
    shapes = g.two_nearest(g.standardised(images), g.standardised(training))
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
        g.times(steps, quality, [np.nan if each is None else each for each in fractions], **how)
        for fractions in (memorised, standardised)
    )
    everything = np.ones(len(held_out), bool)
    control = g.two_nearest(held_out, training)
    shapes = g.two_nearest(g.standardised(held_out), g.standardised(training))
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


def _memorised(near: g.TwoNearest, counted: np.ndarray, threshold: float) -> float | None:
    fraction = g.memorised_fraction(g.distance_ratio(near)[counted], threshold=threshold)
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
    noise = score_machines.implied_noise(
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
