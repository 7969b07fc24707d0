"""Which slab a place is in: on which side of smooth boundaries between the samples of each."""

from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

_CHUNK = 4096  # places answered at once


@dataclass(frozen=True, eq=False)
class Boundaries:
    """A support-vector classifier of places with a Gaussian kernel, asked for many places at a time.

    scikit-learn fits it and would answer one place after the other; here kernels are products of matrices.

    Attributes
    ----------
    mean, scale
        (3,): by which places are standardised.
    vectors
        float32 (node, 3): support vectors, standardised.
    coefficients
        float32 (node, pair): of each pair of classes, in the order (0, 1), (0, 2), ..., (1, 2), ...
    constants
        float32 (pair,).
    n_classes
        Two or more.
    gamma
        Of the kernel exp(-gamma d^2).
    """

    mean: np.ndarray
    scale: np.ndarray
    vectors: np.ndarray
    coefficients: np.ndarray
    constants: np.ndarray
    n_classes: int
    gamma: float

    @classmethod
    def of(cls, places: np.ndarray, classes: np.ndarray, *, penalty: float = 10.0, gamma: float = 1.0) -> "Boundaries":
        """Fit to places (sample, 3) and classes 0, 1, ... (sample,), of which two or more occur."""
        scaler = StandardScaler().fit(places)
        machine = SVC(C=penalty, gamma=gamma, random_state=0).fit(scaler.transform(places), classes)
        k, ends = len(machine.classes_), np.concatenate([[0], np.cumsum(machine.n_support_)])
        pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
        coefficients = np.zeros((ends[-1], len(pairs)), dtype=np.float32)
        for p, (i, j) in enumerate(pairs):  # libsvm keeps, for a vector of one class, a row for each other class
            coefficients[ends[i] : ends[i + 1], p] = machine.dual_coef_[j - 1, ends[i] : ends[i + 1]]
            coefficients[ends[j] : ends[j + 1], p] = machine.dual_coef_[i, ends[j] : ends[j + 1]]
        constants = machine.intercept_.astype(np.float32)
        if k == 2:  # of two classes scikit-learn turns the sign
            coefficients, constants = -coefficients, -constants
        vectors = machine.support_vectors_.astype(np.float32)
        return cls(scaler.mean_, scaler.scale_, vectors, coefficients, constants, k, gamma)

    def classify(self, places: np.ndarray) -> np.ndarray:
        """Return the class of each place, (point,): that which wins most of its pairs, the first of equals."""
        x = ((places - self.mean) / self.scale).astype(np.float32)
        own = np.square(self.vectors).sum(axis=1)
        found = np.empty(len(x), dtype=np.int64)
        for start in range(0, len(x), _CHUNK):
            some = x[start : start + _CHUNK]
            squared = np.square(some).sum(axis=1)[:, None] + own - 2 * some @ self.vectors.T
            decision = np.exp(-self.gamma * np.maximum(squared, 0.0)) @ self.coefficients + self.constants
            votes = np.zeros((len(some), self.n_classes), dtype=np.int64)
            pairs = [(i, j) for i in range(self.n_classes) for j in range(i + 1, self.n_classes)]
            for p, (i, j) in enumerate(pairs):
                votes[:, i] += decision[:, p] > 0
                votes[:, j] += decision[:, p] <= 0
            found[start : start + _CHUNK] = votes.argmax(axis=1)
        return found
