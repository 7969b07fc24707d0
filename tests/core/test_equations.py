"""Equation tags: they change nothing, cost nothing, and can be looked up with the tests that cover them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from expressor.core import equations as room
from expressor.core.equations import covering_tests, equation, equations
from expressor.core.errors import DataError

MODULE = """
from expressor.core.equations import equation


@equation("toy_tags", "2", meaning="second", latex="b", fidelity="paper", source="p. 2")
def second(x):
    return x


@equation("toy_tags", "1", meaning="first", latex="a", fidelity="inferred", source="the text is silent")
def first(x):
    return 2 * x
"""
TESTS = """
import pytest


@pytest.mark.covers("1", "2")
def test_both():
    ...


class TestMore:
    @pytest.mark.slow
    @pytest.mark.covers("1")
    def test_inner(self):
        ...


@pytest.mark.covers(number)
def test_computed():
    ...


def test_plain():
    ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "toy_tags"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "equations.py").write_text(MODULE)
    (folder / "tests" / "test_equations.py").write_text(TESTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(room, "_table", {})
    yield folder
    import sys

    for name in [name for name in sys.modules if name.startswith("toy_tags")]:
        del sys.modules[name]


def test_a_tag_leaves_the_function_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_table", {})

    def double(x: int) -> int:
        return 2 * x

    tag = equation("toy", "1", meaning="double", latex="2x", fidelity="paper", source="p. 1")
    assert tag(double) is double


def test_tags_are_listed_in_the_order_of_the_file(package: Path) -> None:
    found = equations("toy_tags", package="toy_tags")
    assert [(one.number, one.function, one.fidelity) for one in found] == [
        ("2", "second", "paper"),
        ("1", "first", "inferred"),
    ]
    assert found[0].file == str(package / "equations.py")
    source = (package / "equations.py").read_text().splitlines()
    assert source[found[0].line - 1].startswith('@equation("toy_tags", "2"')


def test_covering_tests_are_found_without_running_them(package: Path) -> None:
    assert covering_tests("toy_tags", package="toy_tags") == {
        "1": ("test_equations.py::test_both", "test_equations.py::test_inner"),
        "2": ("test_equations.py::test_both",),
    }


def test_one_number_is_tagged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_table", {})
    tag = equation("toy", "1", meaning="m", latex="l", fidelity="code", source="s")
    tag(test_a_tag_leaves_the_function_alone)
    tag(test_a_tag_leaves_the_function_alone)  # a reload is no conflict
    with pytest.raises(DataError, match="equation 1 of 'toy' is tagged twice; got test_one_number_is_tagged_once"):
        tag(test_one_number_is_tagged_once)


def test_an_unknown_fidelity_is_refused() -> None:
    with pytest.raises(DataError, match="unknown fidelity 'guessed'; expected one of 'paper', 'code', 'inferred'"):
        equation("toy", "1", meaning="m", latex="l", fidelity="guessed", source="s")  # type: ignore[arg-type]
