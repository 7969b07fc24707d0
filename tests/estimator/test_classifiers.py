"""Classifiers as plain arrays predict what scikit-learn's own do."""

from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from expressor.core.errors import FormatError
from expressor.estimator.classifiers import as_plain, pack_classifier, unpack_classifier

MODELS = {
    "logistic": LogisticRegression(max_iter=1000),
    "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "forest": RandomForestClassifier(30, random_state=0, class_weight="balanced_subsample"),
    "extra": ExtraTreesClassifier(30, random_state=0),
    "neighbours": KNeighborsClassifier(5),
    "weighted": KNeighborsClassifier(7, weights="distance"),
    "bayes": GaussianNB(),
}


def data(n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, 90)
    return rng.normal(size=(90, 6)) + np.eye(6)[y] * 2, np.array(["b", "a", "c"], dtype=object)[y].astype(str)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_it_predicts_the_same(name: str, n_classes: int) -> None:
    X, y = data(n_classes)
    new, _ = data(n_classes, seed=1)
    model: Any = MODELS[name].fit(X, y)
    plain = as_plain(model)
    np.testing.assert_allclose(plain.predict_proba(new), model.predict_proba(new), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(plain.predict_proba(X), model.predict_proba(X), rtol=1e-9, atol=1e-12)
    kind, arrays = pack_classifier(plain)
    again = unpack_classifier(kind, {**arrays, "other": X})
    assert np.array_equal(again.predict_proba(new), plain.predict_proba(new))


def test_other_models_are_refused() -> None:
    with pytest.raises(FormatError, match="a SVC cannot be saved as plain arrays"):
        as_plain(SVC().fit(*data(2)))
    with pytest.raises(FormatError, match="unknown kind of classifier 'oracle'"):
        unpack_classifier("oracle", {})
