"""Metrics of labels against scikit-learn, with and without weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from expressor.core.errors import DataError
from expressor.metrics.classification import (
    accuracy,
    balanced_accuracy,
    calibration_error,
    confusion,
    log_loss,
    macro_f1,
)

CLASSES = ["ACC", "BLCA", "UVM"]


def labelled(seed, n=40):
    rng = np.random.default_rng(seed)
    truth = rng.choice(CLASSES, size=n, p=[0.6, 0.3, 0.1])
    truth[:3] = CLASSES
    logits = rng.normal(size=(n, 3)) + 1.5 * (truth[:, None] == np.array(CLASSES))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, np.array(CLASSES)[p.argmax(axis=1)], p, rng.integers(0, 3, size=n).astype(float)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_they_are_those_of_scikit_learn(seed):
    truth, given_, p, weights = labelled(seed)
    assert balanced_accuracy(truth, given_) == pytest.approx(reference.balanced_accuracy_score(truth, given_))
    assert macro_f1(truth, given_) == pytest.approx(reference.f1_score(truth, given_, average="macro"))
    assert accuracy(truth, given_) == pytest.approx(reference.accuracy_score(truth, given_))
    assert log_loss(truth, p, CLASSES) == pytest.approx(reference.log_loss(truth, p, labels=CLASSES))
    np.testing.assert_array_equal(confusion(truth, given_), reference.confusion_matrix(truth, given_))
    weighted = {"sample_weight": weights}
    assert log_loss(truth, p, CLASSES, weights=weights) == pytest.approx(
        reference.log_loss(truth, p, labels=CLASSES, **weighted)
    )


@pytest.mark.parametrize("metric", [balanced_accuracy, macro_f1, accuracy])
def test_weights_are_copies(metric):
    truth, given_, _, weights = labelled(1)
    copies = np.repeat(np.arange(40), weights.astype(int))
    assert metric(truth, given_, weights=weights) == pytest.approx(metric(truth[copies], given_[copies]))


def test_calibration_error_is_that_of_a_loop():
    truth, given_, p, weights = labelled(2, n=300)
    sure, right = p.max(axis=1), given_ == truth
    wanted = sum(
        own.sum() / 300 * abs(sure[own].mean() - right[own].mean())
        for own in ((sure * 10).astype(int) == k for k in range(10))
        if own.any()
    )
    assert calibration_error(truth, p, CLASSES) == pytest.approx(wanted)
    copies = np.repeat(np.arange(300), weights.astype(int))
    assert calibration_error(truth, p, CLASSES, weights=weights) == pytest.approx(
        calibration_error(truth[copies], p[copies], CLASSES)
    )
    certain = np.eye(3)[[CLASSES.index(one) for one in truth]]
    assert calibration_error(truth, certain, CLASSES) == 0


def test_wrong_input_is_refused():
    with pytest.raises(DataError, match="label 'KIRC' is none of the classes; expected ACC, BLCA, UVM"):
        confusion(["KIRC"], ["ACC"], classes=CLASSES)
    with pytest.raises(DataError, match="true and predicted labels do not fit"):
        accuracy(["ACC"], ["ACC", "UVM"])
    with pytest.raises(DataError, match="label 'KIRC' has no column of probabilities"):
        log_loss(["KIRC"], [[1.0, 0, 0]], CLASSES)
    with pytest.raises(DataError, match="do not add up to 1.*sums from 0.5 to 0.5"):
        log_loss(["ACC"], [[0.5, 0, 0]], CLASSES)
    with pytest.raises(DataError, match="probabilities do not fit; expected \\(1, 3\\)"):
        log_loss(["ACC"], [[0.5, 0.5]], CLASSES)


def test_one_sure_error_does_not_decide():
    assert log_loss(["ACC"], [[0.0, 1.0, 0.0]], CLASSES) == pytest.approx(-np.log(1e-6))
