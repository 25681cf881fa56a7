# %% [markdown]
# # Train on your own folder, interrupt, resume
#
# A run that is interrupted continues to the same parameters, bit for bit on a CPU. This tutorial makes a folder of
# images, trains a small denoiser on it twice, once with an interruption, and compares.

# %%
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import skimage.data
import skimage.io

from common.checkpoint import restore_params

STEPS = 120  # of training

place = pathlib.Path(tempfile.mkdtemp())
folder = place / "my_images"
folder.mkdir()
for name in ("camera", "coins", "moon", "page", "astronaut", "coffee", "chelsea", "rocket", "brick", "grass"):
    skimage.io.imsave(folder / f"{name}.png", getattr(skimage.data, name)(), check_contrast=False)

# %% [markdown]
# ## The command
#
# `folder:DIR` takes every image below a folder; without `train/` and `test/` inside 10 % are held out. Colour images
# become gray, since `data.channels` is 1.


# %%
def command(workdir):
    changes = {
        "data.source": f"folder:{folder}",
        "train.steps": STEPS,
        "train.log_every": 10,
        "checkpoint.every": 50,
        "model.num_kernels": 8,
        "train.preview_every": 0,
    }
    words = [f"--config.{key}={value}" for key, value in changes.items()]
    return [sys.executable, "-m", "gahb", "train", "--config", "photographs", "--workdir", str(place / workdir), *words]


print(" ".join(command("whole")[1:6]), "...")
subprocess.run(command("whole"), check=True, capture_output=True)

# %% [markdown]
# ## Interrupt
#
# SIGTERM (what a scheduler sends before it takes a machine away) and Ctrl-C end the run after its current step, with a
# checkpoint and exit code 0.

# %%
running = subprocess.Popen(command("stopped"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
log = place / "stopped" / "metrics.jsonl"
while running.poll() is None and not (log.exists() and "loss" in log.read_text()):
    time.sleep(0.05)
running.send_signal(signal.SIGTERM)
print("exit code", running.wait())
print("checkpoints", sorted(path.name for path in (place / "stopped" / "checkpoints").glob("[0-9]*")))

# %% [markdown]
# ## Resume
#
# The same command again. Batches, crops and noise are functions of the step, so the second half sees the examples that
# it would have seen.

# %%
subprocess.run(command("stopped"), check=True, capture_output=True)
rows = [json.loads(line) for line in (place / "stopped" / "metrics.jsonl").read_text().splitlines()]
losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
print("first and last loss:", losses[min(losses)], losses[max(losses)])

whole, resumed = (restore_params(place / name) for name in ("whole", "stopped"))
same = jax.tree.map(np.array_equal, whole, resumed)
print("parameters equal, bit for bit:", all(jax.tree.leaves(same)))
