"""Each equation against a plain loop, a closed form or another library."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional as F

from expressor.nn.values import WaveValues
from expressor.systems.bmfm import equations


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def normed(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    spread = math.sqrt(sum((one - mean) ** 2 for one in row) / len(row) + 1e-12)
    return [(one - mean) / spread for one in row]


@pytest.mark.covers("C1", "C2")
def test_values_and_depth() -> None:
    x = torch.tensor([[3.0, 0.0, 1.0], [0.0, 5.0, 0.0]], dtype=torch.float64)
    library = torch.tensor([40.0, 5.0], dtype=torch.float64)  # the first cell has counts outside these genes
    for epsilon in (0.0, 1.0):
        found = equations.log_normalise(x, library, epsilon)
        for c, g in itertools.product(range(2), range(3)):
            by_hand = math.log(1 + 1e4 * x[c, g].item() / (library[c].item() + epsilon))
            assert found[c, g].item() == pytest.approx(by_hand, rel=1e-12)
    source, target = equations.read_depth(x, torch.tensor([1e4, 99.0], dtype=torch.float64))
    assert source.tolist() == pytest.approx([math.log(5), math.log(6)])
    assert target.tolist() == pytest.approx([math.log(10001), math.log(100)])


@pytest.mark.covers("C3", "I3")
def test_tokens() -> None:
    genes, inside, values, turn = some(2, 3, 4), some(2, 3, 4), some(2, 3), some(4, 4)
    plain, product = equations.token(genes, inside), equations.product_token(genes, inside, values, turn)
    for c, t in itertools.product(range(2), range(3)):
        row = [(genes[c, t, k] + inside[c, t, k]).item() for k in range(4)]
        assert plain[c, t].tolist() == pytest.approx(normed(row), abs=1e-9)
        turned = [sum((turn[k, j] * genes[c, t, j]).item() for j in range(4)) for k in range(4)]
        row = [one + values[c, t].item() * more for one, more in zip(row, turned)]
        assert product[c, t].tolist() == pytest.approx(normed(row), abs=1e-9)


@pytest.mark.covers("C4")
def test_waves() -> None:
    v, omega, weights = some(2, 3), some(4), some(5, 8)
    found = equations.waves(v, omega, weights)
    for c, t, k in itertools.product(range(2), range(3), range(5)):
        by_hand = sum(
            weights[k, j].item() * math.sin(omega[j].item() * v[c, t].item())
            + weights[k, 4 + j].item() * math.cos(omega[j].item() * v[c, t].item())
            for j in range(4)
        )
        assert found[c, t, k].item() == pytest.approx(by_hand, abs=1e-12)
    layer = WaveValues(6, 5, scale=0.01, trainable=False)
    assert layer.basis.tolist() == pytest.approx([2 * math.pi * 0.01 * 2**j for j in range(5)])
    v = 1 + torch.rand(2, 3)
    expected = equations.waves(v, layer.basis, layer.out.weight)
    assert torch.allclose(layer(v, torch.zeros(2, 3, dtype=torch.bool)), expected, atol=1e-6)


@pytest.mark.covers("C5")
def test_masking_selects_hides_and_switches() -> None:
    u, kind, p = torch.rand(400, 50), torch.rand(400, 50), torch.rand(400, 50)
    selected, hidden, switched = equations.choose_masked(u, kind, p, 0.7, 0.2)
    for c, t in itertools.product(range(0, 400, 40), range(50)):
        chosen, one = u[c, t].item() < p[c, t].item(), kind[c, t].item()
        wanted = (chosen, chosen and one < 0.7, chosen and 0.7 <= one < 0.9)
        assert (bool(selected[c, t]), bool(hidden[c, t]), bool(switched[c, t])) == wanted
    assert selected.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (hidden.sum() / selected.sum()).item() == pytest.approx(0.7, abs=0.02)
    assert (switched.sum() / selected.sum()).item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.covers("C6")
def test_adaptive_weights_are_bins_of_errors() -> None:
    errors = [2.0, 6.0, 3.1, 4.0, 4.1, math.nan]
    found = equations.adaptive_weight(torch.tensor(errors, dtype=torch.float64), 4)
    # Edges 2, 3, 4, 5, 6: bins 0, 3, 1, 1, 2; the gene without an error gets the mean of the others.
    by_hand = [1 / 5, 4 / 5, 2 / 5, 2 / 5, 3 / 5]
    assert found.tolist() == pytest.approx([*by_hand, sum(by_hand) / 5])
    known = [one for one in errors if not math.isnan(one)]
    cut = np.searchsorted(np.linspace(2, 6, 5)[1:-1], known, side="left")
    assert found[:5].tolist() == pytest.approx(((1 + cut) / 5).tolist())
    assert equations.adaptive_weight(torch.full((3,), 0.5), 4).unique().numel() == 1
    assert equations.adaptive_weight(torch.full((3,), math.nan)).tolist() == [1, 1, 1]


@pytest.mark.covers("C7")
def test_probabilities_have_the_wanted_mean() -> None:
    w, keep = torch.rand(6, 9, dtype=torch.float64) + 0.5, torch.rand(6, 9) < 0.7
    keep[5] = False
    found = equations.mask_probability(w, keep, 0.15)
    for c in range(5):
        kept = [w[c, t].item() for t in range(9) if keep[c, t]]
        for t in range(9):
            by_hand = 0.15 * w[c, t].item() / (sum(kept) / len(kept)) if keep[c, t] else 0.0
            assert found[c, t].item() == pytest.approx(by_hand, rel=1e-12)
        assert found[c].sum().item() == pytest.approx(0.15 * len(kept))
    assert found[5].tolist() == [0] * 9
    assert equations.mask_probability(w, keep, 3.0).max().item() == 1


@pytest.mark.covers("C8", "C9", "C10")
def test_losses_of_values() -> None:
    predicted, v, w = some(5, 7), some(5, 7).relu(), torch.rand(5, 7) < 0.6
    squares, sizes, zeros = [], [], []
    for c, g in itertools.product(range(5), range(7)):
        if w[c, g]:
            one, true = predicted[c, g].item(), v[c, g].item()
            chance = 1 / (1 + math.exp(-one))
            zeros.append(-math.log(chance if true == 0 else 1 - chance))
            if true != 0:
                squares.append((one - true) ** 2)
                sizes.append(abs(one - true))
    assert 0 < len(squares) < len(zeros)
    assert equations.value_loss(predicted, v, w).item() == pytest.approx(np.mean(squares))
    assert equations.absolute_loss(predicted, v, w).item() == pytest.approx(np.mean(sizes))
    assert equations.zero_loss(predicted, v, w).item() == pytest.approx(np.mean(zeros))
    for loss in (equations.value_loss, equations.absolute_loss, equations.zero_loss):
        assert loss(predicted, v, torch.zeros_like(w)).item() == 0


@pytest.mark.covers("C11", "C12", "C14")
def test_losses_of_classes() -> None:
    a, y = some(6, 4), torch.tensor([0, 3, -1, 2, 1, -1])
    plain, focal, distances = [], [], []
    for i in (0, 1, 3, 4):
        whole = sum(math.exp(one) for one in a[i].tolist())
        p = [math.exp(one) / whole for one in a[i].tolist()]
        plain.append(-math.log(p[int(y[i])]))
        focal.append((1 - p[int(y[i])]) ** 3 * plain[-1])
        distances.append((sum(k * one for k, one in enumerate(p)) - int(y[i])) ** 2)
    assert equations.class_loss(a, y).item() == pytest.approx(np.mean(plain))
    assert equations.class_loss(a, y).item() == pytest.approx(F.cross_entropy(a, y, ignore_index=-1).item())
    assert equations.focal_loss(a, y, 3.0).item() == pytest.approx(np.mean(focal))
    assert equations.token_value_loss(a, y).item() == pytest.approx(np.mean(distances))
    none = torch.full((6,), -1)
    for loss in (equations.class_loss, equations.focal_loss, equations.token_value_loss):
        assert loss(a, none).item() == 0


@pytest.mark.covers("C13")
def test_hierarchical_loss_sums_the_leaves_below_a_label() -> None:
    below = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    a, y = some(6, 4).requires_grad_(), torch.tensor([0, 1, 2, 3, -1, 1])
    by_hand = []
    for i in (0, 1, 2, 3, 5):
        p = torch.softmax(a[i], 0).tolist()
        by_hand.append(-math.log(sum(one for one, under in zip(p, below[y[i]].tolist()) if under)))
    assert by_hand[0] == pytest.approx(0), "the root says nothing"
    loss = equations.hierarchical_loss(a, y, below)
    assert loss.item() == pytest.approx(np.mean(by_hand))
    loss.backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert a.grad[4].abs().sum() == 0
    leaves = torch.eye(4, dtype=torch.bool)
    assert equations.hierarchical_loss(a, y, leaves).item() == pytest.approx(equations.class_loss(a, y).item())


@pytest.mark.covers("C15", "C16")
def test_decoders() -> None:
    h, inner, shift, out, bias = some(2, 3), some(3, 3), some(3), some(5, 3), some(5)
    found = equations.decode_cell(h, inner, shift, out, bias)
    genes, product = some(4, 3), some(3, 3)
    asked = equations.decode_by_query(h, genes, product, inner, shift)
    for c in range(2):
        inside = []
        for k in range(3):
            one = shift[k].item() + sum((inner[k, j] * h[c, j]).item() for j in range(3))
            inside.append(one * 0.5 * (1 + math.erf(one / math.sqrt(2))))
        inside = normed(inside)
        for g in range(5):
            by_hand = bias[g].item() + sum(out[g, k].item() * inside[k] for k in range(3))
            assert found[c, g].item() == pytest.approx(by_hand, abs=1e-9)
        for g in range(4):
            query = [
                1 / (1 + math.exp(-shift[k].item() - sum((inner[k, j] * genes[g, j]).item() for j in range(3))))
                for k in range(3)
            ]
            by_hand = sum((h[c, i] * product[i, k]).item() * query[k] for i in range(3) for k in range(3))
            assert asked[c, g].item() == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.covers("C17")
def test_target_sets() -> None:
    genes = torch.tensor([[2, 0, -1], [4, -1, -1], [-1, -1, -1]], dtype=torch.int32)
    measured = torch.ones(3, 5, dtype=torch.bool)
    measured[0, 0] = measured[1, 3] = False
    sets = {which: equations.target_set(genes, measured, which) for which in ("input", "non_input", "all")}
    for c, g in itertools.product(range(3), range(5)):
        among = g in genes[c].tolist()
        assert bool(sets["input"][c, g]) == (among and bool(measured[c, g]))
        assert bool(sets["non_input"][c, g]) == (not among and bool(measured[c, g]))
    assert torch.equal(sets["all"], measured)


@pytest.mark.covers("I1", "I2")
def test_gene_means_are_the_start_and_the_rival() -> None:
    v = some(200, 3).relu()
    v[:, 2] = 0
    positive, n = (v > 0).double().sum(0), torch.full((3,), 200.0, dtype=torch.float64)
    mean, zero = equations.gene_offset(positive, v.sum(0), n)
    for g in range(2):
        assert mean[g].item() == pytest.approx(v[:, g][v[:, g] > 0].mean().item())
        share = ((v[:, g] == 0).sum().item() + 0.5) / 201
        assert zero[g].item() == pytest.approx(math.log(share / (1 - share)))
    assert mean[2].item() == 0
    assert zero[2].item() == pytest.approx(math.log(200.5 / 0.5))
    mu, w = v.mean(0), torch.rand(200, 3) < 0.8
    guess = v + some(200, 3)
    about, around = equations.explained_above_mean(guess, v, mu, w)
    for g in range(3):
        cells = [c for c in range(200) if w[c, g]]
        assert about[g].item() == pytest.approx(sum((v[c, g] - guess[c, g]).item() ** 2 for c in cells))
        assert around[g].item() == pytest.approx(sum((v[c, g] - mu[g]).item() ** 2 for c in cells))


@pytest.mark.covers("I4")
def test_loadings_start_with_unit_mean_square() -> None:
    loadings = some(50, 4)
    loadings[:, 3] = 0
    found = equations.loading_start(loadings)
    assert found.square().mean(0).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])
    ratio = found[:, :3] / loadings[:, :3]
    assert torch.allclose(ratio, ratio[:1].expand(50, 3)), "directions stay"
    assert (ratio > 0).all()


@pytest.mark.covers("I5", "I6")
def test_likelihoods_of_counts_are_those_of_scipy() -> None:
    x = torch.tensor([[0.0, 3.0, 40.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    mu, theta = torch.rand(2, 3, dtype=torch.float64) * 9 + 0.1, torch.tensor([0.3, 2.0, 50.0], dtype=torch.float64)
    z = some(2, 3)
    r = theta.expand(2, 3).numpy()
    oracle = scipy.stats.nbinom(r, r / (r + mu.numpy()))
    np.testing.assert_allclose(equations.negative_binomial(x, mu, theta), oracle.logpmf(x.numpy()), rtol=1e-9)
    extra = 1 / (1 + np.exp(-z.numpy()))
    likelihood = extra * (x.numpy() == 0) + (1 - extra) * oracle.pmf(x.numpy())
    np.testing.assert_allclose(equations.zero_inflated(x, mu, theta, z), np.log(likelihood), rtol=1e-9)
    poisson = equations.negative_binomial(x, mu, torch.full((3,), 1e8, dtype=torch.float64))
    np.testing.assert_allclose(poisson, scipy.stats.poisson(mu.numpy()).logpmf(x.numpy()), rtol=1e-4, atol=1e-4)
