"""The estimator: parameters, fit, and the methods of its role."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from expressor.core.errors import check_choice, check_range
from expressor.data import fields
from expressor.estimator.base import Estimator, State
from expressor.estimator.images import image_features
from expressor.estimator.roles import Predicts
from expressor.genes.panels import dispersion, rank_genes
from expressor.genes.vocab import GeneVocab
from expressor.metrics import evaluate
from ridge_probe import equations


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class RidgeProbe(Estimator, Predicts):
    """Ridge regression from frozen image features to expression.

    Parameters
    ----------
    target_genes
        Number of genes to predict, >= 1; those of the largest dispersion in the training spots are taken.
    encoder
        Name of an image encoder (see :func:`expressor.encoders.encoders`).
    penalty
        Ridge penalty k, > 0, for standardised features.
    target_scale
        Scale of the prediction, one of :data:`expressor.data.fields.SCALES`.

    Attributes
    ----------
    target_genes_
        Names of the predicted genes, best first.
    """

    target_genes: int = 50
    encoder: str = "efficientnet_lite0"
    penalty: float = 100.0
    target_scale: Literal["log1p_cp10k", "log1p_counts"] = "log1p_cp10k"

    def _check(self) -> None:
        check_range(self.target_genes, name="target_genes", low=1, integer=True)
        check_range(self.penalty, name="penalty", low=0, open_low=True)
        check_choice(self.target_scale, fields.SCALES, name="target_scale")

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.genes_in_ = GeneVocab(adata.var_names)
        order = rank_genes(dispersion(fields.counts_of(adata)), adata.var_names)
        self.target_genes_ = pd.Index(adata.var_names[order[: self.target_genes]])
        X = image_features(adata, encoder=self.encoder).astype(np.float64)
        Y = fields.expression(adata, self.target_genes_, scale=self.target_scale).astype(np.float64)
        self.x_mean_, self.x_spread_, self.y_mean_ = X.mean(0), X.std(0) + 1e-6, Y.mean(0)
        self.beta_ = equations.ridge((X - self.x_mean_) / self.x_spread_, Y - self.y_mean_, self.penalty)
        residual = Y - self._predict(X)
        self.history_ = pd.DataFrame({"iteration": [1], "loss": [float((residual**2).mean())]})

    def predict(self, data: Any) -> pd.DataFrame:
        """Predict the target genes of every spot, float32 (spot, gene), on ``target_scale``."""
        self._check_fitted()
        adata = fields.read(data)
        values = self._predict(image_features(adata, encoder=self.encoder).astype(np.float64))
        table = pd.DataFrame(values.astype(np.float32), index=adata.obs_names, columns=self.target_genes_)
        table.attrs["unit"] = self.target_scale
        return table

    def _predict(self, X: np.ndarray) -> np.ndarray:
        zero = np.zeros_like(self.x_mean_)
        return equations.predict((X - self.x_mean_) / self.x_spread_, zero, self.y_mean_, self.beta_)

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        measured = fields.expression(adata, self.target_genes_, scale=self.target_scale)
        rows = evaluate(measured, self.predict(adata).to_numpy(), sections=adata.obs["section"])
        return pd.DataFrame([dataclasses.asdict(row) for row in rows])

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        return {"obsm": {key: self.predict(adata)}}

    def _state(self) -> State:
        names = ("target_genes_", "x_mean_", "x_spread_", "y_mean_", "beta_")
        return State(arrays={name: getattr(self, name) for name in names})

    def _restore(self, state: State) -> None:
        for name, value in state.arrays.items():
            setattr(self, name, value)

    def _methods(self) -> str:
        return (
            f"Expression of {len(self.target_genes_)} genes was predicted from image features (encoder {self.encoder}) by "
            f"ridge regression with a penalty of {self.penalty:g} on standardised features; the scale was {self.target_scale}. "
            "The genes were those of the largest dispersion (variance over mean of counts) in the training spots."
        )
