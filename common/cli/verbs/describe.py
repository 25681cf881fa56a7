"""`describe`: what a config means in parameters, arithmetic and memory, without training."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.plots.report import text_table
from common.training.step import abstract_batch, augmented


class Cost(NamedTuple):
    """Arithmetic and memory of a training step on one device; FLOPs count a multiply-add as two."""

    forward_flops: float  # per example, of the loss
    step_flops: float  # per example, with gradient and optimizer
    bytes: Mapping[str, int]  # by what they are for


def describe(app: App, request: Request) -> None:
    """Prints the resolved config, a table of parameters, FLOPs per example and a memory estimate."""
    config = workdirs.to_describe(app, request)
    # Only now what takes seconds to import: a typo is reported at once.
    import jax

    from common.training import parallel, settings

    method = app.build(config)
    if method.example is None:
        source = method.sources()["train"]
        example, num_examples = augmented(method, source), len(source)
    else:
        # The length only turns epochs into steps, on which nothing printed here depends.
        example, num_examples = method.example(), 10**6
    chosen = settings.build(config, num_examples=num_examples)
    parallel.check_batch(chosen.batch_size, chosen.accumulate)
    size = chosen.batch_size // parallel.device_count() // chosen.accumulate
    batch = abstract_batch(example, size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(method.init, key, batch)
    cost = count_cost(method, chosen, variables, batch)
    print_lines(
        f"config {configs.digest(config)}",
        json.dumps(configs.to_dict(config), indent=2),
        "",
        *text_table(blocks(variables)),
        "",
        f"arithmetic per example: forward {_flops(cost.forward_flops)}, training step {_flops(cost.step_flops)}"
        " (counted, 2 per multiply-add)",
        "",
        f"memory of a training step with {size} examples on one device (of {parallel.device_name()}):",
        *text_table([{"what": name, "MiB": value / 2**20} for name, value in _with_total(cost.bytes).items()]),
    )


def blocks(variables) -> list[dict[str, Any]]:
    """Returns one row for each top-level block of the network, and their total: parameters, arrays, running numbers."""
    rows = []
    for name in variables.params:
        trained = list(_leaves(variables.params[name]))
        running = list(_leaves(variables.stats.get(name, {})))
        rows.append({
            "block": name,
            "parameters": sum(leaf.size for leaf in trained),
            "arrays": len(trained),
            "running": sum(leaf.size for leaf in running),
        })  # fmt: skip
    total = {name: sum(row[name] for row in rows) for name in ("parameters", "arrays", "running")}
    return [*rows, {"block": "total", **total}]


def count_cost(method, settings, variables, batch) -> Cost:
    """Counts the compiled training step's arithmetic and memory for an abstract `batch`; nothing is run."""
    import jax
    import optax

    from common.method import Variables

    key = jax.eval_shape(lambda: jax.random.key(0))
    opt_state = jax.eval_shape(settings.optimizer.init, variables.params)

    def step(params, stats, opt_state, key, batch):
        def objective(params):
            return method.loss(Variables(params, stats), key, batch)

        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = settings.optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), aux.stats, opt_state, loss

    forward = jax.jit(method.loss).lower(variables, key, batch)
    whole = jax.jit(step, donate_argnums=(0, 1, 2)).lower(variables.params, variables.stats, opt_state, key, batch)
    size = batch["position"].shape[0]
    parameters = _nbytes(variables.params)
    temporary = whole.compile().memory_analysis()
    memory = {
        "parameters": parameters,
        "optimizer": _nbytes(opt_state),
        "moving average": parameters if settings.ema_decay > 0 else 0,
        "batch": _nbytes(batch),
    }
    if temporary is not None:  # not every platform reports it
        memory["gradients, activations, workspace"] = temporary.temp_size_in_bytes
    flops: list[Any] = [each.cost_analysis() for each in (forward, whole)]
    return Cost(flops[0]["flops"] / size, flops[1]["flops"] / size, memory)


def _with_total(sizes: Mapping[str, int]) -> dict[str, int]:
    return {**sizes, "total": sum(sizes.values())}


def _nbytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in _leaves(tree))


def _leaves(tree: Any) -> Iterator[Any]:
    import jax

    yield from jax.tree.leaves(tree)


def _flops(count: float) -> str:
    return f"{count / 1e9:.4g} GFLOP" if count >= 1e8 else f"{count / 1e6:.4g} MFLOP"
