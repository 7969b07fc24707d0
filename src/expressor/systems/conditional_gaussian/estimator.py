"""The estimator: parameters, fit, and what a fitted Gaussian gives."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
import torch

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data import fields
from expressor.data.profiles import profiles, profiles_to_restore
from expressor.data.units import LOG1P, LOG2, LOG_RATIO, ZSCORE, check_unit
from expressor.estimator.base import Estimator, State
from expressor.estimator.intervals import Restore, calibrate, quantile_at
from expressor.estimator.restoring import judge_restoration
from expressor.estimator.roles import Encodes, Imputes
from expressor.genes.vocab import GeneVocab
from expressor.nn.gaussian import (
    CHOICES,
    GaussianState,
    condition,
    fit_gaussian,
    log_likelihood,
    patterns,
    posterior_factors,
    restore,
)


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class ConditionalGaussian(Estimator, Imputes, Encodes):
    """Restore genes by their conditional mean under one shrunk covariance, whatever the observed panel.

    Parameters
    ----------
    shrinkage
        Weight of the identity in the correlation, in (0, 1]; or how it is chosen: ``"likelihood"`` of held-out samples, or
        ``"ledoit_wolf"``.
    rank
        Number of factors of the correlation to keep, >= 1; None keeps all, and loses nothing.
    components
        Dimensions of :meth:`transform`, >= 1: the posterior means of the leading factors (of fewer, where there are fewer).
    sweeps
        Most rounds of filling in values that the training data lack, >= 1.
    folds
        Parts of the training samples for the calibration of intervals, >= 2; 0 for the Gaussian's own, uncalibrated width.
    floor
        Smallest value of a restoration: ``"auto"`` is 0 where no training value is negative, and none otherwise; ``"none"``.
    random_state
        Seed of the folds and panels, >= 0.

    Attributes
    ----------
    unit_
        The scale of the fit, on which values are restored.
    shrinkage_
        The shrinkage that was used.
    gene_table_
        One row a gene: ``mean``, ``scale`` (standard deviation; 0 for a constant gene), ``inflation`` of its intervals.
    history_
        One row: shrinkage, number of factors, and the loss: negative log density of a standardised training value.
    """

    shrinkage: float | Literal["likelihood", "ledoit_wolf"] = "likelihood"
    rank: int | None = None
    components: int = 32
    sweeps: int = 10
    folds: int = 5
    floor: Literal["auto", "none"] = "auto"
    random_state: int = 0

    def _check(self) -> None:
        if isinstance(self.shrinkage, str):
            check_choice(self.shrinkage, CHOICES, name="shrinkage")
        else:
            check_range(self.shrinkage, name="shrinkage", low=0, high=1, open_low=True)
        if self.rank is not None:
            check_range(self.rank, name="rank", low=1, integer=True)
        for name, low in (("components", 1), ("sweeps", 1), ("folds", 0), ("random_state", 0)):
            check_range(getattr(self, name), name=name, low=low, integer=True)
        if self.folds == 1:
            raise DataError("one fold holds nothing out", expected="folds of 0, or at least 2", got=1)
        check_choice(self.floor, ("auto", "none"), name="floor")

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.unit_ = check_unit(adata, (LOG2, LOG1P, LOG_RATIO, ZSCORE), who="ConditionalGaussian")
        genes = sorted(map(str, adata.var_names))
        values = torch.from_numpy(profiles(adata, genes, allow_gaps=True)).double()
        if self.folds and len(values) < 2 * self.folds:
            raise DataError("too few samples to calibrate intervals", expected=f"at least {2 * self.folds}", got=len(values),
                            fix="Give more samples, or folds=0.")  # fmt: skip
        self._gaussian = fit_gaussian(
            values, shrinkage=self.shrinkage, rank=self.rank, sweeps=self.sweeps, seed=self.random_state
        )
        self.shrinkage_ = float(self._gaussian.shrinkage)
        inflation, quantiles = np.ones(len(genes)), None
        if self.folds:
            inflation, quantiles = calibrate(values, self._learn, folds=self.folds, seed=self.random_state)
        self._quantiles = quantiles
        self._floor = 0.0 if self.floor == "auto" and float(np.nanmin(values)) >= 0 else -np.inf
        self.gene_table_ = pd.DataFrame(
            {"mean": self._gaussian.mean.numpy(), "scale": self._gaussian.scale.numpy(), "inflation": inflation},
            index=pd.Index(genes, dtype=object),
        )
        self._n_samples, self._n_gaps = len(values), int(values.isnan().sum())
        loss = -float(log_likelihood(self._gaussian, values)) / (values.numel() - self._n_gaps)
        self.history_ = pd.DataFrame(
            {
                "iteration": [1],
                "shrinkage": [self.shrinkage_],
                "factors": [self._gaussian.factors.shape[1]],
                "loss": [loss],
            }
        )
        self.genes_in_ = GeneVocab(genes)

    def _learn(self, train: torch.Tensor) -> Restore:
        """Return what restores held-out samples, for the calibration."""
        state = fit_gaussian(train, shrinkage=self.shrinkage_, rank=self.rank, sweeps=min(self.sweeps, 3))

        def restored(
            values: torch.Tensor, shown: torch.Tensor, hidden: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            mean, variance = condition(state, values, shown, hidden)
            return mean, torch.where(state.scale[hidden] > 0, variance, 0.0)  # type: ignore[arg-type]

        return restored

    # Using -----------------------------------------------------------------------------------------------------------

    def impute(self, data: Any) -> np.ndarray:
        """Restore what was not measured.

        Parameters
        ----------
        data
            Samples on the scale of the fit. NaN, and genes of the fit that are absent, are restored; other genes are ignored.

        Returns
        -------
        float32 (sample, gene), genes in the order of ``genes_in_``; measured values as they came.

        Raises
        ------
        DataError
            A sample has no measured gene of the fit, or the scale is another.
        """
        return self._restored(data, variance=False)[1]

    def impute_interval(self, data: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds of the values that :meth:`impute` restores; measured ones bound themselves.

        The width is the Gaussian's standard error, times the quantile that errors of held-out training samples had. It holds for
        samples like those of the fit.

        Parameters
        ----------
        data
            As for :meth:`impute`.
        coverage
            In (0, 1); the next kept level above is used (hundredths from .5 up to .99, then .995).

        Returns
        -------
        float32 (sample, gene) each.
        """
        check_range(coverage, name="coverage", low=0, high=1, open_low=True, open_high=True)
        measured, full, variance = self._restored(data, variance=True)
        if self._quantiles is None:
            factor = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5 + coverage / 2)))
        else:
            factor = quantile_at(self._quantiles, coverage)
        width = factor * self.gene_table_["inflation"].to_numpy() * np.sqrt(variance)
        lower, upper = (np.maximum(full + sign * width, self._floor).astype(np.float32) for sign in (-1, 1))
        return np.where(measured, full, lower), np.where(measured, full, upper)

    def transform(self, data: Any) -> np.ndarray:
        """Return the posterior means of the leading factors given what was measured, float32 (sample, component)."""
        self._check_fitted()
        values = self._values(data)
        found = torch.empty(len(values), min(self.components, self._gaussian.factors.shape[1]), dtype=torch.float64)
        for rows, observed in patterns(~values.isnan()):
            factors = posterior_factors(self._gaussian, values[rows][:, observed], observed)
            found[rows] = factors[:, : found.shape[1]]
        return found.numpy().astype(np.float32)

    def _values(self, data: Any) -> torch.Tensor:
        return torch.from_numpy(profiles_to_restore(fields.read(data), self.genes_in_, unit=self.unit_))

    def _restored(self, data: Any, *, variance: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where values were measured, the full table, and variances of what was restored."""
        self._check_fitted()
        values = self._values(data)
        full, around = restore(self._gaussian, values, variance=variance)
        given = values.numpy()
        measured = ~np.isnan(given)
        filled = np.maximum(full.numpy(), self._floor).astype(np.float32)
        return measured, np.where(measured, given, filled), around.numpy()

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        return judge_restoration(
            self.impute, adata, self.genes_in_, scale=self.gene_table_["scale"].to_numpy(), bounds=self.impute_interval,
            seed=self.random_state,
        )  # fmt: skip

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        full = pd.DataFrame(self.impute(adata), index=adata.obs_names.copy(), columns=list(self.genes_in_))
        return {"obsm": {key: full, f"{key}_factors": self.transform(adata)}}

    def _state(self) -> State:
        values = {
            "unit_": self.unit_,
            "clipped": bool(np.isfinite(self._floor)),
            "n_samples": self._n_samples,
            "n_gaps": self._n_gaps,
        }
        arrays = {"inflation": self.gene_table_["inflation"].to_numpy()}
        if self._quantiles is not None:
            arrays["quantiles"] = self._quantiles
        return State(values, arrays, self._gaussian.tensors())

    def _restore(self, state: State) -> None:
        self.unit_ = str(state.values["unit_"])
        self._floor = 0.0 if state.values["clipped"] else -np.inf
        self._n_samples, self._n_gaps = int(state.values["n_samples"]), int(state.values["n_gaps"])
        self._gaussian = GaussianState.from_tensors(state.tensors)
        self.shrinkage_ = float(self._gaussian.shrinkage)
        self._quantiles = state.arrays.get("quantiles")
        self.gene_table_ = pd.DataFrame(
            {"mean": self._gaussian.mean.numpy(), "scale": self._gaussian.scale.numpy(),
             "inflation": state.arrays["inflation"]},
            index=pd.Index(list(self.genes_in_), dtype=object),
        )  # fmt: skip

    def _methods(self) -> str:
        chosen = {
            "likelihood": " (chosen by the likelihood of held-out samples, five folds)",
            "ledoit_wolf": " (by the formula of Ledoit and Wolf)",
        }.get(str(self.shrinkage), "")
        gaps = (
            f" {self._n_gaps} missing values were filled in iteratively by their conditional means."
            if self._n_gaps
            else ""
        )
        width = (
            f" Intervals were calibrated on panels of genes of held-out samples ({self.folds} folds)."
            if self.folds
            else ""
        )
        return (
            f"Expression ({self.unit_}) of {len(self.genes_in_)} genes in {self._n_samples} samples was standardised and its "
            f"correlation shrunk towards independence with a weight of {self.shrinkage_:.3g}{chosen}.{gaps} Genes that were not "
            f"measured were restored by their conditional mean under the multivariate normal distribution given those "
            f"measured.{width}"
        )
