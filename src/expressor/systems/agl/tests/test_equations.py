"""Each equation against a plain loop, a closed form or another library."""

import math

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from expressor.core.errors import DataError
from expressor.genes.panels import hvg_scores
from expressor.systems.agl import equations


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def losses(rng: np.random.Generator, n: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(0.2, 1.5, n))


@pytest.mark.covers("1")
def test_the_ideal_mask_is_the_best_of_all() -> None:
    """Auxiliary genes 0 and 3 help, 1 harms, 2 helps only beside 0: the best mask is known."""

    def held_out(mask: np.ndarray) -> float:
        return 1.0 - 0.3 * mask[0] - 0.1 * mask[3] + 0.2 * mask[1] + 0.05 * mask[2] - 0.1 * mask[0] * mask[2]

    assert equations.ideal_mask(held_out, 4).tolist() == [1, 0, 1, 1]
    assert equations.ideal_mask(lambda mask: 0.0, 3).tolist() == [0, 0, 0], "ties go to fewer genes"
    with pytest.raises(DataError, match="too many masks to try; expected at most 16 auxiliary genes, got 40"):
        equations.ideal_mask(held_out, 40)


@pytest.mark.covers("2", "4", "5")
def test_objectives_are_sums_over_genes(rng: np.random.Generator) -> None:
    primary, auxiliary = losses(rng, 3), losses(rng, 6)
    rank = torch.tensor([2, 0, 5, 1, 4, 3])
    mask = equations.ranked_mask(rank, 3)
    assert mask.tolist() == [1, 1, 0, 1, 0, 0]
    by_hand = sum(primary.tolist()) + auxiliary[0].item() + auxiliary[1].item() + auxiliary[3].item()
    assert equations.masked_objective(primary, auxiliary, mask).item() == pytest.approx(by_hand, rel=1e-14)
    assert equations.relaxed_objective(primary, auxiliary, mask.double()).item() == pytest.approx(by_hand, rel=1e-14)
    soft = torch.linspace(0, 1, 6, dtype=torch.float64)
    by_hand = sum(primary.tolist()) + sum(w * one for w, one in zip(soft.tolist(), auxiliary.tolist()))
    assert equations.relaxed_objective(primary, auxiliary, soft).item() == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.covers("3")
def test_the_prior_is_what_ranks_genes_in_practice(rng: np.random.Generator) -> None:
    """From log dispersions and scanpy's bins the equation gives the scores of the panel and of scanpy."""
    counts = rng.poisson(rng.gamma(1.0, 2.0, 80), size=(60, 80)).astype(np.float32)
    counts[0, counts.sum(0) == 0] = 1
    log = np.log1p(counts)
    adata = ad.AnnData(log)
    sc.pp.highly_variable_genes(adata)
    found = hvg_scores(log)
    np.testing.assert_allclose(found, adata.var["dispersions_norm"], rtol=1e-5)
    values = np.expm1(log.astype(np.float64))
    mean, variance = values.mean(0), values.var(0, ddof=1)
    edges = np.linspace(np.log1p(mean).min(), np.log1p(mean).max(), 21)
    bins = np.clip(np.searchsorted(edges, np.log1p(mean), side="left") - 1, 0, 19)
    score = equations.standardised_dispersion(np.log(variance / mean), bins)
    alone = np.isnan(score)
    np.testing.assert_allclose(score[~alone], found[~alone], rtol=1e-6)
    np.testing.assert_allclose(found[alone], 1.0)


@pytest.mark.covers("6")
@given(k=st.floats(-1, 2), tau=st.floats(0.05, 2.0))
def test_the_soft_mask_is_the_ratio_of_exponentials(k: float, tau: float) -> None:
    rank = [0.0, 0.25, 0.5, 1.0]
    found = equations.relaxed_mask(
        torch.tensor(rank, dtype=torch.float64), torch.tensor(k, dtype=torch.float64), float(tau)
    )
    for one, r in zip(found.tolist(), rank):
        assert one == pytest.approx(math.exp(k / tau) / (math.exp(r / tau) + math.exp(k / tau)), rel=1e-12)


@pytest.mark.covers("C1")
def test_ranks_are_scaled() -> None:
    assert equations.normalise_rank(torch.tensor([3, 0, 1, 4, 2])).tolist() == [0.75, 0.0, 0.25, 1.0, 0.5]
    assert equations.normalise_rank(torch.tensor([0])).tolist() == [0.0]


@pytest.mark.covers("C2")
def test_the_denominator_of_the_mean_has_no_gradient(rng: np.random.Generator) -> None:
    loss, weight = losses(rng, 5), torch.from_numpy(rng.uniform(0, 1, 5)).requires_grad_()
    value = equations.weighted_mean(loss, weight)
    assert value.item() == pytest.approx(np.average(loss.numpy(), weights=weight.detach().numpy()), rel=1e-14)
    (slope,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(slope, loss / weight.detach().sum(), msg="d/dw is l / sum(w), with no second term")


@pytest.mark.covers("C3", "I1")
def test_read_outs_of_k() -> None:
    rank = equations.normalise_rank(torch.tensor([4, 2, 0, 1, 3]))
    assert equations.read_k(rank, torch.tensor(0.55)) == 2
    assert equations.read_k(rank, torch.tensor(-3.0)) == 0
    assert equations.read_k(rank, torch.tensor(9.0)) == 4
    for at, expected in [(0.55, 3), (-3.0, 0), (9.0, 5), (0.5, 3)]:
        assert equations.kept(equations.relaxed_mask(rank, torch.tensor(at), 0.01)) == expected


@pytest.mark.covers("C4")
def test_the_loss_is_one_minus_pearson(rng: np.random.Generator) -> None:
    measured, predicted = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    found = equations.pcc_loss(torch.from_numpy(predicted), torch.from_numpy(measured))
    for gene in range(4):
        assert found[gene].item() == pytest.approx(1 - pearsonr(predicted[:, gene], measured[:, gene])[0], abs=1e-7)
    # Scale and offset do not matter, a constant gene is no information, and its gradient is 0 rather than NaN.
    again = equations.pcc_loss(torch.from_numpy(7 * predicted - 3), torch.from_numpy(measured))
    torch.testing.assert_close(again, found, atol=1e-6, rtol=0)
    flat = torch.zeros(30, 1, dtype=torch.float64, requires_grad=True)
    loss = equations.pcc_loss(flat, torch.from_numpy(measured[:, :1]))
    loss.sum().backward()
    assert loss.item() == 1.0
    assert bool(torch.isfinite(flat.grad).all())


def membership(slide: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((slide == np.unique(slide)[:, None]).astype(np.float64))


@pytest.mark.covers("I2")
def test_the_slide_loss_averages_pearson_over_slides(rng: np.random.Generator) -> None:
    slide = np.array([0] * 12 + [1] * 9 + [2] * 2)
    measured, predicted = rng.normal(size=(23, 5)), rng.normal(size=(23, 5))
    measured[slide == 0, 3] = 0.1 + 1 / 3  # constant in one slide
    measured[:, 4] = 0.7  # constant everywhere
    found = equations.slide_pcc_loss(torch.from_numpy(predicted), torch.from_numpy(measured), membership(slide))
    for gene in range(3):
        r = [pearsonr(predicted[slide == s, gene], measured[slide == s, gene])[0] for s in (0, 1)]
        assert found[gene].item() == pytest.approx(1 - np.mean(r), abs=1e-6)
    only = pearsonr(predicted[slide == 1, 3], measured[slide == 1, 3])[0]
    assert found[3].item() == pytest.approx(1 - only, abs=1e-6)
    assert found[4].item() == 1.0
    shifted = predicted + 10 * slide[:, None]
    again = equations.slide_pcc_loss(torch.from_numpy(shifted), torch.from_numpy(measured), membership(slide))
    torch.testing.assert_close(again, found, atol=1e-8, rtol=0, msg="an offset of a slide teaches nothing")
    with pytest.raises(DataError, match="no slide has enough spots in a mini-batch"):
        equations.slide_pcc_loss(torch.ones(4, 1), torch.ones(4, 1), torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]))


@pytest.mark.covers("I2", "C4")
def test_both_losses_can_be_differentiated_twice(rng: np.random.Generator) -> None:
    measured = torch.from_numpy(rng.normal(size=(9, 2)))
    predicted = torch.from_numpy(rng.normal(size=(9, 2))).requires_grad_()
    member = membership(np.array([0] * 5 + [1] * 4))
    assert torch.autograd.gradgradcheck(lambda p: equations.slide_pcc_loss(p, measured, member), predicted)
    assert torch.autograd.gradgradcheck(lambda p: equations.pcc_loss(p, measured), predicted)


@pytest.mark.covers("I3")
def test_recalibration_is_least_squares_inside_slides(rng: np.random.Generator) -> None:
    slide = np.repeat([4, 9], [20, 30])
    predicted = rng.normal(size=(50, 3))
    measured = predicted * [2.0, 0.5, -1.0] + np.array([1.0, -2.0, 3.0]) + 5.0 * (slide == 9)[:, None]
    noisy = measured + 0.1 * rng.normal(size=measured.shape)
    slope, intercept = equations.recalibration(predicted, noisy, slide)
    design = np.column_stack([slide == 4, slide == 9, predicted[:, 0]]).astype(float)
    expected = np.linalg.lstsq(design, noisy[:, 0], rcond=None)[0]
    assert slope[0] == pytest.approx(expected[2], rel=1e-10)
    assert intercept[0] == pytest.approx(expected[:2].mean(), rel=1e-10)
    assert slope[1] == pytest.approx(0.5, abs=0.05)
    assert 0 < slope[2] < 0.01, "a prediction that points the wrong way is flattened, not turned round"
    flat = equations.recalibration(np.zeros((50, 1)), noisy[:, :1], slide)
    assert flat[0] == 0
    assert flat[1] == pytest.approx((noisy[slide == 4, 0].mean() + noisy[slide == 9, 0].mean()) / 2)


@pytest.mark.covers("I4")
def test_half_width_is_the_conformal_quantile(rng: np.random.Generator) -> None:
    """With one slide it is the textbook rule: the ceil((n + 1) c)-th smallest error."""
    error = rng.normal(size=(39, 2))
    for coverage in (0.5, 0.9, 0.95):
        found = equations.conformal_half_width(error, np.zeros(39, dtype=np.int64), coverage)
        place = math.ceil(40 * coverage - 1e-9) - 1
        np.testing.assert_array_equal(found, np.sort(np.abs(error), axis=0)[place])
    assert (equations.conformal_half_width(error, np.zeros(39, dtype=np.int64), 0.99) == np.abs(error).max(0)).all()


@pytest.mark.covers("I4")
def test_half_width_counts_every_slide_alike(rng: np.random.Generator) -> None:
    big, small = rng.uniform(0, 1, 2000), rng.uniform(1, 2, 20)
    error = np.concatenate([big, small])[:, None]
    slide = np.repeat([0, 1], [2000, 20])
    found = equations.conformal_half_width(error, slide, 0.75)[0]
    inside = [(big <= found).mean(), (small <= found).mean()]
    assert np.mean(inside) == pytest.approx(0.75, abs=0.04), "pooled spots alone would give a width below 1"
    assert found > 1


@pytest.mark.covers("R1")
def test_uncertainty_weights_settle_at_the_loss() -> None:
    """The best log variance of a gene is the logarithm of its loss."""
    loss = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    s = torch.log(loss).requires_grad_()
    value = equations.uncertainty_objective(loss, s)
    assert value.item() == pytest.approx(np.mean([0.5 * (1 + math.log(one)) for one in loss.tolist()]))
    (slope,) = torch.autograd.grad(value, s)
    torch.testing.assert_close(slope, torch.zeros(3, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.covers("R2", "R3")
def test_learnt_weights_are_positive_and_bounded() -> None:
    phi = torch.tensor([-4.0, 0.0, 3.0], dtype=torch.float64)
    for one, soft, mix in zip(phi, equations.auxilearn_weights(phi), equations.amal_weights(phi)):
        assert soft.item() == pytest.approx(math.log(1 + math.exp(one)))
        assert mix.item() == pytest.approx(1 / (1 + math.exp(-one)))
