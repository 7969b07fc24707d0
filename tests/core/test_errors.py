"""The grammar of messages, the nearest names, and the two checks of parameters."""

import pickle  # noqa: TID251 (what multiprocessing does with an error; nothing is stored)
from typing import Any

import numpy as np
import pytest
import sklearn.exceptions
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import (
    DataError,
    ExpressorError,
    FormatError,
    GeneError,
    MissingExtra,
    check_choice,
    check_range,
    nearest_names,
)
from expressor.core.optional import EXTRAS, need
from expressor.estimator.errors import NotFittedError


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "bad rows in 'X'"),
        ({"expected": "integers", "got": "0.5"}, "bad rows in 'X'; expected integers, got 0.5"),
        ({"expected": "integers"}, "bad rows in 'X'; expected integers"),
        ({"got": 0}, "bad rows in 'X'; got 0"),
        ({"fix": "Round them."}, "bad rows in 'X'. Round them."),
        ({"nearest": ("ERBB2", "ERBB3")}, "bad rows in 'X'; nearest: 'ERBB2', 'ERBB3'"),
        (
            {"expected": 1, "got": 2, "fix": "Do this.", "nearest": ("a",)},
            "bad rows in 'X'; expected 1, got 2; nearest: 'a'. Do this.",
        ),
    ],
)
@pytest.mark.parametrize("kind", [ExpressorError, DataError, GeneError, FormatError, MissingExtra, NotFittedError])
def test_messages_follow_one_grammar(kind: type[ExpressorError], parts: dict[str, Any], text: str) -> None:
    error = kind("bad rows in 'X'.", **parts)
    assert str(error) == error.message == text


@pytest.mark.parametrize(
    ("kind", "twin"),
    [
        (DataError, ValueError),
        (GeneError, KeyError),
        (FormatError, ValueError),
        (MissingExtra, ImportError),
        (NotFittedError, sklearn.exceptions.NotFittedError),
    ],
)
def test_each_error_is_also_its_standard_twin(kind: type[ExpressorError], twin: type[Exception]) -> None:
    assert issubclass(kind, twin)
    assert issubclass(kind, ExpressorError)
    with pytest.raises(twin, match="wrong"):
        raise kind("wrong")


@pytest.mark.parametrize("kind", [ExpressorError, DataError, GeneError, FormatError, MissingExtra, NotFittedError])
def test_errors_cross_process_borders(kind: type[ExpressorError]) -> None:
    error = kind("no gene 'ERB2'", expected="a symbol", got="'ERB2'", fix="Check it.", nearest=("ERBB2",))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_nearest_names_ignore_case_and_come_best_first() -> None:
    assert set(nearest_names("erbb", iter(["ERBB2", "ERBB3", "ACTB", "GAPDH"]))) == {"ERBB2", "ERBB3"}
    assert nearest_names("Erbb2", ["ERBB3", "ERBB2"])[0] == "ERBB2"
    assert nearest_names("zzz", ["ERBB2"]) == ()
    assert len(nearest_names("gene1", [f"gene{i}" for i in range(9)])) == 3


@given(st.text(), st.lists(st.text(), max_size=8))
def test_nearest_names_are_known_names(name: str, known: list[str]) -> None:
    found = nearest_names(name, known)
    assert set(found) <= set(known)
    assert len(found) <= 3


def test_check_choice_lists_what_is_allowed_and_what_is_near() -> None:
    check_choice("hvg", ("hvg", "moran"), name="ranking")
    with pytest.raises(DataError) as caught:
        check_choice("hgv", ("hvg", "moran"), name="ranking")
    assert str(caught.value) == "unknown ranking 'hgv'; expected one of 'hvg', 'moran'; nearest: 'hvg'"


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (-1, {"low": 0}, "k is out of range; expected a number in [0, inf], got -1"),
        (0, {"low": 0, "open_low": True}, "k is out of range; expected a number in (0, inf], got 0"),
        (1.0, {"low": 0, "high": 1, "open_high": True}, "k is out of range; expected a number in [0, 1), got 1.0"),
        (1.5, {"high": 1}, "k is out of range; expected a number in [-inf, 1], got 1.5"),
        (1.5, {"integer": True}, "k is not an integer; expected an integer in [-inf, inf], got 1.5"),
        (float("nan"), {"low": 0}, "k is not a number; expected a number in [0, inf], got nan"),
        (True, {"low": 0}, "k is not a number; expected a number in [0, inf], got True"),
        ("3", {"low": 0}, "k is not a number; expected a number in [0, inf], got '3'"),
        (None, {"low": 0}, "k is not a number; expected a number in [0, inf], got None"),
        (np.arange(2), {"low": 0}, r"k is not a number; expected a number in [0, inf], got array([0, 1])"),
        (np.float32(2), {"integer": True}, "k is not an integer; expected an integer in [-inf, inf], got np.float32(2.0)"),
    ],
)  # fmt: skip
def test_check_range_says_what_is_allowed(value: object, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_range(value, name="k", **limits)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3), np.array(3)])
def test_check_range_takes_numbers_of_any_library(value: object) -> None:
    check_range(value, name="k", low=3, high=3)


@given(
    st.floats(allow_nan=False),
    st.floats(-10, 10) | st.none(),
    st.floats(-10, 10) | st.none(),
    st.booleans(),
    st.booleans(),
)
def test_check_range_agrees_with_the_interval(
    value: float, low: float | None, high: float | None, open_low: bool, open_high: bool
) -> None:
    above = low is None or value > low or (value == low and not open_low)
    below = high is None or value < high or (value == high and not open_high)
    try:
        check_range(value, name="k", low=low, high=high, open_low=open_low, open_high=open_high)
        accepted = True
    except DataError:
        accepted = False
    assert accepted == (above and below)


def test_a_missing_dependency_says_what_to_install() -> None:
    with pytest.raises(MissingExtra) as caught:
        need("no_such_module.inner", extra="slides", purpose="open whole slides")
    text = str(caught.value)
    assert text.startswith("'no_such_module' is needed to open whole slides and could not be imported (")
    assert text.endswith('Install it with: pip install "expressor[slides]"')
    assert need("json", extra="slides", purpose="read JSON").__name__ == "json"


def test_every_extra_is_declared_in_the_package_metadata() -> None:
    import importlib.metadata

    declared = set(importlib.metadata.metadata("expressor").get_all("Provides-Extra") or ())
    assert set(EXTRAS) <= declared
