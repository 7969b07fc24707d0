"""Dataclass <-> JSON, strictly: unknown keys, missing keys without a default and wrong kinds are errors, never guesses."""

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from expressor.core.errors import FormatError, nearest_names

T = TypeVar("T")
MAX_JSON_BYTES = 64 * 2**20


def to_plain(value: object) -> Any:
    """Turn dataclasses, tuples, paths and NumPy scalars into what JSON can hold.

    Raises
    ------
    FormatError
        The value holds something JSON cannot represent without loss, such as a function.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: to_plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise FormatError(
                    "a key of a dictionary cannot be written as JSON", expected="a string", got=repr(key)[:80]
                )
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist") and not isinstance(value, type):
        return to_plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FormatError(
        f"a {type(value).__name__} cannot be written as JSON", got=repr(value)[:80],
        fix="Give a name, a number or a list instead of an object.",
    )  # fmt: skip


def from_plain(kind: Any, value: Any, *, where: str = "value") -> Any:
    """Rebuild a value of type ``kind`` from what :func:`to_plain` made; ``where`` names it in errors."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, dict) and set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
        value = float(value["float"])
    if kind is Any or kind is dataclasses.MISSING:
        return value
    if origin is typing.Annotated:
        return from_plain(arguments[0], value, where=where)
    if origin in (Union, types.UnionType):
        return _from_union(arguments, value, where=where)
    if origin is Literal:
        if value in arguments:
            return value
        raise FormatError(f"bad {where}", expected=f"one of {arguments}", got=repr(value))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _from_dataclass(kind, value, where=where)
    if origin in (list, tuple):
        return _from_sequence(origin, arguments, value, where=where)
    if origin is dict:
        if not isinstance(value, dict):
            raise FormatError(f"bad {where}", expected="an object", got=repr(value)[:80])
        return {key: from_plain(arguments[1], one, where=f"{where}.{key}") for key, one in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 2**1023:
            raise FormatError(f"bad {where}", expected="a number that a float can hold")
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool)):
        return value
    if kind in (None, type(None)) and value is None:
        return None
    raise FormatError(f"bad {where}", expected=getattr(kind, "__name__", kind), got=repr(value)[:80])


def _from_union(choices: tuple[Any, ...], value: Any, *, where: str) -> Any:
    # Exact matches first, so that 3 stays an integer where both int and float are allowed.
    for choice in choices:
        if isinstance(choice, type) and type(value) is choice:
            return from_plain(choice, value, where=where)
    for choice in choices:
        if typing.get_origin(choice) is not None or isinstance(choice, type):
            try:
                return from_plain(choice, value, where=where)
            except FormatError:
                continue
    raise FormatError(f"bad {where}", expected=" or ".join(str(choice) for choice in choices), got=repr(value)[:80])


def _from_sequence(origin: type, arguments: tuple[Any, ...], value: Any, *, where: str) -> Any:
    if not isinstance(value, list):
        raise FormatError(f"bad {where}", expected="a list", got=repr(value)[:80])
    if origin is tuple and Ellipsis not in arguments:
        if len(arguments) != len(value):
            raise FormatError(f"bad {where}", expected=f"{len(arguments)} items", got=len(value))
        return tuple(from_plain(a, one, where=f"{where}[{i}]") for i, (a, one) in enumerate(zip(arguments, value)))
    items = [from_plain(arguments[0] if arguments else Any, one, where=f"{where}[{i}]") for i, one in enumerate(value)]
    return origin(items)


def _from_dataclass(kind: type[T], value: Any, *, where: str) -> T:
    if not isinstance(value, dict):
        raise FormatError(f"bad {where}", expected=f"an object of {kind.__name__}", got=repr(value)[:80])
    hints = typing.get_type_hints(kind)
    known = {one.name: one for one in dataclasses.fields(kind) if one.init}  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            raise FormatError(f"unknown key {key!r} in {where}", nearest=nearest_names(key, known))
    try:
        return kind(**{key: from_plain(hints[key], one, where=f"{where}.{key}") for key, one in value.items()})
    except TypeError as error:
        raise FormatError(f"incomplete {where} ({error})") from error


def write_json(path: Path, value: object) -> None:
    """Write ``value`` to ``path`` as indented UTF-8 JSON with a final newline."""
    path.write_text(json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 64 MiB.

    Raises
    ------
    FormatError
        The file is missing, too large, not UTF-8, or not JSON.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise FormatError(f"{path} is not a file")
        if size > MAX_JSON_BYTES:
            raise FormatError(f"{path} is too large", expected=f"at most {MAX_JSON_BYTES} bytes", got=f"{size} bytes")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path} cannot be read as JSON ({type(error).__name__}: {error})") from error


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
