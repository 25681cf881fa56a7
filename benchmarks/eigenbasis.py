"""Leading eigenvectors of the Jacobian of the paper's UNet, against the Jacobian row by row.

Top-50 at 80x80 (64 kernels, 3 blocks, float32, sigma 0.15, blocks of one vector) by `gahb.eigenbasis.top_k`, beside a
plain loop of vector-Jacobian products over all 6400 rows; again with the basis at 1.25 sigma as the start, and the time
of a symmetric product a vector for several blocks. Then one image of 256x256x3, whose Jacobian would have 4e10 entries.
The networks are trained first, untimed, for 300 steps on crops of the bundled photographs: the spectrum of random
weights is another one, and a harder one. Times are those of warm programs; "first call" includes compiling.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from benchmarks import harness
from benchmarks.harness import Goal, Report
from benchmarks.workload import batches_for, make_steps, workload
from common import config as configs
from common.method import Variables
from configs.gahb.photographs import get_config
from gahb.eigenbasis import Eigenbasis, Linearisation, linearise, symmetric, top_k, vjp
from gahb.eigenbasis.krylov import basis_size
from gahb.eigenbasis.linear import unit_images
from gahb.method import build, build_network
from gahb.networks import denoiser


class Settings(NamedTuple):
    """Sizes of the network, of its training, and of the two analyses."""

    num_kernels: int = 64
    num_blocks: int = 3
    train_steps: int = 300
    train_size: int = 40
    batch_size: int = 8
    size: int = 80
    k: int = 50
    large_size: int = 256
    large_k: int = 10
    sigma: float = 0.15
    tolerance: float = 1e-3
    block: int = 1
    start_sigma: float = 1.25  # noise of the basis that a solution starts from, in sigmas
    product_blocks: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 1


FULL = Settings()
QUICK = Settings(2, 1, 2, 8, 2, size=24, k=3, large_size=32, large_k=2, product_blocks=(1, 2))


def run(settings: Settings) -> Report:
    """Measures both analyses; the goals are the ratio to the loop over rows and the residuals."""
    config = config_for(settings, channels=1)
    denoise = train(config, settings)
    y, other = (
        noisy(config, size=settings.size, sigma=factor * settings.sigma) for factor in (1, settings.start_sigma)
    )
    linear = linearise(denoise, y)
    start = time.perf_counter()
    top(denoise, y, settings.k, settings)
    first_call = time.perf_counter() - start
    guess = top(denoise, other, settings.k, settings).vectors
    blocks = {block: np.zeros((block, *linear.y.shape), np.float32) for block in settings.product_blocks}
    jax.block_until_ready((vjp(linear, blocks[1]), *(symmetric(linear, v) for v in blocks.values())))
    found: dict[str, Eigenbasis] = {}
    samples = harness.alternate(
        {
            "all rows": harness.timed(lambda: all_rows(linear)),
            "top-k": harness.timed(lambda: found.update({"top-k": top(denoise, y, settings.k, settings)})),
            "top-k, started": harness.timed(
                lambda: found.update({"top-k, started": top(denoise, y, settings.k, settings, start=guess)})
            ),
            **{
                f"a vector of a symmetric product, block {block}": harness.timed(
                    lambda v=v: symmetric(linear, v), per=block
                )
                for block, v in blocks.items()
            },
        },
        rounds=settings.rounds,
        warmup=0,
    )
    ratios = [harness.compare(f"all rows / {name}", samples["all rows"], samples[name]) for name in found]
    rows = [
        {"solution": name, **row(each, y, settings, harness.median(samples[name]).wall, first_call)}
        for name, each in found.items()
    ]

    colour = config_for(settings, channels=3)
    large = noisy(colour, size=settings.large_size, sigma=settings.sigma)
    start = time.perf_counter()
    basis = top(train(colour, settings), large, settings.large_k, settings)
    rows.append({"solution": "top-k", **row(basis, large, settings, None, time.perf_counter() - start)})
    goals = [
        Goal("all rows / top-k", ratios[0]["wall"], 10.7, at_least=True),
        Goal("all rows / top-k, started, aim", ratios[1]["wall"], 20, at_least=True),
        *(
            Goal(f"largest residual, {each['image']}, {each['solution']}", each["largest residual"], 1e-3)
            for each in rows
        ),
    ]
    tables = {"eigenbases": rows, "ratios": ratios}
    return Report({**configs.to_dict(config), **settings._asdict()}, config.seed, samples, tables, goals)


def all_rows(linear: Linearisation) -> None:
    """Computes the Jacobian row by row, and keeps none of it."""
    for pixel in range(linear.size):
        jax.block_until_ready(vjp(linear, unit_images(linear, pixel, 1)))


def top(denoise: Partial, y: np.ndarray, k: int, settings: Settings, *, start: np.ndarray | None = None) -> Eigenbasis:
    """Runs the matrix-free solver."""
    return top_k(denoise, y, k, method="krylov", tolerance=settings.tolerance, block=settings.block, start=start)


def row(found: Eigenbasis, y: np.ndarray, settings: Settings, wall: float | None, first_call: float) -> dict[str, Any]:
    """Returns the numbers of one eigenbasis."""
    k = len(found.values)
    kept = basis_size(y.size, k, block=settings.block)
    return {
        "image": "x".join(map(str, y.shape)),
        "k": k,
        "wall s": wall,
        "first call s": first_call,
        "products": found.products,
        "largest residual": float(found.residuals.max()),
        "converged": str(found.converged),
        "largest factor": float(found.values[0]),
        "smallest factor": float(found.values[-1]),
        "basis MiB": kept * y.nbytes / 2**20,
        "Jacobian MiB": y.size * y.nbytes / 2**20,
    }


def config_for(settings: Settings, *, channels: int):
    """Returns the paper's network on crops of photographs."""
    config = get_config()
    config.model.num_kernels, config.model.num_blocks = settings.num_kernels, settings.num_blocks
    config.data.size, config.data.channels = settings.train_size, channels
    config.train.steps, config.train.batch_size = settings.train_steps, settings.batch_size
    config.optimizer.learning_rate = 1e-3
    return config.lock()


def train(config, settings: Settings) -> Partial:
    """Returns the denoiser after a short training."""
    work = workload(config)
    batches = batches_for(work, "device")
    steps = make_steps(work, batches)
    jax.block_until_ready(steps.take(settings.train_steps))
    state = jax.device_get(steps.state)
    batches.close()
    return denoiser(Variables(state.params, state.stats), build_network(config))


def noisy(config, *, size: int, sigma: float) -> np.ndarray:
    """Returns a crop of the held-out photographs `[size, size, C]`, the middle one of all, with noise."""
    with (config := config.copy_and_resolve_references()).unlocked():
        config.data.size = config.evaluate.panel_size = size
    source = build(config).sources()["test"]
    image = np.asarray(source[len(source) // 2]["image"])
    clean = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
    z = np.random.default_rng(config.seed).normal(size=clean.shape)
    return (clean + sigma * z).astype(np.float32)
