"""Encoders of sets: parity with torch's layers, places left out, the last block's saving; values, adapters, reversal."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from expressor.core.errors import DataError
from expressor.nn import attention
from expressor.nn.attention import Attention
from expressor.nn.encoder import GatedLayers, SetEncoder
from expressor.nn.lora import LowRankLinear, add_low_rank, merge_low_rank
from expressor.nn.reversal import reverse_gradient
from expressor.nn.values import RectifiedValues, WaveValues


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def encoder(style: str, **changes: object) -> SetEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SetEncoder(8, layers=2, heads=2, hidden=16, style=style, **changes).eval()  # type: ignore[arg-type]


def test_the_bert_block_is_torch_s_post_norm_layer() -> None:
    ours = encoder("bert").blocks[0]
    theirs = nn.TransformerEncoderLayer(
        8, 2, dim_feedforward=16, activation="gelu", batch_first=True, layer_norm_eps=1e-12
    )
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([ours.attention.query.weight, ours.attention.key_value.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([ours.attention.query.bias, ours.attention.key_value.bias]))
        theirs.self_attn.out_proj.load_state_dict(ours.attention.out.state_dict())
        theirs.linear1.load_state_dict(ours.layers[0].state_dict())
        theirs.linear2.load_state_dict(ours.layers[2].state_dict())
        ours.layers_norm.weight.copy_(draws(8))
        theirs.norm2.load_state_dict(ours.layers_norm.state_dict())
    tokens, keep = draws(3, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    expected = theirs.eval()(tokens, src_key_padding_mask=~keep)
    torch.testing.assert_close(ours(tokens, keep)[keep], expected[keep], atol=1e-5, rtol=1e-4)


def test_the_llama_block_by_hand() -> None:
    block = encoder("llama").blocks[1]
    tokens = draws(1, 3, 8)

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight

    w = {name: one.detach().numpy().astype(np.float64) for name, one in block.named_parameters()}
    x = tokens[0].numpy().astype(np.float64)
    h = rms(x, w["attention_norm.weight"])
    q, kv = h @ w["attention.query.weight"].T, h @ w["attention.key_value.weight"].T
    taken = np.zeros_like(x)
    for head in range(2):
        at = slice(4 * head, 4 * head + 4)
        score = q[:, at] @ kv[:, at].T / 2.0
        weight = np.exp(score) / np.exp(score).sum(1, keepdims=True)
        taken[:, at] = weight @ kv[:, 8:][:, at]
    x = x + taken @ w["attention.out.weight"].T
    h = rms(x, w["layers_norm.weight"])
    gate = h @ w["layers.gate.weight"].T
    x = x + (gate / (1 + np.exp(-gate)) * (h @ w["layers.up.weight"].T)) @ w["layers.down.weight"].T
    np.testing.assert_allclose(block(tokens)[0].detach().numpy(), x, atol=1e-5)
    assert not any(name.endswith("bias") for name in w)
    assert "attention_norm.weight" not in dict(encoder("llama").blocks[0].named_parameters()), "the input is normalised"


@pytest.mark.parametrize("style", ["bert", "llama"])
def test_padding_and_order_do_not_matter_and_the_last_block_may_do_less(style: str) -> None:
    net, tokens = encoder(style), draws(2, 6, 8)
    alone = net(tokens[:, :4])
    keep = torch.tensor([[True] * 4 + [False] * 2] * 2)
    torch.testing.assert_close(net(tokens, keep)[:, :4], alone)
    order = torch.tensor([0, 3, 2, 1])
    torch.testing.assert_close(net(tokens[:, order]), alone[:, order])
    torch.testing.assert_close(net(tokens[:, :4], places=2), alone[:, :2])


@pytest.mark.parametrize("places", [None, 2])
@pytest.mark.parametrize("style", ["bert", "llama"])
def test_leaving_the_padding_out_changes_nothing(
    style: str, places: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = torch.tensor([[True] * 6, [True] * 3 + [False] * 3, [True, True, False, True, False, True]])
    weight = draws(3, 6, 8)[:, :places] * keep[:, :places, None]

    def run() -> list[torch.Tensor]:
        model, tokens = encoder(style).train(), draws(3, 6, 8).requires_grad_()
        found = model(tokens, keep, places)
        (found * weight).sum().backward()
        return [
            torch.where(keep[:, :places, None], found.detach(), 0.0),
            *[one.grad for one in (tokens, *model.parameters())],
        ]

    assert Attention.takes_packed(encoder(style).blocks[0].attention, draws(1, 8))
    packed = run()
    monkeypatch.setattr(Attention, "within", None)
    monkeypatch.setattr(Attention, "takes_packed", lambda self, tokens: False)
    for mine, theirs in zip(packed, run(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_the_kernel_for_sets_of_different_sizes_is_told_where_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, tokens, sizes = Attention(16, 2).eval(), draws(9, 16), [4, 2, 3]

    def kernel(query, key, value, first, second, longest, longest_again):  # torch's, as it is documented
        assert first is second
        assert first.dtype == torch.int32
        assert longest == longest_again == 4
        parts = [slice(a, b) for a, b in zip(first[:-1].tolist(), first[1:].tolist())]
        attend = nn.functional.scaled_dot_product_attention
        found = [attend(*(one[at].transpose(0, 1)[None] for one in (query, key, value))) for at in parts]
        return torch.cat([one[0].transpose(0, 1) for one in found])

    expected = layer.within(tokens, sizes)
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    key, value = layer.key_value(tokens).chunk(2, dim=-1)
    heads = [one.unflatten(-1, (2, 8)) for one in (layer.query(tokens), key, value)]
    torch.testing.assert_close(layer.out(attention._within_by_flash(*heads, sizes).flatten(1)), expected)


def test_on_a_gpu_padding_is_left_out_where_the_kernel_takes_the_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(dim: int, dtype: torch.dtype, **options: object) -> bool:
        layer = Attention(dim, 2, **options)  # type: ignore[arg-type]
        with FakeTensorMode():  # as if there were one
            return layer.takes_packed(torch.empty(3, dim, device="cuda", dtype=dtype))

    monkeypatch.setattr(attention, "varlen_attn", lambda *given: None)
    assert takes(16, torch.bfloat16)
    assert takes(16, torch.float16)
    assert not takes(16, torch.float32)
    assert not takes(16, torch.bfloat16, dropout=0.1)
    assert not takes(12, torch.bfloat16)
    assert not takes(1024, torch.bfloat16)
    monkeypatch.setattr(attention, "varlen_attn", None)
    assert not takes(16, torch.bfloat16)


def test_computing_again_gives_the_same_gradients() -> None:
    tokens, found = draws(2, 4, 8), []
    for checkpointing in (False, True):
        net = encoder("llama", checkpointing=checkpointing)
        net(tokens, places=1).square().sum().backward()
        found.append([one.grad for one in net.parameters()])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other)


def test_gated_layers_have_llama_s_sizes() -> None:
    assert sum(one.numel() for one in GatedLayers(384, 1024).parameters()) == 3 * 384 * 1024


# Values ------------------------------------------------------------------------------------------------------------------


def test_rectified_values_and_their_table() -> None:
    net = RectifiedValues(6, hidden=5, table=2)
    values, missing = torch.tensor([[0.0, 1.5, 7.0]]), torch.tensor([[False, False, True]])
    found = net(values, missing)[0]

    def leaky(x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x, 0.01 * x)

    w, b = net.second.weight, net.second.bias
    inside = leaky(1.5 * net.first.weight[:, 0] + net.first.bias)
    torch.testing.assert_close(found[1], w @ leaky(inside) + b)
    torch.testing.assert_close(found[2], w @ leaky(net.table.weight[0]) + b)
    torch.testing.assert_close(found[0], w @ leaky(net.table.weight[1]) + b)
    assert not torch.equal(RectifiedValues(6, hidden=5, table=1)(values, missing)[0, 0], found[0])
    plain = RectifiedValues(6, hidden=5, table=0)
    inside = leaky(plain.first.weight[:, 0] * 1.5 + plain.first.bias)
    torch.testing.assert_close(plain(values, missing)[0, 1], leaky(plain.second.weight @ inside + plain.second.bias))


def test_waves_at_doubling_frequencies() -> None:
    net = WaveValues(4, 3, scale=0.01, trainable=False, centres=(0.5,), slopes=(2.0,))
    torch.testing.assert_close(net.basis, 2 * math.pi * 0.01 * torch.tensor([1.0, 2.0, 4.0]))
    x = 2.5
    angles = [x * 2 * math.pi * 0.01 * 2**j for j in range(3)]
    features = [*map(math.sin, angles), *map(math.cos, angles), 1 / (1 + math.exp(-(2.0 * x - 0.5)))]
    values = torch.tensor([[x, 0.0, x]])
    found = net(values, torch.tensor([[False, False, True]]))[0]
    torch.testing.assert_close(found[0], net.out.weight @ torch.tensor(features))
    torch.testing.assert_close(found[1], net.table.weight[1])
    torch.testing.assert_close(found[2], net.table.weight[0])
    learnt = WaveValues(4, 4000)
    assert isinstance(learnt.basis, nn.Parameter)
    assert learnt.basis.std().item() == pytest.approx(2 * math.pi * 1.5, rel=0.1)
    with pytest.raises(DataError, match="centres and slopes of sigmoids differ in number; expected 1, got 0"):
        WaveValues(4, 3, centres=(1.0,))


# Adapters and reversal -----------------------------------------------------------------------------------------------------


def test_low_rank_additions_start_at_nothing_learn_alone_and_fold_in() -> None:
    net, tokens = encoder("llama"), draws(2, 4, 8)
    before = net(tokens)
    names = [name for name, _ in net.named_parameters()]
    changed = add_low_rank(net, ("query", "out"), rank=2, alpha=4.0)
    assert changed == [f"blocks.{i}.attention.{one}" for i in (0, 1) for one in ("query", "out")]
    torch.testing.assert_close(net(tokens), before)
    learning = {name.rsplit(".", 1)[1] for name, one in net.named_parameters() if one.requires_grad}
    assert learning == {"down", "up"}
    with torch.no_grad():
        for one in net.modules():
            if isinstance(one, LowRankLinear):
                one.up.copy_(draws(*one.up.shape))
    after = net(tokens)
    assert not torch.allclose(after, before)
    merge_low_rank(net)
    torch.testing.assert_close(net(tokens), after)
    assert [name for name, _ in net.named_parameters()] == names
    with pytest.raises(DataError, match="no linear layer to adapt; expected one named nothing"):
        add_low_rank(net, ("nothing",))


def test_the_gradient_is_turned_round() -> None:
    x = draws(5).requires_grad_()
    y = reverse_gradient(x, 0.5)
    torch.testing.assert_close(y, x)
    (y * torch.arange(5.0)).sum().backward()
    torch.testing.assert_close(x.grad, -0.5 * torch.arange(5.0))
