"""Every system keeps every promise, and is a good citizen of scikit-learn but for the exceptions that its card explains."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expressor.core import registry
from expressor.estimator.conformance import CHECKS

from .battery import WITHOUT_FIT, judge, run

SYSTEMS = list(registry.systems())


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_promise(system: str, check: str) -> None:
    CHECKS[check](registry.load(system))  # type: ignore[arg-type]


@pytest.mark.parametrize("system", SYSTEMS)
def test_scikit_learn(system: str) -> None:
    """Each check of scikit-learn holds, or the card says why it cannot; an exception that holds after all is an error too."""
    program = Path(__file__).with_name("battery.py")
    done = subprocess.run([sys.executable, str(program), system], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert set(WITHOUT_FIT) <= set(results)
    assert judge(results, registry.card(system)) == {}


# The judgement itself, on the outside system ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(outside: Any) -> dict[str, list[str]]:
    return run(registry.load("gene_ridge"))


def test_the_outside_system_is_a_good_citizen(results: dict[str, list[str]]) -> None:
    assert len(results) > 30
    assert judge(results, registry.card("gene_ridge")) == {}


def test_undeclared_failures_and_idle_exceptions_are_found(results: dict[str, list[str]]) -> None:
    card = registry.card("gene_ridge")
    assert set(judge(results, dataclasses.replace(card, sklearn_exceptions={}))) == set(card.sklearn_exceptions)
    more = card.sklearn_exceptions | {
        "check_estimator_cloneable": "because of a reason that was given",
        "check_no_such_thing": "because of a reason that was given",
        "check_n_features_in_after_fitting": "so",
    }
    found = judge(results, dataclasses.replace(card, sklearn_exceptions=more))
    assert {name: text.split(": ")[0] for name, text in found.items()} == {
        "check_estimator_cloneable": "is declared as an exception and passes",
        "check_no_such_thing": "is declared as an exception and is no check of this scikit-learn",
        "check_n_features_in_after_fitting": "is declared as an exception without a reason",
    }


def test_a_bad_citizen_is_found(outside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = registry.load("gene_ridge")
    original = kind._fit

    def fit(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        self.penalty = 5.0

    monkeypatch.setattr(kind, "_fit", fit)
    assert "check_estimators_overwrite_params" in judge(run(kind), registry.card("gene_ridge"))
