"""Cells of another species in the names of the model's genes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from expressor.data.fields import counts_of
from expressor.genes.orthologs import Bridge, Orthologs
from expressor.genes.vocab import GeneVocab


@dataclass(frozen=True, eq=False)
class Translation:
    """Cells whose genes were named anew.

    Attributes
    ----------
    cells
        Counts in the names of the model; genes without an ortholog in the data are absent, not zero.
    bridge
        The pairs, of the data's genes first; ``bridge.fates()`` says what became of each.
    report
        What was matched, merged and lost, in words.
    """

    cells: AnnData
    bridge: Bridge
    report: str


def translate(
    adata: Any, genes: GeneVocab, orthologs: Orthologs, *, species: str, layer: str | None = None, merge: bool = False
) -> Translation:
    """Return counts in the names of ``genes``, through pairs whose genes have no other partner.

    Parameters
    ----------
    adata
        Raw counts of ``species``.
    genes
        The model's.
    orthologs
        A table of both species.
    species
        That of the data, as the table names it.
    layer
        Layer with the counts; ``X`` when not given.
    merge
        Whether the counts of several genes with one partner are added up.

    Raises
    ------
    DataError
        The table is not of that species, or no pair is in both.
    """
    first, second = orthologs.species
    other = second if species == first else first
    own = GeneVocab(list(map(str, adata.var_names)))
    bridge = orthologs.from_to(species, other).connect(own, genes)
    fates = bridge.fates()
    single = np.diff(bridge.matrix.indptr) == 1
    kept = single if merge else single & (fates == "matched").to_numpy()
    pairs = bridge.matrix[kept].tocoo()
    counts = sparse.csr_matrix(counts_of(adata, layer=layer))[:, np.flatnonzero(kept)]
    ones = sparse.csr_matrix(
        (np.ones(pairs.nnz, dtype=np.float32), (pairs.row, pairs.col)), shape=(int(kept.sum()), len(genes))
    )
    there = np.unique(pairs.col)
    matrix = sparse.csr_matrix(counts @ ones)[:, there]
    cells = AnnData(
        sparse.csr_matrix(matrix, dtype=np.float32), obs=adata.obs.copy(),
        var=pd.DataFrame(index=pd.Index([genes[int(i)] for i in there], dtype=object)),
    )  # fmt: skip
    report = f"{len(there):,} of the model's {len(genes):,} genes are measured. {bridge.report()}"
    return Translation(cells, bridge, report)
