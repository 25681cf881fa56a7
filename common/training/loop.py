"""The training loop all methods share: it feeds the compiled step, keeps its numbers, saves its state and profiles."""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from common.errors import RunError
from common.method import Method, Variables
from common.prng import Purpose, key_for
from common.training import cluster
from common.training import step as states
from common.training.parallel import Backend, is_first_process
from common.training.settings import Settings
from common.training.step import TrainState, make_held_out_step, make_step, scan_steps


class Profile:
    """Traces the first `steps` steps that follow the compilation, into a separate directory below `directory`."""

    def __init__(self, directory: pathlib.Path, steps: int):
        self._directory = directory
        self._left = steps
        self._running = False

    @contextlib.contextmanager
    def recording(self) -> Iterator["Profile"]:
        """Ends a trace that is still running when the context ends."""
        try:
            yield self
        finally:
            self._stop()

    def stepped(self, count: int, results: Any) -> str | None:
        """Notes that a call of `count` steps gave `results`; returns where the trace is when it has just ended."""
        if self._left <= 0:
            return None
        jax.block_until_ready(results)
        if not self._running:  # the first call has compiled
            # Perfetto reads the trace as it is, TensorBoard (plugin `profile`) the file beside it.
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._running = True
            return None
        self._left -= count
        if self._left > 0:
            return None
        self._stop()
        return str(max(self._directory.glob("plugins/profile/*"), key=lambda path: path.stat().st_mtime))

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


class TrainResult(NamedTuple):
    """The end of a training: the `state` (one copy, NumPy leaves), and whether a signal ended it early."""

    state: TrainState
    interrupted: bool


class Window:
    """Sums of the metrics since the last log line; part of a checkpoint, so that a resumed run logs the same means."""

    def __init__(self, stored: Mapping[str, Any] | None = None):
        stored = stored or {}
        self.sums: dict[str, float] = dict(stored.get("sums", {}))
        self.count: int = stored.get("count", 0)
        self.skipped: int = stored.get("skipped", 0)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Adds one step's metrics; a skipped step counts only as skipped."""
        if not metrics["finite"]:
            self.skipped += 1
            return
        self.count += 1
        for name, value in metrics.items():
            if name != "finite":
                self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Returns the means and starts the next window."""
        means = {name: value / self.count for name, value in self.sums.items()} if self.count else {}
        self.sums, self.count = {}, 0
        return means

    def stored(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"sums": dict(self.sums), "count": self.count, "skipped": self.skipped}


def compile_step(method: Method, settings: Settings, batches, backend: Backend) -> Callable:
    """Returns the compiled `(state, resident, fetched[k]) -> (state, metrics[k])`; the state is donated."""
    step = make_step(
        loss=method.loss,
        assemble=batches.assemble,
        positions=backend.positions,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        root=jax.random.key(settings.seed),
        total_steps=settings.steps,
        ema_decay=settings.ema_decay,
        ema_warmup=settings.ema_warmup,
        accumulate=settings.accumulate,
        unroll=backend.unroll,
        axis_name=backend.axis_name,
    )
    return backend.compile(scan_steps(step, unroll=backend.unroll))


def compile_held_out(method: Method, settings: Settings, batches, backend: Backend) -> Callable[[TrainState], Any]:
    """Returns `state -> (state, mean loss)` on the first batches of held-out data; the state is donated."""
    step = make_held_out_step(
        loss=method.loss,
        assemble=batches.assemble,
        positions=backend.positions,
        root=jax.random.key(settings.seed),
        total_steps=settings.steps,
        axis_name=backend.axis_name,
    )
    run = backend.compile(scan_steps(step, unroll=backend.unroll))
    resident = backend.place_resident(batches.resident)

    def evaluate(state: TrainState) -> tuple[TrainState, float]:
        losses = []
        for number in range(settings.evaluate_batches):
            state, metrics = run(state, resident, backend.place_fetched(batches.fetch(number, 1, backend.rows)))
            losses.append(float(jax.device_get(metrics["held_out_loss"])[0]))
        return state, float(np.mean(losses))

    return evaluate


def initial_state(method: Method, settings: Settings, batches) -> Callable[[], TrainState]:
    """Returns the function that makes the state before the first step (`jax.eval_shape` of it is the template)."""
    root = jax.random.key(settings.seed)

    def create(resident, fetched):
        position = np.zeros((1,), np.int32)
        batch = batches.assemble(resident, fetched, position, key_for(root, Purpose.AUGMENT))
        variables = method.init(key_for(root, Purpose.INIT), batch)
        return states.create(variables, settings.optimizer, ema=settings.ema_decay > 0)

    # One example is enough to know the shapes; its values are not used.
    fetched = jax.tree.map(lambda x: x[0], batches.fetch(0, rows=slice(0, 1)))
    return lambda: jax.jit(create)(batches.resident, fetched)


def train(
    method: Method,
    settings: Settings,
    batches,
    backend: Backend,
    *,
    checkpoints,
    open_recorder: Callable[[int], Any],
    should_stop: Callable[[int], bool],
    dump_dir: pathlib.Path,
    held_out=None,
    start_from: Callable[[TrainState], TrainState] | None = None,
    profile_steps: int = 0,
) -> TrainResult:
    """Trains until `settings.steps` or a stop request, from the newest good checkpoint if there is one.

    Without a checkpoint, and where the newest is of weights alone, `start_from` may put other numbers into the initial
    state, which then is saved. `held_out` are batches of held-out data, for `settings.evaluate_every`. A profile of
    `profile_steps` steps after the first goes to `dump_dir/profile`.
    `open_recorder(step)` is called once the step to continue from is known, and closed at the end.
    The state is saved every `checkpoint_every` steps, when stopped and at the end. A step with a non-finite loss or
    gradient leaves the state as it was; its number and its examples are written to `dump_dir/nonfinite.jsonl`.

    Raises:
      RunError: more than `settings.skip_nonfinite` such steps.
    """
    create = initial_state(method, settings, batches)
    restored = None if start_from is not None else checkpoints.restore_latest(jax.eval_shape(create))
    if restored is None:
        single, window, step = create(), Window(), 0
        if start_from is not None:
            single = start_from(single)
            # From now on the run needs no other.
            checkpoints.save(0, single, {"window": window.stored()})
    else:
        single, extra, step = restored
        window = Window(extra["window"])
    state = backend.place_state(single)
    resident = backend.place_resident(batches.resident)
    run = compile_step(method, settings, batches, backend)
    evaluate = compile_held_out(method, settings, held_out, backend) if settings.evaluate_every else None
    clock = Clock()

    # What is saved when another process is lost: the last call whose metrics are here.
    complete = step, state, window.stored()

    def keep(first: int, metrics, after: TrainState) -> None:
        nonlocal complete
        for offset, values in enumerate(_rows(jax.device_get(metrics))):
            window.add(values)
            if not values["finite"]:
                _dump(dump_dir, first + offset, values, batches)
                if window.skipped > settings.skip_nonfinite:
                    raise RunError(_stopped(method, settings, first + offset, values, window.skipped, saved, dump_dir))
        complete = first + offset + 1, after, window.stored()

    def save() -> None:
        checkpoints.save(step, backend.local(state), {"window": window.stored()})

    def save_complete() -> str:
        last, after, stored = complete
        if last > saved:
            checkpoints.save(last, backend.local(after), {"window": stored})
        checkpoints.wait()
        return f"step {checkpoints.steps()[-1]} is saved" if checkpoints.steps() else "no step was complete"

    pending: list[tuple[int, Any, TrainState]] = []
    saved, stopped = step, False
    profile = Profile(dump_dir / "profile", profile_steps if is_first_process() else 0)
    with open_recorder(step) as recorder, profile.recording(), cluster.rescued(save_complete):
        while step < settings.steps and not stopped:
            # After a resume with another `steps_per_call` the first call is shorter, so that due steps are met again.
            count = settings.steps_per_call - step % settings.steps_per_call
            with clock.waiting():
                fetched = backend.place_fetched(batches.fetch(step, count, backend.rows))
            state, metrics = run(state, resident, fetched)
            pending.append((step, metrics, state))
            step += count
            clock.done(count)
            if trace := profile.stepped(count, metrics):
                print(f"profile of {profile_steps} steps: {trace} (ui.perfetto.dev, or tensorboard --logdir)")
            stopped = should_stop(step)
            due = {
                "log": step % settings.log_every == 0 or step == settings.steps,
                "preview": settings.preview_every > 0 and step % settings.preview_every == 0,
                "evaluate": evaluate is not None and step % settings.evaluate_every == 0,
                "save": step % settings.checkpoint_every == 0 or step == settings.steps or stopped,
            }
            while len(pending) > (0 if any(due.values()) else backend.run_ahead):
                keep(*pending.pop(0))
            if due["evaluate"] and evaluate is not None:
                with clock.paused():
                    state, loss = evaluate(state)
                recorder.write(step, {"held_out_loss": loss})
            if due["log"]:
                recorder.write(step, {**window.means(), **clock.rates(settings.batch_size), "skipped": window.skipped})
            if due["preview"] and is_first_process():
                with clock.paused():
                    variables = backend.local(Variables(state.ema_params or state.params, state.stats))
                    key = key_for(jax.random.key(settings.seed), Purpose.PREVIEW)
                    recorder.images(step, method.preview(variables, key))
            if due["save"] and step > saved:
                with clock.paused():
                    save()
                saved = step
    checkpoints.wait()
    return TrainResult(jax.tree.map(np.array, backend.local(state)), interrupted=stopped and step < settings.steps)


def _stopped(
    method: Method, settings: Settings, step: int, values, skipped: int, saved: int, workdir: pathlib.Path
) -> str:
    """Returns the error message of a run that its non-finite steps stop."""
    return (
        f"step {step}: loss {values['loss']} and gradient norm {values['grad_norm']} are not both finite, "
        f"{skipped} such steps in all; the examples are named in {workdir / 'nonfinite.jsonl'}; "
        f"`python -m {method.name} train --workdir {workdir} "
        f"--config.optimizer.learning_rate={settings.learning_rate / 10:g}` goes on from step {saved}; "
        "--config.optimizer.clip_norm=1 limits gradients, --config.train.skip_nonfinite=N allows N such steps"
    )


class Clock:
    """Speed since the last reading, without previews and saves, and the fraction of it spent waiting for data."""

    def __init__(self):
        self._start = time.perf_counter()
        self._steps = 0
        self._waited = 0.0
        self._paused = 0.0

    @contextlib.contextmanager
    def waiting(self):
        """Returns a context whose duration counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self):
        """Returns a context whose duration does not count."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def done(self, steps: int) -> None:
        """Counts finished steps."""
        self._steps += steps

    def rates(self, batch_size: int) -> dict[str, float]:
        """Returns `examples_per_s` and `data_wait` (fraction) since the last call, and starts anew."""
        elapsed = max(time.perf_counter() - self._start - self._paused, 1e-9)
        rates = {"examples_per_s": self._steps * batch_size / elapsed, "data_wait": self._waited / elapsed}
        self.__init__()
        return rates


def _rows(metrics: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    count = len(next(iter(metrics.values())))
    return [{name: float(value[i]) for name, value in metrics.items()} for i in range(count)]


def _dump(directory: pathlib.Path, step: int, values: Mapping[str, float], batches) -> None:
    """Adds a line on a non-finite step, with the places of its examples in the source, to `nonfinite.jsonl`."""
    if not is_first_process():
        return
    record = {
        "step": step,
        "indices": batches.indices(step).tolist(),
        **{name: str(value) if not np.isfinite(value) else value for name, value in values.items()},
    }
    with open(directory / "nonfinite.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
