"""Reads pickles without running anything: a stack machine over the opcodes that `pickletools` parses.

Python's unpickler imports any name in a file and calls it. Here a function of the caller receives the name,
and refuses it or returns a `Name`, and a call in the file can only reach the pure function inside a `Name`.
Neither the file's claims nor its content decide how much memory or time is taken: the number of opcodes is limited,
and so are the keys of dictionaries, whose hashes the author of a file could choose to be equal.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A global that a pickle may name: its `text`, and `apply`, the pure function which stands for calling it."""

    text: str
    apply: Callable[..., object]

    def __repr__(self) -> str:
        return self.text


@dataclasses.dataclass(slots=True, eq=False)
class Object:
    """An instance of a class that is not imported here: only the class's name and the state the file gives it."""

    kind: str
    state: object = None


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SCALARS = (str, int, float, bool, bytes, type(None), Name)

MAX_OPCODES = 1 << 21  # a tensor takes about fifty; some four seconds, and 64 bytes each as an empty list
_MAX_KEY_LENGTH = 16  # of a tuple, whose hash is computed whenever it is used
_MAX_KEY_BITS = 1024  # of an integer, likewise
_HASH_MODULUS = 2**61 - 1  # of Python's hash of a number: smaller integers have different ones
_MAX_CHOSEN = 64  # entries of a dictionary with keys whose hashes the author of a file can choose


def read(data: bytes | BinaryIO, *, find: Callable[[str, str], Name], persistent: Callable[[object], object]) -> object:
    """Returns the object that the pickle `data` describes; a stream is left behind the end of the pickle.

    `find(module, name)` answers for every global, `persistent(identifier)` for every persistent id. A damaged pickle
    raises ValueError, TypeError, LookupError or OverflowError; an opcode or a key outside the allow-list and more than
    `MAX_OPCODES` opcodes ValueError.
    """
    stack: list = []
    marks: list[int] = []
    memo: dict[int, object] = {}

    def pop_mark() -> list:
        start = marks.pop()
        if not 0 <= start <= len(stack):
            raise ValueError("an empty stack")
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any  # of the type that the opcode has
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count == MAX_OPCODES:
            raise ValueError(f"more than {MAX_OPCODES} opcodes")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BYTEARRAY8":
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(Object("set"))
            case "LIST":
                stack.append(pop_mark())
            case "TUPLE":
                stack.append(tuple(pop_mark()))
            case "DICT":
                stack.append(dictionary(pop_mark()))
            case "FROZENSET":
                pop_mark()
                stack.append(Object("frozenset"))
            case name if name in _TUPLES:
                marks.append(len(stack) - _TUPLES[name])
                stack.append(tuple(pop_mark()))
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS":
                items = pop_mark()
                _extend(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "SETITEMS":
                items = pop_mark()
                _update(stack[-1], items)
            case "ADDITEMS":
                pop_mark()
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                stack.append(find(module, attribute))
            case "INST":
                module, _, attribute = argument.partition(" ")
                stack.append(_apply(find(module, attribute), tuple(pop_mark())))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise ValueError("a name that is not text")
                stack.append(find(module, attribute))
            case "PERSID" | "BINPERSID":
                stack.append(persistent(argument if opcode.name == "PERSID" else stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_apply(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(_apply(function, arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Object):
                    stack[-1].state = state
            case other:
                raise ValueError(f"the opcode {other}, which checkpoints do not use")
    raise ValueError("no end")


def _apply(function: object, arguments: object) -> object:
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is not a name")
    return function.apply(*arguments)


def _extend(target: object, items: list) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Object):
        raise ValueError("items for something that is not a list")


def _update(target: object, items: list) -> None:
    if isinstance(target, dict):
        _insert(target, items)
    elif not isinstance(target, Object):
        raise ValueError("keys for something that is not a dictionary")


def dictionary(items: list) -> dict:
    """Returns `{items[0]: items[1], ...}`; raises ValueError for a key that is not plain."""
    target: dict = {}
    _insert(target, items)
    return target


def _insert(target: dict, items: list) -> None:
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing a nested tuple takes time exponential in its depth when it shares its parts.
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > _MAX_KEY_LENGTH or not all(_is_plain(part) for part in parts):
            raise ValueError("a dictionary key that is not a plain value")
        if len(target) >= _MAX_CHOSEN and _has_chosen_hash(key):
            raise ValueError(
                f"a dictionary of more than {_MAX_CHOSEN} keys that are large integers or tuples of numbers"
            )
        target[key] = value


def _is_plain(part: object) -> bool:
    return isinstance(part, _SCALARS) and not (isinstance(part, int) and part.bit_length() > _MAX_KEY_BITS)


def _has_chosen_hash(key: object) -> bool:
    """Returns whether many keys like this one could have the same hash; that of text is salted."""
    if isinstance(key, tuple):
        return not any(isinstance(part, str | bytes) and part for part in key)
    return isinstance(key, int) and abs(key) >= _HASH_MODULUS
