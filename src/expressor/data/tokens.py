"""Tokens: what a model for cells reads. Genes and values of many cells at once, from a sparse matrix, without a gene's name.

:class:`Tokeniser` holds the choices of the field: which genes, in what order, how zeros are shown, at what depth, on what scale.
A cell's draws depend on its own seed alone, so the tokens of a cell are the same whatever stands beside it in the batch (except
where zeros are chosen by the batch).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data import tokenising as loops

PADDING = -1
"""Gene of a place that holds no token."""


@dataclass(frozen=True)
class Tokens:
    """Cells as sequences of genes and values, padded to the same length.

    Attributes
    ----------
    genes
        int32 (cell, token): position of the gene in the vocabulary, :data:`PADDING` behind the last token.
    values
        float32 (cell, token): the input on the tokeniser's scale, or its level (from 0) where values are binned.
    lengths
        int32 (cell,): tokens of each cell.
    depth
        float32 (cell, 2), where the read depth is told: log1p of the depth of the input [S] and of the whole cell, or the depth
        aimed at [T].
    label_values
        float32 (cell, token), where counts were thinned: the value of the whole cell's counts, on the same scale, not binned.
    """

    genes: np.ndarray
    values: np.ndarray
    lengths: np.ndarray
    depth: np.ndarray | None = None
    label_values: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.genes)

    def take(self, cells: np.ndarray) -> "Tokens":
        """Return these cells alone, no wider than their longest."""
        width = int(self.lengths[cells].max(initial=0))
        labels, depth = self.label_values, self.depth
        return Tokens(
            self.genes[cells, :width], self.values[cells, :width], self.lengths[cells],
            None if depth is None else depth[cells], None if labels is None else labels[cells, :width],
        )  # fmt: skip

    def split_by_length(self, parts: int) -> list[np.ndarray]:
        """Return ``parts`` groups of cells of like length, int64, shortest first: each can be padded to its own longest.

        Raises
        ------
        DataError
            ``parts`` is below 1.
        """
        check_range(parts, name="parts", low=1, integer=True)
        order = np.argsort(self.lengths, kind="stable")
        return [one for one in np.array_split(order, parts) if len(one)]

    def pack(self) -> "PackedTokens":
        """Return all tokens in one row without padding, for attention over sequences of different lengths."""
        held = self.genes != PADDING
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        labels = None if self.label_values is None else self.label_values[held]
        return PackedTokens(self.genes[held], self.values[held], offsets, self.depth, labels)


@dataclass(frozen=True)
class PackedTokens:
    """Tokens of cells one after another, without padding.

    Attributes
    ----------
    genes, values, label_values
        As in :class:`Tokens`, (token,).
    offsets
        int64 (cell + 1,): tokens of cell i are those from ``offsets[i]`` to ``offsets[i + 1]``.
    depth
        As in :class:`Tokens`.
    """

    genes: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    depth: np.ndarray | None = None
    label_values: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokeniser:
    """How cells become tokens.

    Parameters
    ----------
    max_length
        Most tokens of a cell, >= 1. A longer sequence is cut off at its end; so a random order gives a random part of the cell.
    order
        ``"random"``; ``"sorted"``, by falling value (ties in the vocabulary's order); ``"uce"``, ``max_length`` genes drawn with
        replacement in proportion to the logarithm of their counts plus 1, chromosome by chromosome in random order, along each;
        ``"none"``, the vocabulary's order.
    zeros
        Genes of count zero that fill the sequence up. ``"none"``; ``"random"``, any gene that was measured; ``"batch"``, first
        those that another cell of the batch expresses, then others.
    interleave
        Share of expressed genes in each ten tokens, in (0, 1], where zeros are shown; so long sequences have zeros too. 1: zeros
        stand after all expressed genes.
    expressed_only
        Share of cells that show no zeros, in [0, 1].
    dropout
        Share of expressed genes left out at random, in [0, 1).
    dropout_weights
        Relative weight of each gene in being left out, (gene,), >= 0; ``dropout`` remains about the mean share.
    chunk_dropout
        Length of one stretch left out of the ordered sequence, in tokens, >= 0; a shorter sequence stays whole.
    read_depth
        ``"rda"``: every second cell of at least ``threshold`` counts is thinned, each count kept with a probability drawn from
        Beta(2, 2). ``"poisson"``: counts lose a Poisson number of ``poisson_rate`` times themselves, and genes are lost with that
        probability. ``"align"``, for inference: nothing is thinned and the model is told ``target_depth``. ``None``: nothing.
        Genes whose count becomes zero stay in the sequence.
    threshold
        Smallest library size that is thinned, in counts, >= 0; infinity: none is.
    poisson_rate
        In [0, 1).
    target_depth
        Counts aimed at, > 0, for ``"align"``.
    normalise
        ``"log1p_cp10k"``: log1p of counts per 10,000 of the cell's whole library (of its thinned depth, where it was thinned);
        ``"medians"``: counts per 10,000 divided by the gene's ``medians``; ``"none"``: counts.
    medians
        float (gene,): median of each gene's counts per 10,000 in cells that express it; a gene without one (NaN, 0) is left out.
    bins
        ``"round"``, ``"floor"``, ``"ceil"``: values become whole numbers of at most ``n_bins`` - 1. ``"quantile"``: levels 1 to
        ``n_bins`` - 1 by the quantiles of the cell's own positive values, zero stays 0. ``None``: values stay.
    n_bins
        >= 3.
    chromosome, start
        int (gene,): code of each gene's chromosome from 0 (-1: not known, left out), and its start, for ``order="uce"``.

    Raises
    ------
    DataError
        An option is unknown or out of range, or one that another one needs is missing.
    """

    max_length: int
    order: Literal["random", "sorted", "uce", "none"] = "random"
    zeros: Literal["none", "random", "batch"] = "none"
    interleave: float = 1.0
    expressed_only: float = 0.0
    dropout: float = 0.0
    dropout_weights: np.ndarray | None = None
    chunk_dropout: int = 0
    read_depth: Literal["rda", "poisson", "align"] | None = None
    threshold: float = 1000.0
    poisson_rate: float = 0.33
    target_depth: float | None = None
    normalise: Literal["log1p_cp10k", "medians", "none"] = "log1p_cp10k"
    medians: np.ndarray | None = None
    bins: Literal["round", "floor", "ceil", "quantile"] | None = None
    n_bins: int = 50
    chromosome: np.ndarray | None = None
    start: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_range(self.max_length, name="max_length", low=1, integer=True)
        check_choice(self.order, loops.ORDERS, name="order")
        check_choice(self.zeros, loops.ZEROS, name="zeros")
        check_range(self.interleave, name="interleave", low=0, high=1, open_low=True)
        check_range(self.expressed_only, name="expressed_only", low=0, high=1)
        check_range(self.dropout, name="dropout", low=0, high=1, open_high=True)
        check_range(self.chunk_dropout, name="chunk_dropout", low=0, integer=True)
        check_range(self.threshold, name="threshold", low=0)
        check_range(self.poisson_rate, name="poisson_rate", low=0, high=1, open_high=True)
        check_choice(self.normalise, loops.SCALES, name="normalise")
        check_range(self.n_bins, name="n_bins", low=3, integer=True)
        if self.read_depth is not None:
            check_choice(self.read_depth, loops.THINNING[1:], name="read_depth")
        if self.bins is not None:
            check_choice(self.bins, loops.BINS[1:], name="bins")
        if self.read_depth == "align":
            check_range(self.target_depth, name="target_depth", low=0, open_low=True)
        if self.order == "uce" and (self.chromosome is None or self.start is None):
            raise DataError('order="uce" needs to know where genes are', fix="Give chromosome= and start=.")
        if self.order == "uce" and self.zeros != "none":
            raise DataError('order="uce" draws expressed genes alone', expected='zeros="none"', got=repr(self.zeros))
        if self.normalise == "medians" and self.medians is None:
            raise DataError(
                'normalise="medians" needs the genes\' medians',
                fix="Give medians=, a number for each gene of the vocabulary.",
            )

    def __call__(
        self,
        matrix: sparse.csr_matrix,
        library_size: np.ndarray,
        *,
        rng: np.random.Generator | np.ndarray | None = None,
        measured: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> Tokens:
        """Return the tokens of cells.

        Parameters
        ----------
        matrix
            Counts, CSR (cell, gene), columns in the vocabulary's order.
        library_size
            (cell,): counts of the whole cell, also of genes outside the vocabulary.
        rng
            A generator; or a seed for each cell, uint64 (cell,), such as those of a :class:`~expressor.data.stream.CellBatch`; or
            None, where draws shall depend on the cell's counts alone, as in inference.
        measured
            bool (source, gene): which genes were measured; a gene that was not is never shown as a zero. All by default.
        source
            int (cell,): row of ``measured`` of each cell; all 0 by default.

        Raises
        ------
        DataError
            Shapes do not fit each other.
        """
        cells, n_genes = matrix.shape
        self._check_shapes(matrix, library_size, measured)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        seeds = draw_seeds(matrix, rng)
        longest = int(np.diff(matrix.indptr).max(initial=0)) if self.order != "uce" else self.max_length
        width = max(1, min(self.max_length, n_genes if self.zeros != "none" else longest))
        genes = np.full((cells, width), PADDING, dtype=np.int32)
        values = np.zeros((cells, width), dtype=np.float32)
        thinned = self.read_depth in ("rda", "poisson")
        labels = np.zeros((cells, width) if thinned else (1, 1), dtype=np.float32)
        depth = np.empty((cells, 2), dtype=np.float32)
        nothing, where = np.empty(0), np.empty(0, dtype=np.int64)
        lengths = loops.tokenise_cells(
            matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32),
            np.asarray(library_size, dtype=np.float64), seeds, n_genes, width,
            loops.THINNING.index(self.read_depth or "none"), float(self.threshold), float(self.poisson_rate),
            float(self.target_depth or 0.0), loops.SCALES.index(self.normalise),
            nothing if self.medians is None else np.nan_to_num(np.asarray(self.medians, dtype=np.float64)),
            loops.ORDERS.index(self.order), where if self.chromosome is None else np.asarray(self.chromosome, dtype=np.int64),
            where if self.start is None else np.asarray(self.start, dtype=np.int64), float(self.dropout),
            nothing if self.dropout_weights is None else np.asarray(self.dropout_weights, dtype=np.float64),
            self.chunk_dropout, loops.ZEROS.index(self.zeros), float(self.interleave), float(self.expressed_only),
            np.ones((1, n_genes), dtype=bool) if measured is None else np.asarray(measured, dtype=bool),
            np.zeros(cells, dtype=np.int64) if source is None else np.asarray(source, dtype=np.int64),
            loops.BINS.index(self.bins or "none"), self.n_bins, genes, values, labels, depth,
        )  # fmt: skip
        used = max(1, int(lengths.max(initial=0)))
        return Tokens(
            genes[:, :used], values[:, :used], lengths,
            depth if self.read_depth is not None else None, labels[:, :used] if thinned else None,
        )  # fmt: skip

    def _check_shapes(self, matrix: sparse.csr_matrix, library_size: np.ndarray, measured: np.ndarray | None) -> None:
        cells, n_genes = matrix.shape
        if np.shape(library_size) != (cells,):
            raise DataError("library sizes do not fit the cells", expected=f"({cells},)", got=np.shape(library_size))
        for name in ("medians", "dropout_weights", "chromosome", "start"):
            value = getattr(self, name)
            if value is not None and np.shape(value) != (n_genes,):
                raise DataError(f"{name} does not fit the vocabulary", expected=f"({n_genes},)", got=np.shape(value))
        if measured is not None and (np.ndim(measured) != 2 or np.shape(measured)[1] != n_genes):
            raise DataError(
                "measured does not fit the vocabulary", expected=f"(source, {n_genes})", got=np.shape(measured)
            )


def draw_seeds(matrix: sparse.csr_matrix, rng: np.random.Generator | np.ndarray | None) -> np.ndarray:
    """Return a seed for each cell, uint64 (cell,): drawn, given, or made of its counts; see :class:`Tokeniser`.

    Raises
    ------
    DataError
        Seeds were given and are not one a cell.
    """
    if rng is None:
        return loops.hash_cells(matrix.indptr, matrix.indices, matrix.data, 0)
    if isinstance(rng, np.random.Generator):
        return rng.integers(0, 2**64, size=matrix.shape[0], dtype=np.uint64)
    if np.shape(rng) != (matrix.shape[0],):
        raise DataError("seeds do not fit the cells", expected=f"({matrix.shape[0]},)", got=np.shape(rng))
    return np.asarray(rng, dtype=np.uint64)


@dataclass(frozen=True)
class WholeCell:
    """The expression of the whole cell, for a model that must restore it from some tokens.

    Attributes
    ----------
    values
        float32 (cell, gene): log1p of counts per 10,000 of the whole library.
    wanted
        bool (cell, gene): genes that the target set holds.
    """

    values: np.ndarray
    wanted: np.ndarray


def whole_cell(
    matrix: sparse.csr_matrix,
    library_size: np.ndarray,
    tokens: Tokens,
    *,
    which: Literal["input", "non_input", "all"] = "all",
    measured: np.ndarray | None = None,
    source: np.ndarray | None = None,
) -> WholeCell:
    """Return the targets of whole-cell expression decoding.

    Parameters
    ----------
    matrix, library_size, measured, source
        As given to the tokeniser. Genes that were not measured are in no target set.
    tokens
        What was made of them.
    which
        Genes among the cell's tokens, the others, or all.

    Raises
    ------
    DataError
        ``which`` is unknown.
    """
    check_choice(which, ("input", "non_input", "all"), name="which")
    size = np.asarray(library_size, dtype=np.float64)
    scaled = matrix.data * np.repeat(1e4 / np.where(size > 0, size, 1.0), np.diff(matrix.indptr))
    logged = sparse.csr_matrix((np.log1p(scaled).astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
    wanted = np.full(matrix.shape, which != "input")
    if which != "all":
        rows, places = np.nonzero(tokens.genes != PADDING)
        wanted[rows, tokens.genes[rows, places]] = which == "input"
    if measured is not None:
        wanted &= np.asarray(measured, dtype=bool)[np.zeros(matrix.shape[0], dtype=int) if source is None else source]
    return WholeCell(logged.toarray(), wanted)
