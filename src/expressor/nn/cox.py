"""Cox's proportional hazards: the partial likelihood as a loss, its fit by Newton's method, and the baseline hazard.

Risk sets are those of the whole set of patients that is given, found by one sort, so that everything costs O(n log n) in patients.
Computed in float64 whatever comes in. Patients censored at the time of an event are at risk then.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.log import logger

TIES = ("efron", "breslow")


# The loss ----------------------------------------------------------------------------------------------------------------


def cox_loss(
    log_risk: Float[Tensor, " patient"],
    time: Float[Tensor, " patient"],
    event: Bool[Tensor, " patient"],
    *,
    strata: Tensor | None = None,
    ties: str = "efron",
    no_event: str = "error",
    mean: bool = True,
) -> Float[Tensor, ""]:
    """Return the negative log partial likelihood; it can be differentiated, more than once.

    Parameters
    ----------
    log_risk
        Linear predictor of each patient.
    time
        Time of event or censoring, >= 0, in any unit.
    event
        Whether it is the time of an event.
    strata
        Integers, (patient,): patients are compared within a stratum only; one stratum by default.
    ties
        Treatment of events at one time: ``"efron"`` or ``"breslow"``.
    no_event
        What a set without any event gives: ``"error"``, or ``"zero"`` (a zero that can be differentiated, to skip a batch).
    mean
        Divide by the number of events.

    Raises
    ------
    DataError
        Times are negative or not finite, shapes differ, or there is no event.
    """
    check_choice(ties, TIES, name="ties")
    check_choice(no_event, ("error", "zero"), name="no_event")
    _check(log_risk, time, event, strata)
    if not bool(event.any()):
        if no_event == "zero":
            return 0.0 * log_risk.sum()
        raise DataError(
            f"none of {len(event)} patients has an event", expected="at least one",
            fix="Add follow-up, or merge this group with another.",
        )  # fmt: skip
    total = PartialLikelihood(time, event, strata=strata, ties=ties).loss(log_risk)
    if mean:
        total = total / event.sum()
    return total.to(log_risk.dtype)


def _check(x: Tensor, time: Tensor, event: Tensor, strata: Tensor | None) -> None:
    for name, one in (("event", event), ("log risk or covariates", x), ("strata", time if strata is None else strata)):
        if len(one) != len(time):
            raise DataError(f"{name} and time differ in length", expected=f"{len(time)} patients", got=len(one))
    bad = int((~(time.isfinite() & (time >= 0))).sum())
    if bad:
        raise DataError(
            f"{bad} of {len(time)} survival times are negative or not finite", expected="times >= 0",
            fix="Correct them, or leave these patients out.",
        )  # fmt: skip


def _strata(strata: Tensor | None, n: int, device: torch.device) -> Iterator[Tensor]:
    if strata is None:
        yield torch.arange(n, device=device)
    else:
        for one in strata.unique():
            yield torch.nonzero(strata == one).squeeze(1)


class PartialLikelihood:
    """The negative log partial likelihood of one cohort, sorted once, for solvers that evaluate it many times.

    Parameters
    ----------
    time, event, strata, ties
        As for :func:`cox_loss`, which checks them.
    """

    def __init__(self, time: Tensor, event: Tensor, *, strata: Tensor | None = None, ties: str = "efron") -> None:
        check_choice(ties, TIES, name="ties")
        _check(event, time, event, strata)
        self.n_events = int(event.sum())
        self._event = event.double()
        self._parts = [
            (rows, _risk_sets(time[rows], event[rows], ties))
            for rows in _strata(strata, len(time), time.device)
            if bool(event[rows].any())
        ]

    def loss(self, log_risk: Float[Tensor, " patient"]) -> Float[Tensor, ""]:
        """Return the loss, summed over events, float64; it can be differentiated."""
        total = torch.zeros((), dtype=torch.float64, device=log_risk.device)
        for rows, sets in self._parts:
            total = total + _stratum_loss(log_risk[rows].double(), sets)
        return total

    def expected_events(self, log_risk: Float[Tensor, " patient"]) -> Float[Tensor, " patient"]:
        """Return the number of events that the model expects of each patient up to its time, float64."""
        expected = torch.zeros(len(log_risk), dtype=torch.float64, device=log_risk.device)
        for rows, sets in self._parts:
            eta = log_risk[rows].detach().double()[sets.order]
            expected[rows[sets.order]] = _expected(eta, sets)
        return expected

    def residuals(self, log_risk: Float[Tensor, " patient"]) -> Float[Tensor, " patient"]:
        """Return expected minus observed events of each patient: the gradient of the loss by ``log_risk``."""
        return self.expected_events(log_risk) - self._event

    def derivatives(
        self, x: Float[Tensor, "patient dim"], beta: Float[Tensor, " dim"]
    ) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim dim"]]:
        """Return gradient and Hessian of the loss by the coefficients of ``x``, in O(patients x dims^2)."""
        gradient = torch.zeros_like(beta)
        hessian = torch.zeros(len(beta), len(beta), dtype=beta.dtype, device=beta.device)
        for rows, sets in self._parts:
            mine = x[rows][sets.order]
            eta = mine @ beta
            weight = _expected(eta, sets)
            means = _means(eta, mine, sets)
            gradient += mine.T @ weight - mine[sets.dead].sum(0)
            hessian += mine.T @ (mine * weight[:, None]) - means.T @ means
        return gradient, hessian


@dataclass(frozen=True)
class _RiskSets:
    """Patients of a stratum by falling time: everyone up to ``last[g]`` is at risk at the g-th time of events.

    ``order``: (patient,) of those given. ``last``, ``n_events``: (time,). ``group``: the time of each event; ``fraction``: l / d
    for the l-th of d events of its time under Efron, 0 under Breslow; ``dead``: its position in ``order``; each (event,).
    """

    order: Tensor
    last: Tensor
    n_events: Tensor
    group: Tensor
    fraction: Tensor
    dead: Tensor


def _risk_sets(time: Tensor, event: Tensor, ties: str) -> _RiskSets:
    order = torch.argsort(time, descending=True, stable=True)
    _, group, size = torch.unique_consecutive(time[order], return_inverse=True, return_counts=True)
    last = size.cumsum(0) - 1
    dead = torch.nonzero(event[order]).squeeze(1)
    times, of_event, n_events = torch.unique_consecutive(group[dead], return_inverse=True, return_counts=True)
    start = n_events.cumsum(0) - n_events
    place = torch.arange(len(dead), device=time.device) - start[of_event]
    fraction = place.double() / n_events[of_event] if ties == "efron" else torch.zeros_like(place, dtype=torch.float64)
    return _RiskSets(order, last[times], n_events, of_event, fraction, dead)


def _stratum_loss(log_risk: Tensor, sets: _RiskSets) -> Tensor:
    eta = log_risk[sets.order]
    at_risk = torch.logcumsumexp(eta, dim=0)[sets.last][sets.group]
    if bool(sets.fraction.any()):
        # Of d events at one time, the l-th is compared with a risk set from which l / d of them have gone.
        peak = torch.full_like(sets.n_events, -torch.inf, dtype=eta.dtype)
        peak = peak.scatter_reduce(0, sets.group, eta[sets.dead].detach(), reduce="amax")
        relative = (eta[sets.dead] - peak[sets.group]).exp()
        gone = torch.zeros_like(peak).index_add(0, sets.group, relative).log() + peak
        share = (gone[sets.group] - at_risk).clamp(max=0.0).exp()
        at_risk = at_risk + torch.log1p(-sets.fraction * share)
    return (at_risk - eta[sets.dead]).sum()


# Fitting -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CoxFit:
    """A fitted Cox model.

    Attributes
    ----------
    coefficients
        float64 (dim,): log hazard ratios for a unit of each feature.
    covariance
        float64 (dim, dim): inverse of the penalised information; without penalty the usual estimate of their covariance.
    loss
        Negative log partial likelihood (summed) without the penalty.
    iterations
        Newton steps taken.
    converged
        Whether they ended because no step improved the objective any more.
    """

    coefficients: Float[Tensor, " dim"]
    covariance: Float[Tensor, "dim dim"]
    loss: float
    iterations: int
    converged: bool


def fit_cox(
    x: Float[Tensor, "patient dim"],
    time: Float[Tensor, " patient"],
    event: Bool[Tensor, " patient"],
    *,
    ridge: float | Float[Tensor, " dim"] = 0.0,
    strata: Tensor | None = None,
    ties: str = "efron",
    start: Float[Tensor, " dim"] | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-9,
) -> CoxFit:
    """Minimise ``-log partial likelihood + ridge / 2 * |coefficients|^2`` by Newton's method with step halving.

    Parameters
    ----------
    x
        Covariates; centring does not matter, scale does where there is a penalty.
    time, event, strata, ties
        As for :func:`cox_loss`.
    ridge
        Penalty, >= 0; one number, or one a feature. The likelihood is summed over events, not averaged.
    start
        Coefficients to start from; 0 by default.
    max_iterations, tolerance
        It ends when the Newton decrement (twice the expected gain) is below ``tolerance`` times 1 + the objective.

    Raises
    ------
    DataError
        No event, bad times, values that are not finite, or covariates that are collinear while there is no penalty.
    """
    check_choice(ties, TIES, name="ties")
    check_range(max_iterations, name="max_iterations", low=1, integer=True)
    _check(x, time, event, strata)
    if not bool(x.isfinite().all()):
        raise DataError("the covariates are not finite", got=f"{int((~x.isfinite()).sum())} NaN or infinite values")
    if not bool(event.any()):
        raise DataError(f"none of {len(event)} patients has an event", expected="at least one", fix="Add follow-up.")
    penalty = torch.as_tensor(ridge, dtype=torch.float64, device=x.device).expand(x.shape[1])
    if bool((penalty < 0).any()):
        raise DataError("the ridge penalty is negative", expected=">= 0", got=float(penalty.min()))
    x = x.detach().double()
    x = x - x.mean(0)
    beta = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device) if start is None else start.detach().double()
    likelihood = PartialLikelihood(time, event, strata=strata, ties=ties)

    def objective(at: Tensor) -> Tensor:
        return likelihood.loss(x @ at) + 0.5 * (penalty * at.square()).sum()

    value, converged, iteration = objective(beta), False, 0
    root = torch.eye(len(beta), dtype=torch.float64, device=x.device)
    while not converged and iteration < max_iterations:
        iteration += 1
        gradient, hessian = likelihood.derivatives(x, beta)
        gradient, hessian = gradient + penalty * beta, hessian + torch.diag(penalty)
        root, info = torch.linalg.cholesky_ex(hessian)
        if info > 0:
            raise DataError(
                "the covariates are collinear, or a coefficient runs to infinity", got=f"{x.shape[1]} covariates",
                fix="Leave some out, or give a ridge penalty.",
            )  # fmt: skip
        step = torch.cholesky_solve(gradient[:, None], root).squeeze(1)
        decrement = float(gradient @ step)
        converged = decrement < tolerance * (1.0 + abs(float(value)))
        length = 1.0
        while (new := objective(beta - length * step)) > value + 1e-12 * abs(value) and length > 1e-6:
            length /= 2
        if new <= value + 1e-12 * abs(value):
            beta, value = beta - length * step, new
        else:
            converged = True
    if not converged:
        logger.warning("the Cox model did not converge in %d iterations", max_iterations)
    loss = float(value - 0.5 * (penalty * beta.square()).sum())
    return CoxFit(beta, torch.cholesky_inverse(root), loss, iteration, converged)


def _totals(eta: Tensor, sets: _RiskSets) -> tuple[Tensor, Tensor]:
    """Risk of each patient, and the summed risk that each event is compared with, both over the largest risk."""
    risk = (eta - eta.max()).exp()
    gone = torch.zeros_like(sets.n_events, dtype=eta.dtype).index_add(0, sets.group, risk[sets.dead])
    return risk, risk.cumsum(0)[sets.last][sets.group] - sets.fraction * gone[sets.group]


def _expected(eta: Tensor, sets: _RiskSets) -> Tensor:
    """Expected events of each patient, in the order of the risk sets."""
    risk, total = _totals(eta, sets)
    inverse = 1.0 / total
    # A patient is in the comparisons of all events up to its own time: a sum from the end of the order.
    starts = torch.zeros(len(eta), dtype=eta.dtype, device=eta.device)
    starts.index_add_(0, sets.last[sets.group], inverse)
    weight = risk * starts.flip(0).cumsum(0).flip(0)
    lost = torch.zeros_like(sets.n_events, dtype=eta.dtype).index_add(0, sets.group, sets.fraction * inverse)
    weight[sets.dead] -= risk[sets.dead] * lost[sets.group]
    return weight


def _means(eta: Tensor, x: Tensor, sets: _RiskSets) -> Tensor:
    """Mean covariates of what each event is compared with, (event, dim)."""
    risk, total = _totals(eta, sets)
    sums = (risk[:, None] * x).cumsum(0)[sets.last]
    of_dead = torch.zeros_like(sums).index_add(0, sets.group, risk[sets.dead, None] * x[sets.dead])
    return (sums[sets.group] - sets.fraction[:, None] * of_dead[sets.group]) / total[:, None]


def expected_events(
    log_risk: Float[Tensor, " patient"],
    time: Float[Tensor, " patient"],
    event: Bool[Tensor, " patient"],
    *,
    strata: Tensor | None = None,
    ties: str = "efron",
) -> Float[Tensor, " patient"]:
    """Return the number of events that the model expects of each patient up to its time, float64.

    ``event - expected_events`` are the martingale residuals, and the gradient of the log partial likelihood by ``log_risk``.
    """
    _check(log_risk, time, event, strata)
    return PartialLikelihood(time, event, strata=strata, ties=ties).expected_events(log_risk)


# Survival curves ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Baseline:
    """Breslow's estimate of the cumulative hazard of a patient whose log risk is 0.

    Attributes
    ----------
    times
        float64 (time,): times of events, rising.
    cumulative
        float64 (time,): cumulative hazard from each of them on.
    """

    times: Float[Tensor, " time"]
    cumulative: Float[Tensor, " time"]

    def survival(
        self, log_risk: Float[Tensor, " patient"], times: Float[Tensor, " time"]
    ) -> Float[Tensor, "patient time"]:
        """Return the probability of no event up to each of ``times``, float64 (patient, time)."""
        place = torch.searchsorted(self.times, times.double().contiguous(), right=True)
        hazard = torch.cat([torch.zeros_like(self.cumulative[:1]), self.cumulative])[place]
        return (-hazard * log_risk.double().exp()[:, None]).exp()


def breslow_baseline(
    log_risk: Float[Tensor, " patient"], time: Float[Tensor, " patient"], event: Bool[Tensor, " patient"]
) -> Baseline:
    """Estimate the cumulative baseline hazard: at each event time, events over the summed risk of those at risk.

    Parameters
    ----------
    log_risk
        Best out of fold: a model's own training patients are ranked too well, and the curves then spread too far.
    time, event
        As for :func:`cox_loss`; of one stratum.
    """
    _check(log_risk, time, event, None)
    if not bool(event.any()):
        raise DataError(f"none of {len(event)} patients has an event", expected="at least one", fix="Add follow-up.")
    sets = _risk_sets(time, event, "breslow")
    at_risk = torch.logcumsumexp(log_risk.detach().double()[sets.order], dim=0)[sets.last]
    jumps = (sets.n_events * (-at_risk).exp()).flip(0)
    times = time[sets.order][sets.last].double().flip(0)
    return Baseline(times.contiguous(), jumps.cumsum(0))


def calibrate_risk(
    log_risk: Float[Tensor, " patient"],
    time: Float[Tensor, " patient"],
    event: Bool[Tensor, " patient"],
    *,
    strata: Tensor | None = None,
    ties: str = "efron",
) -> tuple[float, dict[int, Baseline]]:
    """Fit to out-of-fold log risks what turns a risk into a curve: a slope, and baselines.

    Parameters
    ----------
    log_risk
        Of patients that the models behind it did not see.
    time, event, strata, ties
        As for :func:`cox_loss`.

    Returns
    -------
    slope
        By which log risks must be multiplied, in [0, 10]. Where the fit is below 0 the risk is worthless; 0 then gives everyone the
        curve of the cohort.
    baselines
        Of the multiplied risks, by stratum; -1 for all patients together.
    """
    slope = 0.0
    if float(log_risk.std()) > 1e-8:
        fit = fit_cox(log_risk[:, None], time, event, strata=strata, ties=ties, ridge=1e-6)
        slope = float(fit.coefficients[0].clamp(0.0, 10.0))
    baselines = {-1: breslow_baseline(slope * log_risk, time, event)}
    if strata is not None:
        for one in strata.unique().tolist():
            rows = torch.nonzero(strata == one).squeeze(1)
            if bool(event[rows].any()):
                baselines[one] = breslow_baseline(slope * log_risk[rows], time[rows], event[rows])
    return slope, baselines
