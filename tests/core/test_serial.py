"""JSON round trips of dataclasses, and that nothing is guessed on the way back."""

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import FormatError
from expressor.core.serial import MAX_JSON_BYTES, from_plain, read_json, to_plain, write_json


@dataclasses.dataclass(kw_only=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    single: tuple[int] = (0,)


@dataclasses.dataclass(kw_only=True)
class Outer:
    count: int
    target: int | tuple[str, ...] = 50
    kind: Literal["a", "b"] = "a"
    folder: Path | None = None
    table: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    noted: Annotated[bool, "whether"] = False
    inner: Inner = dataclasses.field(default_factory=Inner)
    anything: Any = None


floats = st.floats(allow_nan=False)
inners = st.builds(
    Inner, rate=floats, names=st.lists(st.text()).map(tuple), pair=st.tuples(st.integers(), floats),
    single=st.tuples(st.integers()),
)  # fmt: skip
outers = st.builds(
    Outer,
    count=st.integers(),
    target=st.integers() | st.lists(st.text()).map(tuple),
    kind=st.sampled_from(["a", "b"]),
    folder=st.none() | st.just(Path("some/folder")),
    table=st.dictionaries(st.text(), st.lists(floats, max_size=3), max_size=3),
    noted=st.booleans(),
    inner=inners,
    anything=st.none() | st.integers() | st.text() | st.booleans(),
)


@given(outers)
def test_dataclasses_survive_json(value: Outer) -> None:
    text = json.dumps(to_plain(value), allow_nan=False)
    again = from_plain(Outer, json.loads(text))
    assert again == value
    assert type(again.target) is type(value.target)
    assert type(again.inner.rate) is float


@given(st.floats())
def test_every_float_survives_to_the_bit(value: float) -> None:
    again = from_plain(float, json.loads(json.dumps(to_plain(value), allow_nan=False)))
    assert again.hex() == value.hex() or (math.isnan(value) and math.isnan(again))


def test_files_are_written_for_people_and_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", Outer(count=3, inner=Inner(names=("naïve", "β"))))
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "naïve" in text
    assert from_plain(Outer, read_json(tmp_path / "x.json")) == Outer(count=3, inner=Inner(names=("naïve", "β")))


def test_arrays_and_scalars_of_numpy_become_plain() -> None:
    plain = to_plain({"a": np.arange(3), "b": np.float32(0.5), "c": np.bool_(True), "d": np.array([np.nan])})
    assert plain == {"a": [0, 1, 2], "b": 0.5, "c": True, "d": [{"float": "nan"}]}
    assert [type(plain["b"]), type(plain["c"])] == [float, bool]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (len, "a builtin_function_or_method cannot be written as JSON; got <built-in function len>. Give a name"),
        ({"x": {1, 2}}, "a set cannot be written as JSON; got {1, 2}"),
        (b"x", "a bytes cannot be written as JSON"),
        ({1: 2}, "a key of a dictionary cannot be written as JSON; expected a string, got 1"),
        (1j, "a complex cannot be written as JSON"),
    ],
)
def test_what_json_cannot_hold_is_refused(value: object, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        to_plain(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuont": 1}, "unknown key 'cuont' in value; nearest: 'count'"),
        ({"count": "3"}, "bad value.count; expected int, got '3'"),
        ({"count": True}, "bad value.count; expected int, got True"),
        ({"count": 3.0}, "bad value.count; expected int, got 3.0"),
        ({"count": None}, "bad value.count; expected int, got None"),
        ({"kind": "c"}, "bad value.kind; expected one of ('a', 'b'), got 'c'"),
        ({"target": 1.5}, "bad value.target; expected <class 'int'> or tuple[str, ...], got 1.5"),
        ({"target": [1]}, "bad value.target"),
        ({"table": [1]}, "bad value.table; expected an object, got [1]"),
        ({"table": {"x": ["y"]}}, "bad value.table.x[0]; expected float, got 'y'"),
        ({"noted": 1}, "bad value.noted; expected bool, got 1"),
        ({"inner": 3}, "bad value.inner; expected an object of Inner, got 3"),
        ({"inner": {"rate": "fast"}}, "bad value.inner.rate; expected float, got 'fast'"),
        ({"inner": {"rate": True}}, "bad value.inner.rate; expected float, got True"),
        ({"inner": {"rate": 10**400}}, "bad value.inner.rate; expected a number that a float can hold"),
        ({"inner": {"rate": {"float": "soon"}}}, "bad value.inner.rate; expected float, got {'float': 'soon'}"),
        ({"inner": {"rate": {"float": [1]}}}, "bad value.inner.rate; expected float"),
        ({"inner": {"names": "abc"}}, "bad value.inner.names; expected a list, got 'abc'"),
        ({"inner": {"pair": [1]}}, "bad value.inner.pair; expected 2 items, got 1"),
        ({"inner": {"single": [1, 2]}}, "bad value.inner.single; expected 1 items, got 2"),
    ],
)
def test_nothing_is_guessed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        from_plain(Outer, {"count": 1} | change)
    assert message in str(caught.value)


def test_a_missing_key_without_default_is_refused() -> None:
    with pytest.raises(FormatError, match=r"incomplete value \(.*count"):
        from_plain(Outer, {})


def test_an_integer_becomes_the_float_that_the_field_wants_and_stays_an_integer_where_both_may_be() -> None:
    assert type(from_plain(float, 3)) is float
    assert type(from_plain(int | float, 3)) is int
    assert type(from_plain(float | None, 3)) is float


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(max_size=5) | st.just({"float": "nan"}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["count", "target", "inner", "rate", "float", "table", "x"]), inner, max_size=3
    ),
    max_leaves=10,
)  # fmt: skip


@given(json_values)
def test_any_json_is_either_taken_or_refused_with_our_error(value: Any) -> None:
    for kind in (Outer, Inner, float, int, tuple[str, ...], dict[str, float], list[int] | None, Any):
        with contextlib.suppress(FormatError):
            from_plain(kind, value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON (JSONDecodeError"),
        (b"", "cannot be read as JSON (JSONDecodeError"),
        (b"\xff\xfe", "cannot be read as JSON (UnicodeDecodeError"),
        (b"[" * 100_000, "cannot be read as JSON (RecursionError"),
        (b"[NaN]", "cannot be read as JSON (ValueError: NaN is not JSON)"),
        (b"-Infinity", "cannot be read as JSON (ValueError: -Infinity is not JSON)"),
        (b"1" * 5000, "cannot be read as JSON (ValueError"),
    ],
)
def test_files_that_are_not_json_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_json(tmp_path / "x.json")
    assert message in str(caught.value)
    assert str(tmp_path / "x.json") in str(caught.value)


def test_a_missing_and_an_oversized_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="FileNotFoundError"):
        read_json(tmp_path / "x.json")
    with open(tmp_path / "y.json", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # sparse: takes no room
    with pytest.raises(FormatError, match=f"too large; expected at most {MAX_JSON_BYTES} bytes"):
        read_json(tmp_path / "y.json")
