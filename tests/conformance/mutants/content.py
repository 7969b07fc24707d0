"""Mutants that depend on the order of genes or observations, on genes they should not need, or mishandle gaps."""

from typing import Any

import numpy as np
import torch

from .record import Patch, around, breaks, imputes, in_memory, predictions, state_policy


@breaks("gene_order", "shuffled genes, same output")
def weights_genes_by_their_position(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, adata: Any, **k: Any) -> None:
        original(self, adata, **k)
        self._intercept = (
            self._intercept + torch.arange(len(self.genes_in_))[adata.var_names.get_indexer(self.genes_in_.names)]
        )

    around(patch, kind, "_fit", fit)


@breaks("gene_order", "same genes whatever their order")
def drops_the_first_gene(patch: Patch, kind: Any) -> None:
    around(patch, kind, "_fit", lambda original, self, adata, **k: original(self, adata[:, 1:].copy(), **k))


@breaks("observation_order", "shuffled observations, permuted output (predict)")
def sees_the_row_above(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table + 0.1 * table.shift(1, fill_value=0))


@breaks("extra_genes", "extra genes are ignored")
def counts_the_genes(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table * np.float32(in_memory(data).n_vars))


@breaks("missing_genes", "missing genes do not matter")
def needs_all_genes(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table * np.float32(min(in_memory(data).n_vars, 40)))


@breaks("missing_genes", "missing genes are refused: nothing was raised")
def promises_to_refuse_and_does_not(patch: Patch, kind: Any) -> None:
    state_policy(patch, kind, "refuse")


@breaks("missing_genes", "missing genes are imputed (predict)")
def promises_to_impute_and_does_not(patch: Patch, kind: Any) -> None:
    state_policy(patch, kind, "impute")
    predictions(patch, kind, lambda table, data: table if data.n_vars == 40 else table * np.nan)


@breaks("gaps_are_filled", "gaps are filled")
def leaves_gaps(patch: Patch, kind: Any) -> None:
    imputes(patch, kind, lambda table: table)


@breaks("gaps_are_filled", "measured values stay as they are")
def smooths_what_was_measured(patch: Patch, kind: Any) -> None:
    imputes(patch, kind, lambda table: table.fillna(1.0) + np.float32(1e-3))
