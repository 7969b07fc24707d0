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
        One row a gene: ``mean``, ``scale`` (standard deviation; 0 for a constant gene).
    history_
        One row a penalty tried: penalty, loss (root mean squared error of the hidden values, in standard deviations), rank, rounds.
    """

    penalty: float | Literal["hidden"] = "hidden"
    rank: int = 100
    n_penalties: int = 12
    hidden: float = 0.3
    tolerance: float = 1e-5
    max_rounds: int = 100
    floor: Literal["auto", "none"] = "auto"
    random_state: int = 0

    def _check(self) -> None:
        if isinstance(self.penalty, str):
            check_choice(self.penalty, ("hidden",), name="penalty")
        else:
            check_range(self.penalty, name="penalty", low=0, open_low=True)
        for name, low in (("rank", 1), ("n_penalties", 2), ("max_rounds", 1), ("random_state", 0)):
            check_range(getattr(self, name), name=name, low=low, integer=True)
        check_range(self.hidden, name="hidden", low=0, high=1, open_low=True, open_high=True)
        check_range(self.tolerance, name="tolerance", low=0, open_low=True)
        check_choice(self.floor, ("auto", "none"), name="floor")

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.unit_ = check_unit(adata, (LOG2, LOG1P, LOG_RATIO, ZSCORE), who="SoftImpute")
        genes = sorted(map(str, adata.var_names))
        values = torch.from_numpy(profiles(adata, genes, allow_gaps=True)).double()
        known = ~values.isnan()
        for axis, what in ((0, "genes"), (1, "samples")):
            empty = int((~known.any(dim=axis)).sum())
            if empty:
                raise DataError(f"{empty} {what} have no measured value", fix=f"Leave these {what} out.")
        mean = torch.where(known, values, 0.0).sum(0) / known.sum(0)
        centred = torch.where(known, values - mean, 0.0)
        scale = (centred.square().sum(0) / known.sum(0)).sqrt()
        scale = torch.where(scale > 1e-7 * mean.abs().clamp(min=1e-30), scale, torch.zeros_like(scale))
        varies = scale > 0
        if not bool(varies.any()):
            raise DataError("no gene varies over the samples", expected="at least one gene that does")
        Z, known = centred[:, varies] / scale[varies], known[:, varies]
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
        self.gene_table_ = pd.DataFrame(
            {"mean": mean.numpy(), "scale": scale.numpy()}, index=pd.Index(genes, dtype=object)
        )
        self._n_samples, self._n_gaps = len(values), int(values.isnan().sum())
        if not isinstance(self.penalty, str):
            ranks, rounds = [self.rank_], [factors.rounds]
            errors = [float((factors.A @ factors.B.T - Z)[known].square().mean().sqrt())]
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
        self._check_fitted()
        values = profiles_to_restore(fields.read(data), self.genes_in_, unit=self.unit_)
        scale, mean = self.gene_table_["scale"].to_numpy(), self.gene_table_["mean"].to_numpy()
        restored = mean + scale * (self._encode(values) @ self._loadings.T).numpy()
        filled = np.maximum(restored, self._floor).astype(np.float32)
        return np.where(np.isnan(values), filled, values)

    def transform(self, data: Any) -> np.ndarray:
        """Return the factors of each sample given what was measured of it, float32 (sample, factor)."""
        self._check_fitted()
        values = profiles_to_restore(fields.read(data), self.genes_in_, unit=self.unit_)
        return self._encode(values).numpy().astype(np.float32)

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
            self.impute, adata, self.genes_in_, scale=self.gene_table_["scale"].to_numpy(), seed=self.random_state
        )

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        full = pd.DataFrame(self.impute(adata), index=adata.obs_names.copy(), columns=list(self.genes_in_))
        return {"obsm": {key: full, f"{key}_factors": self.transform(adata)}}

    def _state(self) -> State:
        values = {"unit_": self.unit_, "penalty_": self.penalty_, "clipped": bool(np.isfinite(self._floor)),
                  "n_samples": self._n_samples, "n_gaps": self._n_gaps}  # fmt: skip
        return State(values, {"gene_table_": self.gene_table_}, {"loadings": self._loadings})

    def _restore(self, state: State) -> None:
        self.unit_, self.penalty_ = str(state.values["unit_"]), float(state.values["penalty_"])
        self._floor = 0.0 if state.values["clipped"] else -np.inf
        self._n_samples, self._n_gaps = int(state.values["n_samples"]), int(state.values["n_gaps"])
        self.gene_table_, self._loadings = state.arrays["gene_table_"], state.tensors["loadings"]
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
        )
