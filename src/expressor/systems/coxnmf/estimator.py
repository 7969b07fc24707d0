"""The estimator: parameters, fit with out-of-fold risks, and what a fitted factorisation gives for new patients."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import child_seed
from expressor.data import fields, keys
from expressor.data.outcomes import check_times, read_outcomes
from expressor.data.profiles import check_scale_of_use, profiles
from expressor.data.units import LOG1P, LOG2, LOG_RATIO, ZSCORE, check_unit
from expressor.estimator.base import Estimator, State
from expressor.estimator.inner import inner_folds
from expressor.estimator.judging import patients_of
from expressor.estimator.roles import Encodes, Survives
from expressor.estimator.surviving import judge_survival
from expressor.genes.vocab import GeneVocab
from expressor.metrics.survival import concordance
from expressor.nn.cox import Baseline, calibrate_risk, fit_cox
from expressor.systems.coxnmf import equations
from expressor.systems.coxnmf.factorisation import Factorisation, Options, factorise

LOGS = (LOG2, LOG1P)
_TENSORS = ("origin", "scale", "W", "centre", "beta")


@dataclasses.dataclass(frozen=True, eq=False)
class _Model:
    """What new patients need: kept genes and their scale, gene factors, and a Cox model on projected factors."""

    kept: np.ndarray
    origin: Tensor
    scale: Tensor
    W: Tensor
    centre: Tensor
    beta: Tensor

    def project(self, values: np.ndarray) -> Tensor:
        """Return factors, float64 (patient, factor), from expression of the kept genes (patient, gene)."""
        return equations.project(self.table(values), self.W).T

    def table(self, values: np.ndarray) -> Tensor:
        """Return what is factorised, float64 (gene, patient); a value below the origin counts as there."""
        return ((torch.from_numpy(values).double() - self.origin).clamp(min=0) / self.scale).T.contiguous()

    def log_risk(self, factors: Tensor) -> Tensor:
        return (factors - self.centre) @ self.beta


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class CoxNMF(Estimator, Survives, Encodes):
    """Gene clusters that go with survival: non-negative factors of expression, fitted together with a Cox model on them.

    Parameters
    ----------
    n_factors
        Number of factors K, >= 1.
    alpha
        Weight of the log partial likelihood against the squared error, >= 0; 0 is a factorisation that knows no outcome.
    ridge
        Ridge penalty per event on coefficients of factors in standard deviations, > 0.
    sigma
        Weight of orthogonal gene factors, >= 0.
    update
        Of the patient factors: ``"line_search"`` (the objective never rises) or ``"projection"`` (the authors').
    start
        ``"nmf"``: a factorisation without outcomes; ``"random"`` (the authors').
    gene_scale
        ``"sd"`` divides each gene by its standard deviation in the training patients, so that highly expressed genes do not
        decide alone; ``"none"`` (the authors').
    origin
        ``"zero"``: expression is factorised as it is (the authors'), and must not be negative; ``"minimum"``: from each gene's
        smallest value in the training patients, so that z-scores and log ratios can be factorised too. A new patient's value
        below it counts as the smallest.
    mean_quantile, variance_quantile
        Genes below this quantile of the mean, and then of the variance, are left out, in [0, 1).
    max_iterations, tolerance
        Most iterations, >= 1; it ends when the objective changes by less than this part of itself, > 0.
    folds
        For out-of-fold risks, >= 2.
    time, event
        Columns of ``obs``: days to event or censoring, whether it was the event.
    random_state
        Seed, >= 0.

    Attributes
    ----------
    unit_
        The scale of the fit.
    gene_factors_
        Table (gene, factor): W, columns of length 1.
    coefficients_
        Log hazard ratio of a standard deviation of each factor.
    gene_table_
        One row a gene: ``cluster`` (its largest factor), ``survival`` (the sum of its factors times their coefficients).
    out_of_fold_
        One row a training sample: its log risk from a factorisation that did not see it, time, event.
    concordance_
        ``out_of_fold`` and ``in_sample``. The second is of factors that were fitted to the very outcomes that it is judged by, and
        says nothing of new patients.
    slope_
        By how much out-of-fold log risks had to be multiplied to fit; 0 says nothing.
    history_
        One row an iteration: objective, relative error.
    """

    n_factors: int = 10
    alpha: float = 5.0
    ridge: float = 0.1
    sigma: float = 0.0
    update: Literal["line_search", "projection"] = "line_search"
    start: Literal["nmf", "random"] = "nmf"
    gene_scale: Literal["sd", "none"] = "sd"
    origin: Literal["zero", "minimum"] = "zero"
    mean_quantile: float = 0.2
    variance_quantile: float = 0.2
    max_iterations: int = 100
    tolerance: float = 1e-4
    folds: int = 5
    time: str = keys.TIME
    event: str = keys.EVENT
    random_state: int = 0

    def _check(self) -> None:
        for name, low in (("n_factors", 1), ("max_iterations", 1), ("folds", 2), ("random_state", 0)):
            check_range(getattr(self, name), name=name, low=low, integer=True)
        for name in ("alpha", "sigma"):
            check_range(getattr(self, name), name=name, low=0)
        for name in ("ridge", "tolerance"):
            check_range(getattr(self, name), name=name, low=0, open_low=True)
        for name in ("mean_quantile", "variance_quantile"):
            check_range(getattr(self, name), name=name, low=0, high=1, open_high=True)
        check_choice(self.update, ("line_search", "projection"), name="update")
        check_choice(self.start, ("nmf", "random"), name="start")
        check_choice(self.gene_scale, ("sd", "none"), name="gene_scale")
        check_choice(self.origin, ("zero", "minimum"), name="origin")

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.unit_ = check_unit(adata, LOGS if self.origin == "zero" else (*LOGS, ZSCORE, LOG_RATIO), who="CoxNMF")
        outcomes = read_outcomes(adata, time=self.time, event=self.event)
        n_events = int(outcomes.event.sum())
        if n_events < 2 * self.folds:
            raise DataError(f"too few events for {self.folds} folds", expected=f"at least {2 * self.folds}", got=n_events,
                            fix="Give more follow-up or patients, or fewer folds.")  # fmt: skip
        genes = sorted(map(str, adata.var_names))
        values = profiles(adata, genes)
        if self.origin == "zero" and (values < 0).any():
            raise DataError("expression is negative", expected="values from 0, as in log2(TPM+1)", got=f"{values.min():.3g}",
                            fix="Start from values before they were centred or scaled, or set origin=\"minimum\".")  # fmt: skip
        time, event = torch.from_numpy(outcomes.time), torch.from_numpy(outcomes.event)
        fold = inner_folds(patients_of(adata), outcomes.event, folds=self.folds, seed=self.random_state)
        risk = torch.zeros(len(values), dtype=torch.float64)
        for k in range(self.folds):
            train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            part, _ = self._learn(values[train], time[train], event[train])
            risk[test] = part.log_risk(part.project(values[test][:, part.kept]))
        self._model, found = self._learn(values, time, event)
        self.slope_, baselines = calibrate_risk(risk, time, event)
        self._baseline = baselines[-1]
        self.out_of_fold_ = pd.DataFrame(
            {"log_risk": risk.numpy(), "time": outcomes.time, "event": outcomes.event}, index=adata.obs_names.copy()
        )
        self.concordance_ = {
            "out_of_fold": concordance(outcomes.time, outcomes.event, risk.numpy(), strata=fold),
            "in_sample": concordance(outcomes.time, outcomes.event, (found.beta @ found.H).numpy()),
        }
        self._kept_names = pd.Index([genes[i] for i in self._model.kept], dtype=object)
        projected = self._model.project(values[:, self._model.kept])
        self._spread = projected.std(dim=0, correction=0)
        self._describe_genes()
        self._n_events, self.history_ = n_events, pd.DataFrame(found.history)
        self.genes_in_ = GeneVocab(genes)

    def _learn(self, values: np.ndarray, time: Tensor, event: Tensor) -> tuple[_Model, Factorisation]:
        """Choose genes, factorise, and fit the Cox model again on factors that were projected without outcomes."""
        kept = self._choose_genes(values)
        own = torch.from_numpy(values[:, kept]).double()
        scale = own.std(dim=0, correction=0) if self.gene_scale == "sd" else torch.ones_like(own[0])
        origin = own.min(dim=0).values if self.origin == "minimum" else torch.zeros_like(own[0])
        none = torch.zeros(self.n_factors, dtype=torch.float64)
        model = _Model(kept, origin, scale, none, none, none)
        seed = child_seed(self.random_state, "coxnmf start")
        options = Options(
            self.n_factors, float(self.alpha), float(self.ridge), float(self.sigma), self.update, self.start,
            self.max_iterations, float(self.tolerance), seed,
        )  # fmt: skip
        found = factorise(model.table(values[:, kept]), time, event, options)
        model = dataclasses.replace(model, W=found.W)
        H = model.project(values[:, kept])
        ridge = self.ridge * int(event.sum()) * H.var(dim=0, correction=0).clamp(min=1e-12)
        beta = fit_cox(H, time, event, ridge=ridge).coefficients
        return dataclasses.replace(model, centre=H.mean(0), beta=beta), found

    def _choose_genes(self, values: np.ndarray) -> np.ndarray:
        mean, variance = values.mean(0, dtype=np.float64), values.var(0, dtype=np.float64)
        if self.origin == "minimum":
            mean = mean - values.min(axis=0)
        kept = np.flatnonzero((mean >= np.quantile(mean, self.mean_quantile)) & (variance > 1e-10))
        if len(kept):
            kept = kept[variance[kept] >= np.quantile(variance[kept], self.variance_quantile)]
        if len(kept) < self.n_factors or len(values) < self.n_factors:
            raise DataError(
                "there are fewer genes that vary, or patients, than factors", expected=f"at least {self.n_factors}",
                got=f"{len(kept)} genes, {len(values)} patients", fix="Ask for fewer factors, or leave fewer genes out.",
            )  # fmt: skip
        return kept

    def _describe_genes(self) -> None:
        names = [f"F{k + 1}" for k in range(self.n_factors)]
        W = self._model.W.numpy()
        self.gene_factors_ = pd.DataFrame(W, index=self._kept_names, columns=names)
        effect = (self._model.beta * self._spread).numpy()
        self.coefficients_ = pd.Series(effect, index=names)
        # Factors differ in size: a gene goes to the factor that explains most of it.
        share = W * self._model.centre.numpy()
        self.gene_table_ = pd.DataFrame(
            {"cluster": np.array(names, dtype=object)[share.argmax(axis=1)], "survival": W @ effect},
            index=self._kept_names,
        )

    # Using -----------------------------------------------------------------------------------------------------------

    def transform(self, data: Any) -> np.ndarray:
        """Return the factors of each sample by non-negative least squares on the gene factors, float32 (sample, factor).

        No outcome is looked at, and samples of the fit are treated as new ones.

        Raises
        ------
        GeneError
            A gene of the factors was not measured.
        DataError
            A value of such a gene is NaN or negative, or the scale is another than that of the fit.
        """
        self._check_fitted()
        return self._factors(fields.read(data)).numpy().astype(np.float32)

    def risk(self, data: Any) -> np.ndarray:
        """Return the log risk of each sample, float32 (sample,): 0 for an average training patient, larger is earlier."""
        self._check_fitted()
        return self._model.log_risk(self._factors(fields.read(data))).numpy().astype(np.float32)

    def survival_function(self, data: Any, times: Any = None) -> pd.DataFrame:
        """Return the probability of no event up to each time, float32 (sample, time); the columns are the times.

        Parameters
        ----------
        data
            As for :meth:`transform`.
        times
            In the unit of the fit; the event times of the fit by default.
        """
        self._check_fitted()
        adata = fields.read(data)
        at = self._baseline.times.numpy() if times is None else check_times(times)
        eta = self.slope_ * self._model.log_risk(self._factors(adata))
        curves = self._baseline.survival(eta, torch.from_numpy(at)).numpy().astype(np.float32)
        return pd.DataFrame(curves, index=adata.obs_names.copy(), columns=at)

    def _factors(self, adata: Any) -> Tensor:
        check_scale_of_use(adata, self.unit_)
        values = profiles(adata, self._kept_names)
        if self.origin == "zero" and (values < 0).any():
            raise DataError("expression is negative", expected="values from 0", got=f"{values.min():.3g}",
                            fix="Give values on the scale of the fit.")  # fmt: skip
        return self._model.project(values)

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        outcomes = read_outcomes(adata, time=self.time, event=self.event)
        risk = self._model.log_risk(self._factors(adata)).numpy()
        return judge_survival(risk, self.survival_function(adata), outcomes, adata, seed=self.random_state)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        return {"obs": {key: self.risk(adata)}, "obsm": {f"{key}_factors": self.transform(adata)}}

    def _state(self) -> State:
        values = {
            "unit_": self.unit_,
            "slope_": self.slope_,
            "n_events": self._n_events,
            "concordance_": self.concordance_,
        }
        arrays = {
            "kept": self._model.kept, "kept_names": self._kept_names, "out_of_fold_": self.out_of_fold_,
            "times": self._baseline.times.numpy(), "cumulative": self._baseline.cumulative.numpy(),
        }  # fmt: skip
        tensors = {name: getattr(self._model, name) for name in _TENSORS}
        return State(values, arrays, tensors | {"spread": self._spread})

    def _restore(self, state: State) -> None:
        self.unit_, self.slope_ = str(state.values["unit_"]), float(state.values["slope_"])
        self._n_events, self.concordance_ = int(state.values["n_events"]), dict(state.values["concordance_"])
        self._kept_names, self.out_of_fold_ = state.arrays["kept_names"], state.arrays["out_of_fold_"]
        times, cumulative = (torch.from_numpy(state.arrays[name]) for name in ("times", "cumulative"))
        self._baseline, self._spread = Baseline(times, cumulative), state.tensors["spread"]
        self._model = _Model(state.arrays["kept"], *(state.tensors[name] for name in _TENSORS))
        self._describe_genes()

    def _methods(self) -> str:
        scale = ", from each gene's smallest value," if self.origin == "minimum" else ""
        scale += " divided by their standard deviations," if self.gene_scale == "sd" else ""
        rule = (
            "multiplicative steps with a line search"
            if self.update == "line_search"
            else "the authors' projected steps"
        )
        return (
            f"Expression ({self.unit_}) of {len(self._kept_names)} genes{scale} in {len(self.out_of_fold_)} samples "
            f"({self._n_events} events) was factorised into {self.n_factors} non-negative factors together with a Cox model on "
            f"the patients' factors (weight {self.alpha:g}, ridge {self.ridge:g} per event), by {rule}. Patients were then "
            "projected on the gene factors by non-negative least squares without their outcomes, and the Cox model was fitted "
            f"again. The concordance in {self.folds} folds, each with a factorisation of its own, was "
            f"{self.concordance_['out_of_fold']:.3f}; in sample, where factors are fitted to the outcomes, it was "
            f"{self.concordance_['in_sample']:.3f}, which says nothing of new patients."
        )
