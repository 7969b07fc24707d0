"""The network against its equations: sets, padding, heads on the cell token, decoders, labels."""

import math

import pytest
import torch
from torch import Tensor

from expressor.core.errors import DataError
from expressor.nn.encoder import SetEncoder
from expressor.nn.values import RectifiedValues
from expressor.systems.bmfm import equations
from expressor.systems.bmfm.network import CellNetwork, LabelHeads, ProfileHead, TokenHead, places_of

DIM, GENES = 8, 12


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def network(style: str = "bert", **options: object) -> CellNetwork:
    encoder = SetEncoder(DIM, layers=2, heads=2, hidden=16, style=style)  # type: ignore[arg-type]
    return CellNetwork(torch.randn(GENES, DIM), RectifiedValues(DIM, 4), encoder, **options).eval()  # type: ignore[arg-type]


def batch() -> tuple[Tensor, Tensor]:
    """Return three cells of 5, 3 and 1 genes."""
    genes = torch.tensor([[3, 0, 7, 11, 5], [2, 4, 9, -1, -1], [6, -1, -1, -1, -1]], dtype=torch.int32)
    return genes, torch.rand(3, 5) * 3


STYLES = pytest.mark.parametrize("style", ["bert", "llama"])


@pytest.mark.covers("C3", "I3")
@pytest.mark.parametrize("product", [False, True])
def test_tokens_are_those_of_the_equations(product: bool) -> None:
    net, (genes, values) = network(product=product, depth=True, cells=2, ends=1), batch()
    depth = torch.rand(3, 2) * 8
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, 1] = hidden[1, 2] = True
    found = net.tokens(genes, values, ~hidden & (genes == 7), hidden, depth)
    assert net.before == 5
    assert found.shape == (3, 10, DIM)
    none = torch.zeros(3, 2, dtype=torch.bool)
    assert torch.allclose(
        found[:, 3:5], equations.token(net.depth.expand(3, 2, DIM), net.values(depth, none)), atol=1e-6
    )
    assert torch.equal(found[0, :3], found[2, :3])
    vectors = torch.stack([net.hidden_gene if g == 7 else net.gene.weight[g] for g in genes[0].tolist()])[None]
    inside, shown = net.values(values[:1], hidden[:1]), torch.where(hidden[:1], 0.0, values[:1])
    if product:
        expected = equations.product_token(vectors, inside, shown, net.turn.weight)
    else:
        expected = equations.token(vectors, inside)
    assert torch.allclose(found[:1, 5:], expected, atol=1e-5)


@pytest.mark.covers("I7")
def test_cell_tokens_start_from_the_mean_of_the_gene_vectors_that_are_shown() -> None:
    mean = torch.rand(GENES)
    net, (genes, values) = network(mean=mean, cells=2), batch()
    hidden, unnamed = torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, 1] = unnamed[0, 3] = True
    measured = torch.rand(3, GENES) < 0.7
    found = net.tokens(genes, values, unnamed, hidden, measured=measured)[:, :2]
    for c, shown in enumerate(([0, 2, 4], [0, 1, 2], [0])):
        weights, vectors = values[c, shown], net.gene.weight[genes[c, shown].long()]
        mine = sum(w * v for w, v in zip(weights, vectors, strict=True)) / weights.sum()
        known = [g for g in range(GENES) if measured[c, g]]
        centre = sum(mean[g] * net.gene.weight[g] for g in known) / sum(mean[g] for g in known)
        expected = torch.nn.functional.layer_norm(net.first + net.project(mine - centre), (DIM,), eps=1e-12)
        assert torch.allclose(found[c], expected, atol=1e-4)


@pytest.mark.parametrize("mean", [None, torch.ones(GENES)])
def test_a_hidden_value_is_not_seen(mean: Tensor | None) -> None:
    net, (genes, values) = network(product=True, mean=mean), batch()
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[0, 2] = True
    other = torch.where(hidden, values + 5, values)
    assert torch.equal(net(genes, values, None, hidden), net(genes, other, None, hidden))
    assert not torch.allclose(net(genes, values)[0], net(genes, other)[0])
    swapped = torch.where(hidden, 1, genes)
    assert torch.equal(net(genes, values, hidden), net(swapped, values, hidden))
    assert not torch.allclose(net(genes, values)[0], net(swapped, values)[0])


@STYLES
def test_padding_changes_nothing(style: str) -> None:
    net, (genes, values) = (
        network(style, cells=2, depth=True, mean=torch.ones(GENES) if style == "llama" else None),
        batch(),
    )
    depth = torch.rand(3, 2)
    together = net(genes, values, depth=depth)
    for c, n in enumerate((5, 3, 1)):
        alone = net(genes[c : c + 1, :n], values[c : c + 1, :n], depth=depth[c : c + 1])
        assert torch.allclose(together[c : c + 1, : net.before + n], alone, atol=1e-5)
        for how in ("cell", "1", "mean", "0+mean"):
            one = net.pool(alone, genes[c : c + 1, :n], how)
            assert torch.allclose(net.pool(together, genes, how)[c : c + 1], one, atol=1e-5)
    loud = torch.where(genes < 0, 1e4, values)
    assert torch.allclose(net(genes, loud, depth=depth, places=2), together[:, :2], atol=1e-5)


@STYLES
def test_genes_are_a_set(style: str) -> None:
    net, (genes, values) = network(style), batch()
    order = torch.tensor([4, 1, 0, 3, 2])
    first, second = net(genes, values), net(genes[:, order], values[:, order])
    assert torch.allclose(first[:, :1], second[:, :1], atol=1e-5)
    assert torch.allclose(first[0, 1:][order], second[0, 1:], atol=1e-5)


@STYLES
@pytest.mark.parametrize("decoder", ["linear", "query", "vectors"])
def test_a_head_on_the_cell_token_alone_gives_what_a_head_on_all_places_gives_there(style: str, decoder: str) -> None:
    """Outputs and gradients alike, from the first place of the encoder and from all of them."""
    net, (genes, values) = network(style), batch()
    head = ProfileHead(DIM, torch.rand(GENES), torch.randn(GENES), decoder=decoder)
    everywhere = net(genes, values)
    flat = [one.unflatten(0, everywhere.shape[:2])[:, 0] for one in head(everywhere.flatten(0, 1), net.gene.weight)]
    alone = head(net(genes, values, places=1)[:, 0], net.gene.weight)
    goal = [torch.randn(3, GENES), torch.randn(3, GENES)]
    weights = [*net.parameters(), *head.parameters()]
    for one, other in zip(flat, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    slow, fast = (
        torch.autograd.grad(sum((a * b).sum() for a, b in zip(pair, goal)), weights, allow_unused=True)
        for pair in (flat, alone)
    )
    for one, other in zip(slow, fast, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-4)


def fill(head: ProfileHead) -> None:
    for one in head.parameters():
        torch.nn.init.normal_(one)


@pytest.mark.covers("C15", "I1")
def test_linear_decoder() -> None:
    mean, zero, cell = torch.rand(GENES), torch.randn(GENES), torch.randn(4, DIM)
    head = ProfileHead(DIM, mean, zero)
    fill(head)
    torch.nn.init.ones_(head.norm.weight)
    torch.nn.init.zeros_(head.norm.bias)
    found = equations.decode_cell(cell, head.dense.weight, head.dense.bias, head.out.weight, head.out.bias)
    value, logit = head(cell, torch.randn(GENES, DIM))
    assert torch.allclose(value, mean + found[:, :GENES], atol=1e-4)
    assert torch.allclose(logit, zero + found[:, GENES:], atol=1e-4)


@pytest.mark.covers("C16", "I1")
def test_query_decoders() -> None:
    mean, zero = torch.rand(GENES), torch.randn(GENES)
    cell, genes = torch.randn(4, DIM), torch.randn(GENES, DIM)
    for decoder in ("query", "vectors"):
        head = ProfileHead(DIM, mean, zero, decoder=decoder)
        fill(head)
        inside = head.norm(torch.nn.functional.gelu(head.dense(cell)))
        for part, (start, found) in enumerate(zip((mean, zero), head(cell, genes), strict=True)):
            turn = head.along.weight[part * DIM : (part + 1) * DIM].T / math.sqrt(DIM)
            if head.query is not None:
                told = equations.decode_by_query(inside, genes, turn, head.query.weight, head.query.bias)
            else:
                told = inside @ turn @ genes.T
            assert torch.allclose(found, start + head.bias[part] + told, atol=1e-4)
        more = ProfileHead(DIM, torch.rand(2 * GENES), torch.rand(2 * GENES), decoder=decoder)
        sizes = [sum(one.numel() for one in net.parameters()) for net in (head, more)]
        assert sizes[1] - sizes[0] == 2 * GENES, "a gene more costs two biases"
    with pytest.raises(DataError, match="unknown decoder 'wide'; expected one of 'linear', 'query', 'vectors'"):
        ProfileHead(DIM, mean, zero, decoder="wide")


def test_pooling() -> None:
    net, (genes, values) = network(cells=2, ends=1, pooler=True), batch()
    encoded = net(genes, values)
    assert torch.equal(net.pool(encoded, genes, "cell"), encoded[:, 0])
    assert torch.equal(net.pool(encoded, genes, "1"), encoded[:, 1])
    assert torch.allclose(net.pool(encoded, genes, "pooler"), torch.tanh(net.pooler(encoded[:, 0])))  # type: ignore[misc]
    means = torch.stack([encoded[c, 3 : 3 + n].mean(0) for c, n in enumerate((5, 3, 1))])
    assert torch.allclose(net.pool(encoded, genes, "mean"), means, atol=1e-6)
    assert torch.equal(net.pool(encoded, genes, "1+cell"), encoded[:, [1, 0]].flatten(1))
    assert (places_of("1+cell", net), places_of("cell+mean", net)) == (2, None)
    with pytest.raises(DataError, match="unknown pooling '2'; expected one of 'cell', 'mean', 'pooler', '0', '1'"):
        net.pool(encoded, genes, "cell+2")
    with pytest.raises(DataError, match="unknown pooling 'pooler'"):
        network().pool(encoded, genes, "pooler")


def test_a_reversed_label_pulls_the_other_way() -> None:
    heads = LabelHeads(DIM, {"cell_type": 3, "donor": 5})
    gradients = {}
    for reversal in (0.0, 0.5):
        cell = torch.ones(2, DIM, requires_grad=True)
        logits = heads(cell, "donor", reversal)
        assert torch.allclose(logits, cell @ heads.layers[1].weight.T + heads.layers[1].bias)
        heads.zero_grad()
        logits.square().sum().backward()
        gradients[reversal] = (cell.grad, heads.layers[1].weight.grad)
    assert torch.allclose(gradients[0.5][0], -0.5 * gradients[0.0][0])
    assert torch.allclose(gradients[0.5][1], gradients[0.0][1]), "the head itself learns the label"
    assert heads(torch.ones(2, DIM), "cell_type").shape == (2, 3)


def test_parts_of_the_head_of_tokens() -> None:
    head = TokenHead(DIM, GENES, levels=6)
    inside = head.inside(torch.randn(9, DIM))
    assert torch.allclose(inside.mean(1), torch.zeros(9), atol=1e-6)
    assert [one(inside).shape[1] for one in (head.value, head.level, head.gene)] == [2, 6, GENES]
    assert TokenHead(DIM, 0).gene is None
    assert TokenHead(DIM, 0).level is None
