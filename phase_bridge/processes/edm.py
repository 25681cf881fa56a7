"""Ordinary diffusion as Karras et al. (NeurIPS 2022, "EDM") set it up: x = x1 + sigma e, and the time is sigma."""

from dataclasses import dataclass
from typing import ClassVar

from common.errors import input_error
from phase_bridge.processes.base import Process


@dataclass(frozen=True)
class EDM(Process):
    """Noise levels fall from `sigma_max`, where the prior is N(0, sigma_max^2), to 0."""

    sigma_max: float = 80.0

    name: ClassVar[str] = "edm"
    parts: ClassVar[int] = 1
    last: ClassVar[float] = 0.0

    def __post_init__(self):
        if not 0 < self.sigma_max < float("inf"):
            raise input_error("sigma_max", expected="a positive number", got=self.sigma_max, fix="published is 80")

    @property
    def first(self) -> float:
        """The noise level of the prior."""
        return self.sigma_max

    def mean(self, t):
        return (1.0 + 0 * t,)

    def factor(self, t):
        return (t,)

    def flow(self, t):
        return ((1 / t,),), (-1 / t,)

    def time_at(self, sigma):
        return sigma
