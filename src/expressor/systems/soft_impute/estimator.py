"""The estimator: parameters, fit, and what a fitted low-rank table gives."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
import torch

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import stream
from expressor.data import fields
from expressor.data.profiles import profiles, profiles_to_restore
from expressor.data.units import LOG1P, LOG2, LOG_RATIO, ZSCORE, check_unit
from expressor.estimator.base import Estimator, State
from expressor.estimator.errors import NotFittedError
from expressor.estimator.intervals import Restore, calibrate, quantile_at
from expressor.estimator.restoring import judge_restoration
from expressor.estimator.roles import Encodes, Imputes
from expressor.genes.vocab import GeneVocab
from expressor.nn.gaussian import patterns
from expressor.systems.soft_impute import completion, equations


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class SoftImpute(Estimator, Imputes, Encodes):
    """Restore gaps by a low-rank table (nuclear-norm penalty), of the samples of the fit and of new ones.

    Parameters
    ----------
    penalty
        Penalty on singular values of standardised expression, > 0; or ``"hidden"``: chosen by how well hidden values are
        restored.
    rank
        Most factors, >= 1.
    n_penalties
        How many penalties are tried, >= 2, from half the largest singular value down to a fiftieth of it.
    hidden
        Share of the measured values that are hidden to choose the penalty, in (0, 1). Near to what will be missing is best.
    tolerance, max_rounds
        A fit ends when the table changes by less than this part of its squared size, > 0, or after so many rounds, >= 1.
    folds
        Parts of the training samples for the calibration of intervals, >= 2; 0 for no intervals.
    floor
        Smallest value of a restoration: ``"auto"`` is 0 where no training value is negative, and none otherwise; ``"none"``.
    random_state
        Seed of the hidden values, >= 0.

    Attributes
    ----------
    unit_
        The scale of the fit, on which values are restored.
    penalty_, rank_
        The penalty that was used, and the factors that it left.
    gene_table_
        One row a gene: ``mean``, ``scale`` (standard deviation; 0 for a constant gene), ``inflation`` of its intervals.
    history_
        One row a penalty tried: penalty, loss (root mean squared error of the hidden values, in standard deviations), rank, rounds.
    """

    penalty: float | Literal["hidden"] = "hidden"
    rank: int = 100
    n_penalties: int = 12
    hidden: float = 0.3
    tolerance: float = 1e-5
    max_rounds: int = 100
    folds: int = 4
    floor: Literal["auto", "none"] = "auto"
    random_state: int = 0

    def _check(self) -> None:
        if isinstance(self.penalty, str):
            check_choice(self.penalty, ("hidden",), name="penalty")
        else:
            check_range(self.penalty, name="penalty", low=0, open_low=True)
        for name, low in (("rank", 1), ("n_penalties", 2), ("max_rounds", 1), ("folds", 0), ("random_state", 0)):
            check_range(getattr(self, name), name=name, low=low, integer=True)
        if self.folds == 1:
            raise DataError("one fold holds nothing out", expected="folds of 0, or at least 2", got=1)
        check_range(self.hidden, name="hidden", low=0, high=1, open_low=True, open_high=True)
        check_range(self.tolerance, name="tolerance", low=0, open_low=True)
        check_choice(self.floor, ("auto", "none"), name="floor")

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.unit_ = check_unit(adata, (LOG2, LOG1P, LOG_RATIO, ZSCORE), who="SoftImpute")
        genes = sorted(map(str, adata.var_names))
        values = torch.from_numpy(profiles(adata, genes, allow_gaps=True)).double()
        self._n_samples, self._n_gaps = len(values), int(values.isnan().sum())
        known = ~values.isnan()
        if self.folds and len(values) < 2 * self.folds:
            raise DataError("too few samples to calibrate intervals", expected=f"at least {2 * self.folds}", got=len(values),
                            fix="Give more samples, or folds=0.")  # fmt: skip
        for axis, what in ((0, "genes"), (1, "samples")):
            empty = int((~known.any(dim=axis)).sum())
            if empty:
                raise DataError(f"{empty} {what} have no measured value", fix=f"Leave these {what} out.")
        mean, scale = _moments(values)
        varies = scale > 0
        if not bool(varies.any()):
            raise DataError("no gene varies over the samples", expected="at least one gene that does")
        Z, known = torch.where(known, (values - mean) / scale, 0.0)[:, varies], known[:, varies]
        options = {"rank": self.rank, "tolerance": float(self.tolerance), "max_rounds": self.max_rounds}
        tried, errors, ranks, rounds = self._try(Z, known, options)
        self.penalty_ = tried[int(np.nanargmin(errors))] if isinstance(self.penalty, str) else tried[0]
        factors = completion.complete(Z, known, self.penalty_, **options)  # type: ignore[arg-type]
        if not factors.A.shape[1]:
            raise DataError("the penalty leaves no factor", expected=f"a penalty below {2 * completion.penalty_grid(Z, 2)[0]:.3g}",
                            got=f"{self.penalty_:.3g}")  # fmt: skip
        self.rank_ = factors.A.shape[1]
        self._loadings = torch.zeros(len(genes), self.rank_, dtype=torch.float64)
        self._loadings[varies] = factors.B
        self._floor = 0.0 if self.floor == "auto" and float(np.nanmin(values)) >= 0 else -np.inf
        self._noise = float((factors.A @ factors.B.T - Z)[known].square().mean())
        inflation, self._quantiles = np.ones(len(genes)), None
        if self.folds:
            inflation, self._quantiles = calibrate(values, self._learn, folds=self.folds, seed=self.random_state)
        self.gene_table_ = pd.DataFrame(
            {"mean": mean.numpy(), "scale": scale.numpy(), "inflation": inflation}, index=pd.Index(genes, dtype=object)
        )
        if not isinstance(self.penalty, str):
            ranks, rounds = [self.rank_], [factors.rounds]
            errors = [self._noise**0.5]
        self.history_ = pd.DataFrame(
            {"iteration": range(1, len(tried) + 1), "penalty": tried, "loss": errors, "rank": ranks, "rounds": rounds}
        )
        self.genes_in_ = GeneVocab(genes)

    def _try(
        self, Z: torch.Tensor, known: torch.Tensor, options: dict[str, Any]
    ) -> tuple[list[float], list[float], list[int], list[int]]:
        if not isinstance(self.penalty, str):
            return [float(self.penalty)], [np.nan], [0], [0]
        draw = torch.from_numpy(stream(self.random_state, "hidden values").random(Z.shape))
        return completion.choose_penalty(Z, known, known & (draw < self.hidden), n=self.n_penalties, **options)

    def _learn(self, train: torch.Tensor) -> Restore:
        """Return what restores held-out samples, for the calibration."""
        known = ~train.isnan()
        mean, scale = _moments(train)
        Z = torch.where(known & (scale > 0), (train - mean) / torch.where(scale > 0, scale, 1.0), 0.0)
        # Singular values grow with the root of the number of samples, and so must their penalty.
        penalty = self.penalty_ * (len(train) / self._n_samples) ** 0.5
        factors = completion.complete(
            Z, known, penalty, rank=self.rank, tolerance=float(self.tolerance), max_rounds=self.max_rounds
        )
        noise = float((factors.A @ factors.B.T - Z)[known].square().mean())
        spread = factors.B.T @ factors.B / len(train)

        def restored(
            values: torch.Tensor, shown: torch.Tensor, hidden: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            z = (values - mean[shown]) / torch.where(scale[shown] > 0, scale[shown], torch.inf)
            own, wanted = factors.B[shown], factors.B[hidden]
            found = mean[hidden] + scale[hidden] * (equations.sample_factors(z, own, penalty) @ wanted.T)
            return found, scale[hidden].square() * equations.restored_variance(own, wanted, penalty, spread, noise)

        return restored

    # Using -----------------------------------------------------------------------------------------------------------

    def impute(self, data: Any) -> np.ndarray:
        """Restore what was not measured.

        Parameters
        ----------
        data
            Samples on the scale of the fit, of the fit or new. NaN, and genes of the fit that are absent, are restored; other
            genes are ignored.

        Returns
        -------
        float32 (sample, gene), genes in the order of ``genes_in_``; measured values as they came.

        Raises
        ------
        DataError
            A sample has no measured gene of the fit, or the scale is another.
        """
        values = self._values(data)
        return self._finish(self._restored(values), values)

    def impute_interval(self, data: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds of the values that :meth:`impute` restores; measured ones bound themselves.

        The width is the standard error of S6, times what errors of held-out training samples needed.

        Parameters
        ----------
        data
            As for :meth:`impute`.
        coverage
            In (0, 1); the next kept level above is used (hundredths from .5 up to .99, then .995).

        Returns
        -------
        float32 (sample, gene) each.

        Raises
        ------
        NotFittedError
            The model was fitted with ``folds=0``.
        """
        check_range(coverage, name="coverage", low=0, high=1, open_low=True, open_high=True)
        values = self._values(data)
        if self._quantiles is None:
            raise NotFittedError("this SoftImpute was fitted without intervals", fix="Fit it with folds of 2 or more.")
        scale, variance = self.gene_table_["scale"].to_numpy(), np.zeros(values.shape)
        B, spread = self._loadings, self._loadings.T @ self._loadings / self._n_samples
        for rows, observed in patterns(torch.from_numpy(~np.isnan(values))):
            found = equations.restored_variance(B[observed], B, self.penalty_, spread, self._noise)
            variance[rows.numpy()] = found.numpy()
        width = quantile_at(self._quantiles, coverage) * self.gene_table_["inflation"].to_numpy() * scale
        middle, width = self._restored(values), width * np.sqrt(variance)
        return self._finish(middle - width, values), self._finish(middle + width, values)

    def transform(self, data: Any) -> np.ndarray:
        """Return the factors of each sample given what was measured of it, float32 (sample, factor)."""
        return self._encode(self._values(data)).numpy().astype(np.float32)

    def _values(self, data: Any) -> np.ndarray:
        self._check_fitted()
        return profiles_to_restore(fields.read(data), self.genes_in_, unit=self.unit_)

    def _restored(self, values: np.ndarray) -> np.ndarray:
        scale, mean = self.gene_table_["scale"].to_numpy(), self.gene_table_["mean"].to_numpy()
        return mean + scale * (self._encode(values) @ self._loadings.T).numpy()

    def _finish(self, restored: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(values), np.maximum(restored, self._floor).astype(np.float32), values)

    def _encode(self, values: np.ndarray) -> torch.Tensor:
        scale = self.gene_table_["scale"].to_numpy()
        z = torch.from_numpy((values - self.gene_table_["mean"].to_numpy()) / np.where(scale > 0, scale, 1.0))
        known = ~z.isnan()
        found = torch.empty(len(z), self.rank_, dtype=torch.float64)
        for rows, observed in patterns(known):
            found[rows] = equations.sample_factors(z[rows][:, observed], self._loadings[observed], self.penalty_)
        return found

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        return judge_restoration(
            self.impute, adata, self.genes_in_, scale=self.gene_table_["scale"].to_numpy(),
            bounds=self.impute_interval if self.folds else None, seed=self.random_state,
        )  # fmt: skip

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        full = pd.DataFrame(self.impute(adata), index=adata.obs_names.copy(), columns=list(self.genes_in_))
        return {"obsm": {key: full, f"{key}_factors": self.transform(adata)}}

    def _state(self) -> State:
        values = {"unit_": self.unit_, "penalty_": self.penalty_, "clipped": bool(np.isfinite(self._floor)),
                  "n_samples": self._n_samples, "n_gaps": self._n_gaps, "noise": self._noise}  # fmt: skip
        arrays: dict[str, Any] = {"gene_table_": self.gene_table_}
        if self._quantiles is not None:
            arrays["quantiles"] = self._quantiles
        return State(values, arrays, {"loadings": self._loadings})

    def _restore(self, state: State) -> None:
        self.unit_, self.penalty_ = str(state.values["unit_"]), float(state.values["penalty_"])
        self._floor = 0.0 if state.values["clipped"] else -np.inf
        self._n_samples, self._n_gaps = int(state.values["n_samples"]), int(state.values["n_gaps"])
        self.gene_table_, self._loadings = state.arrays["gene_table_"], state.tensors["loadings"]
        self._noise, self._quantiles = float(state.values["noise"]), state.arrays.get("quantiles")
        self.rank_ = self._loadings.shape[1]

    def _methods(self) -> str:
        how = (
            f"chosen among {len(self.history_)} by the error of {self.hidden:.0%} of the measured values, which were hidden"
            if isinstance(self.penalty, str)
            else "given"
        )
        return (
            f"Expression ({self.unit_}) of {len(self.genes_in_)} genes in {self._n_samples} samples, with {self._n_gaps} missing "
            f"values, was standardised and completed by a table of low rank with a penalty on the nuclear norm "
            f"({self.penalty_:.3g}, {how}; {self.rank_} factors were left), by alternating least squares. Genes that were not "
            "measured in a sample were restored from its factors, which were fitted to those measured under the same penalty."
            + (
                f" Intervals were calibrated on panels of genes of held-out samples ({self.folds} folds)."
                if self.folds
                else ""
            )
        )


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each gene over the samples in which it was measured; 0 for a constant gene."""
    known = ~values.isnan()
    mean = torch.where(known, values, 0.0).sum(0) / known.sum(0)
    scale = (torch.where(known, values - mean, 0.0).square().sum(0) / known.sum(0)).sqrt()
    # What rounding leaves of a constant gene is no variance.
    return mean, torch.where(scale > 1e-7 * mean.abs().clamp(min=1e-30), scale, torch.zeros_like(scale))
