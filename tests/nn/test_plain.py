"""Plain networks are rebuilt from JSON and tensors, to the bit; what is more than a chain of plain layers is not."""

import json

import pytest
import torch
from torch import nn

from expressor.core.errors import FormatError
from expressor.nn.plain import Pick, Standardise, build_layers, dense_layer, describe_layers, flatten_layers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        Pick(torch.tensor([3, 0, 1, 2])), Standardise(torch.arange(4.0), torch.ones(4) * 2, 1.5),
        nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.GELU(), nn.Dropout(0.3)),
        nn.LayerNorm(5), nn.ELU(0.5), nn.LeakyReLU(0.2), nn.Softplus(), nn.Linear(5, 3), nn.Tanh(),
    ).eval()  # fmt: skip


def test_round_trip() -> None:
    own, x = network(), torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    layers = describe_layers(own)
    assert layers is not None
    again = build_layers(json.loads(json.dumps(layers)), flatten_layers(own).state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), own(x))


def test_standardise_and_pick() -> None:
    x = torch.tensor([[1.0, 10.0, -9.0]])
    assert Standardise(torch.ones(3), torch.tensor([1.0, 2.0, 2.0]), 3.0)(x).tolist() == [[0.0, 3.0, -3.0]]
    assert Pick(torch.tensor([2, 0]))(x).tolist() == [[-9.0, 1.0]]
    assert dense_layer(torch.eye(2).numpy(), [1.0, 0.0])(torch.ones(1, 2)).tolist() == [[2.0, 1.0]]


class Own(nn.Linear):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    "one", [Own(2, 2), nn.Softplus(beta=3), nn.LayerNorm(2, elementwise_affine=False), nn.Embedding(3, 2), nn.PReLU()]
)
def test_what_is_not_plain(one: nn.Module) -> None:
    assert describe_layers(nn.Sequential(nn.Linear(2, 2), one)) is None


def test_files_that_lie() -> None:
    tensors = nn.Sequential(nn.Linear(2, 3)).state_dict()
    linear = {"kind": "Linear", "in_features": 2, "out_features": 3, "bias": True}
    for layers in ([linear | {"out_features": 10**12}], [linear, linear], [], [{"kind": "Linear"}], [{"kind": "Embedding"}],
                   [{"kind": "Sequential"}], [linear | {"device": "cuda"}]):  # fmt: skip
        with pytest.raises(FormatError):
            build_layers(layers, tensors)
