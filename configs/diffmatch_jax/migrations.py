"""Today's names of the keys of older `diffmatch_jax` runs, and the values of removed ones."""

RENAMED = {
    "conditions.fit": "conditioning.fit",
    "conditions.refine": "conditioning.refine",
    "conditions.score": "conditioning.score",
    "conditions.wide": "conditioning.wide",
    "variable.coherence": "process.noise_correlation",
    "variable.learned_scale": "process.predict_variance",
}


def _scale(stored: dict) -> float:
    if stored["features.compat"]:
        return 1.0
    fitted, cell = ("conditioning.fit", 8) if stored.get("task", "stage1") == "stage1" else ("conditioning.refine", 2)
    return cell / stored["features.fine"] if stored[fitted] else 0.1


REMOVED = {
    "conditions.gain": lambda stored: 0.0 if stored["features.compat"] else 8.0,
    "conditions.median": 0,
    "conditions.radius": 4,
    "conditions.soft": 0.0,
    "features.coarse": lambda stored: stored["features.fine"] // 2,
    "model.dropout": 0.0,
    "model.min_group": lambda stored: 1 if stored["features.compat"] else 8,
    "objective.epsilon": 0.1,
    "objective.first_share": lambda stored: 0.0 if stored["features.compat"] else 0.5,
    "objective.likelihood": lambda stored: 0.3 if stored["process.predict_variance"] else 0.0,
    "objective.penalty": lambda stored: "squared" if stored["features.compat"] else "charbonnier",
    "objective.pooled": lambda stored: bool(stored["features.compat"]),
    "pairs.control": 0.2,
    "pairs.supersample": 1,
    "pairs.window": [0.7, 0.8],
    "photometric.blur": 1.0,
    "photometric.brightness": 0.15,
    "photometric.contrast": 0.4,
    "photometric.fade": 0.2,
    "photometric.gamma": 0.4,
    "photometric.hue": 20.0,
    "photometric.noise": 0.4,
    "photometric.noisy": 0.5,
    "photometric.saturation": 0.5,
    "pretraining.supersample": 2,
    "pretraining.temperature": 0.07,
    "pretraining.window": [0.35, 0.8],
    "process.keep": "",
    "process.schedule": "cosine",
    "sampler.eta": 0.0,
    "sampler.rounds": 1,
    "sampler.rule": "ddim",
    "stage2.noise": 0.01,
    "variable.residual": lambda stored: not stored["features.compat"],
    "variable.scale": _scale,
    "variable.shrunk": lambda stored: not stored["features.compat"],
    "variable.skip": lambda stored: stored["process.predict_variance"],
}


def _second(stored: dict[str, object]) -> dict:
    """Renames keys, and drops removed ones that had the value which is always used today.

    A run that stored another value keeps the key, which is unknown today, and so cannot be trained further.
    """
    values = {RENAMED.get(key, key): value for key, value in stored.items()}

    def is_implied(key: str) -> bool:
        try:
            today = REMOVED[key]
            return values[key] == (today(values) if callable(today) else today)
        except KeyError:  # no removed key, or one that decides its value is not stored
            return False

    return {key: value for key, value in values.items() if not is_implied(key)}


MIGRATIONS = {2: _second}
