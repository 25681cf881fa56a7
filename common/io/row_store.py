"""Long row-by-row computations that may stop at any moment: rows go to a directory in chunks, each written at once.

A row is a function of its index alone. Rows are computed in batches whose place in a chunk never changes, and every
device computes whole batches; so neither an interruption nor the number of devices changes a bit of any row, and
another batch size only the rounding.

DIRECTORY/
  index.json          what the rows are (`identity`) and how many a chunk holds
  chunk-000000.npz    rows 0 ... chunk_size - 1 of every array
"""

import collections
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import input_error
from common.io.files import read_json, write_atomically, write_json
from common.io.results import plain, read_arrays

INDEX = "index.json"
CHUNK_ROWS = 1024  # about how many rows are lost at most when a run is killed

Compute = Callable[[np.ndarray], Mapping[str, Any]]  # (indices [B]) -> {name: [B, ...]}


class Store:
    """The chunks of a directory; `identity` (plain JSON values) is all that decides the rows.

    Raises:
      InputError: the directory holds rows of another identity.
    """

    def __init__(self, directory: Path, *, identity: Mapping[str, Any], batch_size: int, chunk_rows: int = CHUNK_ROWS):
        self.directory = Path(directory)
        self.identity = plain(identity)
        # A whole number of batches, so that no batch is cut at the end of a chunk.
        self.chunk_size = -(-chunk_rows // batch_size) * batch_size
        stored = read_index(self.directory)
        if stored is None:
            return
        if stored["identity"] != self.identity:
            raise input_error(
                f"{self.directory}",
                expected=f"rows of {json.dumps(self.identity)}",
                got=f"those of {json.dumps(stored['identity'])}",
                fix="choose another directory, or remove this one",
            )
        self.chunk_size = stored["chunk_size"]

    def create(self) -> None:
        """Makes directory and index unless they are there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        content = {"chunk_size": self.chunk_size, "identity": self.identity}
        if not (self.directory / INDEX).exists():
            write_json(self.directory / INDEX, content)

    def path(self, chunk: int) -> Path:
        """Returns the file of a chunk."""
        return self.directory / f"chunk-{chunk:06d}.npz"

    def rows(self, chunk: int, num: int) -> int:
        """Returns how many of the first `num` rows lie in a chunk."""
        return min(self.chunk_size, num - chunk * self.chunk_size)

    def num_chunks(self, num: int) -> int:
        """Returns how many chunks hold `num` rows."""
        return -(-num // self.chunk_size)

    def missing(self, num: int) -> list[int]:
        """Returns the chunks of the first `num` rows that are absent, damaged or too short."""
        return [chunk for chunk in range(self.num_chunks(num)) if not self._is_whole(chunk, self.rows(chunk, num))]

    def write(self, chunk: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a chunk, which appears whole or not at all."""
        stream = io.BytesIO()
        np.savez(stream, **dict[str, Any](arrays))
        write_atomically(self.path(chunk), stream.getvalue())

    def read(self, chunk: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a chunk; raises `InputError` if it is not there or damaged."""
        try:
            return read_arrays(self.path(chunk))
        except ValueError as error:
            fix = "run the command that wrote it again"
            raise input_error(str(self.path(chunk)), expected="a whole chunk", got=error, fix=fix) from None

    def iterate(self, name: str, num: int) -> Iterator[np.ndarray]:
        """Yields array `name` of the first `num` rows, chunk by chunk; raises `InputError` where rows are missing."""
        for chunk in range(self.num_chunks(num)):
            arrays, rows = self.read(chunk), self.rows(chunk, num)
            if name not in arrays or len(arrays[name]) < rows:
                got = f"{len(arrays[name])} rows" if name in arrays else f"arrays {', '.join(arrays)}"
                expected = f"{rows} rows of {name}"
                raise input_error(
                    str(self.path(chunk)), expected=expected, got=got, fix="run the command that wrote it again"
                )
            yield arrays[name][:rows]

    def load(self, name: str, num: int) -> np.ndarray:
        """Returns array `name` of the first `num` rows, `[num, ...]`."""
        return np.concatenate(list(self.iterate(name, num)))

    def _is_whole(self, chunk: int, rows: int) -> bool:
        try:
            return all(each.ndim and len(each) >= rows for each in read_arrays(self.path(chunk)).values())
        except ValueError:
            return False


def in_memory(compute: Compute, *, num: int, step: int) -> dict[str, np.ndarray]:
    """Returns the first `num` rows, `{name: [num, ...]}`, computed `step` at a time."""
    # np.asarray waits: programs of several host devices must not queue up.
    batches = [
        {name: np.asarray(array) for name, array in compute(np.arange(start, start + step)).items()}
        for start in range(0, num, step)
    ]
    return {name: np.concatenate([each[name] for each in batches])[:num] for name in batches[0]}


def open_store(directory: Path) -> Store:
    """Returns the store that is in `directory`; raises `InputError` if there is none."""
    stored = read_index(directory)
    if stored is None:
        raise input_error(
            str(directory), expected=f"a directory with {INDEX}", got="none", fix="name one that `sample` wrote"
        )
    return Store(directory, identity=stored["identity"], batch_size=1, chunk_rows=stored["chunk_size"])


def read_index(directory: Path) -> dict[str, Any] | None:
    """Returns the content of the index, None if there is none; raises `InputError` if it is damaged."""
    path = Path(directory) / INDEX
    expected, fix = "a readable index", "remove the directory"
    try:
        stored = read_json(path, expected=expected, fix=fix)
    except FileNotFoundError:
        return None
    size, identity = stored.get("chunk_size"), stored.get("identity")
    if type(size) is not int or size < 1 or not isinstance(identity, dict):
        got = f"chunk_size {size!r}, identity {type(identity).__name__}"
        raise input_error(str(path), expected=expected, got=got, fix=fix)
    return {"chunk_size": size, "identity": identity}


def fill(
    store: Store,
    compute: Compute,
    *,
    num: int,
    batch_size: int,
    num_devices: int = 1,
    run_ahead: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    add: Callable[[int], object] = lambda count: None,
) -> bool:
    """Computes the rows below `num` that are missing; returns whether all are there now.

    `compute(indices [num_devices * batch_size])` may return before the device is done; `run_ahead` such calls are in
    flight. `should_stop()` is asked before each; what is not in a whole chunk by then is computed again next time.
    `add(count)` is called when `count` rows are finished.
    """
    store.create()
    parts: dict[int, dict[int, Mapping[str, np.ndarray]]] = {}
    left = {chunk: range(0, store.rows(chunk, num), batch_size) for chunk in store.missing(num)}
    units = [(chunk, start) for chunk, starts in left.items() for start in starts]

    def collect(group, arrays) -> None:
        host = {name: np.asarray(array) for name, array in arrays.items()}
        for number, (chunk, start) in enumerate(group):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            found = parts.setdefault(chunk, {})
            found[start] = {name: array[rows] for name, array in host.items()}
            count = store.rows(chunk, num)
            add(min(batch_size, count - start))
            if len(found) == len(left[chunk]):
                whole = [found[each] for each in left[chunk]]
                store.write(chunk, {name: np.concatenate([part[name] for part in whole])[:count] for name in host})
                del parts[chunk]

    pending: collections.deque = collections.deque()
    stopped = False
    for first in range(0, len(units), num_devices):
        if stopped := should_stop():
            break
        group = units[first : first + num_devices]
        # Devices without a batch of their own repeat the last one.
        padded = group + group[-1:] * (num_devices - len(group))
        starts = np.asarray([chunk * store.chunk_size + start for chunk, start in padded])
        pending.append((group, compute((starts[:, None] + np.arange(batch_size)).reshape(-1))))
        if len(pending) > run_ahead:
            collect(*pending.popleft())
    while pending:
        collect(*pending.popleft())
    return not stopped
