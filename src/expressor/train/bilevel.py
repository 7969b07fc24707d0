"""Hypergradients: how a loss after H inner Adam steps changes with an outer variable that shapes those steps.

Every loss is a callable ``(weights, outer, batch) -> scalar``; ``weights`` maps names to tensors, so any network can be used
through :func:`torch.func.functional_call`. It must be a pure function: what it draws at random comes with the batch.

===========================  ===========================  ==========================================================
function                     outer variable               cost and memory
===========================  ===========================  ==========================================================
forward_hypergradient        one scalar                   about two ordinary steps each; memory independent of H
unrolled_hypergradient       any shape                    keeps every inner step for the way back; memory grows with H
difference_hypergradient     one scalar                   2 H ordinary steps; exact up to the step of the difference
neumann_hypergradient        any shape                    at a stationary point; no inner steps, one vector product a term
lookahead_hypergradient      any shape                    through one plain gradient step; about two ordinary steps
===========================  ===========================  ==========================================================
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from expressor.core.errors import DataError, check_choice, check_range

Weights = Mapping[str, Tensor]
Loss = Callable[[Weights, Tensor, Any], Tensor]
Tangent = Literal["reverse", "forward"]

_NO_ROOT = 1e-30  # below the root of any second moment that float32 can hold


@dataclass(frozen=True, kw_only=True)
class AdamRule:
    """The settings of Adam with decoupled weight decay; the arithmetic is that of :class:`torch.optim.AdamW`.

    Attributes
    ----------
    lr
        Step size, > 0.
    beta1, beta2
        Decay of the first and second moment, in [0, 1).
    eps
        Added to the root of the second moment, > 0.
    weight_decay
        >= 0.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AdamState:
    """Where Adam stands: steps taken, and the moments of every weight by name."""

    step: int
    first: Weights
    second: Weights

    @classmethod
    def fresh(cls, weights: Weights) -> "AdamState":
        """Return the state before the first step."""
        zeros = {name: torch.zeros_like(one) for name, one in weights.items()}
        return cls(0, zeros, dict(zeros))

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, parameters: Weights) -> "AdamState":
        """Return a copy of the state that a torch optimiser keeps for the named ``parameters``.

        A parameter that never got a gradient has no state there; its moments are 0.

        Raises
        ------
        DataError
            The parameters were not stepped equally often, or the optimiser keeps no Adam moments.
        """
        kept = {name: optimizer.state.get(one, {}) for name, one in parameters.items()}
        if not all("exp_avg" in one and "exp_avg_sq" in one for one in kept.values() if one):
            raise DataError("the optimiser keeps no moments", expected="Adam or AdamW", got=type(optimizer).__name__)
        steps = {int(one["step"]) for one in kept.values() if one}
        if len(steps) > 1:
            raise DataError("the weights were not stepped equally often", got=f"{sorted(steps)} steps")

        def copied(moment: str) -> dict[str, Tensor]:
            return {
                name: kept[name][moment].detach().clone() if kept[name] else torch.zeros_like(one.detach())
                for name, one in parameters.items()
            }

        return cls(steps.pop() if steps else 0, copied("exp_avg"), copied("exp_avg_sq"))


@dataclass(frozen=True)
class Hypergradient:
    """The derivative of the outer loss.

    Attributes
    ----------
    gradient
        d loss / d outer, of the outer variable's shape.
    loss
        The outer loss after the inner steps.
    weights
        The weights after the inner steps.
    """

    gradient: Tensor
    loss: Tensor
    weights: dict[str, Tensor]


def forward_hypergradient(
    inner: Loss,
    outer_loss: Loss,
    weights: Weights,
    outer: Tensor,
    batches: Sequence[Any],
    outer_batch: Any,
    *,
    rule: AdamRule,
    state: AdamState | None = None,
    tangent: Tangent = "reverse",
) -> Hypergradient:
    """Differentiate through the inner steps by carrying one tangent along with them.

    With the weights go their derivative by the outer scalar and those of Adam's two moments. A step of Adam maps them in closed
    form once the derivative of the gradient is known, ``H w' + d(grad)/d(outer)``, which costs one more differentiation of the
    inner loss. Nothing of a past step is kept. The result is exact, like that of :func:`unrolled_hypergradient`.

    Parameters
    ----------
    inner, outer_loss
        ``(weights, outer, batch) -> scalar``. The inner loss must be twice differentiable.
    weights
        Where the inner steps start; they are not changed.
    outer
        The outer scalar, shape ().
    batches
        The inner batch of each step, H of them; the paper of AGL gives the same one H times.
    outer_batch
        Batch of the outer loss.
    rule, state
        Adam's settings and where it starts; fresh by default.
    tangent
        How the gradient's derivative is computed: ``"reverse"`` goes back once more from the gradient (any network),
        ``"forward"`` uses forward mode over reverse mode (needs forward-mode formulas for every operation; half as fast here).

    Notes
    -----
    From a *fresh* Adam the first step is ``-lr * sign(grad)`` but for ``eps``; its derivative is nearly 0 and the hypergradient
    begins at the second step. A start from the training optimiser's state does not have this blind spot.

    Raises
    ------
    DataError
        The outer variable is not a scalar, there is no inner batch, or a setting is out of range.
    """
    _check(outer, batches, rule, scalar=True)
    check_choice(tangent, ("reverse", "forward"), name="tangent")
    derive = _derive_reverse if tangent == "reverse" else _derive_forward
    outer = outer.detach()
    moving = {name: _Moving.start(one, name, state) for name, one in weights.items()}
    step = state.step if state is not None else 0
    w = {name: one.w for name, one in moving.items()}
    dw = {name: one.dw for name, one in moving.items()}
    for place, batch in enumerate(batches):
        step += 1
        gradient, d_gradient = derive(inner, w, dw if place else None, outer, batch)
        with torch.no_grad():
            for name, one in moving.items():
                one.step(gradient[name], d_gradient[name], step, rule)
        del gradient, d_gradient
    loss, by_weight, by_outer = _gradients(outer_loss, w, outer, outer_batch)
    with torch.no_grad():
        total = by_outer + sum((by_weight[name] * dw[name]).sum() for name in w)
    return Hypergradient(total, loss, w)


def unrolled_hypergradient(
    inner: Loss,
    outer_loss: Loss,
    weights: Weights,
    outer: Tensor,
    batches: Sequence[Any],
    outer_batch: Any,
    *,
    rule: AdamRule,
    state: AdamState | None = None,
) -> Hypergradient:
    """Differentiate through the inner steps backwards, keeping the graph of all of them; the outer variable has any shape.

    The parameters are those of :func:`forward_hypergradient`.
    """
    _check(outer, batches, rule, scalar=False)
    outer = outer.detach().requires_grad_()
    w = {name: one.detach().requires_grad_() for name, one in weights.items()}
    state = state or AdamState.fresh(weights)
    step, m, v = state.step, {k: one.detach() for k, one in state.first.items()}, dict(state.second)
    with torch.enable_grad():
        for batch in batches:
            step += 1
            found = torch.autograd.grad(
                inner(w, outer, batch), list(w.values()), create_graph=True, materialize_grads=True
            )
            for name, gradient in zip(list(w), found):
                w[name], m[name], v[name] = _adam(w[name], m[name], v[name], gradient, step, rule)
        loss = outer_loss(w, outer, outer_batch)
        (total,) = torch.autograd.grad(loss, outer, materialize_grads=True)
    return Hypergradient(total, loss.detach(), {name: one.detach() for name, one in w.items()})


def difference_hypergradient(
    inner: Loss,
    outer_loss: Loss,
    weights: Weights,
    outer: Tensor,
    batches: Sequence[Any],
    outer_batch: Any,
    *,
    rule: AdamRule,
    state: AdamState | None = None,
    step: float = 1e-4,
) -> Hypergradient:
    """Take the inner steps twice, with the outer scalar moved by ``step`` up and down, and divide the difference.

    The other parameters are those of :func:`forward_hypergradient`. Loss and weights are those of a third run, unmoved.
    """
    _check(outer, batches, rule, scalar=True)
    check_range(step, name="step", low=0, open_low=True)

    def after(at: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        w = inner_steps(inner, weights, at, batches, rule=rule, state=state)[0]
        with torch.no_grad():
            return outer_loss(w, at, outer_batch), w

    outer = outer.detach()
    high, low = after(outer + step)[0], after(outer - step)[0]
    loss, w = after(outer)
    return Hypergradient((high - low) / (2 * step), loss, w)


def inner_steps(
    inner: Loss,
    weights: Weights,
    outer: Tensor,
    batches: Sequence[Any],
    *,
    rule: AdamRule,
    state: AdamState | None = None,
) -> tuple[dict[str, Tensor], AdamState]:
    """Take the inner steps alone and return weights and state after them; nothing given is changed."""
    _check(outer, batches, rule, scalar=False)
    outer = outer.detach()
    w = {name: one.detach() for name, one in weights.items()}
    state = state or AdamState.fresh(w)
    step, m, v = state.step, dict(state.first), dict(state.second)
    for batch in batches:
        step += 1
        _, gradient, _ = _gradients(inner, w, outer, batch)
        with torch.no_grad():
            for name in w:
                w[name], m[name], v[name] = _adam(w[name], m[name], v[name], gradient[name], step, rule)
    return w, AdamState(step, m, v)


def neumann_hypergradient(
    inner: Loss,
    outer_loss: Loss,
    weights: Weights,
    outer: Tensor,
    batch: Any,
    outer_batch: Any,
    *,
    terms: int = 5,
    lr: float = 0.1,
) -> Hypergradient:
    """Differentiate the *minimiser* of the inner loss by the implicit function theorem, at weights close to that minimiser.

    The inverse Hessian is replaced by ``terms`` terms of its Neumann series, ``lr * sum_j (1 - lr H)^j``, as in Lorraine et al.
    (AISTATS 2020), equation 6 of which is the hypergradient.

    Parameters
    ----------
    inner, outer_loss, weights, outer, batch, outer_batch
        As for :func:`forward_hypergradient`; one inner batch, an outer variable of any shape.
    terms
        Terms of the series after the first, >= 0.
    lr
        Step of the series, > 0; it converges where ``lr`` times the largest eigenvalue of the Hessian is below 2.
    """
    check_range(terms, name="terms", low=0, integer=True)
    check_range(lr, name="lr", low=0, open_low=True)
    loss, by_weight, by_outer = _gradients(outer_loss, weights, outer, outer_batch)
    names = list(by_weight)
    w = {name: weights[name].detach().requires_grad_() for name in names}
    outer = outer.detach().requires_grad_()
    with torch.enable_grad():
        inner_gradient = torch.autograd.grad(
            inner(w, outer, batch), list(w.values()), create_graph=True, materialize_grads=True
        )
    term = [by_weight[name] for name in names]
    total = [one.clone() for one in term]
    for _ in range(terms):
        product = torch.autograd.grad(
            inner_gradient, list(w.values()), grad_outputs=term, retain_graph=True, materialize_grads=True
        )
        with torch.no_grad():
            term = [one - lr * two for one, two in zip(term, product)]
            total = [one + two for one, two in zip(total, term)]
    (mixed,) = torch.autograd.grad(inner_gradient, outer, grad_outputs=total, materialize_grads=True)
    return Hypergradient(by_outer - lr * mixed, loss, {name: one.detach() for name, one in w.items()})


def lookahead_hypergradient(
    inner: Loss, outer_loss: Loss, weights: Weights, outer: Tensor, batch: Any, outer_batch: Any, *, lr: float
) -> Hypergradient:
    """Differentiate through one plain gradient step ``w - lr * grad``, as meta-learnt loss weights do.

    The parameters are those of :func:`neumann_hypergradient`; ``lr`` is the step, > 0. The weights returned are those after it.
    """
    check_range(lr, name="lr", low=0, open_low=True)
    w = {name: one.detach().requires_grad_() for name, one in weights.items()}
    free = outer.detach().requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(
            inner(w, free, batch), list(w.values()), create_graph=True, materialize_grads=True
        )
    after = {name: one.detach() - lr * step.detach() for (name, one), step in zip(w.items(), gradient)}
    loss, by_weight, by_outer = _gradients(outer_loss, after, outer, outer_batch)
    (mixed,) = torch.autograd.grad(gradient, free, grad_outputs=list(by_weight.values()), materialize_grads=True)
    return Hypergradient(by_outer - lr * mixed, loss, after)


def _check(outer: Tensor, batches: Sequence[Any], rule: AdamRule, *, scalar: bool) -> None:
    if scalar and outer.shape != ():
        raise DataError(
            "the outer variable is not a scalar", expected="shape ()", got=f"shape {tuple(outer.shape)}",
            fix="Use unrolled_hypergradient or neumann_hypergradient for several outer variables.",
        )  # fmt: skip
    if not len(batches):
        raise DataError("there is no inner step to differentiate", expected="at least one inner batch")
    check_range(rule.lr, name="rule.lr", low=0, open_low=True)
    check_range(rule.eps, name="rule.eps", low=0, open_low=True)
    check_range(rule.weight_decay, name="rule.weight_decay", low=0)
    check_range(rule.beta1, name="rule.beta1", low=0, high=1, open_high=True)
    check_range(rule.beta2, name="rule.beta2", low=0, high=1, open_high=True)


def _root(v: Tensor) -> Tensor:
    """Return the square root whose derivative at 0 is 0 instead of infinite: a weight that gets no gradient has v = 0."""
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1.0).sqrt(), 0.0)


def _adam(
    w: Tensor, m: Tensor, v: Tensor, gradient: Tensor, step: int, rule: AdamRule
) -> tuple[Tensor, Tensor, Tensor]:
    m = rule.beta1 * m + (1 - rule.beta1) * gradient
    v = rule.beta2 * v + (1 - rule.beta2) * gradient * gradient
    scale1, scale2 = 1 - rule.beta1**step, (1 - rule.beta2**step) ** 0.5
    w = w * (1 - rule.lr * rule.weight_decay) - (rule.lr / scale1) * m / (_root(v) / scale2 + rule.eps)
    return w, m, v


@dataclass
class _Moving:
    """One weight tensor on its way through the inner steps: weight, moments, and their derivatives; changed in place."""

    w: Tensor
    m: Tensor
    v: Tensor
    dw: Tensor
    dm: Tensor
    dv: Tensor

    @classmethod
    def start(cls, weight: Tensor, name: str, state: AdamState | None) -> "_Moving":
        w = weight.detach().clone()
        m, v = (torch.zeros_like(w), torch.zeros_like(w)) if state is None else (state.first[name], state.second[name])
        return cls(w, m.detach().clone(), v.detach().clone(), *(torch.zeros_like(w) for _ in range(3)))

    def step(self, g: Tensor, dg: Tensor, step: int, rule: AdamRule) -> None:
        """Take one step of Adam and map the derivatives through it.

        With b = root(v) / c + eps the step is w - a m / b; its derivative is dw - a (dm - (m / b) db) / b with
        db = dv / (2 c root(v)). Written for few passes over memory, which is what such a step costs.
        """
        scale1, scale2 = 1 - rule.beta1**step, (1 - rule.beta2**step) ** 0.5
        self.m.mul_(rule.beta1).add_(g, alpha=1 - rule.beta1)
        self.dm.mul_(rule.beta1).add_(dg, alpha=1 - rule.beta1)
        self.v.mul_(rule.beta2).addcmul_(g, g, value=1 - rule.beta2)
        self.dv.mul_(rule.beta2).addcmul_(g, dg, value=2 * (1 - rule.beta2))
        # Where v is 0 no gradient ever came and dv is 0 too: the floor turns 0 / 0 into the right answer, 0.
        root = self.v.sqrt()
        below = (root / scale2).add_(rule.eps)
        d_below = self.dv / root.clamp_min_(_NO_ROOT)
        ratio = self.m / below
        turn = torch.addcmul(self.dm, ratio, d_below, value=-0.5 / scale2)
        if rule.weight_decay:
            self.w.mul_(1 - rule.lr * rule.weight_decay)
            self.dw.mul_(1 - rule.lr * rule.weight_decay)
        self.w.add_(ratio, alpha=-rule.lr / scale1)
        self.dw.addcdiv_(turn, below, value=-rule.lr / scale1)


def _gradients(loss: Loss, weights: Weights, outer: Tensor, batch: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    w = {name: one.detach().requires_grad_() for name, one in weights.items()}
    outer = outer.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(w, outer, batch)
        found = torch.autograd.grad(value, [*w.values(), outer], materialize_grads=True)
    return value.detach(), dict(zip(w, found)), found[-1]


def _derive_reverse(
    inner: Loss, weights: Weights, tangent: Weights | None, outer: Tensor, batch: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gradient by the weights and its derivative along (tangent, 1).

    The second derivatives are symmetric, so the derivative along a direction is what reverse mode gives when it starts from the
    gradient with that direction. No tangent stands for 0, as before the first step.
    """
    w = {name: one.detach().requires_grad_() for name, one in weights.items()}
    outer = outer.detach().requires_grad_()
    with torch.enable_grad():
        value = inner(w, outer, batch)
        found = torch.autograd.grad(value, [*w.values(), outer], create_graph=True, materialize_grads=True)
    along = [(found[-1], torch.ones_like(outer))]
    if tangent is not None:
        along += [(one, tangent[name]) for name, one in zip(w, found)]
    # A gradient that depends on nothing (of a loss that is linear there) has no graph, and no derivative.
    along = [pair for pair in along if pair[0].requires_grad]
    if along:
        derived = torch.autograd.grad(
            [one for one, _ in along], list(w.values()), grad_outputs=[two for _, two in along], materialize_grads=True
        )
    else:
        derived = tuple(torch.zeros_like(one) for one in w.values())
    return {name: one.detach() for name, one in zip(w, found)}, dict(zip(w, derived))


def _derive_forward(
    inner: Loss, weights: Weights, tangent: Weights | None, outer: Tensor, batch: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gradient by the weights and its derivative along (tangent, 1) by forward mode over reverse mode."""
    if tangent is None:
        tangent = {name: torch.zeros_like(one) for name, one in weights.items()}
    gradient = torch.func.grad(lambda w, o: inner(w, o, batch))
    with warnings.catch_warnings():
        # torch builds its forward-mode decompositions with torch.jit.script, which it has itself deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        found: Any = torch.func.jvp(gradient, (dict(weights), outer), (dict(tangent), torch.ones_like(outer)))
    return found
