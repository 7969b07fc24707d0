"""The shared network, its losses in factor space, and the weightings of auxiliary genes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expressor.core.errors import DataError
from expressor.systems.agl import equations
from expressor.systems.agl.losses import Heads, prepare, slide_losses
from expressor.systems.agl.network import EncoderTrunk, FeatureTrunk, SharedNetwork, factors_with, leading
from expressor.systems.agl.training import divide_rows
from expressor.systems.agl.weighting import FixedWeights, LearntWeights, Threshold, Uncertainty
from expressor.train.bilevel import AdamRule, difference_hypergradient, unrolled_hypergradient

N_PRIMARY, N_AUXILIARY = 3, 7


def network(seed: int = 0, *, width: int = 4, n_genes: int = N_PRIMARY + N_AUXILIARY) -> SharedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SharedNetwork(FeatureTrunk(6, width), width, n_genes).double()


def batch(seed: int = 0, n: int = 24, n_genes: int = N_PRIMARY + N_AUXILIARY) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    member = torch.from_numpy((np.arange(n) % 2 == np.array([[0], [1]])).astype(float))
    measured = torch.from_numpy(rng.normal(size=(n, n_genes)))
    return {"x": torch.from_numpy(rng.normal(size=(n, 6))), "measured": measured, **prepare(measured, member)}


@pytest.mark.parametrize("width", [2, 40])
def test_losses_in_factor_space_are_the_equation(width: int) -> None:
    """Narrow heads go by moments of the factors, wide ones by predictions; both are equation I2, gradients too."""
    net, data = network(width=width), batch()
    data["measured"][::2, 1] = 0.25  # constant in one slide
    data["measured"][:, 2] = 1.0  # constant everywhere
    member = data["member"]
    predicted = net.predict(data["x"])
    expected = equations.slide_pcc_loss(predicted, data["measured"], member)
    found = slide_losses(Heads(*net(data["x"])), prepare(data["measured"], member))
    # The epsilon of the denominator stands beside norms of another size, so they agree to about 1e-7.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    one = torch.autograd.grad(expected.sum(), trained, retain_graph=True, materialize_grads=True)
    two = torch.autograd.grad(found.sum(), trained, materialize_grads=True)
    for a, b in zip(one, two):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_small_slides_have_no_say() -> None:
    measured = torch.randn(8, 2, dtype=torch.float64)
    member = torch.tensor([[1.0] * 6 + [0, 0], [0.0] * 6 + [1, 1]], dtype=torch.float64)
    prepared = prepare(measured, member)
    assert prepared["member"].shape == (1, 8)
    assert prepared["share"].tolist() == [[1.0, 1.0]]
    with pytest.raises(DataError, match="no slide has enough spots"):
        prepare(measured[6:], member[1:, 6:])


def test_heads_behind_the_asked_ones_are_not_computed() -> None:
    """They could hold NaN for all it matters, and get no gradient."""
    net, data = network(), batch()
    with torch.no_grad():
        net.head.weight[5:] = float("nan")
    found = net.predict(data["x"], 5)
    assert found.shape == (24, 5)
    assert bool(torch.isfinite(found).all())
    found.sum().backward()
    assert bool((net.head.weight.grad[5:] == 0).all())
    kept = leading({name: one.detach() for name, one in net.named_parameters()}, 5)
    assert kept["head.weight"].shape == (5, 4)
    torch.testing.assert_close(factors_with(net, kept, data["x"], 5)[1], net.head.weight[:5])


def test_a_trunk_is_shared() -> None:
    """The gradient of an auxiliary loss reaches the trunk: on fixed features with heads alone it could not."""
    net, data = network(), batch()
    losses = slide_losses(Heads(*net(data["x"])), data)
    losses[-1].backward()
    assert net.trunk.layers[0].weight.grad.abs().sum() > 0
    assert net.head.weight.grad[:-1].abs().sum() == 0


def test_an_encoder_trunk_normalises_and_pools() -> None:
    trunk = EncoderTrunk(nn.Identity(), 3, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    pixels = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    expected = (pixels.double() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.1, 0.2, 0.4])
    torch.testing.assert_close(trunk(pixels).double(), expected.mean(dim=(1, 2)), rtol=1e-5, atol=1e-5)
    with torch.random.fork_rng():
        assert EncoderTrunk(nn.Identity(), 3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), width=2)(pixels).shape == (
            5,
            2,
        )


def threshold(net: SharedNetwork, **changes: Any) -> Threshold:
    settings: dict[str, Any] = {
        "tau": 0.2, "steps": 3, "rule": AdamRule(lr=0.01), "lr": 0.05, "warm": False,
    }  # fmt: skip
    return Threshold(net, N_AUXILIARY, **settings | changes)


def test_the_threshold_follows_the_unrolled_hypergradient() -> None:
    """One update is one Adam step along the derivative that reverse mode and differences give."""
    net, fit, select = network(), batch(0), batch(1)
    weighting = threshold(net)
    weighting.rank = weighting.rank.double()
    weights = {name: one.detach() for name, one in net.named_parameters()}
    arguments = (weighting._inner, weighting._outer, weights, weighting.threshold.detach().double(), [fit] * 3, select)
    reverse = unrolled_hypergradient(*arguments, rule=weighting.rule).gradient
    quotient = difference_hypergradient(*arguments, rule=weighting.rule, step=1e-5).gradient
    assert quotient.item() == pytest.approx(reverse.item(), rel=1e-4)
    before = weighting.threshold.item()
    weighting.update([(fit, select)], torch.optim.AdamW(net.parameters()))
    assert weighting.threshold.grad.item() == pytest.approx(reverse.item(), rel=1e-4)
    assert weighting.threshold.item() == pytest.approx(before - 0.05 * np.sign(reverse.item()), abs=1e-6)
    for name, one in net.named_parameters():
        assert torch.equal(one, weights[name]), "the inner steps are thrown away"


def test_the_threshold_can_switch_off_every_gene() -> None:
    weighting = threshold(network())
    with torch.no_grad():
        weighting.threshold.fill_(-100.0).clamp_(*weighting.range)
    weighting.settled = weighting.threshold.detach().clone()
    assert (weighting.n_active, weighting.k) == (0, 0)
    losses = torch.arange(1.0, N_PRIMARY + 1)
    assert weighting.objective(losses, N_PRIMARY).item() == pytest.approx(2.0), "the mean of the primary losses alone"


def test_what_is_read_out_is_a_running_mean() -> None:
    net = network()
    weighting = threshold(net, lr=0.1)
    weighting.rank = weighting.rank.double()
    start, optimizer = weighting.threshold.item(), torch.optim.AdamW(net.parameters())
    weighting.update([(batch(0), batch(1))], optimizer)
    assert weighting.settled.item() == pytest.approx(0.9 * start + 0.1 * weighting.threshold.item())


def test_a_threshold_is_checkpointed() -> None:
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    one, other = threshold(net), threshold(net)
    one.rank = other.rank = one.rank.double()
    one.update([(batch(0), batch(1))], optimizer)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for weighting in (one, other):
        weighting.update([(batch(2), batch(3))], optimizer)
    assert torch.equal(one.threshold, other.threshold)
    assert torch.equal(one.settled, other.settled)


def test_fixed_weights_count_up_to_the_last_that_matters() -> None:
    weights = torch.tensor([0.2, 1.0, 0.0005, 0.4, 0.0001])
    weighting = FixedWeights(weights)
    assert (weighting.n_active, weighting.k) == (4, 1)
    losses = torch.tensor([1.0, 3.0, 0.5, 0.25, 2.0, 1.0])
    expected = np.average(losses.numpy(), weights=[1, 1, *weights[:4].tolist()])
    assert weighting.objective(losses, 2).item() == pytest.approx(expected)
    assert FixedWeights(torch.zeros(4)).n_active == 0


def test_learnt_variances_are_trained_with_the_network() -> None:
    net = network()
    weighting = Uncertainty(net, N_AUXILIARY)
    assert "log_variance" in dict(net.named_parameters())
    losses = torch.linspace(0.5, 1.5, N_PRIMARY + N_AUXILIARY)
    weighting.objective(losses, N_PRIMARY).backward()
    assert net.log_variance.grad.abs().sum() > 0
    with torch.no_grad():
        net.log_variance[N_PRIMARY:] = np.log(2.0)
    assert weighting.weights().tolist() == pytest.approx([0.5] * N_AUXILIARY)
    assert (weighting.k, weighting.n_active) == (N_AUXILIARY, N_AUXILIARY)


@pytest.mark.parametrize("method", ["auxilearn", "amal"])
def test_learnt_weights_go_down_the_select_loss(method: Any) -> None:
    """Moving the weights against their hypergradient lowers the primary loss after training with them."""
    net, fit, select = network(seed=3), batch(4), batch(5)
    weighting = LearntWeights(net, N_AUXILIARY, method=method, lr=0.05, inner_lr=0.05)
    weighting.phi = weighting.phi.detach().double().requires_grad_()
    weighting.optimizer = torch.optim.Adam([weighting.phi], lr=0.05)
    start = {name: one.detach() for name, one in net.named_parameters()}

    def after(phi: torch.Tensor) -> float:
        weights = {name: one.clone().requires_grad_() for name, one in start.items()}
        gradient = torch.autograd.grad(
            weighting._inner(weights, phi, fit), list(weights.values()), materialize_grads=True
        )
        moved = {name: one.detach() - 0.05 * step for (name, one), step in zip(weights.items(), gradient)}
        return weighting._outer(moved, phi, select).item()

    before = after(weighting.phi.detach())
    weighting.update([(fit, select)] * 5, torch.optim.AdamW(net.parameters()))
    assert after(weighting.phi.detach()) < before
    assert bool((weighting.weights() > 0).all())
    again = LearntWeights(net, N_AUXILIARY, method=method, lr=0.05, inner_lr=0.05)
    again.phi = torch.zeros(N_AUXILIARY, dtype=torch.float64, requires_grad=True)
    again.optimizer = torch.optim.Adam([again.phi], lr=0.05)
    again.load_state_dict(weighting.state_dict())
    assert torch.equal(again.phi, weighting.phi)


def test_batches_hold_enough_spots_of_a_section() -> None:
    """Few sections: even parts of the shuffled order. Many: runs of a section together, every row once."""
    rng = np.random.default_rng(0)
    section = np.repeat(np.arange(40), 50)
    order = rng.permutation(2000)
    batches = divide_rows(order, section[order], 64)
    assert sorted(np.concatenate(batches)) == list(range(2000))
    assert max(map(len, batches)) <= 64
    for rows in batches:
        assert np.unique(section[rows], return_counts=True)[1].min() >= 8
    few = divide_rows(order[:100], np.zeros(100, dtype=int), 64)
    assert [len(rows) for rows in few] == [50, 50]
    np.testing.assert_array_equal(np.concatenate(few), order[:100])
    tiny = divide_rows(np.arange(9), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]), 6)
    assert sorted(np.concatenate(tiny)) == list(range(9))
    assert all(len(np.unique(rows // 3)) == len(rows) // 3 for rows in tiny)
