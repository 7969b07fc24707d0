"""Mutants that compute too early, lose a parameter, or draw without their seed."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .record import MUTANTS, Mutant, Patch, around, breaks


@breaks("construction_is_pure", "construction computes nothing")
def computes_at_construction(patch: Patch, kind: Any) -> None:
    around(patch, kind, "__init__", lambda original, self, **k: (original(self, **k), setattr(self, "seed_", 1))[0])


@breaks("construction_is_pure", "get_params gives every field")
def hides_a_parameter(patch: Patch, kind: Any) -> None:
    around(patch, kind, "get_params", lambda original, self, deep=True: {
        name: value for name, value in original(self, deep=deep).items() if name != "penalty"
    })  # fmt: skip


@breaks("parameters_round_trip", "clone keeps the parameters of preset 'tiny'")
def forgets_a_parameter_in_clones(patch: Patch, kind: Any) -> None:
    around(patch, kind, "get_params", lambda original, self, deep=True: original(self, deep=deep) | {"penalty": 1.0})


@breaks("fit_returns_self", "fit returns self")
def returns_nothing(patch: Patch, kind: Any) -> None:
    around(patch, kind, "fit", lambda original, self, *a, **k: (original(self, *a, **k), None)[1])


@breaks("fit_returns_self", "fit leaves the parameters alone")
def tunes_its_own_parameter(patch: Patch, kind: Any) -> None:
    around(
        patch, kind, "_fit", lambda original, self, *a, **k: (original(self, *a, **k), setattr(self, "penalty", 3.0))
    )


@breaks("fit_returns_self", "history_ is a table with rows")
def keeps_no_history(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self.history_ = self.history_[:0]

    around(patch, kind, "_fit", fit)


@breaks("same_seed_same_bits", "same seed, same bits")
def draws_without_its_seed(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self._beta = self._beta + 1e-6 * float(np.random.default_rng().random())

    around(patch, kind, "_fit", fit)


@breaks("same_seed_same_bits", "same seed, same bits")
def draws_from_random(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self._beta = self._beta + 1e-3 * random.random()

    around(patch, kind, "_fit", fit)


@breaks("same_seed_same_bits", "same seed, same bits")
def reads_a_global_generator_and_puts_it_back(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        with torch.random.fork_rng():
            self._beta = self._beta + 1e-3 * torch.rand(1)

    around(patch, kind, "_fit", fit)


def _drawing(draw: Callable[[], object]) -> Mutant:
    def mutant(patch: Patch, kind: Any) -> None:
        around(patch, kind, "_fit", lambda original, self, *a, **k: (draw(), original(self, *a, **k))[0])

    return mutant


for library, draw in {
    "NumPy": lambda: np.random.random(),  # noqa: NPY002
    "torch": lambda: torch.rand(1),
}.items():
    MUTANTS[f"draws_from_{library}"] = (
        "check_global_generators_untouched", f"the global generator of {library} is untouched", _drawing(draw)
    )  # fmt: skip
