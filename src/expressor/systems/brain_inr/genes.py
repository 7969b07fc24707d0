"""What a field knows of a gene: a place in the spectral order, spectral coordinates, a vector that is given, or one it learns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData

from expressor.core.errors import DataError
from expressor.systems.brain_inr.equations import encode_scalar, spectral_order

OCTAVES = 11
SUPPLIED = "varm:"


@dataclass(frozen=True, eq=False)
class GeneInputs:
    """Numbers that stand for the genes.

    Attributes
    ----------
    kind
        ``"table"``: learnt, nothing is given; ``"scalar"``, ``"spectral"`` or ``"supplied"``.
    vectors
        float32 (gene, dim); of no columns where they are learnt.
    shift, scale
        float64 (dim,): by which supplied vectors were standardised.
    """

    kind: str
    vectors: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, gene: str, values: np.ndarray, adata: AnnData, genes: list[str], *, dim: int) -> "GeneInputs":
        """Make the inputs of a fit.

        Parameters
        ----------
        gene
            The estimator's parameter.
        values
            Expression that may be looked at, (sample, gene).
        adata
            Holds supplied vectors in ``varm``.
        genes
            Names, in the order of ``values``.
        dim
            Spectral coordinates.
        """
        if gene.startswith(SUPPLIED):
            return cls._supplied(gene.removeprefix(SUPPLIED), adata, genes)
        if gene == "table":
            made = np.zeros((len(genes), 0))
        else:
            if len(genes) < 3:
                raise DataError(
                    f"too few genes for gene={gene!r}", expected="at least 3", got=len(genes), fix='Use gene="table".'
                )
            spectral = spectral_order(values.T, 1 if gene == "scalar" else min(dim, len(genes) - 1))
            made = encode_scalar(spectral[:, 0], OCTAVES) if gene == "scalar" else 2 * spectral - 1
        return cls(gene, made.astype(np.float32), np.zeros(made.shape[1]), np.ones(made.shape[1]))

    @classmethod
    def _supplied(cls, key: str, adata: AnnData, genes: list[str]) -> "GeneInputs":
        if key not in adata.varm:
            raise DataError(f"varm has no gene vectors {key!r}", expected=", ".join(map(str, adata.varm)) or "an entry",
                            fix='Put them into adata.varm and name them: gene="varm:NAME".')  # fmt: skip
        place = {name: i for i, name in enumerate(map(str, adata.var_names))}
        raw = np.asarray(adata.varm[key], dtype=np.float64)[[place[name] for name in genes]]
        if not np.isfinite(raw).all():
            raise DataError(f"{int((~np.isfinite(raw).all(axis=1)).sum())} genes have no finite vector in varm[{key!r}]",
                            fix="Give each gene of the fit a vector.")  # fmt: skip
        # One scale for all coordinates: what is large in a vector stays so.
        shift, scale = raw.mean(axis=0), np.full(raw.shape[1], max(float(raw.std()), 1e-12))
        return cls("supplied", ((raw - shift) / scale).astype(np.float32), shift, scale)

    def of_others(self, vectors: Any) -> np.ndarray:
        """Return the inputs of genes that were not in the fit, from vectors of the same kind, float32 (gene, dim)."""
        if self.kind != "supplied":
            raise DataError("this field cannot be asked for genes that were never measured",
                            fix='Fit with gene="varm:NAME", vectors of the genes.')  # fmt: skip
        raw = np.asarray(vectors, dtype=np.float64)
        if raw.ndim != 2 or raw.shape[1] != len(self.shift) or not np.isfinite(raw).all():
            raise DataError(
                "the gene vectors do not fit", expected=f"finite numbers (gene, {len(self.shift)})", got=str(raw.shape)
            )
        return ((raw - self.shift) / self.scale).astype(np.float32)
