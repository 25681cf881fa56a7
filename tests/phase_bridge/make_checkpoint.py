"""Writes a checkpoint as the authors' training code does, with PyTorch itself.

`python tests/phase_bridge/make_checkpoint.py` writes the small one in `data/`, once, where both PyTorch (which is no
dependency of the project) and this package are installed.
"""

import collections
from pathlib import Path

import torch

SMALL = Path(__file__).parent / "data" / "authors.pt"


def save(path, parameters, averages, buffers):
    """Saves `{name: array}` of parameters in their order, their averages and what else the state dictionary holds."""
    net = torch.nn.ParameterDict()
    weights = [torch.nn.Parameter(torch.tensor(array)) for array in parameters.values()]
    for i, weight in enumerate(weights[:2]):
        net[str(i)] = weight
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    sum(weight.square().sum() for weight in weights[:2]).backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    with torch.no_grad():
        for weight, array in zip(weights, parameters.values(), strict=True):
            weight.copy_(torch.tensor(array))
    named = dict(zip(parameters, weights, strict=True)) | {name: torch.tensor(each) for name, each in buffers.items()}
    state = collections.OrderedDict((f"net.{name}", named[name].detach()) for name in order(parameters, buffers))
    average = {
        "decay": 0.9999,
        "num_updates": 1234,
        "shadow_params": [torch.tensor(averages[name]) for name in parameters],
        "collected_params": None,
    }
    torch.save(
        {"net": state, "ema": average, "optimizer": optimizer.state_dict(), "sched": schedule.state_dict()}, path
    )


def order(parameters, buffers):
    """A module's buffers come after its parameters, and the frequencies before everything."""
    names = [name for name in buffers if name.startswith("map_noise")] + list(parameters)
    for name in buffers:
        module = name.rpartition(".")[0]
        mates = [i for i, each in enumerate(names) if each.rpartition(".")[0] == module]
        if name not in names:
            names.insert(mates[-1] + 1 if mates else len(names), name)
    return names


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.phase_bridge.small_checkpoint import small

    SMALL.parent.mkdir(exist_ok=True)
    save(SMALL, *small())
