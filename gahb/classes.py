"""`python -m gahb classes`: a denoiser for each of several classes of images, beside the best that is possible there.

Each model is an ordinary run in DIR/NAME, resumed as `train` resumes; each is measured once it is trained, into
DIR/results/classes-NAME-KEY.json and .npz. A model whose result has the same weights, images and settings is not
measured again, so the command may be stopped anywhere, and given again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from common import config as configs
from common.cli import multi_run, workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs.trained import config_settings, fingerprints
from common.errors import input_error, within
from common.io import results
from common.plots.tables import text_table
from configs.gahb.base import base

GENERATED = ("disks", "cone", "ray")
GIVEN = ("images", "shuffled")


class Member(NamedTuple):
    """One class: its name, the steps of its model, the noise of its bases (1/255), alpha of a C^alpha class."""

    name: str
    steps: int
    level: float
    alpha: float | None = None


class Plan(NamedTuple):
    """What the command does: its classes in order, and the settings of their measures."""

    members: tuple[Member, ...]
    num_images: int
    basis_images: int
    measures: Any


def build(config: ConfigDict) -> Plan:
    """Returns the plan that `config.classes` describes; raises `InputError` for what cannot work."""
    from gahb.class_measures import Settings, windows

    classes, checks = config.classes, config.evaluate
    names = tuple(classes.names)
    if not names or len(set(names)) < len(names):
        fix = 'for example ("calpha-2", "disks")'
        raise input_error("config.classes.names", expected="different names, at least one", got=names, fix=fix)
    alphas = [_alpha(name) for name in names]
    each = {
        "steps": _for_each("steps", classes.steps, names, least=1),
        "levels": _for_each("levels", classes.levels, names, least=1e-6),
    }
    moderate = tuple(classes.moderate_db)
    if len(moderate) != 2 or not moderate[0] < moderate[1]:
        fix = "for example (4.0, 18.0)"
        raise input_error("config.classes.moderate_db", expected="(low, high) in dB", got=moderate, fix=fix)
    fitted = windows(np.unique(np.asarray(checks.curve_db, float)), moderate)
    if min(each.sum() for each in fitted) < 2:
        got = " and ".join(str(each.sum()) for each in fitted)
        expected = (
            "two different levels at small noise (17 dB up, but for the two highest) and at "
            f"{moderate[0]:g} to {moderate[1]:g} dB"
        )
        fix = "use (36.0, 34.0, ..., 0.0)"
        raise input_error("config.evaluate.curve_db", expected=expected, got=f"{got} of them", fix=fix)
    dimension = config.data.size**2 * config.data.channels
    for name, value, least, most in (
        ("num_images", classes.num_images, 1, None),
        ("basis_images", classes.basis_images, 1, None),
        ("top", classes.top, 5, dimension),
        ("probes", classes.probes, 2, None),
        ("bootstrap", classes.bootstrap, 2, None),
    ):
        within(f"config.classes.{name}", value, least, most)
    return Plan(
        tuple(Member(*each) for each in zip(names, each["steps"], each["levels"], alphas, strict=True)),
        classes.num_images,
        classes.basis_images,
        Settings(
            curve_db=tuple(checks.curve_db),
            moderate_db=moderate,
            batch_size=checks.batch_size,
            top=classes.top,
            probes=classes.probes,
            bootstrap=classes.bootstrap,
        ),
    )


def config_of(config: ConfigDict, member: Member) -> ConfigDict:
    """Returns the config of the model of one class, an ordinary experiment."""
    changes: dict[str, Any] = {"train.steps": member.steps}
    if member.alpha is not None:
        changes |= {"data.source": "calpha", "synthetic.alpha": member.alpha}
    elif member.name == "ray":
        changes |= {"data.source": "ray", "synthetic.image": config.data.source}
    elif member.name in GENERATED:
        changes["data.source"] = member.name
    elif member.name == "shuffled":
        changes["synthetic.shuffle"] = True
    return configs.from_dict(configs.to_dict(config), base(), changes)


def run(app: App, request: Request) -> None:
    """Trains and measures whichever classes are missing in `--workdir`."""
    config, workdir = workdirs.to_train(app, request)
    plan = build(config)
    multi_run.check_same(app, config, workdir, what="comparison of classes")
    for member in plan.members:
        multi_run.check(app, config_of(config, member), workdir / member.name)
    sources = {member.name: app.build(config_of(config, member)).sources() for member in plan.members}

    def path(member: Member) -> Path:
        weights = multi_run.trained_weights(workdir / member.name)
        settings = settings_of(config, member, sources[member.name], weights)
        return results.path_of(workdir / "results", f"classes-{member.name}", settings)

    if request.flags.dry_run:
        planned = [
            {
                "class": member.name,
                "steps": member.steps,
                "trained": "yes" if multi_run.is_trained(workdir / member.name) else "no",
                "measured": "yes" if path(member).exists() else "no",
            }
            for member in plan.members
        ]
        print_lines(*text_table(planned), "nothing was compiled or written")
        return
    from common.training import parallel

    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    configs.write(config, workdir)
    for member in plan.members:
        if not multi_run.train(app, config_of(config, member), workdir / member.name, title=member.name):
            print_lines(f"interrupted in {member.name}; the same command goes on from there")
            return
        if not path(member).exists():
            print_lines(f"wrote {_measure(config, workdir, plan, member, sources[member.name])}")
    rows = [row(results.read(path(member))[0]) for member in plan.members]
    print_lines(*text_table(rows), f"next: python -m {app.name} figures --workdir {workdir}")


def settings_of(config: ConfigDict, member: Member, sources: Mapping[str, Any], weights: str | None) -> dict[str, Any]:
    """Returns all that decides the result of a class; `weights` is the hash of its model's."""
    return {
        "weights": weights,
        "seed": config.seed,
        "level": member.level,
        "data": fingerprints(sources),
        "config": config_settings(config),
    }


def row(numbers: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of the table; slopes in dB per dB, the shortfall in dB below the best possible PSNR."""
    tangent = numbers["tangent"]
    return {
        "class": numbers["class"],
        "steps": numbers["step"],
        "slope": numbers["slope"]["value"],
        "error": numbers["slope"]["standard_error"],
        "at moderate noise": numbers["moderate_slope"]["value"],
        "best": numbers["best_slope"],
        "shortfall": numbers["shortfall"],
        "trace": numbers["trace"],
        "tangent cos2": None if tangent is None else tangent["mean_square_cosine"],
    }


def _measure(config: ConfigDict, workdir: Path, plan: Plan, member: Member, sources: Mapping[str, Any]) -> Path:
    """Measures the model of one class and writes its result; returns the path of its numbers."""
    import time

    import jax

    from common.checkpoint import restore_variables
    from common.io.progress import Progress
    from common.sampling import weights_digest
    from common.training import parallel
    from common.training.keys import Purpose, key_for
    from gahb.class_measures import measure
    from gahb.denoisers import denoiser
    from gahb.method import build_network, spread, spread_indices
    from gahb.synthetic import Shuffled

    start = time.perf_counter()
    own = config_of(config, member)
    variables, step = restore_variables(workdir / member.name)
    settings = settings_of(config, member, sources, weights_digest(variables))
    denoise = denoiser(jax.tree.map(jax.numpy.asarray, variables), build_network(own))
    held_out = sources["test"]
    tangents = None
    if member.name in GENERATED:
        tangents = held_out.tangents(spread_indices(held_out, plan.basis_images))
    shown = spread(held_out, plan.basis_images)
    with Progress(1 + len(shown), unit="measures", what=member.name) as bar:
        numbers, arrays = measure(
            denoise,
            spread(held_out, plan.num_images),
            shown,
            plan.measures,
            key_for(jax.random.key(config.seed), Purpose.EVALUATE),
            sigma=member.level / 255,
            alpha=member.alpha,
            tangents=tangents,
            add=bar.add,
        )
    origin = results.provenance(
        config_hash=configs.digest(config),
        seed=config.seed,
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
        f"classes-{member.name}",
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


def _for_each(field: str, values, names: tuple[str, ...], *, least: float) -> tuple:
    values = tuple(values)
    if len(values) not in (1, len(names)) or min(values) < least:
        expected = f"one positive number, or {len(names)} as there are classes"
        raise input_error(f"config.classes.{field}", expected=expected, got=values, fix="give one for each class")
    return values * len(names) if len(values) == 1 else values
