"""The installed package at work: 20 steps, samples and a match by each method, as a user runs them.

    PYTHON tests/smoke.py

PYTHON is any interpreter that has the package; the commands run in an empty directory, so that what is imported is
what was installed. Exit code 0 if every command did its work and our own code met no deprecation.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions

import numpy as np
from PIL import Image

PACKAGES = ("common", "configs", "diffmatch_jax", "gahb", "phase_bridge")
SHOWN = ("jax", "flax", "numpy", "optax", "orbax-checkpoint", "grain", "scipy", "scikit-image")
# Programs run a few times only; nothing is left in the user's cache of compiled programs.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_ENABLE_COMPILATION_CACHE": "false"}
RUN = {"train.steps": 20, "train.batch_size": 4, "train.log_every": 5, "checkpoint.every": 10, "optimizer.warmup": 5}
SMALL = {
    "gahb": ("photographs", {"data.size": 16, "model.num_kernels": 4, "model.num_blocks": 1, "train.preview_every": 0}),
    "phase_bridge": ("demo", {"model.width": 8, "model.depth": 1, "sampler.num": 16, "sampler.batch_size": 16}),
    "diffmatch_jax": (
        "demo",
        {
            "data.size": 48,
            "pairs.size": 48,
            "features.pyramid": "random",
            "features.fine": 64,
            "conditioning.refine": 0,
            "conditioning.wide": 0,
            "model.channels": 8,
            "model.multipliers": "(1,)",
            "sampler.num": 1,
        },
    ),
}


def run(directory: pathlib.Path, *words: str) -> None:
    """Runs `python -m words...` in `directory`; exits with its stderr if it fails or our code meets a deprecation."""
    start = time.perf_counter()
    command = [sys.executable, "-W", "default::DeprecationWarning", "-m", *words]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, env=os.environ | QUICK, timeout=600)
    deprecated = [line for line in done.stderr.splitlines() if is_ours(line)]
    if done.returncode or deprecated:
        sys.exit(
            "\n".join((f"smoke: {' '.join(words)}: exit code {done.returncode}", done.stderr[-4000:], *deprecated))
        )
    print(f"{time.perf_counter() - start:6.1f} s  {' '.join(words[:2])}", flush=True)


def is_ours(line: str) -> bool:
    """Returns whether a line of stderr is a DeprecationWarning that points at our own code."""
    return re.search(rf"[\\/]({'|'.join(PACKAGES)})[\\/][\w\\/]+\.py:\d+: DeprecationWarning", line) is not None


def main() -> None:
    """Runs every command and prints its seconds."""
    versions = {each.name.lower().replace("_", "-"): each.version for each in distributions()}
    print(
        f"python {sys.version.split()[0]}, " + ", ".join(f"{name} {versions.get(name)}" for name in SHOWN), flush=True
    )
    with tempfile.TemporaryDirectory() as directory:
        empty = pathlib.Path(directory)
        for method, (name, changes) in SMALL.items():
            small = [f"--config.{key}={value}" for key, value in (RUN | changes).items()]
            run(empty, method, "train", "--config", f"{method}/{name}", "--workdir", method, *small)
            run(empty, method, "sample", "--workdir", method)
            samples = list((empty / method / "samples").glob("*.npz"))
            assert samples, f"no samples of {method}"
            for path in samples:
                with np.load(path) as arrays:
                    assert all(np.isfinite(array).all() for array in arrays.values()), path
        pair(empty)
        run(empty, "diffmatch_jax", "match", "a.png", "b.png", "--out", "out", "--hypotheses", "1")
        (arrays,) = (empty / "out").glob("*.npz")
        with np.load(arrays) as found:
            flow = np.median(found["flow"][24:-24, 24:-24], axis=(0, 1))
        assert np.abs(flow - [6, -4]).max() < 1.5, f"expected a flow of (6, -4) pixels, got {flow}"


def pair(directory: pathlib.Path) -> None:
    """Writes two cuts of one smooth random picture: the pixel (x, y) of b.png is (x + 6, y - 4) of a.png."""
    rng = np.random.default_rng(0)
    picture = sum(
        np.kron(rng.uniform(0, 255 / 4, (160 // cell, 160 // cell, 3)), np.ones((cell, cell, 1)))
        for cell in (4, 8, 16, 32)
    )
    picture = picture.astype(np.uint8)
    for name, x, y in (("a.png", 10, 10), ("b.png", 16, 6)):
        Image.fromarray(picture[y : y + 128, x : x + 128]).save(directory / name)


if __name__ == "__main__":
    main()
