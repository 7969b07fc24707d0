"""scikit-learn's own checks of estimators, on a system's preset ``array``, against the exceptions that its card declares.

As a program, ``python battery.py SYSTEM``, it prints the results of a system as JSON: in a process of its own, because a checker of
types at run time would have constructors refuse what scikit-learn expects them to keep until ``fit``. A system without that preset
is put to the checks that fit nothing.
"""

import functools
import json
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any
from unittest import SkipTest

from sklearn.utils.estimator_checks import estimator_checks_generator

from expressor.core import registry
from expressor.core.card import Card

# What no system with a training plan can keep, whatever its card says.
HOUSE = {
    "check_parameters_default_constructible": "The default of plan is made anew for each model, as a changeable object must be."
}
# Checks that fit nothing: they hold for systems that take no plain arrays, too.
WITHOUT_FIT = (
    "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types", "check_estimator_repr",
    "check_no_attributes_set_in_init", "check_estimators_unfitted", "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order", "check_get_params_invariance", "check_set_params", "check_estimator_sparse_tag",
)  # fmt: skip


def battery(kind: Any, preset: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the name of each check and a call that returns ``"passed"``, ``"skipped"`` or what was wrong."""
    for model, check in estimator_checks_generator(kind.preset(preset)):
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
    declared = card.sklearn_exceptions | HOUSE
    for name, results_of_check in results.items():
        failures = [one for one in results_of_check if one not in ("passed", "skipped")]
        if failures and name not in declared:
            found[name] = failures[0]
        if not failures and name in card.sklearn_exceptions:
            found[name] = "is declared as an exception and passes: take it from the card"
    for name, reason in card.sklearn_exceptions.items():
        if name not in results:
            found[name] = "is declared as an exception and is no check of this scikit-learn"
        if len(reason.split()) < 4:
            found[name] = "is declared as an exception without a reason"
    return found


def run(kind: Any, preset: str = "array", *, only: Collection[str] | None = None) -> dict[str, list[str]]:
    """Run the checks, or ``only`` some, and return the results by name."""
    results: dict[str, list[str]] = {}
    for name, call in battery(kind, preset):
        if only is None or name in only:
            results.setdefault(name, []).append(call())
    return results


def main() -> None:
    """Print the results of the system that is named on the command line."""
    kind = registry.load(sys.argv[1])
    arrays = "array" in registry.card(sys.argv[1]).presets
    print(json.dumps(run(kind) if arrays else run(kind, "tiny", only=WITHOUT_FIT)))


if __name__ == "__main__":
    main()
