"""Tests and intervals for one section of tissue, made with whole blocks of spots because neighbouring spots are alike.

Design of the permutation test. Under the null hypothesis a prediction has nothing to do with what was measured, but both are
smooth in space, and two smooth unrelated maps correlate by chance far more than two maps of independent spots. So the prediction
is rearranged in whole square blocks: for each permutation a grid of blocks with a random origin is laid over each section, the
blocks change places, and a spot takes the prediction of the spot nearest to its place in the block that came. Inside a block the
map stays smooth as it was. What is lost is dependence over more than a block's side, so the side must exceed the distance over
which maps are alike; :func:`default_block` takes half the side of the tissue. On simulated sections of about 150 spots (Gaussian
fields of exponential covariance, unrelated), 5 % tests reject 2 to 5 % for a range of up to 3 spot distances and 6 to 7 % at 4;
blocks of a fifth of the tissue's side reject 7 to 13 %, single spots more. A torus shift keeps more but needs full rectangles,
which tissue is not.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from expressor.core.errors import DataError, check_range
from expressor.metrics.checks import by_section, check_coords, check_labels, check_pair
from expressor.metrics.genewise import pearson, varies


def default_block(coords: Any, sections: Any = None, *, share: float = 0.5) -> float:
    """Return a block side: ``share`` of the side of a square as large as the tissue, in the unit of ``coords``.

    Parameters
    ----------
    coords
        (spot, 2) positions.
    sections
        (spot,) labels; the median over sections is returned.
    share
        In (0, 1].
    """
    check_range(share, name="share", low=0.0, high=1.0, open_low=True)
    coords = check_coords(coords, len(coords))
    sides = []
    for _, rows in by_section(check_labels(sections, len(coords))):
        if len(rows) < 2:
            continue
        pitch = np.median(cKDTree(coords[rows]).query(coords[rows], k=2)[0][:, 1])
        sides.append(pitch * np.sqrt(len(rows)))
    if not sides or not np.median(sides) > 0:
        raise DataError("the spots have no distance from each other", fix="Check the coordinates.")
    return float(share * np.median(sides))


def block_permutation_pvalues(
    measured: Any,
    predicted: Any,
    coords: Any,
    sections: Any,
    *,
    block: float | None = None,
    n_permutations: int = 999,
    rng: np.random.Generator,
) -> Float[np.ndarray, " gene"]:
    """Test for each gene whether its prediction correlates with what was measured more than an unrelated map would.

    Parameters
    ----------
    measured, predicted
        (spot, gene).
    coords
        (spot, 2) positions, in one unit for all sections.
    sections
        (spot,) labels; None for one section. Blocks move inside their section.
    block
        Side of a block in the unit of ``coords``; :func:`default_block` by default. See the module's notes on its choice.
    n_permutations
        Number of rearrangements; the smallest p-value is 1 / (n_permutations + 1).
    rng
        Source of the permutations.

    Returns
    -------
    numpy.ndarray
        float64 (gene,): one-sided p-values of the mean over sections of Pearson's r (those in which it is defined); NaN for a
        gene that has no r in any section.

    Raises
    ------
    DataError
        Shapes that differ, values that are not finite, or a block as large as the tissue.
    """
    measured, predicted = check_pair(measured, predicted)
    n = len(measured)
    labels, coords = check_labels(sections, n), check_coords(coords, n)
    check_range(n_permutations, name="n_permutations", low=1, integer=True)
    block = default_block(coords, labels) if block is None else float(block)
    check_range(block, name="block", low=0.0, open_low=True)
    observed = pearson(measured, predicted, labels)
    defined = ~np.isnan(observed)
    total = np.where(defined, observed, 0.0).sum(axis=0)
    null = np.zeros((n_permutations, measured.shape[1]))
    for i, (name, rows) in enumerate(by_section(labels)):
        if not defined[i].any():
            continue
        if np.ptp(coords[rows], axis=0).max() <= block:
            raise DataError(
                f"the block is as large as section {name!r}",
                expected=f"a side below {np.ptp(coords[rows], axis=0).max():g}", got=f"{block:g}",
                fix="Give a smaller block=.",
            )  # fmt: skip
        genes = np.flatnonzero(defined[i])
        null[:, genes] += _null_correlations(
            measured[np.ix_(rows, genes)], predicted[np.ix_(rows, genes)], coords[rows], block, n_permutations, rng
        )
    # Sums of the same products in another order differ in their last bits; such ties count against the prediction.
    beaten = (null >= total - 1e-12).sum(axis=0)
    return np.where(defined.any(axis=0), (1.0 + beaten) / (n_permutations + 1.0), np.nan)


def _null_correlations(
    m: np.ndarray, p: np.ndarray, coords: np.ndarray, block: float, n_permutations: int, rng: np.random.Generator
) -> np.ndarray:
    m = m - m.mean(axis=0)
    m = m / np.sqrt((m**2).sum(axis=0))
    p = p - p.mean(axis=0)
    p = p / np.sqrt((p**2).mean(axis=0))
    tree = cKDTree(coords)
    null = np.empty((n_permutations, m.shape[1]))
    for k in range(n_permutations):
        q = p[tree.query(_rearranged(coords, block, rng))[1]]
        spread = (q**2).sum(axis=0) - len(q) * q.mean(axis=0) ** 2
        # A rearrangement may repeat a few spots only, on which the prediction is constant: that is no correlation.
        flat = spread <= 1e-9 * len(q)
        null[k] = np.where(flat, 0.0, np.einsum("sg,sg->g", m, q) / np.sqrt(np.where(flat, 1.0, spread)))
    return null


def _cells(coords: np.ndarray, block: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the occupied cells of a grid with a random origin, (cell, 2), and the cell of each spot."""
    origin = coords.min(axis=0) - rng.uniform(0.0, block, size=2)
    cells, cell = np.unique(np.floor((coords - origin) / block).astype(np.int64), axis=0, return_inverse=True)
    return cells, cell.reshape(-1)


def _rearranged(
    coords: Float[np.ndarray, "spot 2"], block: float, rng: np.random.Generator
) -> Float[np.ndarray, "spot 2"]:
    """Return where each spot looks up its value after the blocks changed places."""
    cells, cell = _cells(coords, block, rng)
    came = rng.permutation(len(cells))
    return coords + (cells[came] - cells)[cell] * block


def block_bootstrap_pearson(
    measured: Any,
    predicted: Any,
    coords: Any,
    sections: Any,
    *,
    block: float | None = None,
    n_draws: int = 1000,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw section gene"]:
    """Resample whole blocks of spots inside each section and return Pearson's r of every draw.

    The spread of the draws is the uncertainty of r *in these sections*, from having seen so many spots of them; it says nothing
    about other sections or patients. Two predictions are compared on the same draws by giving each a generator of the same seed.

    Parameters
    ----------
    measured, predicted, coords, sections
        As for :func:`block_permutation_pvalues`.
    block
        Side of a block in the unit of ``coords``; by default .3 of the side of the tissue, which leaves about 16 blocks.
    n_draws
        Number of resamples.
    rng
        Source of the draws.

    Returns
    -------
    numpy.ndarray
        float64 (draw, section, gene), sections in alphabetical order; NaN where a draw holds no variation.
    """
    measured, predicted = check_pair(measured, predicted)
    n = len(measured)
    labels, coords = check_labels(sections, n), check_coords(coords, n)
    check_range(n_draws, name="n_draws", low=1, integer=True)
    block = default_block(coords, labels, share=0.3) if block is None else float(block)
    check_range(block, name="block", low=0.0, open_low=True)
    draws = []
    for _, rows in by_section(labels):
        m, p = measured[rows], predicted[rows]
        defined = varies(m) & varies(p)
        m, p = m - m.mean(axis=0), p - p.mean(axis=0)
        cells, cell = _cells(coords[rows], block, rng)
        times = rng.multinomial(len(cells), np.full(len(cells), 1.0 / len(cells)), size=n_draws).astype(np.float64)
        r = _resampled(m, p, cell, times)
        draws.append(np.where(defined, r, np.nan))
    return np.stack(draws, axis=1)


def _resampled(
    m: np.ndarray, p: np.ndarray, cell: Int[np.ndarray, " spot"], times: Float[np.ndarray, "draw cell"]
) -> Float[np.ndarray, "draw gene"]:
    """Return Pearson's r when block ``c`` is taken ``times[draw, c]`` times, from the sums of each block."""
    member = (np.arange(times.shape[1])[:, None] == cell).astype(np.float64)
    weight = times @ member
    spots = weight.sum(axis=1, keepdims=True)
    mean_m, mean_p = weight @ m / spots, weight @ p / spots
    variance_m = weight @ m**2 / spots - mean_m**2
    variance_p = weight @ p**2 / spots - mean_p**2
    floor = 1e-12 * np.stack([(m**2).mean(axis=0), (p**2).mean(axis=0)])
    defined = (variance_m > floor[0]) & (variance_p > floor[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (weight @ (m * p) / spots - mean_m * mean_p) / np.sqrt(variance_m * variance_p)
    return np.where(defined, np.clip(r, -1.0, 1.0), np.nan)
