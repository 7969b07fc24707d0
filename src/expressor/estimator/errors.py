"""The error of an estimator that is used before it was fitted; it stands here because its twin is scikit-learn's."""

import sklearn.exceptions

from expressor.core.errors import ExpressorError


class NotFittedError(ExpressorError, sklearn.exceptions.NotFittedError):
    """A method that needs a fitted estimator was called before ``fit``."""
