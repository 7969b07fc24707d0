"""Roles: what a fitted system can be asked for. A benchmark task asks for a role, never for a class."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd


class Predicts(ABC):
    """Predicts targets of observations: expression in a stated unit, or labels."""

    @abstractmethod
    def predict(self, data: Any) -> pd.DataFrame:
        """Return the predicted targets, (obs, target); for expression ``.attrs["unit"]`` states the unit."""


class Encodes(ABC):
    """Represents observations as vectors."""

    @abstractmethod
    def transform(self, data: Any) -> np.ndarray:
        """Return the representation, float32 (obs, dim)."""


class Imputes(ABC):
    """Restores values that were not measured."""

    @abstractmethod
    def impute(self, data: Any) -> np.ndarray:
        """Return complete expression, float32 (obs, gene), on the input layer's scale."""


class Maps(ABC):
    """Gives expression at points of space."""

    @abstractmethod
    def at(self, coords: Any) -> np.ndarray:
        """Return expression at ``coords``, float32 (point, gene); coordinates in mm of MNI space unless stated."""


class Clusters(ABC):
    """Groups observations."""

    labels_: np.ndarray

    @abstractmethod
    def fit_predict(self, data: Any) -> np.ndarray:
        """Fit and return integer labels, (obs,)."""

    @abstractmethod
    def assign(self, data: Any) -> np.ndarray:
        """Return the cluster of the fit that each observation belongs to, (obs,); -1 for none."""


class Survives(ABC):
    """Predicts time to an event.

    Attributes
    ----------
    survives_
        Whether the fitted model gives a risk; False where what it was made of does not.
    """

    survives_: bool = True

    @abstractmethod
    def risk(self, data: Any) -> np.ndarray:
        """Return the risk score, (obs,); larger means an earlier event."""

    @abstractmethod
    def survival_function(self, data: Any) -> pd.DataFrame:
        """Return survival probabilities, (obs, time); the columns are times in the unit of the fit."""


class Infers(ABC):
    """Gives a posterior of functionals of interest."""

    @abstractmethod
    def posterior(self, data: Any, *, draws: int) -> np.ndarray:
        """Return posterior draws, (draw, functional)."""
