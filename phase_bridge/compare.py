"""`python -m phase_bridge compare`: the same data, network, steps, batch and seeds for all models; quality against NFE.

Each model is an ordinary run in DIR/models/MODEL/SEED, resumed as `train` resumes. Settings of samplers are chosen on
the first seed's model with samples of their own (DIR/results/settings-MODEL-KEY.json), then every seed's model is
measured (DIR/results/measured-MODEL-SEED-KEY.json). What has its file, of the same weights and settings, is not done
again, so the command may be stopped anywhere, and given again; it ends with DIR/results/compare-KEY.json and .md, and
figures.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from common import config as configs
from common.cli import multi_run, workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs.trained import config_settings
from common.errors import choice, input_error
from common.io import results
from common.io.files import write_atomically
from common.io.progress import Progress
from common.plots.tables import markdown_table
from configs.phase_bridge.base import base
from phase_bridge.entrants import ENTRANTS, GROUPS, how_of, usual

MEASURES = ("w2", "distance", "beyond")

# A comparison may grow by models and seeds; how it samples is its own.
MAY_CHANGE = (*multi_run.MAY_CHANGE, "sampler.*", "compare.models", "compare.seeds")
_TUNED_ON = 3000  # samples by which settings are chosen


class Plan(NamedTuple):
    """What a comparison does."""

    models: tuple[str, ...]
    seeds: int
    nfe: tuple[int, ...]
    tune: bool
    num: int
    sigma_data: float
    exact: bool


def build(config: ConfigDict) -> Plan:
    """Returns the plan of `config.compare`; raises `InputError` for what cannot work."""
    from phase_bridge.method import TOY, is_toy

    compare = config.compare
    for name in compare.models:
        choice("config.compare.models", name, (*GROUPS, *ENTRANTS))
    chosen = tuple(dict.fromkeys(each for name in compare.models for each in GROUPS.get(name, (name,))))
    if not chosen:
        raise input_error("config.compare.models", expected="names of models", got="none", fix='use ("main",)')
    if compare.seeds < 1:
        raise input_error("config.compare.seeds", expected="at least 1", got=compare.seeds, fix="use 3")
    if not compare.nfe or min(compare.nfe) < 1:
        raise input_error(
            "config.compare.nfe", expected="numbers above 0", got=compare.nfe, fix="for example (3, 5, 10)"
        )
    if not is_toy(config):
        got, fix = config.data.source, "use toy:spiral"
        raise input_error("config.data.source", expected="points of the plane", got=got, fix=fix)
    if compare.exact and config.data.source != f"{TOY}mixture":
        fix = "use configs/phase_bridge/mixture.py"
        raise input_error("config.compare.exact", expected=f"false for {config.data.source}", got=True, fix=fix)
    return Plan(
        models=chosen,
        seeds=compare.seeds,
        nfe=tuple(compare.nfe),
        tune=compare.tune,
        num=config.evaluate.num,
        sigma_data=config.objective.sigma_data,
        exact=compare.exact,
    )


def config_of(config: ConfigDict, model: str, seed: int) -> ConfigDict:
    """Returns the config of one model, an ordinary experiment."""
    values, changes = configs.to_dict(config), dict(ENTRANTS[model].changes)
    if configs.diff(values, configs.from_dict(values, base(), changes)):
        # What the config says of sampling is meant for its own model.
        changes |= {"sampler.rule": "", "sampler.order": -1, "sampler.corrector": "", "sampler.grid": ""}
    return configs.from_dict(values, base(), {**changes, "seed": config.seed + seed})


def run(app: App, request: Request) -> None:
    """Trains and measures whatever of the comparison is missing in `--workdir`."""
    workdir = workdirs.required(request, "workdir")
    config = workdirs.to_describe(app, request)
    workdirs.check_writable(workdir)
    plan = build(config)
    multi_run.check_same(app, config, workdir, what="comparison", may_change=MAY_CHANGE)
    only = _only(plan, request.flags.only)
    for model in plan.models:
        for seed in range(plan.seeds):
            own = config_of(config, model, seed)
            if plan.exact:
                app.build(own)
            elif only in (None, (model, seed)):
                multi_run.check(app, own, model_path(workdir, model, seed))
    if request.flags.dry_run:
        print_lines(*(f"{name}/{seed}: {ENTRANTS[name].title}" for name in plan.models for seed in range(plan.seeds)))
        print_lines("nothing was compiled or written")
        return
    from common.training import parallel

    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    configs.write(config, workdir)
    # Seeds outermost: what is there after a while is a whole comparison.
    for seed in range(plan.seeds):
        for model in plan.models:
            if only not in (None, (model, seed)):
                continue
            folder, title = model_path(workdir, model, seed), f"{model}/{seed}"
            if not plan.exact and not multi_run.train(app, config_of(config, model, seed), folder, title=title):
                print_lines(f"interrupted in {model}/{seed}; the same command goes on from there")
                return
            if only is None and not measured_path(config, workdir, plan, model, seed).exists():
                _measure(config, workdir, plan, model, seed)
    if only is None:
        finish(config, workdir, plan, app)


def measured_path(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> Path:
    """Returns the file whose presence says that a model, as it was trained, has been measured."""
    settings = settings_of(config, workdir, plan, model, seed)
    return results.path_of(workdir / "results", f"measured-{model}-{seed}", settings)


def settings_of(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> dict[str, Any]:
    """Returns all that decides the measures of a model; the settings of its samplers follow from the first seed's."""
    trained = {
        of: None if plan.exact else multi_run.trained_weights(model_path(workdir, model, of)) for of in {0, seed}
    }
    own = config_settings(config_of(config, model, seed))
    del own["compare"]  # it may grow by models and seeds
    return {
        "model": model,
        "weights": trained[seed],
        "settings_from": trained[0] if plan.tune else None,
        "seed": config.seed + seed,
        "evaluation_seed": config.seed,
        "nfe": list(plan.nfe),
        "tune": plan.tune,
        "exact": plan.exact,
        "config": own,
    }


def model_path(workdir: Path, model: str, seed: int) -> Path:
    """Returns the directory of one model's run."""
    return workdir / "models" / model / str(seed)


def _only(plan: Plan, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    known = {f"{model}/{seed}": (model, seed) for model in plan.models for seed in range(plan.seeds)}
    return known[choice("--only", text, known)]


def _measure(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> None:
    """Measures one model at every number of evaluations and writes its result."""
    import jax

    from common.training import parallel
    from common.training.keys import Purpose, key_for

    start = time.perf_counter()
    subject, step = _subject(config, workdir, plan, model, seed)
    root = jax.random.key(config.seed)
    chosen = _settings(config, workdir, plan, model, subject, key_for(root, Purpose.PREVIEW))
    key = key_for(root, Purpose.EVALUATE, seed)
    titles = {each.name: each.title for each in ENTRANTS[model].samplers}
    rows, samples = [], {}
    count = sum(map(len, chosen.values()))
    with Progress(count, unit="samplers", what=f"measure {model}/{seed}") as bar:
        for sampler, by_nfe in chosen.items():
            for nfe, settings in by_nfe.items():
                points, used = subject.draw(key, settings, nfe=int(nfe), num=plan.num)
                title = titles[sampler] or ENTRANTS[model].title
                how = {"sampler": sampler, "title": title, "nfe": int(nfe), "used": used, "settings": settings}
                rows.append({**how, **subject.quality(points, index=0)})
                samples[f"{sampler}.{nfe}"] = points[:2048]
                bar.add()
    best = {nfe: _best(rows, nfe) for nfe in plan.nfe}
    arrays = {f"samples.{nfe}": samples[f"{row['sampler']}.{nfe}"] for nfe, row in best.items() if row}
    origin = results.provenance(
        config_hash=configs.digest(config),
        seed=config.seed + seed,
        step=step,
        device=parallel.device_name(),
        wall_s=time.perf_counter() - start,
        nfe=None,
    )
    numbers = {**origin, "model": model, "title": ENTRANTS[model].title, "rows": rows}
    results.write(
        workdir / "results",
        f"measured-{model}-{seed}",
        numbers=numbers,
        arrays=arrays,
        settings=settings_of(config, workdir, plan, model, seed),
    )
    print_lines(f"measured {model}/{seed}: " + ", ".join(f"{row['w2']:.3f} @{nfe}" for nfe, row in best.items() if row))


def _subject(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> tuple["Subject", int]:
    """Returns a model ready to be sampled, and the steps it was trained for."""
    import jax

    from phase_bridge import method

    if plan.exact:
        return Subject(config, method.build_model(config_of(config, model, seed)), None, plan.sigma_data), 0
    folder = model_path(workdir, model, seed)
    trained, variables = method.load(folder)
    variables = jax.tree.map(jax.numpy.asarray, variables)
    return Subject(config, trained, variables, plan.sigma_data), results.read_step(folder / "trained.json")


def _best(rows: Sequence[Mapping[str, Any]], nfe: int) -> Mapping[str, Any] | None:
    return min((row for row in rows if row["nfe"] == nfe), key=lambda row: row["w2"], default=None)


def _settings(
    config: ConfigDict, workdir: Path, plan: Plan, model: str, subject: "Subject", key
) -> dict[str, dict[str, Any]]:
    """Returns the settings of each sampler and number of evaluations, chosen now or before."""
    decided_by = settings_of(config, workdir, plan, model, 0)
    place, name = workdir / "results", f"settings-{model}"
    if (path := results.path_of(place, name, decided_by)).exists():
        return results.read(path)[0]["chosen"]
    chosen: dict[str, dict[str, Any]] = {}
    tried = []
    options = {
        (candidate.name, nfe): list(candidate.settings) if plan.tune else [usual(candidate, nfe)]
        for candidate in ENTRANTS[model].samplers
        for nfe in plan.nfe
        if nfe >= candidate.least
    }
    count = sum(len(each) for each in options.values() if len(each) > 1)
    with Progress(count, unit="settings", what=f"choose samplers of {model}") as bar:
        for (sampler, nfe), several in options.items():
            distances = []
            for settings in several if len(several) > 1 else ():
                points, _ = subject.draw(key, settings, nfe=nfe, num=_TUNED_ON)
                distances.append(subject.quality(points, index=1)["w2"])
                tried.append({"sampler": sampler, "nfe": nfe, **settings, "w2": distances[-1]})
                bar.add()
            best = min(range(len(distances)), key=distances.__getitem__) if distances else 0
            chosen.setdefault(sampler, {})[str(nfe)] = dict(several[best])
    numbers = {"model": model, "chosen": chosen, "tried": tried}
    results.write(place, name, numbers=numbers, arrays={}, settings=decided_by)
    return chosen


class Subject:
    """A trained model, or (without variables) the exact one, ready to be sampled and measured."""

    def __init__(self, config: ConfigDict, trained, variables, sigma_data: float):
        from phase_bridge import method

        self._trained, self._variables, self._sigma_data = trained, variables, sigma_data
        self._data = method.held_out(config, None)
        self._points = method.toy.toy(config.data.source.removeprefix(method.TOY))
        self._fields: dict[str, Any] = {}

    def draw(self, key, settings: Mapping[str, Any], *, nfe: int, num: int):
        """Returns samples `[num, 2]` and the number of evaluations used."""
        import jax.numpy as jnp
        import numpy as np

        from common.sampling import sample_keys
        from phase_bridge import drawing, exact
        from phase_bridge.method import as_field

        how = how_of(self._trained.how, settings, nfe=nfe, sigma_data=self._sigma_data)
        if how.kind not in self._fields and self._variables is None:
            self._fields[how.kind] = exact.field(how, self._points.centres, self._points.mode)
        elif how.kind not in self._fields:
            self._fields[how.kind] = as_field(self._trained, self._variables, how)
        drawn, _ = drawing.draw(self._fields[how.kind], sample_keys(key, jnp.arange(num)), (num, 2), how)
        return np.asarray(drawn), drawing.nfe_of(how)

    def quality(self, drawn, *, index: int) -> dict[str, float]:
        """Returns the measures of samples against the `index`-th draw of held-out data of the same size."""
        from phase_bridge.evaluation import quality

        return dict(quality(drawn, self._data(index, len(drawn)), self._points)._asdict())

    def floor(self, num: int, repeats: int) -> list[dict[str, float]]:
        """Returns the measures of fresh data against the data that samples are compared with."""
        return [self.quality_of_data(i, num) for i in range(repeats)]

    def quality_of_data(self, i: int, num: int) -> dict[str, float]:
        """Returns the measures of the (i + 2)-th draw of held-out data."""
        return self.quality(self._data(i + 2, num), index=0)


def finish(config: ConfigDict, workdir: Path, plan: Plan, app: App) -> None:
    """Writes the table over all seeds, as JSON, Markdown and figures."""
    subject, _ = _subject(config, workdir, plan, plan.models[0], 0)
    floors = subject.floor(plan.num, 5)
    rows, measured = [], {}
    for model in plan.models:
        paths = [measured_path(config, workdir, plan, model, seed) for seed in range(plan.seeds)]
        measured[model] = [path.stem for path in paths]
        found = [results.read(path)[0] for path in paths]
        for first in found[0]["rows"]:
            same = [
                row for each in found for row in each["rows"]
                if (row["sampler"], row["nfe"]) == (first["sampler"], first["nfe"])
            ]  # fmt: skip
            shared = {name: first[name] for name in ("sampler", "title", "nfe", "used", "settings")}
            rows.append({"model": model, **shared, **summary(same)})
    numbers = {
        **results.provenance(
            config_hash=configs.digest(config), seed=config.seed, step=found[0]["step"],
            device=found[0]["device"], wall_s=0.0, nfe=None,
        ),
        "toy": config.data.source, "seeds": plan.seeds, "num": plan.num, "batch_size": config.train.batch_size,
        "floor": summary(floors), "rows": rows, "measured": measured,
    }  # fmt: skip
    settings = {"seed": config.seed, "config": config_settings(config), "measured": measured}
    path = results.write(workdir / "results", "compare", numbers=numbers, arrays={}, settings=settings)[-1]
    table = write_atomically(path.with_suffix(".md"), markdown(numbers).encode())
    print_lines(markdown(numbers), f"wrote {path} and {table}")
    print_lines(*(f"wrote {each}" for each in app.figures()["compare"](workdir)))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the mean of each measure and its standard deviation over rows (None for one row)."""
    import numpy as np

    found = {}
    for name in MEASURES:
        values = np.asarray([row[name] for row in rows], float)
        found[name] = float(values.mean())
        found[f"{name}_deviation"] = float(values.std(ddof=1)) if len(values) > 1 else None
    return found


def markdown(numbers: Mapping[str, Any]) -> str:
    """Returns the comparison as Markdown: each model with its best sampler at each number of evaluations."""
    rows = numbers["rows"]
    counts = sorted({row["nfe"] for row in rows})
    floor = numbers["floor"]
    how = f"{numbers['seeds']} training seed(s), {numbers['step']} steps of {numbers['batch_size']}, "
    if numbers["step"] == 0:
        how = f"the exact denoiser, {numbers['seeds']} sampling seed(s), "
    parts = [
        f"{numbers['toy']}, {how}{numbers['num']} samples. Mean over seeds ± standard deviation; the best sampler of "
        "each model by sliced W2."
    ]
    for measure, words in (("w2", "Sliced W2"), ("beyond", "Share of samples off the support")):
        deviation = floor[f"{measure}_deviation"]
        parts.append(f"\n{words}; data against data: {floor[measure]:.4f} ± {deviation:.4f}\n")
        lines = []
        for title in dict.fromkeys(row["title"] for row in rows):
            best = [_best([row for row in rows if row["title"] == title], nfe) for nfe in counts]
            lines.append([title, *("" if each is None else _cell(each, measure) for each in best)])
        parts += markdown_table(["model", *(f"NFE {nfe}" for nfe in counts)], lines)
    return "\n".join(parts) + "\n"


def _cell(row: Mapping[str, Any], measure: str) -> str:
    spread = row[f"{measure}_deviation"]
    error = "" if spread is None else f" ± {spread:.3f}"
    return f"{row[measure]:.3f}{error} ({row['sampler']})"
