"""The estimator: parameters, the course of a fit, and what a fitted model gives."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
import torch

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data import fields, keys
from expressor.data.outcomes import check_times, read_outcomes
from expressor.data.profiles import REACH, bounded_scores, check_scale_of_use, profiles
from expressor.data.units import LOG1P, LOG2, LOG_RATIO, ZSCORE, check_unit
from expressor.estimator.base import Estimator, State
from expressor.estimator.expression_models import ExpressionModel, linear_network
from expressor.estimator.inner import inner_folds
from expressor.estimator.judging import patients_of
from expressor.estimator.roles import Survives
from expressor.estimator.surviving import judge_survival
from expressor.genes.vocab import GeneVocab
from expressor.nn.cox import TIES, Baseline, calibrate_risk
from expressor.systems.penalised_cox import equations, fitting


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class PenalisedCox(Estimator, Survives):
    """Survival from expression by Cox regression, with a penalty whose strength is chosen inside the training data.

    Parameters
    ----------
    penalty
        ``"ridge"`` on principal components of all genes, or ``"elastic_net"`` on the most variable genes.
    components
        Principal components for the ridge, >= 1.
    scaling
        Of the principal components: ``"variance"`` keeps their variances, so that the penalty spares the leading ones;
        ``"unit"`` treats all alike.
    variable_genes
        Use only so many genes, those of the largest variance in the training patients, >= 1; None for all with the ridge and
        2,000 with the elastic net.
    l1_ratio
        Share of the lasso in the elastic net, in (0, 1].
    alpha
        Strength of the penalty per event, > 0, or ``"cv"`` to choose it by the cross-validated partial likelihood.
    n_alphas, alpha_ratio
        How many strengths of the elastic net are tried, >= 2, and the smallest as a part of the largest, in (0, 1).
    folds
        Of the inner cross-validation, >= 2; it also gives the out-of-fold risks behind the survival curves.
    time, event, strata
        Columns of ``obs``: days to event or censoring, whether it was the event, and (or None) groups with hazards of their own.
    ties
        ``"efron"`` or ``"breslow"``.
    random_state
        Seed of the folds, >= 0.

    Attributes
    ----------
    unit_
        The scale of the fit.
    alpha_
        The strength that was used.
    coefficients_
        Log hazard ratio of a standard deviation, by gene; genes that are not used are left out.
    slope_
        By how much out-of-fold log risks had to be multiplied to fit; far below 1 is a model that says too much, 0 says nothing.
    out_of_fold_
        One row a training sample: its log risk from a model that did not see it (at ``alpha_``), time, event.
    history_
        One row a strength tried: alpha, gain (cross-validated log partial likelihood per event over that of no model), features.
    """

    penalty: Literal["ridge", "elastic_net"] = "ridge"
    components: int = 50
    scaling: Literal["variance", "unit"] = "variance"
    variable_genes: int | None = None
    l1_ratio: float = 0.5
    alpha: float | Literal["cv"] = "cv"
    n_alphas: int = 20
    alpha_ratio: float = 0.05
    folds: int = 5
    time: str = keys.TIME
    event: str = keys.EVENT
    strata: str | None = None
    ties: Literal["efron", "breslow"] = "efron"
    random_state: int = 0

    def _check(self) -> None:
        check_choice(self.penalty, ("ridge", "elastic_net"), name="penalty")
        check_choice(self.scaling, ("variance", "unit"), name="scaling")
        check_choice(self.ties, TIES, name="ties")
        for name, low in (("components", 1), ("n_alphas", 2), ("folds", 2), ("random_state", 0)):
            check_range(getattr(self, name), name=name, low=low, integer=True)
        if self.variable_genes is not None:
            check_range(self.variable_genes, name="variable_genes", low=1, integer=True)
        check_range(self.l1_ratio, name="l1_ratio", low=0, high=1, open_low=True)
        check_range(self.alpha_ratio, name="alpha_ratio", low=0, high=1, open_low=True, open_high=True)
        if isinstance(self.alpha, str):
            check_choice(self.alpha, ("cv",), name="alpha")
        else:
            check_range(self.alpha, name="alpha", low=0, open_low=True)

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.unit_ = check_unit(adata, (LOG2, LOG1P, LOG_RATIO, ZSCORE), who="PenalisedCox")
        genes = sorted(map(str, adata.var_names))
        cohort, patients, levels = self._cohort(adata, genes)
        options = self._options()
        spread = [cohort.event.numpy(), *([] if cohort.strata is None else [cohort.strata.numpy()])]
        fold = torch.from_numpy(inner_folds(patients, *spread, folds=self.folds, seed=self.random_state))
        alphas = fitting.first_alphas(cohort, options) if isinstance(self.alpha, str) else [float(self.alpha)]
        choice = fitting.cross_validate(cohort, alphas, fold, options)
        design = fitting.learn_design(cohort.values, options)
        features = design.features(cohort.values)
        gamma = fitting.solve(features, cohort, alphas[: choice.best + 1], options)[-1]
        self.alpha_ = alphas[choice.best]
        beta, used = design.gene_coefficients(gamma), torch.ones(len(design.kept), dtype=torch.bool)
        if self.penalty == "elastic_net":
            used = beta != 0
        self._table = pd.DataFrame(
            {"mean": design.mean[used].numpy(), "scale": design.scale[used].numpy(), "coefficient": beta[used].numpy()},
            index=pd.Index([genes[i] for i in design.kept[used].tolist()], dtype=object),
        )
        self.coefficients_ = self._table["coefficient"]
        risk = choice.risks[choice.best]
        self.slope_, self._baselines = calibrate_risk(
            risk, cohort.time, cohort.event, strata=cohort.strata, ties=self.ties
        )
        self._levels = levels
        self.out_of_fold_ = pd.DataFrame(
            {"log_risk": risk.numpy(), "time": cohort.time.numpy(), "event": cohort.event.numpy()},
            index=adata.obs_names.copy(),
        )
        self._n_events = int(cohort.event.sum())
        self.history_ = pd.DataFrame(
            {"iteration": range(1, len(alphas) + 1), "alpha": alphas, "gain": choice.gain.numpy(),
             "features": choice.sizes.numpy()}
        )  # fmt: skip
        self.genes_in_ = GeneVocab(genes)

    def _options(self) -> fitting.Options:
        n_genes = 2000 if self.variable_genes is None and self.penalty == "elastic_net" else self.variable_genes
        return fitting.Options(
            self.penalty, self.components, self.scaling, n_genes, float(self.l1_ratio), self.n_alphas,
            float(self.alpha_ratio), self.ties,
        )  # fmt: skip

    def _cohort(self, adata: Any, genes: list[str]) -> tuple[fitting.Cohort, np.ndarray, list[str]]:
        outcomes = read_outcomes(adata, time=self.time, event=self.event, strata=self.strata)
        if int(outcomes.event.sum()) < 2 * self.folds:
            raise DataError(
                f"too few events for {self.folds} folds", expected=f"at least {2 * self.folds}",
                got=int(outcomes.event.sum()), fix="Give more follow-up or patients, or fewer folds.",
            )  # fmt: skip
        strata, levels = None, []
        if outcomes.strata is not None:
            names, codes = np.unique(outcomes.strata.astype(str), return_inverse=True)
            strata, levels = torch.from_numpy(codes.astype(np.int64)), names.tolist()
        values = torch.from_numpy(profiles(adata, genes)).double()
        cohort = fitting.Cohort(values, torch.from_numpy(outcomes.time), torch.from_numpy(outcomes.event), strata)
        return cohort, patients_of(adata), levels

    # Using -----------------------------------------------------------------------------------------------------------

    def risk(self, data: Any) -> np.ndarray:
        """Return the log risk of each sample, float32 (sample,): 0 for an average training patient, larger is earlier.

        Raises
        ------
        GeneError
            A gene with a coefficient was not measured.
        DataError
            A value of such a gene is NaN, or the scale is another than that of the fit.
        """
        self._check_fitted()
        return self._risk(fields.read(data)).astype(np.float32)

    def survival_function(self, data: Any, times: Any = None) -> pd.DataFrame:
        """Return the probability of no event up to each time.

        Baseline hazard and spread are those of out-of-fold risks, so that curves are not too sure of themselves.

        Parameters
        ----------
        data
            As for :meth:`risk`. Where the fit had strata, a sample whose stratum is known gets that stratum's baseline, any other
            that of all together.
        times
            In the unit of the fit; the event times of the fit by default.

        Returns
        -------
        float32 (sample, time); the columns are the times.
        """
        self._check_fitted()
        adata = fields.read(data)
        at = self._baselines[-1].times.numpy() if times is None else check_times(times)
        eta, strata = torch.from_numpy(self._risk(adata)), self._strata_of(adata)
        curves = np.empty((adata.n_obs, len(at)), dtype=np.float32)
        for one in np.unique(strata):
            rows, baseline = strata == one, self._baselines.get(int(one), self._baselines[-1])
            hazard = -baseline.survival(torch.zeros(1), torch.from_numpy(at))[0].log()
            curves[rows] = equations.survival(hazard, eta[torch.from_numpy(rows)], self.slope_).numpy()
        return pd.DataFrame(curves, index=adata.obs_names.copy(), columns=at)

    def _risk(self, adata: Any) -> np.ndarray:
        check_scale_of_use(adata, self.unit_)
        if not len(self._table):
            return np.zeros(adata.n_obs)
        values = profiles(adata, self._table.index).astype(np.float64)
        z = bounded_scores(values, self._table["mean"].to_numpy(), self._table["scale"].to_numpy())
        return z @ self._table["coefficient"].to_numpy()

    def to_torch(self) -> ExpressionModel:
        """Return the fitted model as a network from expression of all genes of the fit to the log risk."""
        weight = self._table["coefficient"].to_numpy()[None]
        return linear_network(
            "PenalisedCox", self.genes_in_, self._table, "risk", ["risk"], unit=self.unit_, weight=weight, offset=np.zeros(1),
            reach=REACH, hazard=(self.slope_, self._baselines[-1]),
        )  # fmt: skip

    def _strata_of(self, adata: Any) -> np.ndarray:
        if self.strata is None or self.strata not in adata.obs:
            return np.full(adata.n_obs, -1)
        place = {name: i for i, name in enumerate(self._levels)}
        return np.array([place.get(str(one), -1) for one in adata.obs[self.strata]])

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        outcomes = read_outcomes(adata, time=self.time, event=self.event, strata=self.strata)
        return judge_survival(self._risk(adata), self.survival_function(adata), outcomes, adata, seed=self.random_state)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        return {"obs": {key: self.risk(adata)}}

    def _state(self) -> State:
        values = {"unit_": self.unit_, "alpha_": self.alpha_, "slope_": self.slope_, "n_events": self._n_events,
                  "levels": self._levels, "baselines": sorted(self._baselines)}  # fmt: skip
        arrays: dict[str, Any] = {"table": self._table, "out_of_fold_": self.out_of_fold_}
        for one, baseline in self._baselines.items():
            arrays |= {f"times{one}": baseline.times.numpy(), f"cumulative{one}": baseline.cumulative.numpy()}
        return State(values, arrays)

    def _restore(self, state: State) -> None:
        for name in ("unit_", "alpha_", "slope_"):
            setattr(self, name, state.values[name])
        self._n_events, self._levels = int(state.values["n_events"]), list(state.values["levels"])
        self._table, self.out_of_fold_ = state.arrays["table"], state.arrays["out_of_fold_"]
        self.coefficients_ = self._table["coefficient"]
        self._baselines = {
            one: Baseline(
                torch.from_numpy(state.arrays[f"times{one}"]), torch.from_numpy(state.arrays[f"cumulative{one}"])
            )
            for one in state.values["baselines"]
        }

    def _methods(self) -> str:
        n = len(self.out_of_fold_)
        what = (
            f"a ridge penalty on {self.components} principal components of the standardised genes"
            if self.penalty == "ridge"
            else f"an elastic net (lasso share {self.l1_ratio:g}) on the most variable genes, of which {len(self._table)} "
            "got a coefficient"
        )
        how = "chosen by the cross-validated partial likelihood" if isinstance(self.alpha, str) else "given"
        strata = f", stratified by {self.strata}" if self.strata else ""
        return (
            f"Survival of {n} samples ({self._n_events} events) was regressed on expression ({self.unit_}) of "
            f"{len(self.genes_in_)} genes by Cox regression{strata} with {what}; its strength ({self.alpha_:.3g} per event) was "
            f"{how} in {self.folds} folds, in which everything was learnt anew, with ties as {self.ties.capitalize()} does. "
            f"Survival curves use Breslow's baseline hazard of out-of-fold risks and their calibration slope ({self.slope_:.2f})."
        )
