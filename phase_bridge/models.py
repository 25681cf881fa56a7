"""A generative model: a path, and the estimate E[x1 | state] of the data along it, with all its weights."""

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from common.errors import InputError, input_error
from phase_bridge.processes.base import Denoiser, Process, beside


class Sampler(NamedTuple):
    """Arguments of `phase_bridge.sample` where nothing is chosen; `schedule` has its options as pairs."""

    solver: str | None = None
    schedule: tuple[tuple[str, Any], ...] = ()
    nfe: int = 20
    degree: int | None = None
    corrector: bool | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """What samplers take: made by `phase_bridge.load` or `denoiser_model`; a pytree whose leaves are the weights.

    process: the path that states follow. denoiser: whether `read(weights, labels, u, sigma)` is a denoiser, which
    serves every path, or `read(weights, labels, state, t)` the estimate of a network that sees states of this path
    alone. labels: classes `[]` or `[B]` of the samples, or None. kind: the sampler's default, "ode" or "sde". shape,
    sampler: of a loaded model, the shape of one sample and the sampler of its config.
    """

    process: Process
    read: Callable
    weights: Any = None
    labels: jax.Array | None = None
    denoiser: bool = True
    kind: str = "ode"
    num_classes: int = 0
    shape: tuple[int, ...] = ()
    sampler: Sampler = Sampler()

    def estimate(self, m: jax.Array, t) -> jax.Array:
        """Returns E[x1 | m] `[B, ..., C]` at states `m [B, ..., k C]` of the path at time t."""
        if not self.denoiser:
            return self.read(self.weights, self.labels, m, jnp.asarray(t, m.dtype))
        return self.denoise(*self.process.observe(m, jnp.asarray(t, m.dtype)))

    def denoise(self, u: jax.Array, sigma) -> jax.Array:
        """Returns E[x1 | u = x1 + sigma e] `[B, ..., C]` for `u [B, ..., C]` and sigma `[]` or `[B]`."""
        sigma = jnp.asarray(sigma, u.dtype)
        if self.denoiser:
            return self.read(self.weights, self.labels, u, sigma)
        t = self.process.time_at(sigma)
        return self.read(self.weights, self.labels, self.process.embed(u, t), t)

    def along(self, process: Process) -> "Model":
        """Returns the same network along another path; raises `InputError` for one that knows its own states only."""
        if process == self.process:
            return self
        if not self.denoiser:
            raise input_error(
                "process",
                expected=f"{self.process}, whose states the network was trained on",
                got=process,
                fix="train with config.objective.name=denoiser, which serves every path",
            )
        kind = self.kind if process.name == "bridge" else "ode"
        return replace(self, process=process, kind=kind, sampler=Sampler())

    def of_class(self, labels) -> "Model":
        """Returns the model of given classes: one, or one a sample `[B]`; -1 is no class. Raises `InputError`."""
        labels = jnp.asarray(labels, jnp.int32)
        if not self.num_classes or bool((labels < -1).any()) or bool((labels >= self.num_classes).any()):
            expected = f"-1 to {self.num_classes - 1}" if self.num_classes else "none: the model knows no classes"
            raise input_error("labels", expected=expected, got=labels, fix="see model.num_classes")
        return replace(self, labels=labels)


jax.tree_util.register_dataclass(
    Model,
    data_fields=["weights", "labels"],
    meta_fields=["process", "read", "denoiser", "kind", "num_classes", "shape", "sampler"],
)


def denoiser_model(process: Process, denoise: Denoiser, *, kind: str = "ode") -> Model:
    """Returns a model of any denoiser D(u, sigma) = E[x1 | u = x1 + sigma e], by anyone, along a path.

    denoise: `(u [B, ..., C], sigma []) -> [B, ..., C]`; as a `jax.tree_util.Partial` its arrays travel as arguments.

    >>> import jax, phase_bridge
    >>> model = phase_bridge.denoiser_model(phase_bridge.Flow(), lambda u, sigma: u / (1 + sigma**2))
    >>> samples, info = phase_bridge.sample(model, jax.random.key(0), (1000, 2), nfe=10)
    >>> samples.shape, info["nfe"]
    ((1000, 2), 10)
    """
    if not callable(denoise):
        raise input_error("denoise", expected="a function (u, sigma)", got=type(denoise).__name__, fix="give one")
    return Model(process, _call, denoise if isinstance(denoise, Partial) else Partial(denoise), kind=kind)


def _call(denoise, labels, u, sigma):
    del labels
    return denoise(u, sigma)


def estimate_model(process: Process, estimate: Callable, *, kind: str = "ode") -> Model:
    """Returns a model of an estimate `(state [B, ..., k C], t []) -> [B, ..., C]` that knows one path alone."""
    inner = estimate if isinstance(estimate, Partial) else Partial(estimate)
    return Model(process, _call, inner, denoiser=False, kind=kind)


def guided(model: Model, other: Model, *, scale: float, sigma_low: float = 0.0, sigma_high: float = float("inf")):
    """Returns the model D_other + scale (D_model - D_other) at noise levels from `sigma_low` to `sigma_high`.

    Classifier-free guidance (Ho & Salimans, 2022) with `other` the model without classes, in a limited interval
    (Kynkäänniemi et al., NeurIPS 2024), or autoguidance with `other` a worse model of the same data (Karras et al.,
    NeurIPS 2024). Outside of the interval, and with scale 1, it is `model`. Two network evaluations a step.
    Raises `InputError` for models along different paths and an interval that is none.

    >>> import jax.numpy as jnp, phase_bridge
    >>> path = phase_bridge.EDM()
    >>> own, other = (phase_bridge.denoiser_model(path, lambda u, sigma, a=a: a + 0 * u) for a in (1.0, 0.5))
    >>> phase_bridge.guided(own, other, scale=3.0).denoise(jnp.zeros((1, 1)), 1.0)
    Array([[2.]], dtype=float32)
    """
    if not isinstance(other, Model) or other.process != model.process:
        got = getattr(other, "process", type(other).__name__)
        raise input_error("other", expected=f"a model along {model.process}", got=got, fix="use other.along(process)")
    if not 0 <= sigma_low <= sigma_high:
        got = f"{sigma_low:g} to {sigma_high:g}"
        raise input_error("sigma_low", expected="0 <= sigma_low <= sigma_high", got=got, fix="leave both out")
    weights = (model, other, jnp.float32(scale), jnp.float32(sigma_low), jnp.float32(sigma_high))
    read = _guided_denoiser if model.denoiser and other.denoiser else _GuidedEstimate(model.process)
    return replace(
        model, read=read, weights=weights, labels=None, denoiser=model.denoiser and other.denoiser, num_classes=0
    )


def _guided_denoiser(weights, labels, u, sigma):
    del labels
    model, other, *numbers = weights
    return _combined(model.denoise(u, sigma), other.denoise(u, sigma), sigma, *numbers)


@dataclass(frozen=True)
class _GuidedEstimate:
    """`_guided_denoiser` for networks that see the states of one path."""

    process: Process

    def __call__(self, weights, labels, m, t):
        del labels
        model, other, *numbers = weights
        return _combined(model.estimate(m, t), other.estimate(m, t), self.process.noise_level(t), *numbers)


def _combined(own, other, sigma, scale, low, high):
    scale = jnp.where((sigma >= low) & (sigma <= high), scale, 1.0)
    return other + beside(scale, own) * (own - other)


def named_by_key(error: InputError, keys: Container[str]) -> InputError:
    """Returns an error about an argument of the sampler as one about its key `config.sampler.KEY`."""
    field, _, rest = str(error).partition(": ")
    if field not in keys:
        return error
    unset = "-1" if field == "degree" else "''" if field == "corrector" else "0"
    return InputError(f"config.sampler.{field}: {rest.replace('leave it out', f'set config.sampler.{field}={unset}')}")
