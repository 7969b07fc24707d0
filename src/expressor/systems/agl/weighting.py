"""How much each auxiliary gene counts in training: the learnt threshold (DkGSB) and its rivals behind one interface.

=================  ==========================================================================================
``FixedWeights``    given once: primary genes only, all genes, a hard cut, or what another run has found
``Threshold``       DkGSB: one threshold on the ranking, moved by its hypergradient
``Uncertainty``     Kendall 2018: a learnt variance a gene, trained with the network
``LearntWeights``   AuxiLearn (implicit differentiation) and AMAL (one step ahead): one learnt weight a gene
=================  ==========================================================================================
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expressor.nn.topk import count_active, threshold_range
from expressor.systems.agl import equations
from expressor.systems.agl.losses import Heads, slide_losses
from expressor.systems.agl.network import SharedNetwork, factors_with, leading
from expressor.train.bilevel import (
    AdamRule,
    AdamState,
    forward_hypergradient,
    lookahead_hypergradient,
    neumann_hypergradient,
)

FLOOR = 1e-3
_MEMORY = 0.9
Batch = Mapping[str, Tensor]


class Weighting(ABC):
    """What decides about the auxiliary genes; also a stateful part of a checkpoint."""

    @property
    @abstractmethod
    def n_active(self) -> int:
        """Number of auxiliary heads, from the best rank on, that must be computed."""

    @abstractmethod
    def weights(self) -> Tensor:
        """Return the present weights of all auxiliary genes, (gene,)."""

    def chosen(self) -> Tensor:
        """Return the weights that a finished run hands on."""
        return self.weights()

    @property
    def k(self) -> int:
        """Number of auxiliary genes kept in the end."""
        return equations.kept(self.chosen())

    @abstractmethod
    def objective(self, losses: Tensor, n_primary: int) -> Tensor:
        """Combine the losses of the primary and the active auxiliary genes, (gene,), into the training loss."""

    def update(self, pairs: Iterable[tuple[Batch, Batch]], optimizer: torch.optim.Optimizer) -> None:  # noqa: B027
        """Learn from pairs of a fit batch and a select batch; most have nothing to learn."""

    def record(self) -> dict[str, float]:
        """Return what goes into the history."""
        return {"k": float(self.k)}

    def state_dict(self) -> dict[str, Any]:
        """Return what must be kept to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:  # noqa: B027
        """Take up what :meth:`state_dict` gave."""


class FixedWeights(Weighting):
    """Weights in order of rank that stay as they are; heads behind the last one that counts are not computed."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights
        counting = torch.nonzero(weights >= FLOOR)
        self._n_active = int(counting.max()) + 1 if len(counting) else 0

    @property
    def n_active(self) -> int:
        """See :class:`Weighting`."""
        return self._n_active

    def weights(self) -> Tensor:
        """See :class:`Weighting`."""
        return self._weights

    def objective(self, losses: Tensor, n_primary: int) -> Tensor:
        """Return the weighted mean (equation C2)."""
        return equations.weighted_mean(losses, _with_primary(self._weights[: self._n_active], n_primary, losses))


class Threshold(Weighting):
    """DkGSB: soft top-k weights whose threshold follows its hypergradient through the inner steps.

    Parameters
    ----------
    network
        The network that is trained; read at every outer step.
    n_auxiliary
        Number of ranked genes, >= 1.
    tau
        Temperature in units of scaled ranks.
    steps
        Inner steps H.
    rule
        Adam of the inner steps.
    lr
        Step size of the threshold's own Adam.
    warm
        Start the inner Adam from the state of the training optimiser, not fresh.
    """

    def __init__(
        self,
        network: SharedNetwork,
        n_auxiliary: int,
        *,
        tau: float,
        steps: int,
        rule: AdamRule,
        lr: float,
        warm: bool,
    ) -> None:
        self.network, self.tau, self.steps, self.rule, self.warm = network, tau, steps, rule, warm
        self.rank = equations.normalise_rank(torch.arange(n_auxiliary))
        # The authors start at the mean rank; their text says "all genes".
        self.threshold = self.rank.mean().clone().requires_grad_()
        self.settled = self.threshold.detach().clone()
        self.range = threshold_range(tau, floor=FLOOR)
        self.optimizer = torch.optim.Adam([self.threshold], lr=lr)

    def weights(self) -> Tensor:
        """See :class:`Weighting`."""
        return equations.relaxed_mask(self.rank, self.threshold.detach(), self.tau)

    @property
    def n_active(self) -> int:
        """See :class:`Weighting`."""
        return count_active(self.weights(), floor=FLOOR)

    def objective(self, losses: Tensor, n_primary: int) -> Tensor:
        """Return the weighted mean (equation C2) under the present mask."""
        active = self.weights()[: len(losses) - n_primary].to(losses.device)
        return equations.weighted_mean(losses, _with_primary(active, n_primary, losses))

    def update(self, pairs: Iterable[tuple[Batch, Batch]], optimizer: torch.optim.Optimizer) -> None:
        """Move the threshold once for each pair; the inner steps all start from the network as it is and are thrown away."""
        own = dict(self.network.named_parameters())
        path: list[Tensor] = []
        n_heads = self.network.head.out_features
        for fit, select in pairs:
            n = n_heads - len(self.rank) + self.n_active
            weights = leading({name: one.detach() for name, one in own.items()}, n)
            state = None
            if self.warm:
                whole = AdamState.of(optimizer, own)
                state = AdamState(whole.step, leading(whole.first, n), leading(whole.second, n))
            threshold = self.threshold.detach().to(fit["x"].device)
            found = forward_hypergradient(
                self._inner, self._outer, weights, threshold, [fit] * self.steps, select, rule=self.rule, state=state
            )  # fmt: skip
            self.threshold.grad = found.gradient.to(self.threshold)
            self.optimizer.step()
            with torch.no_grad():
                self.threshold.clamp_(*self.range)
            path.append(self.threshold.detach().clone())
        if path:
            # Outer steps are noisy and the threshold never rests: what is read out is a running mean over epochs.
            self.settled = _MEMORY * self.settled + (1 - _MEMORY) * torch.stack(path).mean()

    def _inner(self, weights: Mapping[str, Tensor], threshold: Tensor, batch: Batch) -> Tensor:
        n = len(weights["head.bias"])
        n_primary = self.network.head.out_features - len(self.rank)
        losses = _losses(self.network, weights, batch, n)
        lam = equations.relaxed_mask(self.rank[: n - n_primary].to(threshold), threshold, self.tau)
        return equations.weighted_mean(losses, _with_primary(lam, n_primary, losses))

    def _outer(self, weights: Mapping[str, Tensor], threshold: Tensor, batch: Batch) -> Tensor:
        n_primary = self.network.head.out_features - len(self.rank)
        return _losses(self.network, leading(weights, n_primary), batch, n_primary).mean()

    def chosen(self) -> Tensor:
        """Return the weights at the running mean of the threshold."""
        return equations.relaxed_mask(self.rank, self.settled, self.tau)

    def record(self) -> dict[str, float]:
        """Return the present k, that of the running mean, and the threshold."""
        return {
            "k": float(equations.kept(self.weights())),
            "settled_k": float(equations.kept(self.chosen())),
            "threshold": float(self.threshold.detach()),
        }

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Weighting`."""
        return {
            "threshold": self.threshold.detach(),
            "settled": self.settled,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """See :class:`Weighting`."""
        with torch.no_grad():
            self.threshold.copy_(state["threshold"])
            self.settled = state["settled"].to(self.settled)
        self.optimizer.load_state_dict(state["optimizer"])


class Uncertainty(Weighting):
    """Kendall 2018: the log variances are parameters of the network and trained with it.

    Parameters
    ----------
    network
        Gets a parameter ``log_variance``, (gene,), 0 at the start.
    n_auxiliary
        Number of auxiliary genes.
    """

    def __init__(self, network: SharedNetwork, n_auxiliary: int) -> None:
        self.n_auxiliary = n_auxiliary
        self.log_variance = nn.Parameter(torch.zeros(network.head.out_features))
        network.log_variance = self.log_variance

    @property
    def n_active(self) -> int:
        """All of them."""
        return self.n_auxiliary

    def weights(self) -> Tensor:
        """Return the precisions of the auxiliary genes, relative to the mean precision of the primary ones."""
        precision = torch.exp(-self.log_variance.detach()).cpu()
        n_primary = len(precision) - self.n_auxiliary
        return precision[n_primary:] / precision[:n_primary].mean()

    def objective(self, losses: Tensor, n_primary: int) -> Tensor:
        """Return equation R1."""
        return equations.uncertainty_objective(losses, self.log_variance)

    @property
    def k(self) -> int:
        """All genes are kept, whatever their weight."""
        return self.n_auxiliary


class LearntWeights(Weighting):
    """One learnt weight for each auxiliary gene, moved by the hypergradient of the select loss.

    Parameters
    ----------
    network
        The network that is trained.
    n_auxiliary
        Number of auxiliary genes.
    method
        ``"auxilearn"``: softplus weights, implicit differentiation with a Neumann series. ``"amal"``: weights between 0 and
        1, differentiated through one plain gradient step.
    lr
        Step size of the weights' own Adam.
    inner_lr
        Step of the Neumann series, or of the step ahead.
    terms
        Terms of the Neumann series.
    """

    def __init__(
        self,
        network: SharedNetwork,
        n_auxiliary: int,
        *,
        method: Literal["auxilearn", "amal"],
        lr: float,
        inner_lr: float,
        terms: int = 3,
    ) -> None:
        self.network, self.method, self.inner_lr, self.terms = network, method, inner_lr, terms
        self.phi = torch.zeros(n_auxiliary, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.phi], lr=lr)

    @property
    def n_active(self) -> int:
        """All of them: their weights are in no order."""
        return len(self.phi)

    def _weights(self, phi: Tensor) -> Tensor:
        return equations.auxilearn_weights(phi) if self.method == "auxilearn" else equations.amal_weights(phi)

    def weights(self) -> Tensor:
        """See :class:`Weighting`."""
        return self._weights(self.phi.detach())

    def objective(self, losses: Tensor, n_primary: int) -> Tensor:
        """Return the weighted mean (equation C2)."""
        return equations.weighted_mean(losses, _with_primary(self.weights().to(losses.device), n_primary, losses))

    def update(self, pairs: Iterable[tuple[Batch, Batch]], optimizer: torch.optim.Optimizer) -> None:
        """Move all weights once for each pair."""
        weights = {name: one.detach() for name, one in self.network.named_parameters()}
        for fit, select in pairs:
            phi = self.phi.detach().to(fit["x"].device)
            if self.method == "auxilearn":
                found = neumann_hypergradient(
                    self._inner, self._outer, weights, phi, fit, select, terms=self.terms, lr=self.inner_lr
                )
            else:
                found = lookahead_hypergradient(self._inner, self._outer, weights, phi, fit, select, lr=self.inner_lr)
            self.phi.grad = found.gradient.to(self.phi)
            self.optimizer.step()

    def _inner(self, weights: Mapping[str, Tensor], phi: Tensor, batch: Batch) -> Tensor:
        n = self.network.head.out_features
        losses = _losses(self.network, weights, batch, n)
        return equations.weighted_mean(losses, _with_primary(self._weights(phi), n - len(phi), losses))

    def _outer(self, weights: Mapping[str, Tensor], phi: Tensor, batch: Batch) -> Tensor:
        n_primary = self.network.head.out_features - len(phi)
        return _losses(self.network, weights, batch, n_primary).mean()

    @property
    def k(self) -> int:
        """Every gene has a weight above 0."""
        return len(self.phi)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Weighting`."""
        return {"phi": self.phi.detach(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """See :class:`Weighting`."""
        with torch.no_grad():
            self.phi.copy_(state["phi"])
        self.optimizer.load_state_dict(state["optimizer"])


def _losses(network: SharedNetwork, weights: Mapping[str, Tensor], batch: Batch, n_genes: int) -> Tensor:
    return slide_losses(Heads(*factors_with(network, weights, batch["x"], n_genes)), batch)


def _with_primary(auxiliary: Tensor, n_primary: int, losses: Tensor) -> Tensor:
    return torch.cat([losses.new_ones(n_primary), auxiliary.to(losses.dtype)])
