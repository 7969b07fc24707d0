"""scikit-learn's own checks of estimators, on a system's preset ``array``, against the exceptions that its card declares."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import SkipTest

from sklearn.utils.estimator_checks import estimator_checks_generator

from expressor.core.card import Card


def battery(kind: Any) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield a name and, for each check of that name, a call that returns ``"passed"``, ``"skipped"`` or what was wrong."""
    for model, check in estimator_checks_generator(kind.preset("array")):
        yield getattr(check, "func", check).__name__, functools.partial(_run, model, check)


def _run(model: Any, check: Callable[[Any], None]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(model)
        except SkipTest:
            return "skipped"
        except Exception as error:  # noqa: BLE001 (whatever it is, it is what was wrong)
            return f"{type(error).__name__}: {error}"
    return "passed"


def judge(results: dict[str, list[str]], card: Card) -> dict[str, str]:
    """Return what differs from what the card says, by check: failures it does not declare, exceptions that do not fail."""
    found: dict[str, str] = {}
    for name, results_of_check in results.items():
        failures = [one for one in results_of_check if one not in ("passed", "skipped")]
        if failures and name not in card.sklearn_exceptions:
            found[name] = failures[0]
        if not failures and name in card.sklearn_exceptions:
            found[name] = "is declared as an exception and passes: take it from the card"
    for name, reason in card.sklearn_exceptions.items():
        if name not in results:
            found[name] = "is declared as an exception and is no check of this scikit-learn"
        if len(reason.split()) < 4:
            found[name] = "is declared as an exception without a reason"
    return found


def run(kind: Any) -> dict[str, list[str]]:
    """Run every check and return the results by name."""
    results: dict[str, list[str]] = {}
    for name, call in battery(kind):
        results.setdefault(name, []).append(call())
    return results
