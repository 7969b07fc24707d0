"""Ridge regression of expression on precomputed features of each spot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.utils import check_array
from torch import Tensor, nn

from expressor.core.errors import DataError, check_choice, check_range, nearest_names
from expressor.core.rng import stream
from expressor.data import fields
from expressor.estimator import Estimator, Predicts, State
from expressor.genes.vocab import GeneVocab
from expressor.train import Training, TrainPlan, run

from .equations import penalised_squares


@final
@dataclass(kw_only=True, eq=False, repr=False)
class GeneRidge(Estimator, Predicts):
    """Penalised least squares of every gene on features (Hoerl and Kennard 1970).

    Parameters
    ----------
    features
        Entry of ``obsm`` that holds the features.
    penalty
        The paper's k, >= 0.
    dropout
        Chance that a feature is left out in a step, in [0, 1).
    scale
        Scale of the predictions.
    random_state
        Seed, >= 0.
    plan
        How to train.
    """

    features: str = "X_simulated"
    penalty: float = 1.0
    dropout: float = 0.1
    scale: Literal["log1p_cp10k", "log1p_counts"] = "log1p_counts"
    random_state: int = 0
    plan: TrainPlan = field(default_factory=TrainPlan)

    def predict(self, data: Any) -> pd.DataFrame:
        """Return expression, float32 (spot, gene), on the scale in ``.attrs["unit"]``."""
        self._check_fitted()
        matrix, names = self._features(data)
        with torch.no_grad():
            values = ((matrix - self._centre) / self._spread @ self._beta + self._intercept).numpy()
        table = pd.DataFrame(values, index=names, columns=list(self.genes_in_))
        table.attrs["unit"] = self.scale
        return table

    def _check(self) -> None:
        check_range(self.penalty, name="penalty", low=0)
        check_range(self.dropout, name="dropout", low=0, high=1, open_high=True)
        check_range(self.random_state, name="random_state", low=0, integer=True)
        check_choice(self.scale, ("log1p_cp10k", "log1p_counts"), name="scale")
        self.plan.check()

    def _fit(self, adata: AnnData, *, val: Any, resume: Path | None) -> None:
        genes = sorted(adata.var_names)
        Y = torch.from_numpy(fields.expression(adata, genes, scale=self.scale))
        X, _ = self._features(adata)
        self._centre, self._spread = X.mean(dim=0), X.std(dim=0, correction=0).clamp_min(1e-6)
        X = (X - self._centre) / self._spread
        self._intercept = Y.mean(dim=0)
        network = nn.utils.skip_init(nn.Linear, X.shape[1], Y.shape[1], bias=False)
        nn.init.zeros_(network.weight)
        dropped = nn.Dropout(self.dropout)

        def loss(module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            beta = next(module.parameters()).T
            return {"loss": penalised_squares(dropped(batch["X"]), batch["Y"], beta, self.penalty, len(X))}

        def batches(epoch: int, rank: int, world: int) -> list[dict[str, Tensor]]:
            order = torch.from_numpy(stream(self.random_state, "batches", epoch).permutation(len(X))[rank::world])
            return [{"X": X[part], "Y": Y[part] - self._intercept} for part in order.split(self.plan.batch_size)]

        def optimizer(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=self.plan.lr, momentum=0.9)

        training = Training(module=network, batches=batches, loss=loss, optimizer=optimizer)
        outcome = run(training, self.plan, seed=self.random_state, resume=resume)
        self._beta = network.weight.detach().T.contiguous()
        self.genes_in_ = GeneVocab(genes)
        self.history_ = pd.DataFrame(outcome.records, columns=["epoch", "steps", "loss", "seconds"])
        if self.history_.empty:
            self.history_.loc[0] = [0, outcome.steps, np.nan, 0.0]

    def _features(self, data: Any) -> tuple[Tensor, pd.Index]:
        if isinstance(data, AnnData | str | Path | pd.DataFrame):
            adata = fields.read(data)
            if self.features not in adata.obsm:
                raise DataError(
                    f"there is no obsm[{self.features!r}]", nearest=nearest_names(self.features, adata.obsm)
                )
            matrix, names = np.asarray(adata.obsm[self.features], dtype=np.float32), adata.obs_names
        elif isinstance(data, np.ndarray | list):
            matrix = check_array(data, dtype=np.float32)
            names = pd.RangeIndex(len(matrix))
        else:
            raise DataError(f"cannot take data from a {type(data).__name__}", expected="AnnData, a path or an array")
        if hasattr(self, "_beta") and self.__sklearn_is_fitted__() and matrix.shape[1] != len(self._beta):
            raise DataError("another number of features than in the fit", expected=len(self._beta), got=matrix.shape[1])
        return torch.from_numpy(np.ascontiguousarray(matrix)), names

    def _state(self) -> State:
        scaling = {"centre": self._centre.numpy(), "spread": self._spread.numpy(), "intercept": self._intercept.numpy()}
        return State(values={"n": len(self.genes_in_)}, arrays=scaling, tensors={"beta": self._beta})

    def _restore(self, state: State) -> None:
        self._beta = state.tensors["beta"]
        self._centre, self._spread, self._intercept = (
            torch.from_numpy(state.arrays[name]) for name in ("centre", "spread", "intercept")
        )
        if self._beta.shape[1] != len(self.genes_in_) or len(self._intercept) != state.values["n"]:
            raise ValueError("sizes differ")

    def _annotations(self, adata: AnnData, key: str) -> dict[str, dict[str, Any]]:
        return {"obsm": {key: self.predict(adata)}}

    def _evaluate(self, adata: AnnData) -> pd.DataFrame:
        measured = fields.expression(adata, list(self.genes_in_), scale=self.scale)
        found = self.predict(adata).to_numpy()
        errors = np.square(measured - found).mean(axis=0) / np.square(measured - measured.mean(axis=0)).mean(axis=0)
        defined = np.isfinite(errors)
        row = {"metric": "r2", "unit": "gene", "value": 1 - errors[defined].mean(), "low": np.nan, "high": np.nan,
               "n": int(defined.sum()), "n_undefined": int((~defined).sum())}  # fmt: skip
        return pd.DataFrame([row])

    def _methods(self) -> str:
        return (
            f"Expression ({self.scale}) of {len(self.genes_in_)} genes was regressed on the features "
            f"obsm[{self.features!r}] of each spot by ridge regression with the penalty {self.penalty:g}, fitted in "
            f"{len(self.history_)} epochs of gradient descent with {self.dropout:.0%} of the features left out in each step."
        )
