"""Writes the stored runs of a release: `python -m tests.common.make_runs tests/common/data_runs/0.1.0`.

Made once for each release, with its code, by the person who releases it; later versions must load, sample and resume
them (test_stored_runs.py).
"""

import io
import lzma
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

COMMON = {
    "train.steps": 4, "train.batch_size": 4, "train.log_every": 2, "checkpoint.every": 4, "checkpoint.keep": 1,
    "ema.decay": 0.9, "optimizer.warmup": 1, "optimizer.schedule": "constant",
}  # fmt: skip
RUNS = {
    "gahb": {
        "data.source": "npz:gray.npz", "data.fit": "none", "data.size": 16, "model.num_kernels": 2,
        "model.num_blocks": 1, "evaluate.panel_size": 0, "sampler.num": 2, "sampler.max_steps": 3,
    },
    "phase_bridge": {
        "data.source": "toy:spiral", "model.network": "mlp", "model.width": 4, "model.depth": 1, "sampler.num": 8,
        "sampler.batch_size": 8, "sampler.nfe": 2,
    },
    "diffmatch_jax": {
        "task": "backbone", "data.source": "npz:colour.npz", "data.fit": "pad", "data.size": 48,
        "pretraining.widths": "(4, 4, 4, 4)", "pretraining.size": 16, "sampler.num": 2,
    },
}  # fmt: skip


def write_images(directory: pathlib.Path) -> None:
    """Writes the images that the runs were trained on."""
    for name, side, channels in (("gray", 16, 1), ("colour", 48, 3)):
        small = np.random.default_rng(0).integers(0, 256, (9, 4, 4, channels), np.uint8)
        images = small.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
        np.savez_compressed(directory / f"{name}.npz", train=images[:6], test=images[6:])


def main(target: pathlib.Path) -> None:
    """Trains the runs and writes METHOD.tar.xz for each."""
    root = pathlib.Path(__file__).parents[2]
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scorebridge-") as directory:
        directory = pathlib.Path(directory)
        write_images(directory)
        for method, changes in RUNS.items():
            config = directory / f"{method}_experiment.py"
            config.write_text(f"from configs.{method}.base import base as get_config\n")
            overrides = [f"--config.{key}={value}" for key, value in {**COMMON, **changes}.items()]
            command = [
                sys.executable,
                "-m",
                method,
                "train",
                "--config",
                config,
                "--workdir",
                f"{method}_run",
                *overrides,
            ]
            subprocess.run(command, cwd=directory, env={**os.environ, "PYTHONPATH": str(root)}, check=True)
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for name in ("config.json", "metrics.jsonl", "checkpoints"):
                    archive.add(directory / f"{method}_run" / name, name)
            # One stream over all files, as they have much in common.
            (target / f"{method}.tar.xz").write_bytes(lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
