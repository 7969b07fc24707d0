"""Simulated single cells: types with programmes of their own, and modules of genes and cells as the paper of DIPHW has them."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import check_range
from expressor.core.rng import stream
from expressor.data import keys

UNASSIGNED = "none"
"""The module of a cell that no module holds."""


def simulate_cells(
    *,
    n_cells: int = 80,
    n_genes: int = 50,
    n_types: int = 4,
    n_batches: int = 2,
    marker_fold: float = 6.0,
    batch_fold: float = 1.5,
    depth: float = 400.0,
    dispersion: float = 0.3,
    seed: int = 0,
    mechanism: int = 0,
) -> ad.AnnData:
    """Simulate raw counts of cells of several types in several batches.

    Half of the genes mark a type, in which their mean is ``marker_fold`` times higher. Each batch has a factor of its own for every
    gene. Counts are negative binomial around these means times the cell's depth.

    Parameters
    ----------
    n_cells
        Number of cells, at least ``n_types`` and at least ``n_batches``.
    n_genes
        Number of genes, at least 10.
    n_types, n_batches
        Their numbers, at least 1. Cells are dealt out evenly.
    marker_fold
        By how much a marker is higher in its type, at least 1.
    batch_fold
        Spread of the factors of a batch, at least 1: e to the standard deviation of their logarithm; 1 for no difference.
    depth
        Mean counts of a cell, more than 0; depths vary by a third.
    dispersion
        Extra variance of a count in units of its squared mean, at least 0; 0 for Poisson counts.
    seed
        Seed of the cells.
    mechanism
        Seed of the genes: means, markers, batches. Data of one mechanism and different seeds are new cells of one tissue.

    Returns
    -------
    AnnData
        ``X``: float32 CSR (cell, gene), whole numbers; no cell is empty. ``obs``: ``cell_type``, ``batch``. ``var``: ``marks``, the
        type that a gene marks, or an empty string.
    """
    for name, value, low in (("n_genes", n_genes, 10), ("n_types", n_types, 1), ("n_batches", n_batches, 1)):
        check_range(value, name=name, low=low, integer=True)
    check_range(n_cells, name="n_cells", low=max(n_types, n_batches), integer=True)
    check_range(marker_fold, name="marker_fold", low=1)
    check_range(batch_fold, name="batch_fold", low=1)
    check_range(depth, name="depth", low=0, open_low=True)
    check_range(dispersion, name="dispersion", low=0)
    genes, cells = stream(mechanism, "cell genes"), stream(seed, "cells")
    order = genes.permutation(n_genes)
    marks = np.where(order < n_genes // 2, order % n_types, -1)
    mean = genes.lognormal(0.0, 1.0, n_genes)
    factor = np.exp(np.log(batch_fold) * genes.normal(size=(n_batches, n_genes)))
    kind, batch = cells.permutation(np.arange(n_cells) % n_types), cells.permutation(np.arange(n_cells) % n_batches)
    rate = mean * factor[batch] * np.where(marks == kind[:, None], marker_fold, 1.0)
    counts = draw_counts(rate, cells, depth=depth, dispersion=dispersion)
    width = max(2, len(str(n_genes)))
    obs = pd.DataFrame(
        {
            keys.CELL_TYPE: pd.Categorical([f"T{one + 1}" for one in kind]),
            keys.BATCH: pd.Categorical([f"B{one + 1}" for one in batch]),
        },
        index=[f"S{seed}C{i + 1:0{max(3, len(str(n_cells)))}d}" for i in range(n_cells)],
    )
    var = pd.DataFrame(
        {"marks": pd.Categorical(["" if one < 0 else f"T{one + 1}" for one in marks])},
        index=[f"GENE{i + 1:0{width}d}" for i in range(n_genes)],
    )
    return ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)


def draw_counts(rate: np.ndarray, rng: np.random.Generator, *, depth: float, dispersion: float) -> np.ndarray:
    """Draw negative binomial counts (cell, gene), int64; no cell is empty.

    Parameters
    ----------
    rate
        Relative means of the genes in each cell, (cell, gene).
    depth
        Mean counts of a cell, > 0; depths vary by a third.
    dispersion
        Extra variance in units of the squared mean, >= 0.
    """
    size = depth * np.exp(rng.normal(0.0, 1 / 3, len(rate)))
    rate = rate * (size[:, None] / rate.sum(axis=1, keepdims=True))
    if dispersion > 0:
        rate = rng.gamma(1 / dispersion, rate * dispersion)
    counts = rng.poisson(rate)
    empty = counts.sum(axis=1) == 0
    counts[empty, rate[empty].argmax(axis=1)] = 1
    return np.asarray(counts)


def simulate_modules(
    *,
    modules: int = 30,
    genes_per_module: float = 50.0,
    cells_per_module: float | None = None,
    n_genes: int = 3000,
    n_cells: int = 1000,
    density_inside: float = 0.3,
    density_outside: float = 0.03,
    density_between: float = 0.1,
    share_between: float = 0.6,
    mean_inside: float = 20.0,
    mean_outside: float = 10.0,
    seed: int = 0,
) -> ad.AnnData:
    """Simulate modules of co-expressed genes and their cells: the simulation of the paper of DIPHW, He et al. 2026.

    Genes and cells are cut into as many segments as there are modules, equal but for rounding. A module is the start of a segment
    of genes and of the segment of cells of the same number, of Poisson sizes that the segment bounds; inside it, exactly the share
    ``density_inside`` of the counts is drawn. Then counts are put into any zeros, those inside modules too, as many as
    ``density_outside`` of what lies outside less the counts inside, as the authors' program does. Last, each ordered pair of
    modules has, with probability ``share_between``, its block of genes of one and cells of the other *overwritten* at
    ``density_between``. Cells are shuffled.

    Parameters
    ----------
    modules
        Number of modules, at least 1: 10 to 100 in the paper.
    genes_per_module
        Mean number of genes of a module, more than 0: 10 to 100 in the paper. Few genes make weak modules.
    cells_per_module
        Mean number of cells of a module; None for the paper's: 38 for 30 modules, and the segment and 3 otherwise.
    n_genes, n_cells
        Numbers of all genes and cells, at least ``modules``.
    density_inside, density_outside, density_between
        Shares of counts that are drawn, 0 to 1.
    share_between
        Share of the ordered pairs of modules that interact, 0 to 1.
    mean_inside, mean_outside
        Means of the Poisson counts inside modules, and elsewhere.
    seed
        Seed of all draws.

    Returns
    -------
    AnnData
        ``X``: float32 CSR (cell, gene), whole numbers. ``obs["cell_type"]``: the cell's module (``"M001"``, ...), ``"none"`` for a
        cell of no module. ``var["module"]``: the same of genes.
    """
    check_range(modules, name="modules", low=1, integer=True)
    for name, size in (("n_genes", n_genes), ("n_cells", n_cells)):
        check_range(size, name=name, low=modules, integer=True)
    check_range(genes_per_module, name="genes_per_module", low=0, open_low=True)
    densities = {"density_inside": density_inside, "density_outside": density_outside,
                 "density_between": density_between, "share_between": share_between}  # fmt: skip
    for name, share in densities.items():
        check_range(share, name=name, low=0, high=1)
    for name, mean in (("mean_inside", mean_inside), ("mean_outside", mean_outside)):
        check_range(mean, name=name, low=0, open_low=True)
    if cells_per_module is None:
        cells_per_module = 38.0 if modules == 30 and n_cells == 1000 else float(n_cells // modules + 3)
    check_range(cells_per_module, name="cells_per_module", low=0, open_low=True)
    rng = stream(seed, "modules")
    counts = np.zeros((n_genes, n_cells), dtype=np.float32)
    genes = _segments(n_genes, modules, genes_per_module, rng)
    cells = _segments(n_cells, modules, cells_per_module, rng)

    def block(shape: tuple[int, ...], density: float, mean: float) -> np.ndarray:
        size = int(np.prod(shape))
        found, drawn = np.zeros(size), int(size * density)
        found[rng.choice(size, drawn, replace=False)] = rng.poisson(mean, drawn)
        return found.reshape(shape)

    for one, other in zip(genes, cells):
        counts[one, other] = block(counts[one, other].shape, density_inside, mean_inside)
    outside = counts.size - sum(counts[one, other].size for one, other in zip(genes, cells))
    zeros = np.flatnonzero(counts.ravel() == 0)
    wanted = int(np.clip(int(density_outside * outside) - np.count_nonzero(counts), 0, len(zeros)))
    counts.ravel()[rng.choice(zeros, wanted, replace=False)] = rng.poisson(mean_outside, wanted)
    for i, one in enumerate(genes):
        for j, other in enumerate(cells):
            if i != j and rng.random() < share_between:
                counts[one, other] = block(counts[one, other].shape, density_between, mean_outside)
    order = rng.permutation(n_cells)
    obs = pd.DataFrame({keys.CELL_TYPE: _modules_of(cells, n_cells)[order]},
                       index=[f"S{seed}C{i + 1:05d}" for i in range(n_cells)])  # fmt: skip
    var = pd.DataFrame({"module": _modules_of(genes, n_genes)}, index=[f"GENE{i + 1:05d}" for i in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(counts.T[order]), obs=obs, var=var)


def _segments(n: int, modules: int, mean: float, rng: np.random.Generator) -> list[slice]:
    """Return the start of each of ``modules`` segments of 0 to n, of a Poisson size that the segment bounds."""
    ends = np.linspace(0, n, modules + 1, dtype=np.int64)
    return [slice(int(a), int(min(b, a + rng.poisson(mean)))) for a, b in zip(ends[:-1], ends[1:])]


def _modules_of(parts: list[slice], n: int) -> pd.Categorical:
    names = np.full(n, UNASSIGNED, dtype=object)
    for m, part in enumerate(parts):
        names[part] = f"M{m + 1:03d}"
    return pd.Categorical(names)
