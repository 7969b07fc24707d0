"""Encoder and ridge regression: the strong simple baseline of the field."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.controls.trivial import Control, as_tuple, centre, folds_of
from expressor.core.errors import check_range
from expressor.core.rng import stream
from expressor.data.keys import SECTION
from expressor.encoders.registry import encoder as load_encoder
from expressor.estimator.images import PRECOMPUTED, image_features
from expressor.metrics import pearson, summarise

ALPHAS = tuple(float(one) for one in 10.0 ** np.arange(-1.0, 6.76, 0.25))
TRANSFORMS = {
    "none": lambda features: features,
    # Means of rectified activations have long tails; their square root is what makes ridge strong on unseen sections.
    "root": lambda features: np.sign(features) * np.sqrt(np.abs(features)),
}


@dataclass(kw_only=True)
class EncoderRidge(Control):
    """Ridge regression on frozen image features, tuned inside the training data.

    Features and targets are centred within sections, so that only differences between spots of one section are learnt. The
    penalty (32 values over eight decades) and whether the features' signed square root is taken are chosen by the mean
    correlation on left-out training sections, or on five random parts where there is one section only.

    Parameters
    ----------
    target_genes, target_scale
        As for every control.
    encoder
        Name of an encoder, or ``"precomputed:<obsm key>"``.
    patch_um
        Side of the patches in micrometres; several give features side by side. None for what the encoder was made for.
    patch_ratios
        The same relative to what the encoder was made for; not used for precomputed features.
    shuffled
        Give each training spot the image of another spot of its section: what the procedure yields where there is nothing to learn.
    alphas
        Penalties to choose from, for standardised features.
    cache
        Folder of image features, as for :func:`expressor.estimator.images.image_features`.
    random_state
        Seed of the shuffle and of random parts.
    """

    encoder: str = "efficientnet_lite0"
    patch_um: float | tuple[float, ...] | None = None
    patch_ratios: tuple[float, ...] = ()
    shuffled: bool = False
    alphas: tuple[float, ...] = ALPHAS
    cache: str | None = "auto"
    random_state: int = 0

    def fit(self, train: AnnData) -> Self:
        """Choose the penalty and the transform, then fit on all training spots."""
        for alpha in self.alphas:
            check_range(alpha, name="alphas", low=0.0, open_low=True)
        features, targets = self._features(train), self._targets(train)
        sections = train.obs[SECTION].astype(str).to_numpy()
        if self.shuffled:
            rng = stream(self.random_state, "shuffled images")
            for section in np.unique(sections):
                rows = np.flatnonzero(sections == section)
                features[rows] = features[rng.permutation(rows)]
        scores = {name: self._score(of(features), targets, sections) for name, of in TRANSFORMS.items()}
        self.transform_ = max(scores, key=lambda name: scores[name].max())
        self.inner_score_ = float(scores[self.transform_].max())
        self.alpha_ = self.alphas[int(scores[self.transform_].argmax())]
        kept = TRANSFORMS[self.transform_](features)
        self.mean_, self.spread_ = kept.mean(axis=0), _spread(kept)
        basis, (weights,) = _ridge((kept - self.mean_) / self.spread_, targets, sections, (self.alpha_,))
        self.weights_ = basis @ weights
        self.intercept_ = targets.mean(axis=0)
        return self

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the predictions from the images of ``data``; its counts are not used."""
        features = TRANSFORMS[self.transform_](self._features(data))
        return self._frame(self.intercept_ + (features - self.mean_) / self.spread_ @ self.weights_, data)

    def _features(self, data: AnnData) -> np.ndarray:
        sides: tuple[Any, ...] = as_tuple(self.patch_um)
        if self.patch_ratios and not self.encoder.startswith(PRECOMPUTED):
            native = load_encoder(self.encoder).card.patch_um
            sides = tuple(native * ratio for ratio in self.patch_ratios)
        parts = [image_features(data, encoder=self.encoder, patch_um=side, cache=self.cache) for side in sides]
        return np.hstack(parts).astype(np.float64)

    def _score(self, features: np.ndarray, targets: np.ndarray, sections: np.ndarray) -> np.ndarray:
        """Return for each penalty the mean correlation on left-out parts of the training data."""
        held_out = folds_of(sections, 5, stream(self.random_state, "inner parts"))
        total = np.zeros(len(self.alphas))
        for out in held_out:
            kept = ~out
            mean, spread = features[kept].mean(axis=0), _spread(features[kept])
            basis, weights = _ridge((features[kept] - mean) / spread, targets[kept], sections[kept], self.alphas)
            projected = (features[out] - mean) / spread @ basis
            for i, one in enumerate(weights):
                score = summarise(pearson(targets[out], projected @ one, sections[out])).value
                total[i] += 0.0 if np.isnan(score) else score
        return total / len(held_out)


def _spread(features: np.ndarray) -> np.ndarray:
    spread = features.std(axis=0)
    return np.where(spread > 1e-6 * np.abs(features).max(axis=0), spread, np.inf)  # a constant feature gets no weight


def _ridge(
    features: np.ndarray, targets: np.ndarray, sections: np.ndarray, alphas: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Solve ridge regressions inside sections for all penalties from one eigenproblem.

    Returns a basis (feature, direction) and weights on it (alpha, direction, gene): their product weighs the features.
    """
    x, y = centre(features, sections), centre(targets, sections)
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values = np.maximum(values, 0.0)
    coefficients = vectors.T @ (y if wide else x.T @ y)
    weights = np.stack([coefficients / (values + alpha)[:, None] for alpha in alphas])
    return (x.T @ vectors if wide else vectors), weights
