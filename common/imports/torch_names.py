"""The globals that a PyTorch checkpoint may name, each with an inert record of what it stands for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from common.imports import pickles

_MAX_DIMENSIONS = 64  # NumPy's

DTYPES = {
    "bool": np.bool_,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}
_OTHER_DTYPES = ("complex32", "qint8", "quint8", "qint32", "quint4x2", "quint2x4")
_STORAGES = {
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.UntypedStorage": "uint8",
    "torch.storage.UntypedStorage": "uint8",
    "torch.QInt8Storage": "qint8",
    "torch.QUInt8Storage": "quint8",
    "torch.QInt32Storage": "qint32",
    "torch.QUInt4x2Storage": "quint4x2",
    "torch.QUInt2x4Storage": "quint2x4",
}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Bytes of one entry of the archive, `length` elements of type `dtype`."""

    entry: str
    dtype: str
    length: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A strided view of a storage; `offset` and `strides` count elements of type `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugate: bool
    negative: bool

    @property
    def num_bytes(self) -> int:
        """Size as a dense array."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unsupported:
    """A tensor without a dense NumPy form, for the reason `kind`."""

    kind: str


def storage(identifier: object, folder: str) -> Storage:
    """Returns the storage that a persistent id of a pickle names; raises ValueError for any other id."""
    match identifier:
        case ("storage", pickles.Name(text=text), str(key), str(), int(length), *_) if text in _STORAGES:
            return Storage(f"{folder}/{key}", _STORAGES[text], length)
    raise ValueError("a persistent id that is not a storage")


def _strided(of: Any, dtype: str, offset: Any, shape: Any, strides: Any, metadata: Any):
    if dtype in _OTHER_DTYPES:
        return Unsupported(f"a {dtype} tensor")
    whole = isinstance(shape, tuple) and isinstance(strides, tuple)
    numbers: Any = (offset, *shape, *strides) if whole else (None,)
    if not isinstance(of, Storage) or dtype not in DTYPES or not all(type(each) is int for each in numbers):
        raise ValueError("a tensor without storage, type, shape or strides")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS or min(numbers) < 0 or max(numbers) >= 1 << 63:
        raise ValueError(f"a tensor of shape {list(shape)[:8]} and strides {list(strides)[:8]} at {offset}")
    flags = metadata if isinstance(metadata, dict) else {}
    return Tensor(of, dtype, offset, shape, strides, bool(flags.get("conj")), bool(flags.get("neg")))


def _tensor_v2(of, offset, shape, strides, requires_grad=None, hooks=None, metadata=None):
    return _strided(of, of.dtype if isinstance(of, Storage) else "", offset, shape, strides, metadata)


def _tensor_v3(of, offset, shape, strides, requires_grad, hooks, dtype, metadata=None):
    return _strided(of, str(dtype).removeprefix("torch."), offset, shape, strides, metadata)


def _first(value, *rest):
    return value


_REBUILD = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}


def _attributed(rebuild, kind, arguments, state):
    # Only a plain way of building may be inside, so a file cannot nest these without end.
    if not isinstance(rebuild, pickles.Name) or rebuild.text not in _REBUILD:
        raise ValueError("a tensor made in an unknown way")
    return rebuild.apply(*arguments)


def _mapping(items=()):
    return pickles.dictionary([each for key, value in items for each in (key, value)])


def _object(kind: str) -> Callable[..., object]:
    return lambda *arguments: pickles.Object(kind)


def _unsupported(kind: str) -> Callable[..., object]:
    return lambda *arguments: Unsupported(kind)


_CALLS = {
    **_REBUILD,
    "torch._tensor._rebuild_from_type_v2": _attributed,
    "torch._utils._rebuild_sparse_tensor": _unsupported("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _unsupported("a nested tensor"),
    "torch._utils._rebuild_qtensor": _unsupported("a quantised tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unsupported("a tensor without data"),
    "torch._utils._rebuild_wrapper_subclass": _unsupported("a tensor of a subclass"),
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda *arguments: {},
}
_INERT = (
    *_STORAGES,
    *(f"torch.{name}" for name in (*DTYPES, *_OTHER_DTYPES)),
    "torch.Size",
    "torch.device",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.per_tensor_affine",
    "torch.per_channel_affine",
    "torch.serialization._get_layout",
    "collections.Counter",
    "argparse.Namespace",
    "_codecs.encode",
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "complex", "bytearray", "dict", "list", "int", "float", "bool", "str")
    ),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
)
_ALLOWED = {
    **{name: pickles.Name(name, _object(name)) for name in _INERT},
    **{name: pickles.Name(name, call) for name, call in _CALLS.items()},
}


def find(module: str, name: str) -> pickles.Name | None:
    """Returns the stand-in of a global, None if no checkpoint needs it; any class of TorchScript has one."""
    text = f"{module}.{name}"
    if module.startswith("__torch__"):
        return pickles.Name(text, lambda *arguments: pickles.Object("torch script", arguments))
    return _ALLOWED.get(text)


def skipped(name: str) -> pickles.Name:
    """Returns a stand-in whose instances hold nothing."""
    return pickles.Name(name, _object(name))


def children(value: object) -> list[tuple[object, object]]:
    """Returns the (key, value) pairs of a container or of a TorchScript object; none for anything else."""
    if isinstance(value, pickles.Object) and value.kind == "torch script":
        value = value.state
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def may_hold_tensors(value: object) -> bool:
    """Returns whether `value` is a tensor or could have one among its children."""
    return isinstance(value, Tensor | Unsupported | pickles.Object | dict | list | tuple)
