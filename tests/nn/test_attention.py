"""Attention blocks: shapes of sets, masks of nothing, parity with torch's own layer."""

import pytest
import torch

from expressor.core.errors import DataError
from expressor.nn.attention import Attention, AttentionBlock
from expressor.nn.values import BinnedValues, ContinuousValues


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_it_is_torch_s_own_attention() -> None:
    ours = Attention(8, 2).eval()
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    queries, memory = draws(3, 4, 8), draws(3, 6, 8)
    expected, weights = theirs(queries, memory, memory, average_attn_weights=False)
    torch.testing.assert_close(ours(queries, memory), expected)
    torch.testing.assert_close(ours.weights(queries, memory), weights)


def test_tokens_are_a_set() -> None:
    block, tokens = AttentionBlock(8, 2, hidden=16).eval(), draws(2, 5, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(
        DataError, match=r"dim \(8\) is not a multiple of heads \(3\)\. Choose another number of heads\."
    ):
        Attention(8, 3)


def test_missing_values_have_a_vector_of_their_own() -> None:
    values, missing = torch.tensor([[0.3, 7.0]]), torch.tensor([[False, True]])
    for encoder in (BinnedValues(torch.tensor([0.0, 1.0]), 4), ContinuousValues(4)):
        found = encoder(values, missing)
        other = encoder(torch.tensor([[0.3, -2.0]]), missing)
        torch.testing.assert_close(found, other)
    with pytest.raises(DataError, match="the edges of value bins do not rise"):
        BinnedValues(torch.tensor([1.0, 1.0]), 4)
