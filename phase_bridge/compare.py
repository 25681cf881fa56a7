"""`python -m phase_bridge compare`: quality against evaluations for networks and paths, on the same data and budget.

Each network is an ordinary run in DIR/models/NETWORK/SEED, resumed as `train` resumes, and is sampled along every path
that is asked for. For each model, a network along a path, and number of evaluations one of the path's candidates is
chosen on samples and data of their own (DIR/results/settings-MODEL-KEY.json, with the first seed); then every seed is
measured with it on others (DIR/results/measured-MODEL-SEED-KEY.json). What has its file, of the same weights and
settings, is not done again, so the command may be stopped anywhere, and given again; it ends with
DIR/results/compare-KEY.json and .md, and figures.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from common import config as configs
from common.cli import multi_run, workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs.trained import config_settings
from common.errors import at_least, choice, input_error
from common.io import results
from common.io.files import write_atomically
from common.io.progress import Progress
from configs.phase_bridge.base import base
from phase_bridge.compare_models import (
    CANDIDATES,
    GROUPS,
    MEASURES,
    MODELS,
    NETWORKS,
    PATHS,
    markdown,
    networks_of,
    paired,
    sampler_of,
    split_name,
    summary,
    title_of,
    usual,
    words_of,
)

# A comparison may grow by models and seeds; how it samples is its own.
MAY_CHANGE = (*multi_run.MAY_CHANGE, "sampler.*", "compare.models", "compare.seeds")


class Plan(NamedTuple):
    """The plan of a comparison."""

    models: tuple[str, ...]
    seeds: int
    nfe: tuple[int, ...]
    tune: bool
    tune_num: int
    num: int
    sigma_data: float
    exact: bool


def build(config: ConfigDict) -> Plan:
    """Returns the plan of `config.compare`; raises `InputError` for what cannot work."""
    from phase_bridge.method import TOY
    from phase_bridge.toy import toy

    compare = config.compare
    for name in compare.models:
        choice("config.compare.models", name, (*GROUPS, *MODELS))
    chosen = tuple(dict.fromkeys(each for name in compare.models for each in GROUPS.get(name, (name,))))
    if not chosen:
        raise input_error("config.compare.models", expected="names of models", got="none", fix='use ("main",)')
    if compare.seeds < 1:
        raise input_error("config.compare.seeds", expected="at least 1", got=compare.seeds, fix="use 3")
    at_least({"config.compare.tune_num": (compare.tune_num, 8)})
    if not compare.nfe or min(compare.nfe) < 1:
        raise input_error(
            "config.compare.nfe", expected="numbers above 0", got=compare.nfe, fix="for example (3, 5, 10)"
        )
    if compare.exact and not (config.data.source.startswith(TOY) and toy(config.data.source[len(TOY) :]).denoise):
        fix = "use configs/phase_bridge/mixture.py or product.py"
        raise input_error("config.compare.exact", expected=f"false for {config.data.source}", got=True, fix=fix)
    for model in chosen if compare.exact else ():
        if "objective.coupling" in NETWORKS[split_name(model)[0]].changes:
            expected, fix = "models that have an exact denoiser", "leave it out"
            raise input_error("config.compare.models", expected=expected, got=model, fix=fix)
    return Plan(
        models=chosen,
        seeds=compare.seeds,
        nfe=tuple(compare.nfe),
        tune=compare.tune,
        tune_num=compare.tune_num,
        num=config.evaluate.num,
        sigma_data=config.objective.sigma_data,
        exact=compare.exact,
    )


def config_of(config: ConfigDict, network: str, seed: int) -> ConfigDict:
    """Returns the config of one network, an ordinary experiment."""
    values, fresh = configs.to_dict(config), base().objective
    changes = {f"objective.{name}": fresh[name] for name in ("output", "weight", "noise", "coupling")}
    changes |= dict(NETWORKS[network].changes)
    if values["model"]["network"] != "mlp":
        del changes["model.time"]
        if network.startswith("force"):
            changes["objective.output"] = "preconditioned"  # as published for images
    if configs.diff(values, configs.from_dict(values, base(), changes)):
        changes |= _plain_sampler()  # the config's sampling section is for its own network
    return configs.from_dict(values, base(), {**changes, "seed": config.seed + seed})


def along(config: ConfigDict, path: str) -> ConfigDict:
    """Returns the config of a network, sampled along a path."""
    return configs.from_dict(configs.to_dict(config), base(), {**_plain_sampler(), **PATHS[path].changes})


def _plain_sampler() -> dict[str, Any]:
    fresh = base().sampler
    names = (
        "process",
        "kind",
        "solver",
        "degree",
        "corrector",
        "schedule",
        "last",
        "power",
        "sigma_max",
        "sigma_min",
        "rho",
    )
    return {f"sampler.{name}": fresh[name] for name in names}


def run(app: App, request: Request) -> None:
    """Trains and measures the missing parts of the comparison in `--workdir`."""
    workdir = workdirs.required(request, "workdir")
    config = workdirs.to_describe(app, request)
    workdirs.check_writable(workdir)
    plan = build(config)
    multi_run.check_same(app, config, workdir, what="comparison", may_change=MAY_CHANGE)
    networks = networks_of(plan.models)
    only = _only(plan, request.flags.only)
    for network in networks:
        for seed in range(plan.seeds):
            own = config_of(config, network, seed)
            for model in plan.models:
                if split_name(model)[0] == network:
                    app.build(along(own, split_name(model)[1]))
            if not plan.exact and only in (None, (network, seed)):
                multi_run.check(app, own, model_path(workdir, network, seed))
    if request.flags.dry_run:
        print_lines(*(f"{name}: {title_of(name)}, {plan.seeds} seed(s)" for name in plan.models))
        print_lines("nothing was compiled or written")
        return
    from common.training import parallel

    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    configs.write(config, workdir)
    # Seeds outermost: what is there after a while is a whole comparison.
    for seed in range(plan.seeds):
        for network in networks:
            if only not in (None, (network, seed)):
                continue
            folder, title = model_path(workdir, network, seed), f"{network}/{seed}"
            if not plan.exact and not multi_run.train(app, config_of(config, network, seed), folder, title=title):
                print_lines(f"interrupted in {title}; the same command goes on from there")
                return
            for model in plan.models if only is None else ():
                own = split_name(model)[0] == network
                if own and not measured_path(config, workdir, plan, model, seed).exists():
                    _measure(config, workdir, plan, model, seed)
    if only is None:
        finish(config, workdir, plan, app)


def measured_path(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> Path:
    """Returns the file whose presence marks a model, as it was trained, as measured."""
    settings = settings_of(config, workdir, plan, model, seed)
    return results.path_of(workdir / "results", f"measured-{_file(model)}-{seed}", settings)


def settings_of(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> dict[str, Any]:
    """Returns all that decides the measures of a model; the settings of its samplers follow from the first seed's."""
    network, path = split_name(model)
    trained = {
        of: None if plan.exact else multi_run.trained_weights(model_path(workdir, network, of)) for of in {0, seed}
    }
    own = config_settings(along(config_of(config, network, seed), path))
    del own["compare"]  # it may grow by models and seeds
    return {
        "model": model,
        "weights": trained[seed],
        "settings_from": trained[0] if plan.tune else None,
        "seed": config.seed + seed,
        "evaluation_seed": config.seed,
        "candidates": CANDIDATES[path] if plan.tune else [usual(path, nfe) for nfe in plan.nfe],
        "nfe": list(plan.nfe),
        "tune": plan.tune,
        "exact": plan.exact,
        "config": own,
    }


def model_path(workdir: Path, network: str, seed: int) -> Path:
    """Returns the directory of one network's run."""
    return workdir / "models" / network / str(seed)


def _file(model: str) -> str:
    return model.replace("/", "-along-")


def _only(plan: Plan, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    known = {f"{name}/{seed}": (name, seed) for name in networks_of(plan.models) for seed in range(plan.seeds)}
    return known[choice("--only", text, known)]


def _measure(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> None:
    """Measures one model at every number of evaluations and writes its result."""
    import jax

    from common.prng import Purpose, key_for
    from common.training import parallel

    start = time.perf_counter()
    subject, step = _subject(config, workdir, plan, model, seed)
    root = jax.random.key(config.seed)
    chosen = _settings(config, workdir, plan, model, subject, key_for(root, Purpose.PREVIEW))
    key = key_for(root, Purpose.EVALUATE, seed)
    rows, samples = [], {}
    with Progress(len(chosen), unit="samplers", what=f"measure {model}/{seed}") as bar:
        for nfe, settings in chosen.items():
            made, used = subject.draw(key, settings, nfe=int(nfe), num=plan.num)
            row = {"nfe": int(nfe), "used": used, "sampler": words_of(settings), "settings": settings}
            rows.append({**row, **subject.quality(made, index=0)})
            samples[f"samples.{nfe}"] = made[: 2048 if subject.points else 64]
            bar.add()
    origin = results.provenance(
        config_hash=configs.digest(config),
        seed=config.seed + seed,
        step=step,
        device=parallel.device_name(),
        wall_s=time.perf_counter() - start,
        nfe=None,
    )
    numbers = {**origin, "model": model, "title": title_of(model), "rows": rows}
    results.write(
        workdir / "results",
        f"measured-{_file(model)}-{seed}",
        numbers=numbers,
        arrays=samples,
        settings=settings_of(config, workdir, plan, model, seed),
    )
    print_lines(f"measured {model}/{seed}: " + ", ".join(f"{row['w2']:.3f} @{row['nfe']}" for row in rows))


def _subject(config: ConfigDict, workdir: Path, plan: Plan, model: str, seed: int) -> tuple["Subject", int | None]:
    """Returns a model ready to be sampled, and the steps it was trained for."""
    import jax

    from common.checkpoint import restore_params
    from phase_bridge import method

    network, path = split_name(model)
    own = along(config_of(config, network, seed), path)
    if plan.exact:
        return Subject(own, None, plan.sigma_data, path), 0
    folder = model_path(workdir, network, seed)
    variables = jax.tree.map(jax.numpy.asarray, restore_params(folder))
    trained = method.as_model(method.build_setup(own), variables)
    return Subject(own, trained, plan.sigma_data, path), results.read_step(folder / "trained.json")


def _settings(
    config: ConfigDict, workdir: Path, plan: Plan, model: str, subject: "Subject", key
) -> dict[str, dict[str, Any]]:
    """Returns the candidate for each number of evaluations, chosen now or before."""
    path = split_name(model)[1]
    if not plan.tune:
        return {str(nfe): dict(usual(path, nfe)) for nfe in plan.nfe}
    decided_by = settings_of(config, workdir, plan, model, 0)
    place, name = workdir / "results", f"settings-{_file(model)}"
    if (there := results.path_of(place, name, decided_by)).exists():
        return results.read(there)[0]["chosen"]
    chosen, tried = {}, []
    by = "w2" if subject.points else "frechet"
    with Progress(len(plan.nfe) * len(CANDIDATES[path]), unit="settings", what=f"choose samplers of {model}") as bar:
        for nfe in plan.nfe:
            distances = []
            for settings in CANDIDATES[path]:
                made, _ = subject.draw(key, settings, nfe=nfe, num=min(plan.num, plan.tune_num))
                distances.append(subject.quality(made, index=1, neighbours=False)[by])
                tried.append({"nfe": nfe, "sampler": words_of(settings), by: distances[-1]})
                bar.add()
            chosen[str(nfe)] = dict(CANDIDATES[path][min(range(len(distances)), key=distances.__getitem__)])
    results.write(
        place, name, numbers={"model": model, "chosen": chosen, "tried": tried}, arrays={}, settings=decided_by
    )
    return chosen


class Subject:
    """A trained model, or the exact one of a mixture, sampled with any settings of its path and held against data."""

    def __init__(self, config: ConfigDict, trained, sigma_data: float, path: str):
        from phase_bridge import method, toy
        from phase_bridge.evaluation import image_features
        from phase_bridge.sampling import denoiser_model

        self._config, self._sigma_data, self._path = config, sigma_data, path
        self._setup = method.build_setup(config)
        self.points: Any = None
        if method.is_toy(config):
            self.points = toy.toy(config.data.source.removeprefix(method.TOY), "config.data.source")
        self._features = None
        if self.points is None:
            self._features = image_features(
                config.evaluate.features, channels=config.data.channels, field="config.evaluate.features"
            )
        if trained is None:
            assert self.points is not None
            trained = denoiser_model(self._setup.process, self.points.denoise, kind=self._setup.kind)
        self._model = trained
        sources = method.build(config).sources
        self._reported = method.held_out(config, sources)
        # Of images the held-out ones are few: samplers are chosen on images of the training split, as is the floor.
        self._other = self._reported if self.points else method.held_out(config, sources, other=True)

    def _data(self, index: int, num: int):
        """Returns the `index`-th set of data; 0 is the one that is reported, and has no example of another one."""
        return (self._other if index else self._reported)(index, num)

    def draw(self, key, settings: Mapping[str, Any], *, nfe: int, num: int):
        """Returns samples `[num, ...]` with settings of a candidate, and the number of evaluations."""
        import numpy as np

        from phase_bridge.sampling import sample

        options = sampler_of(settings, sigma_data=self._sigma_data)
        size, parts = min(num, self._config.evaluate.batch_size), []
        for first in range(0, num, size):
            made, info = sample(
                self._model,
                key,
                (size, *self._setup.shape),
                nfe=nfe,
                kind=self._setup.kind,
                first_index=first,
                **options,
            )
            parts.append(np.asarray(made))
        return np.concatenate(parts)[:num], info["nfe"]

    def quality(self, samples, *, index: int, neighbours: bool = True) -> dict[str, float]:
        """Returns the measures of samples against the `index`-th set of data: as many points, `evaluate.num` images."""
        from phase_bridge.evaluation import quality

        data = self._data(index, len(samples) if self.points else self._config.evaluate.num)
        return dict(quality(samples, data, self.points, self._features, neighbours=neighbours)._asdict())

    def floor(self, num: int, repeats: int) -> list[dict[str, float]]:
        """Returns the measures of fresh data against the data that samples are compared with."""
        return [self.quality(self._data(i + 2, num), index=0) for i in range(repeats)]


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
            same = [row for each in found for row in each["rows"] if row["nfe"] == first["nfe"]]
            shared = {name: first[name] for name in ("sampler", "nfe", "used", "settings")}
            each = {name: [row[name] for row in same] for name in MEASURES if same[0][name] is not None}
            rows.append({"model": model, "title": title_of(model), **shared, **summary(same), "seeds": each})
    rows = paired(rows)
    numbers = {
        **results.provenance(
            config_hash=configs.digest(config), seed=config.seed, step=found[0]["step"],
            device=found[0]["device"], wall_s=0.0, nfe=None,
        ),
        "source": config.data.source, "seeds": plan.seeds, "num": plan.num, "batch_size": config.train.batch_size,
        "floor": summary(floors), "rows": rows, "measured": measured,
    }  # fmt: skip
    settings = {"seed": config.seed, "config": config_settings(config), "measured": measured}
    path = results.write(workdir / "results", "compare", numbers=numbers, arrays={}, settings=settings)[-1]
    table = write_atomically(path.with_suffix(".md"), markdown(numbers).encode())
    print_lines(markdown(numbers), f"wrote {path} and {table}")
    print_lines(*(f"wrote {each}" for each in app.figures()["compare"](workdir)))
