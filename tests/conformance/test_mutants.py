"""Each check of the conformance suite can fail: systems that break one promise are caught by the check of that promise."""

from typing import Any

import pandas as pd
import pytest

from expressor.core.errors import GeneError
from expressor.estimator.conformance import CHECKS

# Each of these records its mutants.
from .mutants import asking, content, keeping, learning, storage  # noqa: F401
from .mutants.record import MUTANTS, Patch, imputes, predictions, state_policy


def test_every_check_has_a_mutant() -> None:
    assert {check for check, _, _ in MUTANTS.values()} == set(CHECKS)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_system_that_breaks_one_promise_is_caught(ridge: Any, monkeypatch: Patch, name: str) -> None:
    check, message, mutant = MUTANTS[name]
    mutant(monkeypatch, ridge)
    with pytest.raises(AssertionError) as caught:
        CHECKS[check](ridge)
    assert f"promise broken: {message}" in str(caught.value) or message in str(caught.value)


def test_refusing_missing_genes_keeps_the_promise_of_a_card_that_says_so(ridge: Any, monkeypatch: Patch) -> None:
    state_policy(monkeypatch, ridge, "refuse")

    def refuse(table: pd.DataFrame, data: Any) -> pd.DataFrame:
        if data.n_vars < 40:
            raise GeneError("20 genes are missing", fix="Measure them.")
        return table

    predictions(monkeypatch, ridge, refuse)
    CHECKS["check_missing_genes"](ridge)


def test_filled_gaps_keep_the_promise(ridge: Any, monkeypatch: Patch) -> None:
    imputes(monkeypatch, ridge, lambda table: table.fillna(1.0))
    CHECKS["check_gaps_are_filled"](ridge)


def test_imputing_missing_genes_keeps_the_promise_of_a_card_that_says_so(ridge: Any, monkeypatch: Patch) -> None:
    state_policy(monkeypatch, ridge, "impute")
    CHECKS["check_missing_genes"](ridge)
