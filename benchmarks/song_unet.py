"""Forward pass and training step of SongUNet beside the original architecture in PyTorch, alternating in one run.

"small": `configs/phase_bridge/faces32.py` with 64 channels, batch 32; "large": the paper's network of CIFAR-10, batch
4; float32 on CPUs. A step is gradient of the denoising loss, clipped, AdamW, and the running average: ours is the one
that training takes, PyTorch's has its functional AdamW and `_foreach_` operations. Ratios are of wall and of CPU time,
ours over PyTorch's: below 1 ours is faster. Both networks have the same weights, and their outputs must agree.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Report, Seconds
from benchmarks.workload import constant_batches, on
from common import config as configs
from common.errors import RunError
from common.training import settings as training_settings
from common.training.loop import compile_step, initial_state
from common.training.parallel import make_backend
from configs.phase_bridge import cifar10, faces32
from phase_bridge.method import build
from phase_bridge.network import build as build_network


class Settings(NamedTuple):
    """Rounds, and by name the config keys that differ from the experiment's."""

    networks: tuple[str, ...] = ("small", "large")
    changes: tuple[tuple[str, Any], ...] = ()
    rounds: int = 10


FULL = Settings()
QUICK = Settings(("small",), (("model.channels", 8), ("data.size", 16), ("train.batch_size", 2)), 2)


def config_for(name: str, settings: Settings):
    """Returns the experiment of a network's name."""
    if name == "small":
        config = faces32.get_config()
        config.update_from_flattened_dict({"model.channels": 64, "model.multipliers": (1, 2), "model.num_blocks": 2})
    else:
        config = cifar10.get_config()
        config.model.dropout, config.train.batch_size = 0.0, 4
    config.model.attention = (16,) if name == "large" else ()
    config.update_from_flattened_dict(dict(settings.changes))
    return config.lock()


def run(settings: Settings) -> Report:
    """Measures each network and returns a row for each of its programs."""
    samples: dict[str, list[Seconds]] = {}
    rows, used = [], {}
    for name in settings.networks:
        config = config_for(name, settings)
        used[name] = configs.to_dict(config)
        programs = {f"{name} {what}": each for what, each in blocks(config).items()}
        taken = harness.alternate(programs, rounds=settings.rounds)
        samples |= taken
        for what in (f"{name} forward", f"{name} step"):
            ours, theirs = (harness.median(taken[each]) for each in (what, f"{what}, PyTorch"))
            row = {"what": what, "wall s": ours.wall, "PyTorch wall s": theirs.wall}
            row |= {"wall ratio": ours.wall / theirs.wall}
            rows.append(row | {"CPU s": ours.cpu, "PyTorch CPU s": theirs.cpu, "CPU ratio": ours.cpu / theirs.cpu})
    return Report(used, 0, samples, {"beside PyTorch": rows}, [])


def blocks(config) -> dict[str, Any]:
    """Returns forward and step of both, as blocks to time; raises `RunError` where their outputs differ."""
    try:
        import torch

        from benchmarks import torch_song_unet
    except ModuleNotFoundError:
        raise RunError("song_unet: expected PyTorch beside it, found none; pip install -e '.[dev]' adds it") from None

    data, batch_size = config.data, config.train.batch_size
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (batch_size, data.size, data.size, data.channels)).astype(np.float32)
    method, settings = build(config), training_settings.build(config, num_examples=50_000)
    backend = make_backend(settings.parallel, batch_size=batch_size)
    batches = constant_batches({"data": images})
    state = on(backend, initial_state(method, settings, batches)())
    resident, fetched = backend.place_resident(batches.resident), backend.place_fetched(batches.fetch(0))
    step = compile_step(method, settings, batches, backend).lower(state, resident, fetched).compile()

    side = data.size // config.model.patch
    network = build_network(config, features=data.channels)
    inner = getattr(network, "network", network)
    tree = {"params": state.params, "stats": state.stats}
    tree = jax.tree.map(lambda leaf: jnp.array(leaf + 0.01), tree)
    plain = {kind: each.get("network", each) for kind, each in tree.items()}
    inputs = plain["params"]["stem"]["kernel"].shape[2]
    x = random.standard_normal((batch_size, side, side, inputs), np.float32)
    time = random.random(batch_size, np.float32)
    forward = jax.jit(lambda tree, x, time: inner.apply(tree, x, time))

    frequencies = plain["stats"].get("map_noise", {}).get("frequencies")
    frequencies = None if frequencies is None else torch.tensor(np.asarray(frequencies))
    params = torch_song_unet.parameters(plain["params"])
    tx, tt = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(time)

    def theirs(x, time):
        return torch_song_unet.apply(inner, params, frequencies, x, time)

    def theirs_forward():
        with torch.no_grad():
            theirs(tx, tt)

    with torch.no_grad():
        difference = np.abs(theirs(tx, tt).numpy().transpose(0, 2, 3, 1) - forward(plain, x, time)).max()
    if not difference < 1e-2:
        raise RunError(f"outputs: expected those of PyTorch within 0.01, got {difference:.3g}")

    optimizer = torch.optim.AdamW(params.values(), lr=1e-4, weight_decay=0.0)
    average = [each.detach().clone() for each in params.values()]

    def theirs_step():
        optimizer.zero_grad()
        noise = torch.randn_like(tx)
        (theirs(tx + noise, tt) - noise[:, : inner.out_channels]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [each.detach() for each in params.values()], 0.001)

    def ours_step():
        nonlocal state
        state, metrics = step(state, resident, fetched)
        return state, metrics

    return {
        "forward": harness.timed(lambda: forward(plain, x, time)),
        "forward, PyTorch": harness.timed(theirs_forward),
        "step": harness.timed(ours_step),
        "step, PyTorch": harness.timed(theirs_step),
    }
