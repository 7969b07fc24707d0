"""The layer on edges against a dense layer under a mask: outputs, gradients, penalties, options."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from expressor.core.errors import DataError
from expressor.nn.masked_linear import MaskedLinear, multiply_edges

ROWS, COLUMNS = torch.tensor([0, 0, 1, 3]), torch.tensor([1, 2, 0, 2])


def make(**options):
    return MaskedLinear(ROWS, COLUMNS, (5, 3), **options)


def dense_of(layer: MaskedLinear) -> torch.Tensor:
    dense = torch.zeros(layer.shape)
    dense[layer.rows, layer.columns] = layer.edge_weights().detach()
    return dense


def test_many_edges_are_gathered_in_parts():
    n = 70  # 4,900 edges, more than are gathered at once
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(n, n, generator=generator, dtype=torch.float64) + 0.5
    rows, columns = dense.nonzero(as_tuple=True)
    weight = dense[rows, columns].clone().requires_grad_()
    x = torch.randn(3, n, generator=generator, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(multiply_edges(x, weight, rows, columns, n).square().sum(), (weight, x))
    dense.requires_grad_()
    to_dense, to_x = torch.autograd.grad((x @ dense.T).square().sum(), (dense, x))
    torch.testing.assert_close(found, (to_dense[rows, columns], to_x))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**20))
def test_product_and_both_gradients_are_those_of_a_dense_matrix(n_rows, n_columns, n_obs, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_rows, n_columns, generator=generator) < 0.5
    rows, columns = mask.nonzero(as_tuple=True)
    weight = torch.randn(len(rows), generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(n_obs, n_columns, generator=generator, dtype=torch.float64, requires_grad=True)
    above = torch.randn(n_obs, n_rows, generator=generator, dtype=torch.float64)
    y = multiply_edges(x, weight, rows, columns, n_rows)
    found = torch.autograd.grad(y, (weight, x), above)
    dense = torch.zeros(n_rows, n_columns, dtype=torch.float64).index_put((rows, columns), weight)
    wanted = torch.autograd.grad(x @ dense.T, (weight, x), above)
    torch.testing.assert_close(y, x @ dense.T)
    torch.testing.assert_close(found, wanted)


def test_it_starts_as_the_mean_of_the_inputs():
    layer = make(offset=torch.tensor([0.0, 0.0, 7.0, 1.0, 0.0]))
    y = layer(torch.tensor([[1.0, 2.0, 4.0]]))
    assert y.tolist() == [[3.0, 1.0, 7.0, 5.0, 0.0]]


def test_confidence_weighs_the_mean():
    layer = make(confidence=torch.tensor([1.0, 0.5, 0.5, 1.0]))
    assert layer(torch.tensor([[0.0, 3.0, 6.0]]))[0, 0].item() == pytest.approx(4.0)
    assert layer.edge_weights().tolist() == pytest.approx([2 / 3, 1 / 3, 1.0, 1.0])


def test_an_uncertain_edge_moves_less():
    layer = make(confidence=torch.tensor([1.0, 0.5, 1.0, 1.0]))
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad.tolist() == [1.0, 0.5, 1.0, 1.0]


def test_training_is_that_of_a_dense_layer_whose_gradient_is_masked():
    x, wanted = torch.randn(20, 3), torch.randn(20, 5)
    layer = make()
    dense, mask = nn.Parameter(dense_of(layer)), dense_of(layer) != 0
    bias = nn.Parameter(torch.zeros(5))
    one = torch.optim.Adam(layer.parameters(), lr=0.1)
    other = torch.optim.Adam([dense, bias], lr=0.1)
    for _ in range(10):
        for optimiser, y in ((one, lambda: layer(x)), (other, lambda: x @ (dense * mask).T + bias)):
            optimiser.zero_grad()
            (y() - wanted).square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(dense_of(layer), (dense * mask).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias, bias, rtol=1e-4, atol=1e-5)


def test_a_lost_output_is_learned_or_stays_the_mean():
    for lost, moved in (("learned", True), ("mean", False)):
        layer = make(lost=lost, offset=torch.full((5,), 2.0))
        layer(torch.ones(1, 3)).sum().backward()
        assert (layer.bias.grad[[2, 4]] != 0).all().item() is moved
        assert (layer.bias.grad[[0, 1, 3]] == 1).all()


def test_weights_stay_at_zero_or_above_and_come_back():
    layer = make(non_negative=True)
    optimiser = torch.optim.SGD(layer.parameters(), lr=10.0)
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    assert (layer.eval().edge_weights() == 0).all()
    layer.train()
    optimiser.zero_grad()
    (-layer(torch.ones(1, 3))[:, :4].sum()).backward()
    optimiser.step()
    assert (layer.edge_weights() > 0).all()


def test_penalties_and_another_start():
    layer = make(pull=0.5, l1=0.25)
    assert layer.penalty().item() == pytest.approx(0.25 * 3.0)
    factor, offset = torch.tensor([2.0, 1.0, 1.0, -1.0, 1.0]), torch.arange(5.0)
    layer.rescale(factor, offset)
    assert layer.edge_weights().tolist() == [1.0, 1.0, 1.0, -1.0]
    assert layer.bias.tolist() == offset.tolist()
    with torch.no_grad():
        layer.weight[0] = 3.0
    assert layer.penalty().item() == pytest.approx(0.5 * 4.0 + 0.25 * 6.0)


def test_frozen_and_small():
    layer = make(frozen=True)
    assert not any(one.requires_grad for one in layer.parameters())
    big = MaskedLinear(torch.arange(26_000) % 20_000, torch.arange(26_000) % 19_999, (20_000, 20_000))
    assert sum(one.numel() for one in big.state_dict().values()) < 200_000


def test_bad_edges():
    with pytest.raises(DataError, match="a masked layer needs edges"):
        MaskedLinear(ROWS[:0], COLUMNS[:0], (5, 3))
    with pytest.raises(DataError, match="a column of an edge is out of range; expected 0 to 1, got 2"):
        MaskedLinear(ROWS, COLUMNS, (5, 2))
    with pytest.raises(DataError, match="a pair of row and column stands in two edges"):
        MaskedLinear(torch.tensor([1, 1]), torch.tensor([0, 0]), (5, 3))
    with pytest.raises(DataError, match=r"an edge has no confidence; expected numbers above 0, got 0.0"):
        make(confidence=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    with pytest.raises(DataError, match="unknown lost 'none'"):
        make(lost="none")
