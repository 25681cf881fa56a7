"""`python -m gahb classes`: a denoiser for each of several classes of images, beside the best that is possible there.

Each model is an ordinary run in DIR/NAME (the models with further seeds in DIR/NAME-seed-1, ...), resumed as `train`
resumes; each is measured once it is trained, into DIR/results/classes-NAME-KEY.json and .npz, and the means over seeds
go to DIR/results/class-means.json. A model whose result has the same weights, images and settings is not measured
again, so the command may be stopped anywhere, and given again.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from common import config as configs
from common.checkpoint import restore_variables
from common.cli import multi_run, workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs.trained import IRRELEVANT, config_settings, fingerprints
from common.errors import input_error, within
from common.io import results
from common.io.progress import Progress
from common.plots.report import text_table
from common.prng import Purpose, key_for
from common.sampling import weights_digest
from common.training import parallel
from configs.gahb.base import base
from gahb.datasets.synthetic import Shuffled
from gahb.denoisers import Denoiser
from gahb.eigenbasis import principal_angles
from gahb.experiments.analyse import survey
from gahb.method import MAX_SIGMA, build_network, spread, spread_indices
from gahb.metrics.psnr import Slope, contour_slope, fit_slope, manifold_psnr, psnr_curve, window
from gahb.networks import denoiser

GENERATED = ("disks", "sinusoids", "scaled_image")
GIVEN = ("images", "shuffled")
LATER = ("classes.seeds",)  # seeds may be added to a comparison


class Member(NamedTuple):
    """One model: its class, its steps, sigma of its bases (intensity units), alpha of a C^alpha class, its seed."""

    name: str
    steps: int
    sigma: float
    alpha: float | None = None
    seed: int = 0  # added to config.seed

    @property
    def title(self) -> str:
        """Name of its directory and its results."""
        return f"{self.name}-seed-{self.seed}" if self.seed else self.name


class Settings(NamedTuple):
    """Settings of `measure`."""

    curve_db: Sequence[float]  # PSNRs of the noisy images, dB
    window_db: tuple[float, float] = (14.0, 20.0)  # PSNRs of noisy images of slope_in_window, dB
    batch_size: int = 64
    top: int = 20  # eigenvectors of each
    probes: int = 64  # of each trace
    bootstrap: int = 1000

    @property
    def sigmas(self) -> np.ndarray:
        """Noise standard deviations of the curve, intensity units, `[S]`."""
        return 10 ** (-np.asarray(self.curve_db, float) / 20)


class Plan(NamedTuple):
    """The plan of the command: its models in order, and the settings of their measures."""

    members: tuple[Member, ...]
    num_images: int
    basis_images: int
    oracle_images: int
    measures: Settings


def build(config: ConfigDict) -> Plan:
    """Returns the plan that `config.classes` describes; raises `InputError` for what cannot work."""
    classes, checks = config.classes, config.evaluate
    names = tuple(classes.names)
    alphas = [_alpha(name) for name in names]
    # Two spellings of one alpha are one class.
    distinct = {name if alpha is None else alpha for name, alpha in zip(names, alphas, strict=True)}
    if not names or len(distinct) < len(names):
        fix = 'for example ("calpha-2", "disks")'
        raise input_error("config.classes.names", expected="different names, at least one", got=names, fix=fix)
    each = {
        "steps": _for_each("steps", classes.steps, names, least=1),
        "sigmas": _for_each("sigmas", classes.sigmas, names, least=1e-9, most=MAX_SIGMA),
    }
    window_db = tuple(classes.window_db)
    if len(window_db) != 2 or not window_db[0] < window_db[1]:
        fix = "for example (14.0, 20.0)"
        raise input_error("config.classes.window_db", expected="(low, high) in dB", got=window_db, fix=fix)
    fitted = windows(np.unique(np.asarray(checks.curve_db, float)), window_db)
    if min(each.sum() for each in fitted) < 2:
        got = " and ".join(str(each.sum()) for each in fitted)
        expected = (
            "two different levels at small noise (17 dB up, but for the two highest) and at "
            f"{window_db[0]:g} to {window_db[1]:g} dB"
        )
        fix = "use (36.0, 34.0, ..., 0.0)"
        raise input_error("config.evaluate.curve_db", expected=expected, got=f"{got} of them", fix=fix)
    dimension = config.data.size**2 * config.data.channels
    for name, value, least, most in (
        ("num_images", classes.num_images, 1, None),
        ("basis_images", classes.basis_images, 1, None),
        ("oracle_images", classes.oracle_images, 0, None),
        ("seeds", classes.seeds, 1, None),
        ("top", classes.top, 5, dimension),
        ("probes", classes.probes, 2, None),
        ("bootstrap", classes.bootstrap, 2, None),
    ):
        within(f"config.classes.{name}", value, least, most)
    members = [
        Member(*values, seed)
        for values in zip(names, each["steps"], each["sigmas"], alphas, strict=True)
        for seed in range(classes.seeds)
    ]
    return Plan(
        tuple(members),
        classes.num_images,
        classes.basis_images,
        classes.oracle_images,
        Settings(
            curve_db=tuple(checks.curve_db),
            window_db=window_db,
            batch_size=checks.batch_size,
            top=classes.top,
            probes=classes.probes,
            bootstrap=classes.bootstrap,
        ),
    )


def config_of(config: ConfigDict, member: Member) -> ConfigDict:
    """Returns the config of one model, an ordinary experiment."""
    # A run is the same beside any number of others.
    changes: dict[str, Any] = {"train.steps": member.steps, "seed": config.seed + member.seed, "classes.seeds": 1}
    if member.alpha is not None:
        changes |= {"data.source": "calpha", "synthetic.alpha": member.alpha}
    elif member.name == "scaled_image":
        changes |= {"data.source": "scaled_image", "synthetic.image": config.data.source}
    elif member.name in GENERATED:
        changes["data.source"] = member.name
    elif member.name == "shuffled":
        changes["synthetic.shuffle"] = True
    return configs.from_dict(configs.to_dict(config), base(), changes)


def run(app: App, request: Request) -> None:
    """Trains and measures whichever models are missing in `--workdir`."""
    config, workdir = workdirs.to_train(app, request, may_change=LATER)
    plan = build(config)
    may_change = (*multi_run.MAY_CHANGE, *LATER)
    multi_run.check_same(app, config, workdir, what="comparison of classes", may_change=may_change)
    for member in plan.members:
        multi_run.check(app, config_of(config, member), workdir / member.title)
    sources = {member.name: app.build(config_of(config, member)).sources() for member in plan.members}
    _read_held_out(plan, sources)

    def path(member: Member) -> Path:
        weights = multi_run.trained_weights(workdir / member.title)
        settings = settings_of(config, member, sources[member.name], weights)
        return results.path_of(workdir / "results", f"classes-{member.title}", settings)

    if request.flags.dry_run:
        planned = [
            {
                "class": member.name,
                "seed": config.seed + member.seed,
                "steps": member.steps,
                "trained": "yes" if multi_run.is_trained(workdir / member.title) else "no",
                "measured": "yes" if path(member).exists() else "no",
            }
            for member in plan.members
        ]
        print_lines(*text_table(planned), "nothing was compiled or written")
        return
    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    configs.write(config, workdir)
    means_path = workdir / "results" / "class-means.json"
    complete = means_path.exists()
    for member in plan.members:
        if not multi_run.train(app, config_of(config, member), workdir / member.title, title=member.title):
            print_lines(f"interrupted in {member.title}; the same command goes on from there")
            return
        if not path(member).exists():
            print_lines(f"wrote {_measure(config, workdir, plan, member, sources[member.name])}")
            complete = False
    rows = means([results.read(path(member))[0] for member in plan.members])
    if not complete:
        results.write(workdir / "results", "class-means", numbers={"classes": rows}, arrays={})
    print_lines(*text_table(rows), f"next: python -m {app.name} figures --workdir {workdir}")


def _read_held_out(plan: Plan, sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Reads the stored images that will be measured, so that a bad one is known before hours of training."""
    for name in GIVEN:
        if name in sources:
            spread(sources[name]["test"], max(plan.num_images, plan.basis_images))


def settings_of(config: ConfigDict, member: Member, sources: Mapping[str, Any], weights: str | None) -> dict[str, Any]:
    """Returns all that decides the result of a class; `weights` is the hash of its model's."""
    return {
        "weights": weights,
        "seed": config.seed,
        "sigma": member.sigma,
        "data": fingerprints(sources),
        "config": config_settings(config, (*IRRELEVANT, *LATER)),
    }


def means(members: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each class from the numbers of its models; slopes in dB per dB.

    `error` and `error in window` are standard errors of the slopes: over the models of a class if there are several
    seeds, else over images. `nominal` is alpha / (alpha + 1), `oracle` the slope in the window of the denoiser that
    knows the contour, `gap` how many dB the denoiser is below it there; `shortfall` is the distance in dB from the
    projection on the tangent space.
    """
    classes: dict[str, list[Mapping[str, Any]]] = {}
    for numbers in members:
        classes.setdefault(numbers["class"], []).append(numbers)
    return [_row(name, models) for name, models in classes.items()]


def _within(value: Any, key: str) -> Any:
    return value and value[key]


def _row(name: str, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(*keys: str) -> Any:
        values: list[Any] = [functools.reduce(_within, keys, each) for each in models]
        return None if None in values else float(np.mean(values))

    def error(fit: str) -> float:
        values = [each[fit]["value"] for each in models]
        return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else mean(fit, "standard_error")

    return {
        "class": name,
        "seeds": len(models),
        "steps": models[0]["step"],
        "slope": mean("slope", "value"),
        "error": error("slope"),
        "in window": mean("slope_in_window", "value"),
        "error in window": error("slope_in_window"),
        "nominal": mean("nominal_slope"),
        "oracle": mean("oracle", "slope_in_window", "value"),
        "gap": mean("oracle", "gap_to_oracle"),
        "shortfall": mean("shortfall"),
        "trace": mean("trace"),
        "tangent cos2": mean("tangent", "mean_square_cosine"),
    }


def _measure(config: ConfigDict, workdir: Path, plan: Plan, member: Member, sources: Mapping[str, Any]) -> Path:
    """Measures the model of one class and writes its result; returns the path of its numbers."""
    start = time.perf_counter()
    own = config_of(config, member)
    variables, step = restore_variables(workdir / member.title)
    settings = settings_of(config, member, sources, weights_digest(variables))
    denoise = denoiser(jax.tree.map(jax.numpy.asarray, variables), build_network(own))
    held_out = sources["test"]
    tangents, oracle = None, None
    if member.name in GENERATED:
        tangents = held_out.tangents(spread_indices(held_out, plan.basis_images))
    with_oracle = member.alpha is not None and held_out.has_oracle
    known = spread_indices(held_out, plan.oracle_images) if with_oracle else []
    shown = spread(held_out, plan.basis_images)
    with Progress(
        num_measures(plan.measures, len(shown), len(known)), unit="measures", what=f"measuring {member.title}"
    ) as bar:
        if known:
            oracle = held_out.oracle_mse(known, plan.measures.sigmas, add=bar.add)
        numbers, arrays = measure(
            denoise,
            spread(held_out, plan.num_images),
            shown,
            plan.measures,
            key_for(jax.random.key(config.seed), Purpose.EVALUATE),
            sigma=member.sigma,
            alpha=member.alpha,
            oracle=oracle,
            tangents=tangents,
            add=bar.add,
        )
    origin = results.provenance(
        config_hash=configs.digest(config),
        seed=own.seed,
        step=step,
        device=parallel.device_name(),
        wall_s=time.perf_counter() - start,
        nfe=1,
    )
    if isinstance(held_out, Shuffled):
        arrays["order"] = held_out.order
    described = {"class": member.name, "batch_size": config.train.batch_size}
    return results.write(
        workdir / "results",
        f"classes-{member.title}",
        numbers={**origin, **described, **numbers},
        arrays=arrays,
        settings=settings,
    )[-1]


def _alpha(name: str) -> float | None:
    """Returns alpha of "calpha-A", None for the other known classes; raises `InputError` for unknown ones."""
    if name in (*GENERATED, *GIVEN):
        return None
    kind, _, number = name.partition("-")
    try:
        alpha = float(number) if kind == "calpha" else 0.0
    except ValueError:
        alpha = 0.0
    if not 0 < alpha <= 100:
        expected = f'"calpha-A" with a number A above 0, or one of {", ".join((*GENERATED, *GIVEN))}'
        raise input_error("config.classes.names", expected=expected, got=repr(name), fix='for example "calpha-2"')
    return alpha


def _for_each(field: str, values, names: tuple[str, ...], *, least: float, most: float = np.inf) -> tuple:
    values = tuple(values)
    if len(values) not in (1, len(names)) or not all(least <= value <= most for value in values):
        expected = f"one positive number, or {len(names)} as there are classes"
        fix = "give one for each class"
        if most < np.inf:
            expected += f", up to {most:g}"
            fix += ", as standard deviations for images in [0, 1]"
        raise input_error(f"config.classes.{field}", expected=expected, got=values, fix=fix)
    return values * len(names) if len(values) == 1 else values


def measure(
    denoise: Denoiser,
    images: np.ndarray,
    basis_images: np.ndarray,
    settings: Settings,
    key: jax.Array,
    *,
    sigma: float,
    alpha: float | None = None,
    oracle: np.ndarray | None = None,
    tangents: np.ndarray | None = None,
    add: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures PSNR curve and slopes on `images [N, H, W, C]`, eigenvectors at `sigma` on `basis_images [M, ...]`.

    `slope` is fitted at small noise, where theory has an asymptote; `slope_in_window` within `window_db`. alpha: of a
    C^alpha class, whose `nominal_slope` is alpha / (alpha + 1). oracle: squared error per pixel `[S, N']` of the
    denoiser that knows the contour, at `settings.sigmas` and on images of the class; its slopes are fitted in the same
    windows, and `gap_to_oracle` is how far the denoiser is below its PSNR in the window, dB. tangents
    `[M, D, H, W, C]`: the tangent spaces at the basis images, of a class that is a manifold of dimension D; the D
    leading eigenvectors are compared with them, and the error with that of projecting on them, D sigma^2. `add(n)` is
    called after n of the `num_measures` are made.

    Returns numbers and arrays: `curve.*` (fields of `PsnrCurve`), `curve.best` (dB, of the oracle or the projection),
    `slope.*`, `basis.*` (as of `survey`, without the axis of noise levels), and `tangents` and `angles` (radians).
    """
    curve_key, slope_key, basis_key = jax.random.split(key, 3)
    curve = psnr_curve(denoise, images, settings.sigmas, curve_key, batch_size=settings.batch_size)
    add(len(settings.curve_db))

    def fits(per_image):
        return [
            fit_slope(curve.input_psnr, per_image, slope_key, selected=selected, resamples=settings.bootstrap)
            for selected in windows(curve.input_psnr, settings.window_db)
        ]

    slope, in_window = fits(curve.per_image)
    table, basis = survey(denoise, basis_images, [sigma], settings.top, basis_key, num=settings.probes, add=add)
    arrays = {f"curve.{name}": value for name, value in curve._asdict().items()}
    arrays |= {f"slope.{name}": getattr(slope, name) for name in ("local", "local_input_psnr", "selected")}
    arrays |= {f"basis.{name}": each if name == "clean" else each[0] for name, each in basis.items()}
    best_slope, shortfall, known, tangent = None, None, None, None
    if oracle is not None:
        best = -10 * np.log10(oracle.mean(1))
        best_fits = fits(-10 * np.log10(oracle))
        known = {
            "num_images": oracle.shape[1],
            "slope": _line(best_fits[0], curve.input_psnr),
            "slope_in_window": _line(best_fits[1], curve.input_psnr),
            "gap_to_oracle": float((best - curve.psnr_of_mean)[in_window.selected].mean()),
        }
        best_slope = best_fits[0].slope
        arrays |= {"curve.best": best, "slope.best": best_fits[0].local}
    if tangents is not None:
        dimension, pixels = tangents.shape[1], images[0].size
        best = manifold_psnr(curve.input_psnr, dimension=dimension, pixels=pixels)
        shortfall, best_slope = float((best - curve.psnr_of_mean)[slope.selected].mean()), 1.0
        angles = np.stack(
            [principal_angles(basis["vectors"][0, i, :dimension], tangents[i]) for i in range(len(tangents))]
        )
        arrays |= {"curve.best": best, "tangents": tangents, "angles": angles}
        tangent = {
            "dimension": dimension,
            "mean_square_cosine": float(np.square(np.cos(angles)).mean()),
            "angles_degrees": np.degrees(angles).tolist(),
            "next_factor": float(np.mean(basis["values"][0, :, dimension])),
        }
    numbers = {
        "num_images": len(images),
        "sigma": float(sigma),
        "nominal_slope": None if alpha is None else contour_slope(alpha),
        "best_slope": best_slope,
        "slope": _line(slope, curve.input_psnr),
        "slope_in_window": _line(in_window, curve.input_psnr),
        "oracle": known,
        "shortfall": shortfall,
        "tangent": tangent,
        # Over images: a class with few parameters has as few directions that are not removed.
        "trace": float(np.mean([row["trace"] for row in table])),
        "bases": table,
    }
    return numbers, arrays


def num_measures(settings: Settings, basis_images: int, oracle_images: int) -> int:
    """Returns how many steps `measure`, and the oracle before it, count."""
    return len(settings.curve_db) + basis_images + oracle_images


def windows(input_psnr: np.ndarray, window_db: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which points of a curve each of the two slopes is fitted to, bool `[S]`."""
    between = (input_psnr >= window_db[0] - 1e-6) & (input_psnr <= window_db[1] + 1e-6)
    return window(input_psnr), between


def _line(slope: Slope, input_psnr: np.ndarray) -> dict[str, float]:
    return {
        "value": slope.slope,
        "standard_error": slope.standard_error,
        "intercept": slope.intercept,
        "from_db": float(input_psnr[slope.selected].min()),
        "to_db": float(input_psnr[slope.selected].max()),
    }
