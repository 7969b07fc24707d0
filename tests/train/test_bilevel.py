"""Hypergradients against each other, against torch's own Adam, and against closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from expressor.core.errors import DataError
from expressor.train.bilevel import (
    AdamRule,
    AdamState,
    difference_hypergradient,
    forward_hypergradient,
    inner_steps,
    lookahead_hypergradient,
    neumann_hypergradient,
    unrolled_hypergradient,
)

RULE = AdamRule(lr=0.01)


class Toy:
    """A two-layer network with a main head and an auxiliary one, whose share in the inner loss is the outer variable."""

    def __init__(self, seed: int = 0, *, unused: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
        self.weights = {name: draw(*one.shape) / 2 for name, one in self.net.named_parameters()}
        if unused:
            self.weights["unused"] = draw(4)
        self.outer = torch.tensor(0.3, dtype=torch.float64)
        self.batches = [(draw(20, 5), draw(20, 3)) for _ in range(5)]
        self.held = (draw(20, 5), draw(20, 3))

    def errors(self, weights: Any, batch: Any) -> Tensor:
        x, y = batch
        own = {name: one for name, one in weights.items() if name != "unused"}
        return (functional_call(self.net, own, (x,)) - y).square().mean(0)

    def inner(self, weights: Any, outer: Tensor, batch: Any) -> Tensor:
        share = torch.sigmoid(outer)
        errors = self.errors(weights, batch)
        return errors[0] + share * errors[1] + share**2 * errors[2]

    def outer_loss(self, weights: Any, outer: Tensor, batch: Any) -> Tensor:
        return self.errors(weights, batch)[0] + 0.1 * outer**2

    def arguments(self, steps: int) -> tuple[Any, ...]:
        return self.inner, self.outer_loss, self.weights, self.outer, self.batches[:steps], self.held

    def warm(self) -> AdamState:
        return inner_steps(self.inner, self.weights, self.outer, self.batches, rule=RULE)[1]


@pytest.mark.parametrize("tangent", ["reverse", "forward"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_forward_mode_is_the_unrolled_gradient(steps: int, warm: bool, tangent: Any) -> None:
    toy = Toy()
    state = toy.warm() if warm else None
    rule = AdamRule(lr=0.01, weight_decay=0.1)
    forward = forward_hypergradient(*toy.arguments(steps), rule=rule, state=state, tangent=tangent)
    unrolled = unrolled_hypergradient(*toy.arguments(steps), rule=rule, state=state)
    # With the outer loss's own dependence taken off, so that agreement of the constant part cannot hide a difference.
    constant = 0.2 * toy.outer
    torch.testing.assert_close(
        forward.gradient - constant, unrolled.gradient - constant, rtol=1e-5, atol=1e-14 if steps == 1 else 0
    )
    torch.testing.assert_close(forward.loss, unrolled.loss, rtol=1e-12, atol=0)
    for name in forward.weights:
        torch.testing.assert_close(forward.weights[name], unrolled.weights[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("warm", [False, True])
def test_it_is_the_difference_quotient(steps: int, warm: bool) -> None:
    toy = Toy(seed=1)
    state = toy.warm() if warm else None
    exact = forward_hypergradient(*toy.arguments(steps), rule=RULE, state=state)
    quotient = difference_hypergradient(*toy.arguments(steps), rule=RULE, state=state, step=1e-5)
    assert quotient.gradient.item() == pytest.approx(exact.gradient.item(), rel=1e-6)


def test_the_first_step_of_a_fresh_adam_hides_the_outer_variable() -> None:
    """Its direction is the sign of the gradient; only eps lets anything through. A warm start sees it at once."""
    toy = Toy()
    constant = 0.2 * toy.outer
    rule = AdamRule(lr=0.01, eps=1e-13)
    fresh = forward_hypergradient(*toy.arguments(1), rule=rule).gradient - constant
    warm = forward_hypergradient(*toy.arguments(1), rule=rule, state=toy.warm()).gradient - constant
    assert abs(fresh) < 1e-4 * abs(warm)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_inner_steps_are_those_of_torch(weight_decay: float) -> None:
    toy = Toy()
    parameters = {name: nn.Parameter(one.clone()) for name, one in toy.weights.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.01, weight_decay=weight_decay)
    for batch in toy.batches:
        optimizer.zero_grad()
        toy.inner(parameters, toy.outer, batch).backward()
        optimizer.step()
    rule = AdamRule(lr=0.01, weight_decay=weight_decay)
    ours, state = inner_steps(toy.inner, toy.weights, toy.outer, toy.batches, rule=rule)
    theirs = AdamState.of(optimizer, parameters)
    assert state.step == theirs.step == 5
    for name in ours:
        torch.testing.assert_close(ours[name], parameters[name].detach(), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(state.second[name], theirs.second[name], rtol=1e-12, atol=1e-18)
    # From the optimiser's state on, both go the same way too.
    toy.inner(parameters, toy.outer, toy.held).backward()
    optimizer.zero_grad()
    toy.inner(parameters, toy.outer, toy.held).backward()
    optimizer.step()
    further, _ = inner_steps(toy.inner, ours, toy.outer, [toy.held], rule=rule, state=theirs)
    for name in further:
        torch.testing.assert_close(further[name], parameters[name].detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("tangent", ["reverse", "forward"])
def test_weights_without_gradient_do_no_harm(tangent: Any) -> None:
    """A head that is switched off gets no gradient: its second moment is 0, where a plain square root has no derivative."""
    toy = Toy(unused=True)
    found = forward_hypergradient(*toy.arguments(3), rule=RULE, tangent=tangent)
    reference = unrolled_hypergradient(*toy.arguments(3), rule=RULE)
    assert bool(torch.isfinite(found.gradient))
    torch.testing.assert_close(found.gradient, reference.gradient, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.weights["unused"], toy.weights["unused"])


def test_nothing_given_is_changed() -> None:
    toy = Toy()
    state = toy.warm()
    before = {name: one.clone() for name, one in toy.weights.items()}
    moments = {name: one.clone() for name, one in state.first.items()}
    forward_hypergradient(*toy.arguments(3), rule=RULE, state=state)
    unrolled_hypergradient(*toy.arguments(3), rule=RULE, state=state)
    for name in before:
        assert torch.equal(before[name], toy.weights[name])
        assert torch.equal(moments[name], state.first[name])
        assert not toy.weights[name].requires_grad
    assert state.step == 5


def test_a_loss_that_does_not_know_the_outer_variable_has_no_hypergradient() -> None:
    toy = Toy()

    def alone(weights: Any, outer: Tensor, batch: Any) -> Tensor:
        return toy.errors(weights, batch).sum()

    for method in (forward_hypergradient, unrolled_hypergradient):
        found = method(
            alone, lambda w, o, b: toy.errors(w, b)[0], toy.weights, toy.outer, toy.batches, toy.held, rule=RULE
        )
        assert found.gradient == 0


def test_the_state_of_an_optimiser_is_copied() -> None:
    """A parameter without a gradient so far has moments of 0; one that was skipped once has another number of steps."""
    used, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([used, idle], lr=0.1)
    assert AdamState.of(optimizer, {"used": used, "idle": idle}).step == 0
    used.sum().backward()
    optimizer.step()
    state = AdamState.of(optimizer, {"used": used, "idle": idle})
    assert state.step == 1
    torch.testing.assert_close(state.first["used"], torch.full((2,), 0.1))
    assert state.second["idle"].tolist() == [0, 0, 0]
    (used.sum() + idle.sum()).backward()
    optimizer.step()
    assert state.first["used"][0] == pytest.approx(0.1), "a copy does not move on with the optimiser"
    with pytest.raises(DataError, match=r"not stepped equally often; got \[1, 2\] steps"):
        AdamState.of(optimizer, {"used": used, "idle": idle})


def test_several_outer_variables_are_unrolled() -> None:
    toy = Toy()

    def inner(weights: Any, outer: Tensor, batch: Any) -> Tensor:
        return (torch.exp(outer) * toy.errors(weights, batch)).sum()

    def outer_loss(weights: Any, outer: Tensor, batch: Any) -> Tensor:
        return toy.errors(weights, batch)[0]

    outer = torch.tensor([0.0, -1.0, 0.5], dtype=torch.float64)
    found = unrolled_hypergradient(inner, outer_loss, toy.weights, outer, toy.batches[:3], toy.held, rule=RULE).gradient
    for i in range(3):
        # Moving along one axis is a scalar problem, which forward mode solves.
        axis = torch.eye(3, dtype=torch.float64)[i]
        single = forward_hypergradient(
            lambda w, o, b, axis=axis: inner(w, outer + o * axis, b), outer_loss, toy.weights,
            torch.tensor(0.0, dtype=torch.float64), toy.batches[:3], toy.held, rule=RULE,
        )  # fmt: skip
        assert found[i].item() == pytest.approx(single.gradient.item(), rel=1e-9)


def test_neumann_series_is_the_derivative_of_the_minimiser() -> None:
    """Inner loss w'Aw/2 - outer'w has the minimiser A^-1 outer, so d(c'w)/d(outer) = A^-1 c."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    a = root @ root.T + torch.eye(4, dtype=torch.float64)
    c = torch.randn(4, generator=generator, dtype=torch.float64)
    outer = torch.randn(4, generator=generator, dtype=torch.float64)
    weights = {"w": torch.linalg.solve(a, outer)}

    def inner(w: Any, o: Tensor, batch: Any) -> Tensor:
        return w["w"] @ a @ w["w"] / 2 - o @ w["w"]

    def outer_loss(w: Any, o: Tensor, batch: Any) -> Tensor:
        return c @ w["w"]

    lr = 1 / torch.linalg.eigvalsh(a).max().item()
    many = neumann_hypergradient(inner, outer_loss, weights, outer, None, None, terms=2000, lr=lr)
    torch.testing.assert_close(many.gradient, torch.linalg.solve(a, c), rtol=1e-6, atol=1e-9)
    # Three terms by hand.
    few = neumann_hypergradient(inner, outer_loss, weights, outer, None, None, terms=2, lr=lr)
    step = torch.eye(4, dtype=torch.float64) - lr * a
    torch.testing.assert_close(few.gradient, lr * (c + step @ c + step @ step @ c), rtol=1e-12, atol=1e-15)


def test_one_step_ahead_is_the_gradient_through_that_step() -> None:
    toy = Toy()
    outer = toy.outer.clone().requires_grad_()
    start = {name: one.clone().requires_grad_() for name, one in toy.weights.items()}
    step = torch.autograd.grad(toy.inner(start, outer, toy.batches[0]), list(start.values()), create_graph=True)
    after = {name: one - 0.1 * two for (name, one), two in zip(start.items(), step)}
    (expected,) = torch.autograd.grad(toy.outer_loss(after, outer, toy.held), outer)
    found = lookahead_hypergradient(toy.inner, toy.outer_loss, toy.weights, toy.outer, toy.batches[0], toy.held, lr=0.1)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.weights["0.bias"], after["0.bias"].detach(), rtol=1e-12, atol=0)


def test_wrong_settings_are_refused() -> None:
    toy = Toy()
    inner, outer_loss, weights, outer, batches, held = toy.arguments(2)
    with pytest.raises(DataError, match=r"not a scalar; expected shape \(\), got shape \(2,\)"):
        forward_hypergradient(inner, outer_loss, weights, torch.zeros(2), batches, held, rule=RULE)
    with pytest.raises(DataError, match="no inner step"):
        unrolled_hypergradient(inner, outer_loss, weights, outer, [], held, rule=RULE)
    with pytest.raises(DataError, match="rule.lr is out of range"):
        forward_hypergradient(inner, outer_loss, weights, outer, batches, held, rule=AdamRule(lr=0.0))
    with pytest.raises(DataError, match="unknown tangent 'revers'.*nearest: 'reverse'"):
        forward_hypergradient(inner, outer_loss, weights, outer, batches, held, rule=RULE, tangent="revers")
    parameters = {"w": nn.Parameter(torch.zeros(2))}
    sgd = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)
    parameters["w"].sum().backward()
    sgd.step()
    with pytest.raises(DataError, match="keeps no moments; expected Adam or AdamW, got SGD"):
        AdamState.of(sgd, parameters)
