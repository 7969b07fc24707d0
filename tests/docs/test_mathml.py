"""Formulas of the documentation: what docutils makes of them, mended."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
from _ext.mathml import to_mathml
from docutils.utils.math import MathError

from expressor.core import registry
from expressor.core.equations import equations


def squeeze(latex: str) -> str:
    return "".join(line.strip() for line in to_mathml(latex, block=True).splitlines())


def test_index_of_an_accented_symbol_stands_beside_it() -> None:
    assert '<msub><mover accent="true"><mi>y</mi><mo stretchy="false">ˆ</mo></mover><mi>i</mi></msub>' in squeeze(
        r"\hat y_i"
    )
    assert "<munderover>" in squeeze(r"\sum_{i=1}^n x_i")


def test_braces_stretch_only_when_asked() -> None:
    assert '<mo stretchy="false">{</mo>' in squeeze(r"\{0,1\}^A")
    assert "<mo>{</mo>" in squeeze(r"\left\{\frac{a}{b}\right\}")


def test_comma_between_members_is_no_decimal_comma() -> None:
    assert "<mn>0,1</mn>" not in squeeze(r"\{0,1\}")


def test_short_fraction_is_a_fraction_of_digits() -> None:
    half = "<mfrac><mn>1</mn><mn>2</mn></mfrac>"
    assert half in squeeze(r"\tfrac12(x + y)")
    assert half in squeeze(r"\frac{1}{2}")


def test_less_than_is_escaped() -> None:
    assert "<mo>&lt;</mo>" in squeeze("a < b")


def test_unknown_command_is_refused() -> None:
    with pytest.raises(MathError, match="nosuchcommand"):
        to_mathml(r"\nosuchcommand x", block=False)


@pytest.mark.parametrize("name", registry.systems())
def test_every_equation_can_be_shown(name: str) -> None:
    for one in equations(name, package=registry.card(name).package):
        assert squeeze(one.latex).startswith("<math")
