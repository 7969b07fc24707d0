"""Encoder and ridge regression: the strong simple baseline of the field."""

import itertools
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.controls.trivial import Control, as_tuple, centre, folds_of
from expressor.core.errors import check_range
from expressor.core.rng import stream
from expressor.data.keys import SECTION
from expressor.estimator.images import feature_blocks
from expressor.metrics import pearson, summarise

ALPHAS = tuple(float(one) for one in 10.0 ** np.arange(-4.0, 4.1, 0.25))
TRANSFORMS = {
    "none": lambda features: features,
    # Means of rectified activations have long tails; their square root is what makes ridge strong on unseen sections.
    "root": lambda features: np.sign(features) * np.sqrt(np.abs(features)),
}


@dataclass(kw_only=True)
class EncoderRidge(Control):
    """Ridge regression on frozen image features, tuned inside the training data.

    Features and targets are centred within sections, so that only differences between spots of one section are learnt. Features
    have unit variance; the variances of each encoder's add up to one. The penalty (33 values over eight decades) and for each
    encoder whether the signed square root of its features is taken are chosen by the mean correlation on left-out training
    sections, or on five random parts where there is one section only.

    Parameters
    ----------
    target_genes, target_scale
        As for every control.
    encoder
        Name of an encoder, or ``"precomputed:<obsm key>"``; several give features side by side.
    patch_um
        Side of the patches in micrometres; several give features side by side. None for what the encoder was made for.
    patch_ratios
        Multiples of these sides, side by side too; not used for precomputed features.
    shuffled
        Give each training spot the image of another spot of its section: what the procedure yields where there is nothing to learn.
    alphas
        Penalties to choose from.
    cache
        Folder of image features, as for :func:`expressor.estimator.images.image_features`.
    random_state
        Seed of the shuffle and of random parts.
    """

    encoder: str | tuple[str, ...] = "efficientnet_lite0"
    patch_um: float | tuple[float, ...] | None = None
    patch_ratios: tuple[float, ...] = (1.0,)
    shuffled: bool = False
    alphas: tuple[float, ...] = ALPHAS
    cache: str | None = "auto"
    random_state: int = 0

    def fit(self, train: AnnData) -> Self:
        """Choose the penalty and the transforms, then fit on all training spots."""
        for alpha in self.alphas:
            check_range(alpha, name="alphas", low=0.0, open_low=True)
        features, targets = self._features(train), self._targets(train)
        sections = train.obs[SECTION].astype(str).to_numpy()
        if self.shuffled:
            rng = stream(self.random_state, "shuffled images")
            for section in np.unique(sections):
                rows = np.flatnonzero(sections == section)
                shuffled = rng.permutation(rows)
                for block in features:
                    block[rows] = block[shuffled]
        scores = {
            transforms: self._score(_apply(transforms, features), targets, sections)
            for transforms in itertools.product(TRANSFORMS, repeat=len(features))
        }
        self.transforms_ = max(scores, key=lambda one: scores[one].max())
        self.inner_score_ = float(scores[self.transforms_].max())
        self.alpha_ = self.alphas[int(scores[self.transforms_].argmax())]
        blocks = _apply(self.transforms_, features)
        self.mean_, self.spread_ = _standard(blocks)
        basis, (weights,) = _ridge((np.hstack(blocks) - self.mean_) / self.spread_, targets, sections, (self.alpha_,))
        self.weights_ = basis @ weights
        self.intercept_ = targets.mean(axis=0)
        return self

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the predictions from the images of ``data``; its counts are not used."""
        features = np.hstack(_apply(self.transforms_, self._features(data)))
        return self._frame(self.intercept_ + (features - self.mean_) / self.spread_ @ self.weights_, data)

    def _features(self, data: AnnData) -> list[np.ndarray]:
        """Return the features (spot, feature) of each encoder."""
        found = feature_blocks(
            data, encoder=as_tuple(self.encoder), patch_um=as_tuple(self.patch_um), patch_ratios=self.patch_ratios,
            cache=self.cache,
        )  # fmt: skip
        return [block.astype(np.float64) for block in found]

    def _score(self, blocks: list[np.ndarray], targets: np.ndarray, sections: np.ndarray) -> np.ndarray:
        """Return for each penalty the mean correlation on left-out parts of the training data."""
        features = np.hstack(blocks)
        held_out = folds_of(sections, 5, stream(self.random_state, "inner parts"))
        total = np.zeros(len(self.alphas))
        for out in held_out:
            kept = ~out
            mean, spread = _standard([block[kept] for block in blocks])
            basis, weights = _ridge((features[kept] - mean) / spread, targets[kept], sections[kept], self.alphas)
            projected = (features[out] - mean) / spread @ basis
            for i, one in enumerate(weights):
                score = summarise(pearson(targets[out], projected @ one, sections[out])).value
                total[i] += 0.0 if np.isnan(score) else score
        return total / len(held_out)


def _apply(transforms: tuple[str, ...], blocks: list[np.ndarray]) -> list[np.ndarray]:
    return [TRANSFORMS[name](block) for name, block in zip(transforms, blocks)]


def _standard(blocks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the means to subtract and the spreads to divide by, so that the variances of each block add up to one."""
    spreads = []
    for block in blocks:
        spread = block.std(axis=0)
        varies = spread > 1e-6 * np.abs(block).max(axis=0)
        # A constant feature gets no weight.
        spreads.append(np.where(varies, spread * np.sqrt(max(int(varies.sum()), 1)), np.inf))
    return np.concatenate([block.mean(axis=0) for block in blocks]), np.concatenate(spreads)


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
