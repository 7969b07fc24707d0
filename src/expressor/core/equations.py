"""Equation tags: every function that implements a paper's equation says which one, and how well that is known.

The tag records and returns the function itself, so it costs nothing when the function runs.
"""

import ast
import importlib
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from expressor.core.errors import DataError, check_choice

Fidelity = Literal["paper", "code", "inferred"]
Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Equation:
    """One equation of one paper and the function that computes it.

    Attributes
    ----------
    system
        Folder name of the system, for example ``"agl"``.
    number
        The paper's number, or ours (``"I1"``, ...) where the source has none.
    meaning
        One line in words.
    latex
        The formula.
    fidelity
        ``"paper"`` (read there), ``"code"`` (read in the authors' code) or ``"inferred"`` (ours, the source is silent).
    source
        Section, page or file where it was read; why, for an inferred one.
    function, file, line
        Where it stands in this package.
    """

    system: str
    number: str
    meaning: str
    latex: str
    fidelity: Fidelity
    source: str
    function: str
    file: str
    line: int


_table: dict[tuple[str, str], Equation] = {}


def equation(
    system: str, number: str, *, meaning: str, latex: str, fidelity: Fidelity, source: str
) -> Callable[[Function], Function]:
    """Tag the decorated function as an equation of ``system``; see :class:`Equation` for the parameters."""
    check_choice(fidelity, get_args(Fidelity), name="fidelity")

    def tag(function: Function) -> Function:
        code = function.__code__  # type: ignore[attr-defined]
        known = _table.get((system, number))
        if known is not None and known.function != function.__qualname__:
            raise DataError(f"equation {number} of {system!r} is tagged twice", got=function.__qualname__)
        _table[system, number] = Equation(
            system, number, meaning, latex, fidelity, source,
            function.__qualname__, code.co_filename, code.co_firstlineno,
        )  # fmt: skip
        return function

    return tag


def equations(system: str, *, package: str | None = None) -> tuple[Equation, ...]:
    """Return the tagged equations of ``system`` in the order in which they stand in its file.

    Parameters
    ----------
    system
        Folder name of the system.
    package
        Its Python package where it is not ``expressor.systems.<system>``.
    """
    importlib.import_module(f"{package or 'expressor.systems.' + system}.equations")
    mine = (one for (name, _), one in _table.items() if name == system)
    return tuple(sorted(mine, key=lambda one: (one.file, one.line)))


def covering_tests(system: str, *, package: str | None = None) -> dict[str, tuple[str, ...]]:
    """Map each equation number to the tests that carry ``@pytest.mark.covers(number)``, read without running them.

    Returns
    -------
    Number -> names such as ``"test_equations.py::test_mask"``. Empty where the tests are not installed.
    """
    folder = Path(str(importlib.resources.files(package or f"expressor.systems.{system}"))) / "tests"
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for number in _covered(node):
                    found.setdefault(number, []).append(f"{file.name}::{node.name}")
    return {number: tuple(names) for number, names in found.items()}


def _covered(node: ast.FunctionDef) -> list[str]:
    return [
        argument.value
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.covers"
        for argument in mark.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
