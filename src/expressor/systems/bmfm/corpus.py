"""Cells as the model reads them: counts in the order of its genes, what was measured, libraries, labels, moments of the genes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import anndata
import numpy as np
import torch
from scipy import sparse

from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data.blocks import Blocks, open_blocks
from expressor.data.draws import uniform_table
from expressor.data.tokens import draw_seeds
from expressor.genes.vocab import GeneVocab
from expressor.systems.bmfm.equations import gene_offset

_ROWS = 2048  # cells read at a time in a pass
_FOR_LOADINGS = 20_000  # cells at most from which principal loadings are made
_ROUNDS = 20  # of bringing libraries of different panels to one scale
FEW = 0.5
"""Share of the model's genes below which a message says how few were found."""


@dataclass(eq=False)
class Corpus:
    """Cells with the genes of a model.

    Attributes
    ----------
    blocks
        Where counts come from, in the order of ``genes``.
    gaps
        bool CSR (cell, gene): values of measured genes that are missing all the same (NaN); None where there are none.
    """

    blocks: Blocks
    gaps: sparse.csr_matrix | None = None

    @property
    def genes(self) -> GeneVocab:
        """The genes of the model."""
        return self.blocks.genes

    def __len__(self) -> int:
        return len(self.blocks)

    def measured(self, rows: np.ndarray) -> np.ndarray:
        """Return bool (cell, gene): which values of these cells were measured."""
        found = self.blocks.measured[self.blocks.source_of(rows)]
        return found if self.gaps is None else found & ~self.gaps[rows].toarray()

    def parts(
        self, rows: np.ndarray | None = None, size: int = _ROWS
    ) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Read cells in their order, some at a time: rows and counts."""
        rows = np.arange(len(self)) if rows is None else rows
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield part, self.blocks.read(part)

    def check_not_empty(self, counts: sparse.csr_matrix, rows: np.ndarray) -> None:
        """Refuse cells without a count of the model's genes, of these rows that were read."""
        empty = np.asarray(counts.sum(axis=1)).ravel() <= 0
        if not empty.any():
            return
        first = int(rows[empty.argmax()])
        known = int(self.blocks.measured[self.blocks.source_of(rows[empty])].sum(axis=1).min())
        fix = "Leave such cells out, for example by scanpy.pp.filter_cells(adata, min_counts=1)."
        if known < FEW * len(self.genes):
            fix = (
                f"Of the model's {len(self.genes):,} genes {known:,} are in the data. Check the namespace of both; cells of "
                "another species go through translate()."
            )
        raise DataError(
            f"{int(empty.sum())} of the {len(rows)} cells that were looked at have no counts of the model's genes, such as "
            f"{str(self.blocks.obs.index[first])!r} (row {first})",
            expected="at least one count a cell",
            fix=fix,
        )  # fmt: skip

    def column(self, name: str) -> np.ndarray:
        """Return a column of ``obs`` as words, None where it is empty."""
        found = self.blocks.column(name)
        return np.array([None if missing else str(one) for one, missing in zip(found, found.isna())], dtype=object)


def open_corpus(data: Any, *, layer: str | None, genes: GeneVocab | None = None) -> Corpus:
    """Open cells in the order of ``genes``; by default all their own, in alphabetical order.

    NaN of an AnnData in memory are values that were not measured.

    Raises
    ------
    DataError, GeneError, FormatError
        As :func:`expressor.data.blocks.open_blocks`.
    """
    gaps = None
    if isinstance(data, anndata.AnnData) and not data.isbacked:
        data, gaps = _without_gaps(data, layer)
        layer = layer if gaps is None else None
    blocks = open_blocks(data, layer=layer)
    own = blocks.genes
    if genes is None:
        genes = GeneVocab(sorted(own.names), namespace=own.namespace)
    if gaps is not None:
        position = genes.align(own.names).index
        there = position >= 0
        wide = sparse.csr_matrix(gaps.tocsc()[:, position[there]])
        wide = wide @ sparse.csr_matrix(
            (np.ones(int(there.sum()), dtype=bool), (np.arange(int(there.sum())), np.flatnonzero(there))),
            shape=(int(there.sum()), len(genes)),
        )
        gaps = wide.astype(bool)
    return Corpus(open_blocks(data, layer=layer, genes=genes), gaps)


def _without_gaps(adata: anndata.AnnData, layer: str | None) -> tuple[anndata.AnnData, sparse.csr_matrix | None]:
    values = adata.X if layer is None else adata.layers.get(layer)
    if values is None or np.asarray(values.data if sparse.issparse(values) else values).dtype.kind != "f":
        return adata, None
    if not np.isnan(values.data if sparse.issparse(values) else np.asarray(values)).any():
        return adata, None
    held = sparse.csr_matrix(values)
    missing = np.isnan(held.data)
    # Each with indices of its own: what is left out of one is in the other.
    gaps = sparse.csr_matrix((missing, held.indices.copy(), held.indptr.copy()), shape=held.shape)
    filled = sparse.csr_matrix(
        (np.where(missing, 0, held.data), held.indices.copy(), held.indptr.copy()), shape=held.shape
    )
    for one in (gaps, filled):
        one.eliminate_zeros()
    return anndata.AnnData(filled, obs=adata.obs, var=adata.var), gaps


# Moments of the genes -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Moments:
    """What is known of each gene from the training cells.

    Attributes
    ----------
    share
        float64 (gene,): mean share of a cell's counts, adding up to 1.
    mean
        float64 (gene,): mean value (log1p of counts per 10,000), zeros included.
    positive, zero
        float64 (gene,): mean of the values that are not zero, and the logit of being zero (equation I1).
    """

    share: np.ndarray
    mean: np.ndarray
    positive: np.ndarray
    zero: np.ndarray

    def library(self, counts: sparse.csr_matrix, measured: np.ndarray) -> np.ndarray:
        """Return the library of each cell, float32 (cell,): counts of the model's genes, brought to what all of them would give.

        Genes that were not measured are taken to hold their mean share.
        """
        total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        if measured.all():
            return total.astype(np.float32)
        return (total / np.maximum(measured @ self.share, 1e-3)).astype(np.float32)


def survey(corpus: Corpus, rows: np.ndarray) -> Moments:
    """Return the moments of the genes in these cells.

    Raises
    ------
    DataError
        A cell has no counts.
    """
    n_genes, sources = len(corpus.genes), corpus.blocks.measured
    share, cells = np.zeros((len(sources), n_genes)), np.zeros(len(sources))
    seen = np.zeros((len(sources), n_genes))
    for part, counts in corpus.parts(rows):
        corpus.check_not_empty(counts, part)
        measured, source = corpus.measured(part), corpus.blocks.source_of(part)
        total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        shares = sparse.diags_array(1 / total) @ counts.astype(np.float64)
        for one in np.unique(source):
            mine = source == one
            share[one] += np.asarray(shares[mine].sum(axis=0)).ravel()
            seen[one] += measured[mine].sum(axis=0)
            cells[one] += mine.sum()
    common = _common_share(share, seen)
    found = Moments(common, *(np.zeros(n_genes) for _ in range(3)))
    positive, total_value, n = np.zeros(n_genes), np.zeros(n_genes), np.zeros(n_genes)
    for part, counts in corpus.parts(rows):
        measured = corpus.measured(part)
        logged = log_values(counts, found.library(counts, measured))
        positive += logged.getnnz(axis=0)
        total_value += np.asarray(logged.sum(axis=0), dtype=np.float64).ravel()
        n += measured.sum(axis=0)
    args = (torch.from_numpy(one) for one in (positive, total_value, n))
    means, zero = (one.numpy() for one in gene_offset(*args))
    return Moments(common, total_value / np.maximum(n, 1), means, zero)


def _common_share(share: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return shares over all genes from sums of shares over the genes of each source (source, gene)."""
    measured = seen > 0
    mean = np.divide(share, seen, out=np.zeros_like(share), where=measured)
    if measured.all():
        found = share.sum(axis=0) / seen.sum(axis=0)
        return found / found.sum()
    found = mean.sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
    for _ in range(_ROUNDS):
        # What a source's panel holds of a whole library scales its shares; that follows from the shares themselves.
        found /= found.sum()
        part = measured @ found
        found = (part[:, None] * mean * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return found / found.sum()


def log_values(counts: sparse.csr_matrix, library: np.ndarray) -> sparse.csr_matrix:
    """Return log1p of counts per ten thousand (equation C1), float32 CSR."""
    scaled = counts.data * np.repeat(1e4 / library, np.diff(counts.indptr))
    return sparse.csr_matrix((np.log1p(scaled).astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def loadings(corpus: Corpus, rows: np.ndarray, moments: Moments, n: int, *, seed: int) -> np.ndarray:
    """Return the principal loadings of the values, float64 (gene, factor), scaled by their singular values."""
    if len(rows) > _FOR_LOADINGS:
        rows = np.sort(stream(seed, "cells for loadings").permutation(rows)[:_FOR_LOADINGS])
    logged = []
    for part, counts in corpus.parts(rows):
        logged.append(log_values(counts, moments.library(counts, corpus.measured(part))))
    values = sparse.vstack(logged, format="csr").astype(np.float64)
    mean = np.asarray(values.mean(axis=0)).ravel()
    n = min(n, min(values.shape) - 1)
    centred = sparse.linalg.LinearOperator(
        values.shape, dtype=np.float64,
        matvec=lambda x: values @ x - mean @ x, rmatvec=lambda x: values.T @ x - mean * x.sum(),
        matmat=lambda x: values @ x - (mean @ x)[None], rmatmat=lambda x: values.T @ x - np.outer(mean, x.sum(axis=0)),
    )  # fmt: skip
    start = stream(seed, "loadings").normal(size=min(values.shape))
    _, size, vectors = sparse.linalg.svds(centred, k=n, v0=start)
    order = np.argsort(-size)
    vectors = vectors[order].T
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(n)])
    return vectors * signs * size[order] / np.sqrt(len(rows))


# Labels -------------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Labels:
    """Labels of cells as codes.

    Attributes
    ----------
    classes
        Column -> names of its classes, in alphabetical order (leaves of the ontology, for a hierarchical one).
    codes
        Column -> int64 (cell,) of all cells of the corpus; -1 where not known.
    below
        Column -> bool (node, class), for hierarchical labels, whose codes are nodes.
    nodes
        Column -> names of the nodes.
    """

    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    below: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, column: str, words: np.ndarray, edges: Sequence[tuple[str, str]] | None = None) -> None:
        """Take up a column's words (None where not known)."""
        known = [one for one in words if one is not None]
        if len(set(known)) < 2:
            raise DataError(
                f"obs[{column!r}] tells no classes apart", expected="at least 2 labels", got=len(set(known))
            )
        if edges is not None:
            from expressor.systems.bmfm.ontology import prune

            ontology = prune(edges, known)
            self.classes[column], self.below[column] = ontology.leaves, ontology.below
            self.nodes[column] = ontology.nodes
            self.codes[column] = ontology.codes("" if one is None else one for one in words)
            return
        names = tuple(sorted(set(known)))
        position = {name: i for i, name in enumerate(names)}
        self.classes[column] = names
        self.codes[column] = np.array([-1 if one is None else position[one] for one in words], dtype=np.int64)

    def add_like(self, other: "Labels", column: str, words: np.ndarray) -> None:
        """Take up a column's words in the classes of ``other``; those that it does not have are not known."""
        names = other.nodes.get(column, other.classes[column])
        position = {name: i for i, name in enumerate(names)}
        self.classes[column] = other.classes[column]
        if column in other.below:
            self.below[column], self.nodes[column] = other.below[column], names
        self.codes[column] = np.array([position.get(one, -1) for one in words], dtype=np.int64)


@dataclass(eq=False)
class Split:
    """Rows that train, and rows that judge."""

    train: np.ndarray
    held_out: np.ndarray

    @classmethod
    def of(cls, n: int, share: float, *, seed: int) -> "Split":
        """Draw the split; at least 2 cells judge and at least 2 train."""
        if n < 4:
            raise DataError("too few cells to learn from", expected="at least 4", got=n)
        order = stream(seed, "validation").permutation(n)
        held_out = min(max(2, round(share * n)), n - 2)
        return cls(np.sort(order[held_out:]), np.sort(order[:held_out]))


@dataclass(eq=False)
class Reading:
    """How cells of a corpus become tensors: genes, libraries and tokens in one place, for training and for use.

    Attributes
    ----------
    corpus, moments, tokeniser
        What is read, and how.
    """

    corpus: Corpus
    moments: Moments
    tokeniser: Any

    def batch(
        self,
        rows: np.ndarray,
        counts: sparse.csr_matrix,
        seeds: np.ndarray | None,
        *,
        whole: bool,
        masked: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Return tensors of cells.

        Parameters
        ----------
        rows, counts
            The cells.
        seeds
            uint64 (cell,) of the tokeniser's draws and of ``chance``; None to make them of the counts.
        whole
            Whether the whole cell is wanted too: ``profile``, ``counts``, ``library``.
        masked
            Whether tokens will be masked: ``chance``, uniform draws (cell, token, 4) that depend on the cell's seed alone.
        """
        measured = self.corpus.measured(rows)
        library = self.moments.library(counts, measured)
        seeds = draw_seeds(counts, seeds)
        tokens = self.tokeniser(counts, library, rng=seeds, measured=measured, source=np.arange(len(rows)))
        found = {"genes": torch.from_numpy(tokens.genes), "values": torch.from_numpy(tokens.values),
                 "measured": torch.from_numpy(measured)}  # fmt: skip
        if tokens.depth is not None:
            found["depth"] = torch.from_numpy(tokens.depth)
        if tokens.label_values is not None:
            found["label_values"] = torch.from_numpy(tokens.label_values)
        if masked:
            chance = uniform_table(seeds, 4 * tokens.genes.shape[1])
            found["chance"] = torch.from_numpy(chance.reshape(*tokens.genes.shape, 4))
        if whole:
            found |= {
                "profile": torch.from_numpy(log_values(counts, library).toarray()),
                "counts": torch.from_numpy(counts.toarray()),
                "library": torch.from_numpy(library),
            }  # fmt: skip
        return found

    @cached_property
    def width(self) -> int:
        """Number of genes."""
        return len(self.corpus.genes)
