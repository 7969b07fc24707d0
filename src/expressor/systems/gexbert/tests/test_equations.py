"""Each equation against a plain loop, a closed form, or what another implementation gives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.nn.attention import Attention, AttentionBlock
from expressor.nn.cox import fit_cox
from expressor.nn.gaussian import condition, fit_gaussian
from expressor.nn.values import BinnedValues
from expressor.systems.gexbert import equations
from expressor.systems.gexbert.network import RestorationNetwork


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.covers("I1")
def test_level_counts_the_edges_at_or_below_a_value() -> None:
    edges = torch.tensor([-1.0, 0.0, 2.0])
    z = torch.tensor([[-3.0, -1.0, -0.5, 0.0, 5.0]])
    missing = torch.tensor([[False, False, False, False, True]])
    found = equations.level(z, missing, edges)
    assert found.tolist() == [[1, 2, 2, 3, 0]]
    assert torch.equal(BinnedValues(edges, 4).levels(z, missing), found)


@pytest.mark.covers("I1")
@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=8), st.integers(0, 10**6))
def test_level_is_the_network_s_own(values: list[float], seed: int) -> None:
    edges = torch.unique(draws(seed, 5).float())
    z = torch.tensor([values])
    missing = torch.zeros_like(z, dtype=torch.bool)
    assert torch.equal(BinnedValues(edges, 2).levels(z, missing), equations.level(z, missing, edges))


@pytest.mark.covers("I2")
def test_token_is_the_sum_of_two_rows() -> None:
    E, V = draws(0, 3, 4), draws(1, 6, 4)
    levels = torch.tensor([[0, 5, 2], [1, 1, 4]])
    found = equations.token(E, V, levels)
    for i in range(2):
        for g in range(3):
            assert torch.equal(found[i, g], E[g] + V[levels[i, g]])


def network(**changes: object) -> RestorationNetwork:
    values = BinnedValues(torch.tensor([-1.0, 0.0, 1.0]), 8)
    options = {"layers": 1, "decoder_layers": 1, "heads": 2, "hidden": 16} | changes
    return RestorationNetwork(draws(0, 10, 8).float(), values, **options).eval()  # type: ignore[arg-type]


@pytest.mark.covers("I2", "I3")
@pytest.mark.parametrize("product", [False, True])
def test_the_network_s_tokens_are_those_of_the_equations(product: bool) -> None:
    net = network(product=product)
    genes, z = torch.tensor([3, 7]), draws(2, 4, 2).float()
    missing = torch.tensor([[False, True], [False, False], [True, True], [False, False]])
    found = net.tokens(genes, z, missing)[:, 1:]
    table = net.values.table.weight
    levels = equations.level(z, missing, net.values.edges)
    expected = equations.token(net.gene.weight[genes], table, levels)
    if product:
        seen = torch.where(missing, 0.0, z)
        expected = equations.continuous_token(net.gene.weight[genes], table[levels], net.turn.weight, seen)  # type: ignore[union-attr]
    torch.testing.assert_close(found, expected)


@pytest.mark.covers("I3")
def test_attention_on_continuous_tokens_can_add_expression_times_loading() -> None:
    """The mean of the third part of the tokens is a projection of the profile on the gene vectors."""
    E, z = draws(0, 5, 3), draws(1, 2, 5)
    nothing = torch.zeros(2, 5, 3, dtype=torch.float64)
    found = equations.continuous_token(E, nothing, torch.eye(3, dtype=torch.float64), z) - E
    torch.testing.assert_close(found.sum(1), z @ E)


@pytest.mark.covers("I4")
def test_loading_start_has_unit_mean_square_and_keeps_directions() -> None:
    L = draws(0, 20, 3) * torch.tensor([5.0, 1.0, 0.0])
    found = equations.loading_start(L)
    torch.testing.assert_close(found[:, :2].square().mean(0), torch.ones(2, dtype=torch.float64))
    assert bool((found[:, 2] == 0).all())
    ratio = found[:, 0] / L[:, 0]
    torch.testing.assert_close(ratio, ratio[:1].expand(20))


@pytest.mark.covers("I5")
def test_attention_is_a_weighted_mean_of_values() -> None:
    Q, K, V = draws(0, 2, 4), draws(1, 3, 4), draws(2, 3, 4)
    found = equations.attention(Q, K, V)
    for i in range(2):
        weight = [math.exp(float(Q[i] @ K[j]) / 2.0) for j in range(3)]
        expected = sum(w * V[j] for j, w in enumerate(weight)) / sum(weight)
        torch.testing.assert_close(found[i], expected)


@pytest.mark.covers("I5")
def test_the_network_s_attention_is_the_equation() -> None:
    layer = Attention(4, 1).double()
    queries, memory = draws(0, 1, 2, 4), draws(1, 1, 3, 4)
    K, V = layer.key_value(memory[0]).chunk(2, dim=-1)
    expected = layer.out(equations.attention(layer.query(queries[0]), K, V))
    torch.testing.assert_close(layer(queries, memory)[0], expected)
    torch.testing.assert_close(layer.weights(queries, memory).sum(-1), torch.ones(1, 1, 2, dtype=torch.float64))


@pytest.mark.covers("I6")
def test_gaussian_skip_is_what_the_factors_give() -> None:
    data = draws(0, 30, 6) @ draws(1, 6, 6)
    state = fit_gaussian(data, shrinkage=0.2)
    S, T = torch.tensor([0, 3, 5]), torch.tensor([1, 2])
    z = state.standardise(data, torch.arange(6))
    expected = equations.gaussian_skip(z[:, S], state.covariance, S, T)  # type: ignore[arg-type]
    found, _ = condition(state, data[:, S], S, T)
    torch.testing.assert_close(state.standardise(found, T), expected)


@pytest.mark.covers("I6")
def test_gaussian_skip_is_ridge_regression() -> None:
    data = draws(0, 30, 6) @ draws(1, 6, 6)
    state = fit_gaussian(data, shrinkage=0.2)
    z = state.standardise(data, torch.arange(6))
    S, T = torch.tensor([0, 3, 5]), torch.tensor([1])
    x, penalty = z[:, S], 0.2 / 0.8 * 30
    beta = torch.linalg.solve(x.T @ x + penalty * torch.eye(3, dtype=torch.float64), x.T @ z[:, T])
    torch.testing.assert_close(x @ beta, equations.gaussian_skip(x, state.covariance, S, T))  # type: ignore[arg-type]


@pytest.mark.covers("I7")
def test_panel_shrinkage_is_that_of_the_nearest_size() -> None:
    sizes, penalties = (16, 64, 256), (0.1, 0.5, 1.0)
    for m, k in ((1, 0.1), (31, 0.1), (33, 0.5), (64, 0.5), (127, 0.5), (129, 1.0), (5000, 1.0), (0, 0.1)):
        assert equations.panel_shrinkage(m, sizes, penalties) == pytest.approx(k / (1 + k))


@pytest.mark.covers("I8")
def test_an_untrained_network_adds_exactly_nothing() -> None:
    for changes in ({}, {"product": True}, {"layers": 0, "scores": 3}, {"decoder_layers": 0}, {"pipelines": 2}):
        net = network(**changes)
        scores = draws(5, 4, 4).float() if changes.get("scores") else None
        missing = torch.zeros(4, 2, dtype=torch.bool)
        found = net(torch.tensor([3, 7]), draws(2, 4, 2).float(), missing, torch.tensor([0, 1, 2]), scores)
        assert found.shape == (4, 3)
        assert bool((found == 0).all())
    skip = draws(3, 4, 3)
    assert torch.equal(equations.restoration(skip, torch.zeros_like(skip)), skip)


@pytest.mark.covers("I9")
def test_restoration_loss_is_a_loop() -> None:
    restored, z = draws(0, 3, 4), draws(1, 3, 4)
    z[0, 0] = torch.nan
    hidden = torch.tensor([[True, True, False, False]]).expand(3, -1)
    top = bottom = 0.0
    for i in range(3):
        for g in range(4):
            if not math.isnan(float(z[i, g])):
                weight = 1.0 if hidden[i, g] else 0.25
                top += weight * float(restored[i, g] - z[i, g]) ** 2
                bottom += weight
    assert float(equations.restoration_loss(restored, z, hidden, 0.25)) == pytest.approx(top / bottom)


@pytest.mark.covers("I9")
def test_unknown_targets_have_no_gradient() -> None:
    restored = draws(0, 2, 2).requires_grad_(True)
    z = torch.tensor([[torch.nan, 1.0], [0.0, torch.nan]], dtype=torch.float64)
    equations.restoration_loss(restored, z, torch.ones(2, 2, dtype=torch.bool), 0.0).backward()
    assert restored.grad is not None
    assert restored.grad[0, 0] == 0
    assert restored.grad[1, 1] == 0
    assert bool(restored.grad.isfinite().all())


@pytest.mark.covers("I16")
@pytest.mark.parametrize("n_genes", [4, 30])
def test_left_out_residuals_are_those_of_fits_that_leave_a_patient_out(n_genes: int) -> None:
    Z_S, Z_T, k = draws(0, 12, n_genes), draws(1, 12, 2), 3.0
    found = equations.left_out_residual(Z_S, Z_T, k)
    for j in range(12):
        rest = torch.arange(12) != j
        x, y = Z_S[rest], Z_T[rest]
        beta = torch.linalg.solve(x.T @ x + k * torch.eye(n_genes, dtype=torch.float64), x.T @ y)
        torch.testing.assert_close(found[j], Z_T[j] - Z_S[j] @ beta)


@pytest.mark.covers("I17")
def test_patient_kernel_is_a_loop() -> None:
    one, other = draws(0, 3, 5), draws(1, 2, 5)
    found = equations.patient_kernel(one, other, 0.7)
    for i in range(3):
        for j in range(2):
            square = float((one[i] - other[j]).square().mean())
            assert float(found[i, j]) == pytest.approx(math.exp(-square / (2 * 0.49)))


@pytest.mark.covers("I10")
def test_patient_quantile_counts_patients_alike() -> None:
    """Three patients of 1, 1 and 100 errors: each has a quarter of the mass; the last quarter is nobody's."""
    error = torch.full((3, 100), torch.nan, dtype=torch.float64)
    error[0, 0], error[1, 0] = 1.0, 2.0
    error[2] = torch.linspace(3.0, 4.0, 100)
    found = equations.patient_quantile(error, (0.2, 0.25, 0.45, 0.51, 0.99))
    assert found[:3].tolist() == [1.0, 1.0, 2.0]
    assert 3.0 <= float(found[3]) < 3.1
    assert float(found[4]) == 4.0


@pytest.mark.covers("I10")
@given(st.integers(0, 10**6), st.floats(0.5, 0.9))
def test_patient_quantile_covers_the_patients_it_is_made_from(seed: int, coverage: float) -> None:
    error = draws(seed, 19, 7).abs()
    q = float(equations.patient_quantile(error, (coverage,))[0])
    assert float((error <= q).double().mean()) >= coverage


@pytest.mark.covers("I11")
def test_draws_have_the_conditional_distribution() -> None:
    """Matheron's rule against the closed form: mean and covariance of the targets given the panel."""
    root = draws(0, 4, 4)
    Sigma = root @ root.T + torch.eye(4, dtype=torch.float64)
    S, T = torch.tensor([0, 2]), torch.tensor([1, 3])
    u = draws(1, 200_000, 4) @ torch.linalg.cholesky(Sigma).T
    given_S = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    mean = equations.gaussian_skip(given_S, Sigma, S, T)
    found = equations.draw(mean.expand(len(u), -1), u[:, T], equations.gaussian_skip(u[:, S], Sigma, S, T), 1.0)
    schur = Sigma[T][:, T] - Sigma[T][:, S] @ torch.linalg.solve(Sigma[S][:, S], Sigma[S][:, T])
    torch.testing.assert_close(found.mean(0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(found.T), schur, atol=0.05, rtol=0.03)


@pytest.mark.covers("I12")
def test_rank_values_follow_ranks_and_share_ties() -> None:
    x = torch.tensor([[10.0, 30.0, 20.0], [5.0, 5.0, 0.0]], dtype=torch.float64)
    reference = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    assert equations.rank_values(x, reference).tolist() == [[1.0, 4.0, 2.0], [3.0, 3.0, 1.0]]


@pytest.mark.covers("I12")
@given(st.integers(0, 10**6))
def test_rank_values_do_not_change_with_a_sample_s_scale(seed: int) -> None:
    x, reference = draws(seed, 2, 6), torch.sort(draws(seed + 1, 6)).values
    warped = torch.exp(x) * 3 + 1
    torch.testing.assert_close(equations.rank_values(x, reference), equations.rank_values(warped, reference))


@pytest.mark.covers("I13")
def test_univariate_score_is_a_loop_over_events() -> None:
    z, n = draws(0, 15, 3), 15
    rng = np.random.default_rng(1)
    time, event = torch.from_numpy(rng.integers(1, 8, n).astype(float)), torch.from_numpy(rng.random(n) < 0.6)
    found = equations.univariate_score(z, time, event)
    for g in range(3):
        score = information = 0.0
        for i in torch.nonzero(event)[:, 0]:
            risk = z[time >= time[i], g]
            score += float(z[i, g] - risk.mean())
            information += float(risk.var(unbiased=False))
        assert float(found[g]) == pytest.approx(score / math.sqrt(information))


@pytest.mark.covers("I13")
def test_univariate_score_agrees_with_a_fitted_cox_model() -> None:
    """Without ties the score test is one Newton step from 0: near the Wald test where effects are small."""
    z = draws(0, 400, 1)
    time = torch.from_numpy(np.random.default_rng(1).exponential(np.exp(-0.15 * z[:, 0].numpy())))
    event = torch.ones(400, dtype=torch.bool)
    fit = fit_cox(z, time, event)
    wald = float(fit.coefficients[0] / fit.covariance[0, 0].sqrt())
    assert float(equations.univariate_score(z, time, event)[0]) == pytest.approx(wald, rel=0.05)


@pytest.mark.covers("I13")
def test_univariate_score_of_nothing() -> None:
    time, event = torch.arange(1.0, 5.0), torch.tensor([True, False, True, False])
    assert equations.univariate_score(torch.ones(4, 1), time, event).tolist() == [0.0]
    with pytest.raises(DataError, match="no patient has an event; expected at least one"):
        equations.univariate_score(torch.ones(4, 1), time, torch.zeros(4, dtype=torch.bool))


@pytest.mark.covers("I14")
def test_class_probabilities_are_a_softmax() -> None:
    h, W, b = draws(0, 2, 3), draws(1, 4, 3), draws(2, 4)
    found = equations.class_probabilities(h, W, b)
    for i in range(2):
        weight = [math.exp(float(W[c] @ h[i] + b[c])) for c in range(4)]
        np.testing.assert_allclose(found[i].numpy(), np.array(weight) / sum(weight))


@pytest.mark.covers("I15")
def test_log_risk_is_linear() -> None:
    x, beta = draws(0, 3, 2), draws(1, 2)
    assert equations.log_risk(x, beta).tolist() == pytest.approx([float(row @ beta) for row in x])


def test_a_block_with_a_memory_sees_the_memory_alone() -> None:
    block = AttentionBlock(8, 2, hidden=16).eval()
    queries, memory = draws(0, 2, 3, 8).float(), draws(1, 2, 5, 8).float()
    whole = block(queries, memory)
    torch.testing.assert_close(block(queries[:, :1], memory), whole[:, :1])
    assert not torch.allclose(block(queries, memory + 1.0 * draws(2, 2, 5, 8).float()), whole)
