"""Every key that all experiments share, with its unit and default.

A duration is a number of steps, or a string in another unit: `2000`, `"50 epochs"`, `"1000000 examples"`, or, inside a
run of known length, `"2 percent"`.
"""

import os
import pathlib

from ml_collections import ConfigDict, config_dict


def duration(value: int | str):
    """Returns a field that accepts a number of steps, or a string such as "50 epochs" or "100000 examples"."""
    return config_dict.FieldReference(value, field_type=object)


def prepared(name: str) -> str:
    """Returns `prepared:DIR/name` for the first of $SCOREBRIDGE_DATA, data and ../shared/data that holds `name`.

    Where none does it is the first one, and the error on opening it names the missing file.
    """
    return f"prepared:{_stored(name)}"


def folder(name: str) -> str:
    """Returns `folder:DIR/name`, of the first directory that holds `name` as in `prepared`."""
    return f"folder:{_stored(name)}"


def _stored(name: str) -> pathlib.Path:
    roots = [root for root in (os.environ.get("SCOREBRIDGE_DATA"), "data", "../shared/data") if root]
    return pathlib.Path(next((root for root in roots if pathlib.Path(root, name).is_dir()), roots[0]), name)


def base() -> ConfigDict:
    """Returns the shared keys; a method adds its own sections and an experiment changes what it needs."""
    config = ConfigDict()
    config.method = ""  # the package this experiment belongs to
    config.seed = 0  # every random draw of the run derives from it
    config.parallel = "jit"  # "jit": one program over a mesh of devices; "pmap": one program per device
    config.compute_dtype = "float32"  # convolutions and products: "float32" | "bfloat16"; parameters stay float32

    config.data = data = ConfigDict()
    data.source = "photographs"  # "photographs" | "folder:DIR" | "npz:FILE" | "tfds:NAME" | "prepared:DIR"
    data.directory = ""  # where TFDS keeps its data sets ("" = its default)
    data.size = 32  # height and width of a training image, pixels ("pad": of the square that holds it)
    data.channels = 1  # 1 = gray (mean of RGB), 3 = RGB
    data.fit = "crop"  # "crop": random crops | "resize": centre square | "pad": whole | "none": they have this size
    data.square = 0  # "resize": side of the central square that is kept, pixels (0 = the largest)
    data.flip = True  # mirror left-right with probability 1/2
    data.half = 0  # 0 = all of the training split, 1 / 2 = one of two disjoint halves
    data.subset = 0  # use this many images (0 = all)
    data.labels = False  # examples also carry their class, which the data set must tell
    data.split_seed = 0  # decides halves, subsets and what a folder without splits holds out
    data.drop_duplicates = False  # drop images whose 20x20 block means correlate above 0.95 with an earlier one
    data.skip_bad = 0  # unreadable records tolerated before the run stops
    data.max_pixels = 100_000_000  # an image with more pixels in its header is a bad record
    data.max_array_mb = 2048  # the arrays read from an .npz file take at most this many MiB
    data.placement = "auto"  # "device": all data on the device | "stream": prefetched from the host | "auto"
    data.device_limit_mb = 2048  # "auto" keeps data on the device up to this many MiB
    data.workers = 2  # threads that prepare streamed batches

    config.train = train = ConfigDict()
    train.steps = duration(1000)  # length of the run; a larger one prolongs a run that is there
    train.batch_size = 32  # examples a step, over all devices and hosts
    train.log_every = duration(50)
    train.preview_every = duration(0)  # pictures of the current model (0 = never)
    train.evaluate_every = duration(0)  # loss on fixed batches of held-out data with fixed noise (0 = never)
    train.evaluate_batches = 8  # how many batches that are
    train.tracking = ""  # "wandb": also log to Weights & Biases (extra `tracking`; keys from its own environment)
    train.steps_per_call = 1  # steps run by one call into the compiled program; on CPUs 1 is by far the fastest
    train.accumulate = 1  # micro-batches whose gradients are averaged into one step
    train.remat = False  # recompute activations in the backward pass to save memory
    train.skip_nonfinite = 0  # steps with a non-finite loss or gradient that are skipped before the run stops

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adam"  # "adam" | "adamw"
    optimizer.learning_rate = 1e-3  # at the top of the schedule
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.0  # adamw only
    optimizer.clip_norm = 0.0  # largest global gradient norm (0 = no clipping)
    optimizer.schedule = "constant"  # "constant" | "halving" | "cosine" | "warmup_cosine" (their product)
    optimizer.warmup = duration(0)  # linear rise from zero
    optimizer.halve_every = duration(0)  # "halving": period, and the last halving comes before the run's end
    optimizer.final_fraction = 0.0  # "cosine": learning rate at the end, as a fraction of the top

    config.ema = ema = ConfigDict()
    ema.decay = 0.0  # of an average of the parameters over steps (0 = none)
    ema.warmup = True  # decay grows as (1 + n) / (10 + n) in update n = 1, 2, ... up to `decay`

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every = duration(1000)
    checkpoint.keep = 3  # the newest that many stay
    checkpoint.keep_every = duration(0)  # steps that are multiples of it stay for good (0 = none)

    return config
