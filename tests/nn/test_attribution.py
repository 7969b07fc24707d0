"""Integrated gradients against closed forms and their axiom; rollout against a product of matrices."""

import pytest
import torch

from expressor.core.errors import DataError
from expressor.nn.attribution import attention_rollout, integrated_gradients


def test_a_linear_function_gives_its_terms() -> None:
    weight = torch.tensor([2.0, -1.0, 0.5])
    inputs, baseline = (
        torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]),
        torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    )
    found = integrated_gradients(lambda x: x @ weight, inputs, baseline, steps=1)
    torch.testing.assert_close(found, weight * (inputs - baseline))


def test_a_product_is_shared_as_the_integral_says() -> None:
    """Of x * y from (0, 0), each factor gets half; of x ** 2 * y, x gets two thirds."""
    inputs, baseline = torch.tensor([[3.0, 2.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    found = integrated_gradients(lambda x: x[:, 0] * x[:, 1], inputs, baseline, steps=200)
    torch.testing.assert_close(found, torch.tensor([[3.0, 3.0]], dtype=torch.float64))
    found = integrated_gradients(lambda x: x[:, 0] ** 2 * x[:, 1], inputs, baseline, steps=400)
    torch.testing.assert_close(found, torch.tensor([[12.0, 6.0]], dtype=torch.float64), rtol=1e-4, atol=0)


def test_shares_add_up_to_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = torch.randn(4, 5, generator=generator).double()
    inputs, baseline = (torch.randn(6, 4, generator=generator).double() for _ in range(2))

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ layers).sum(1)

    found = integrated_gradients(function, inputs, baseline, steps=300)
    torch.testing.assert_close(found.sum(1), function(inputs) - function(baseline), rtol=1e-3, atol=1e-4)
    with pytest.raises(DataError, match="steps is out of range"):
        integrated_gradients(function, inputs, baseline, steps=0)


def test_rollout_is_a_product_of_layers_mixed_with_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.softmax(torch.randn(2, 3, 4, 4, generator=generator), dim=-1) for _ in range(2)]
    found = attention_rollout(layers)
    for i in range(2):
        first, second = (0.5 * one[i].mean(0) + 0.5 * torch.eye(4) for one in layers)
        torch.testing.assert_close(found[i], second @ first)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4))
    with pytest.raises(DataError, match="there are no attention layers to roll out"):
        attention_rollout([])
