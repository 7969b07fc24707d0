"""The permutation test keeps its level on autocorrelated maps; the bootstrap of blocks has the right spread."""

import numpy as np
import pytest

from expressor import metrics
from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.metrics.blocks import _rearranged, _resampled


def section(side: int, seed: int) -> np.ndarray:
    """Spots of a ragged patch of tissue, 1 apart."""
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)
    rng = np.random.default_rng(seed)
    centre = (side - 1) / 2
    angle = np.arctan2(grid[:, 1] - centre, grid[:, 0] - centre)
    radius = np.hypot(*(grid - centre).T)
    kept = grid[radius < side / 2 * (1 + 0.25 * np.sin(3 * angle + rng.uniform(0, 6)))]
    return kept + rng.normal(0, 0.05, kept.shape)


def fields(coords: np.ndarray, reach: float, genes: int, rng: np.random.Generator) -> np.ndarray:
    """Independent Gaussian maps, (spot, gene), of exponential covariance."""
    distance = np.linalg.norm(coords[:, None] - coords[None], axis=-1)
    covariance = np.exp(-distance / reach) if reach else np.eye(len(coords))
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(coords))) @ rng.normal(size=(len(coords), genes))


@pytest.fixture(scope="module")
def tissue():
    parts = [section(14, seed) for seed in range(3)]
    return parts, np.concatenate(parts), np.repeat(["s0", "s1", "s2"], [len(one) for one in parts])


def maps(parts, reach, genes, rng):
    return np.concatenate([fields(one, reach, genes, rng) for one in parts])


@pytest.mark.parametrize("reach", [0.0, 1.0, 3.0])
def test_unrelated_maps_are_called_at_the_stated_rate(tissue, reach):
    parts, coords, sections = tissue
    rng = stream(0, "null", int(reach))
    n = 1200
    p = metrics.block_permutation_pvalues(
        maps(parts, reach, n, rng), maps(parts, reach, n, rng), coords, sections, n_permutations=99, rng=rng
    )
    # 1,200 independent tests: the rate of a true 5 % test lies in [.037, .063] 95 times of 100. At long range the test may be
    # slightly liberal, which is stated where it is documented.
    assert 0.015 < (p <= 0.05).mean() < (0.075 if reach == 3.0 else 0.063)


def test_shuffling_single_spots_would_have_been_far_too_liberal(tissue):
    parts, coords, sections = tissue
    rng = stream(0, "spots")
    measured, predicted = maps(parts, 3.0, 300, rng), maps(parts, 3.0, 300, rng)
    fine = metrics.block_permutation_pvalues(
        measured, predicted, coords, sections, block=0.5, n_permutations=99, rng=rng
    )
    assert (fine <= 0.05).mean() > 0.15


def test_a_real_relation_is_found_and_its_opposite_is_not(tissue):
    parts, coords, sections = tissue
    rng = stream(0, "power")
    truth = maps(parts, 2.0, 60, rng)
    measured = 0.5 * truth + np.sqrt(0.75) * maps(parts, 2.0, 60, rng)
    found = metrics.block_permutation_pvalues(measured, truth, coords, sections, n_permutations=199, rng=rng)
    against = metrics.block_permutation_pvalues(measured, -truth, coords, sections, n_permutations=199, rng=rng)
    assert (found <= 0.05).mean() > 0.9
    assert (against > 0.5).all()


def test_pvalues_are_reproducible_scale_free_and_undefined_for_constants(tissue):
    _, coords, sections = tissue
    rng = stream(0, "scale")
    measured, predicted = rng.normal(size=(2, len(coords), 4))
    measured[:, 2] = 0.0
    predicted[sections == "s1", 3] = 5.0  # still defined in the other sections
    one = metrics.block_permutation_pvalues(
        measured, predicted, coords, sections, n_permutations=49, rng=stream(7, "p")
    )
    two = metrics.block_permutation_pvalues(
        10 * measured + 3, 0.1 * predicted - 8, 700 * coords, sections, n_permutations=49, rng=stream(7, "p")
    )
    np.testing.assert_allclose(one, two)
    assert np.isnan(one).tolist() == [False, False, True, False]
    assert (one[~np.isnan(one)] >= 1 / 50).all()


def test_blocks_keep_their_inside(tissue):
    parts, _, _ = tissue
    target = _rearranged(parts[0], 4.0, stream(0, "blocks"))
    moved = target - parts[0]
    # Every spot moves by whole blocks, and all spots of a block by the same.
    np.testing.assert_allclose(moved / 4.0, np.round(moved / 4.0), atol=1e-9)
    assert 4 < len(np.unique(np.round(moved / 4.0), axis=0)) <= 30


def test_a_block_as_large_as_the_tissue_is_refused(tissue):
    _, coords, sections = tissue
    values = np.random.default_rng(0).normal(size=(len(coords), 2))
    with pytest.raises(DataError, match="the block is as large as section 's0'"):
        metrics.block_permutation_pvalues(
            values, values, coords, sections, block=40.0, n_permutations=9, rng=stream(0, "x")
        )
    with pytest.raises(DataError, match="no distance from each other"):
        metrics.default_block(np.zeros((5, 2)))


def test_default_block_is_a_share_of_the_side():
    coords = 200.0 * np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2)
    assert metrics.default_block(coords) == pytest.approx(1000.0)
    assert metrics.default_block(np.concatenate([coords] * 2), ["a"] * 100 + ["b"] * 100, share=0.2) == pytest.approx(
        400
    )


def test_resampled_correlation_equals_the_correlation_of_the_repeated_spots():
    rng = np.random.default_rng(5)
    m, p = rng.normal(size=(2, 24, 3))
    cell = np.repeat(np.arange(6), 4)
    times = np.array([[2, 0, 1, 1, 2, 0], [1, 1, 1, 1, 1, 1]], dtype=float)
    found = _resampled(m - m.mean(0), p - p.mean(0), cell, times)
    for draw in range(2):
        rows = np.concatenate([np.repeat(np.flatnonzero(cell == c), int(times[draw, c])) for c in range(6)])
        for gene in range(3):
            assert found[draw, gene] == pytest.approx(np.corrcoef(m[rows, gene], p[rows, gene])[0, 1])


def test_block_bootstrap_covers_the_true_correlation(tissue):
    parts, coords, sections = tissue
    rng = stream(0, "coverage")
    for reach, least in ((0.0, 0.91), (1.0, 0.84)):
        truth = maps(parts, reach, 500, rng)
        measured = 0.4 * truth + np.sqrt(1 - 0.16) * maps(parts, reach, 500, rng)
        draws = metrics.block_bootstrap_pearson(measured, truth, coords, sections, n_draws=300, rng=rng).mean(axis=1)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        assert ((low <= 0.4) & (0.4 <= high)).mean() > least


def test_two_predictions_share_their_draws(tissue):
    _, coords, sections = tissue
    rng = np.random.default_rng(6)
    measured, predicted = rng.normal(size=(2, len(coords), 2))
    one, other = (
        metrics.block_bootstrap_pearson(measured, p, coords, sections, n_draws=20, rng=stream(1, "draws"))
        for p in (predicted, 3 * predicted + 1)
    )
    np.testing.assert_allclose(one, other)
