"""The cost of sampling beside the network: a sampler of n evaluations over n calls of the jitted network.

The network is the SongUNet of configs/phase_bridge/cifar10_small.py, float32, batch 16; on an accelerator the paper's
for CIFAR-10 (56 M parameters), bfloat16, batch 256. The sampler is called as a user calls it, from the grid and its
coefficients on the host to the finished samples. Goal: at most 1.05.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.harness import Goal, Report, Seconds
from common import config as configs
from common.errors import RunError
from phase_bridge.method import as_model, build, build_setup
from phase_bridge.sampling import sample

LIMIT = 1.05


class Settings(NamedTuple):
    """The experiment whose network is called, what is changed in it, samples at once, and numbers of evaluations."""

    experiment: str = "cifar10_small"
    changes: Mapping[str, Any] = {}
    batch_size: int = 16
    nfe: tuple[int, ...] = (10, 20)
    rounds: int = 10


FULL = Settings()
ACCELERATOR = Settings("cifar10", {"compute_dtype": "bfloat16"}, batch_size=256, rounds=20)
QUICK = Settings(
    changes={"data.size": 4, "model.channels": 4, "model.multipliers": (1,), "model.attention": ()},
    batch_size=2,
    nfe=(2, 3),
    rounds=1,
)


def run(settings: Settings) -> Report:
    """Measures each number of evaluations, in turn with the calls of the network alone."""
    if settings is FULL and jax.default_backend() != "cpu":
        settings = ACCELERATOR
    config = config_for(settings)
    samples = measure(config, batch_size=settings.batch_size, nfe=settings.nfe, rounds=settings.rounds)
    ratios = {
        n: harness.compare(f"sampler / {n} calls of the network", samples[sampler_name(n)], samples[network_name(n)])
        for n in settings.nfe
    }
    goals = [Goal(each["ratio of"], each["wall"], LIMIT) for each in ratios.values()]
    rows = [
        {
            "evaluations": n,
            "network, ms": 1e3 * harness.median(samples[network_name(n)]).wall,
            "sampler, ms per evaluation": 1e3 * harness.median(samples[sampler_name(n)]).wall,
            "images/s": settings.batch_size / (n * harness.median(samples[sampler_name(n)]).wall),
        }
        for n in settings.nfe
    ]
    tables = {f"batches of {settings.batch_size}": rows, "ratios": list(ratios.values())}
    return Report({**settings._asdict(), "config": configs.to_dict(config)}, config.seed, samples, tables, goals)


def sampler_name(nfe: int) -> str:
    """Returns what the time of the sampler is called."""
    return f"sampler with {nfe} evaluations, per evaluation"


def network_name(nfe: int) -> str:
    """Returns what the time of the calls of the network is called."""
    return f"{nfe} calls of the network, per call"


def config_for(settings: Settings):
    """Returns the experiment with its changes."""
    chosen = importlib.import_module(f"configs.phase_bridge.{settings.experiment}").get_config()
    return configs.from_dict(chosen.to_dict(), chosen, settings.changes)


def measure(config, *, batch_size: int, nfe: tuple[int, ...], rounds: int) -> dict[str, list[Seconds]]:
    """Returns the times of samplers and of calls of the network, each by one evaluation."""
    method, setup = build(config), build_setup(config)
    key = jax.random.key(config.seed)
    batch = {name: jnp.zeros((1, *each.shape), each.dtype) for name, each in method.example().items()}
    variables = jax.jit(method.init)(key, batch)
    model, goal, shape = as_model(setup, variables), setup.objective, (batch_size, *setup.shape)
    noise, t = jnp.ones((*shape[:-1], goal.parts * shape[-1])), jnp.full((batch_size,), 0.5)
    tree = {"params": variables.params, "stats": variables.stats}
    inputs, time = goal.inputs(noise, t), goal.time_input(t)
    call = jax.jit(setup.network.apply)

    def draw(count: int):
        drawn, info = sample(model, key, shape, nfe=count)
        if info["nfe"] != count:
            raise RunError(f"the sampler made {info['nfe']} evaluations instead of {count}: no fair comparison")
        return drawn

    def calls(count: int):
        for _ in range(count):
            last = jax.block_until_ready(call(tree, inputs, time))
        return last

    blocks = {}
    for n in nfe:
        blocks[sampler_name(n)] = harness.timed(lambda n=n: draw(n), per=n)
        blocks[network_name(n)] = harness.timed(lambda n=n: calls(n), per=n)
    return harness.alternate(blocks, rounds=rounds)
