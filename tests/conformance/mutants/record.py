"""The list of mutants, and the ways to make one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from expressor.core import registry

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch, Any], None]
MUTANTS: dict[str, tuple[str, str, Mutant]] = {}


def breaks(check: str, message: str) -> Callable[[Mutant], Mutant]:
    """Record a mutant beside the check that must catch it and a part of what that check says."""

    def record(mutant: Mutant) -> Mutant:
        MUTANTS[mutant.__name__] = (f"check_{check}", message, mutant)
        return mutant

    return record


def around(patch: Patch, kind: Any, method: str, change: Callable[..., Any]) -> None:
    """Replace ``method`` by ``change(original, self, ...)``."""
    original = getattr(kind, method)
    patch.setattr(kind, method, lambda self, *a, **k: change(original, self, *a, **k))


def predictions(patch: Patch, kind: Any, change: Callable[[pd.DataFrame, Any], pd.DataFrame]) -> None:
    """Replace what ``predict`` returns by ``change(table, data)``."""
    around(patch, kind, "predict", lambda original, self, data: change(original(self, data), data))


def in_memory(data: Any) -> ad.AnnData:
    return data if isinstance(data, ad.AnnData) else ad.read_h5ad(data)


def state_policy(patch: Patch, kind: Any, policy: str) -> None:
    card = dataclasses.replace(registry.card("gene_ridge"), missing_genes=policy)
    patch.setattr(kind, "card", classmethod(lambda cls: card))


def imputes(patch: Patch, kind: Any, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Make an imputing system of it that fills gaps with 1 and then does ``change`` to (spot, gene)."""
    card = dataclasses.replace(registry.card("gene_ridge"), roles=("Predicts", "Imputes"))
    patch.setattr(kind, "card", classmethod(lambda cls: card))
    patch.setattr("expressor.estimator.conformance.Imputes", kind)

    def fit(original: Any, self: Any, data: ad.AnnData, **k: Any) -> Any:
        data = data.copy()
        data.X = np.nan_to_num(np.asarray(data.to_df()))
        return original(self, data, **k)

    around(patch, kind, "fit", fit)

    def impute(self: Any, data: ad.AnnData) -> np.ndarray:
        return change(data.to_df()[list(self.genes_in_)]).to_numpy()

    patch.setattr(kind, "impute", impute, raising=False)
