"""Networks from places to values: starts, features, vectors of genes."""

import math

import pytest
import torch

from expressor.core.errors import DataError
from expressor.nn.fields import FourierField, Siren


def test_the_papers_network_has_its_size_and_start() -> None:
    net = Siren(27)
    assert sum(one.numel() for one in net.parameters()) == 27 * 512 + 512 + 12 * (512 * 512 + 512) + 513
    first, second = net.sines[0].linear.weight, net.sines[1].linear.weight
    bound = math.sqrt(6 / 512) / 30
    assert 0.95 / 27 < float(first.detach().abs().max()) <= 1 / 27
    assert 0.95 * bound < float(second.detach().abs().max()) <= bound


def test_a_siren_is_the_loop_over_its_layers() -> None:
    net, x = Siren(5, width=7, hidden=2, omega_first=20.0, omega=10.0), torch.randn(4, 5)
    h = x
    for omega, layer in zip((20.0, 10.0, 10.0), net.sines):
        h = torch.sin(omega * (h @ layer.linear.weight.T + layer.linear.bias))
    torch.testing.assert_close(net(x), h @ net.last.weight.T + net.last.bias)


def test_given_vectors_give_the_same_value_as_part_of_the_fit_or_not() -> None:
    vectors = torch.randn(6, 3)
    net = FourierField(3, 2, vectors, frequencies=4, width=8, dropout=0.0).eval()
    x, conditions = torch.randn(5, 3), torch.rand(5, 2)
    v, b = net.gene_vectors(vectors[2:4])
    torch.testing.assert_close(net.trunk(x, conditions) @ v.T + b, net(x, conditions)[:, 2:4])


def test_a_field_that_learnt_its_vectors_takes_no_others() -> None:
    net = FourierField(3, 0, 4)
    with pytest.raises(DataError, match="learnt a vector for each gene of its fit"):
        net.gene_vectors(torch.randn(1, 3))
