"""Scores of integration: closed forms, naive loops, golden values, and scib-metrics where it is installed."""

import math

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from expressor.core.errors import DataError
from expressor.metrics import integration as our
from expressor.metrics.catalogue import record


@pytest.fixture(scope="module")
def cells():
    """Three types in three batches; the third type is in two of them; batches are shifted."""
    rng = np.random.default_rng(0)
    label, batch = np.repeat([0, 1, 2], 80), rng.integers(0, 3, 240)
    batch[(label == 2) & (batch == 2)] = 0
    X = 3 * rng.normal(size=(3, 6))[label] + 1.0 * rng.normal(size=(3, 6))[batch] + rng.normal(size=(240, 6))
    before = X + 3.0 * rng.normal(size=(3, 6))[batch]
    return X, np.array(["a", "b", "c"])[label], np.array(["x", "y", "z"])[batch], before


def test_lisi_counts_what_is_around():
    """With all other cells at one distance weights are even: the index is one over the sum of squared shares."""
    near = np.array([[i, *[j for j in range(13) if j != i]] for i in range(13)])
    distances = np.ones((13, 13))
    distances[:, 0] = 0
    label = np.array(["a"] * 7 + ["b"] * 6)
    found = our.lisi(distances, near, label)
    np.testing.assert_allclose(found[:7], 1 / (0.5**2 + 0.5**2))
    np.testing.assert_allclose(found[7:], 1 / ((7 / 12) ** 2 + (5 / 12) ** 2))
    assert np.isnan(our.lisi(np.zeros((3, 1)), np.arange(3)[:, None], ["a", "b", "a"])).all()


def test_weights_have_the_wanted_entropy(cells):
    distances, near = our.nearest(cells[0], 31)
    other = near != np.arange(len(near))[:, None]
    p = our._weights(distances, other, math.log(10))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(p * np.log(p), axis=1)
    np.testing.assert_allclose(entropy, math.log(10), atol=2e-5)
    assert (p[:, 0] == 0).all()


def test_nearest_against_all_distances(cells):
    X = np.vstack([cells[0], cells[0][:5]])  # five cells at the same place as others
    distances, near = our.nearest(X, 12)
    assert (near[:, 0] == np.arange(len(X))).all()
    every = np.sqrt(((X[:, None] - X[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(np.sort(distances, axis=1), np.sort(every, axis=1)[:, :12], atol=1e-6)
    assert our.nearest(X[:4], 90)[0].shape == (4, 4)


def test_variance_of_batches_is_that_of_the_components(cells):
    X, _, batch, before = cells
    centred = X - X.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    design = (batch[:, None] == np.unique(batch)).astype(float)
    design -= design.mean(axis=0)
    part = u * s
    rest = part - design @ np.linalg.pinv(design) @ part
    shares = 1 - (rest**2).sum(axis=0) / (part**2).sum(axis=0)
    assert our._explained(X, batch) == pytest.approx((shares * s**2).sum() / (s**2).sum())
    assert our.pcr_comparison(before, before, batch) == 0
    assert our.pcr_comparison(X, before, batch) == 0
    assert 0.5 < our.pcr_comparison(before, X, batch) < 1


def test_silhouettes_and_isolated_labels(cells):
    X, label, batch, _ = cells
    s = silhouette_samples(X, label)
    assert our.asw_label(X, label) == pytest.approx((s.mean() + 1) / 2)
    assert our.isolated_labels(X, label, batch) == pytest.approx((s[label == "c"].mean() + 1) / 2)
    inside = [1 - np.abs(silhouette_samples(X[label == one], batch[label == one])).mean() for one in "abc"]
    assert our.asw_batch(X, label, batch) == pytest.approx(np.mean(inside))


def test_connectivity_falls_where_a_label_is_in_two_places():
    turn = [2 * np.pi * np.arange(n) / n for n in (20, 10, 30)]
    X = np.vstack([at + np.column_stack([np.cos(t), np.sin(t)]) for at, t in zip((0, 90, -90), turn)])
    label = np.array(["a"] * 30 + ["b"] * 30)
    assert our.graph_connectivity(our.nearest(X, 9)[1], label) == pytest.approx((20 / 30 + 1) / 2)


def test_golden_values(cells):
    """Printed by scib-metrics 0.5.10 on these cells (exact neighbours), but NMI and ARI, whose k-means is scikit-learn's."""
    found = our.judge_integration(*cells[:3], before=cells[3])
    for name, value in GOLDEN.items():
        assert found[name] == pytest.approx(value, abs=2e-4), name
    assert found["avg_bio"] == pytest.approx((found["nmi"] + found["ari"] + found["asw_label"]) / 3)
    assert found["avg_batch"] == pytest.approx((found["graph_connectivity"] + found["asw_batch"]) / 2)
    mean = [np.mean([found[one] for one in names]) for names in (our.BIO, our.BATCH)]
    assert found["integration"] == pytest.approx(0.6 * mean[0] + 0.4 * mean[1])


GOLDEN = {
    "asw_label": 0.8008993, "asw_batch": 0.7451584, "isolated_labels": 0.8079319, "ilisi": 0.3207502, "clisi": 0.9999597,
    "graph_connectivity": 0.9958333, "pcr_comparison": 0.7016743,
}  # fmt: skip


def test_scib_metrics_says_the_same(cells):
    scib = pytest.importorskip("scib_metrics", reason="scib-metrics (dependency group rivals) is not installed")
    from scib_metrics.nearest_neighbors import NeighborsResults

    X, label, batch, before = cells
    found = our.judge_integration(X, label, batch, before=before)
    distances, near = our.nearest(X, our.LISI_NEIGHBOURS)
    many = NeighborsResults(indices=near, distances=distances)
    few = NeighborsResults(indices=near[:, : our.GRAPH_NEIGHBOURS], distances=distances[:, : our.GRAPH_NEIGHBOURS])
    theirs = {
        "asw_label": scib.silhouette_label(X, label),
        "asw_batch": scib.silhouette_batch(X, label, batch),
        "isolated_labels": scib.isolated_labels(X, label, batch),
        "ilisi": scib.ilisi_knn(many, batch),
        "clisi": scib.clisi_knn(many, label),
        "graph_connectivity": scib.graph_connectivity(few, label),
        "pcr_comparison": scib.pcr_comparison(before, X, batch, categorical=True),
    }
    for name, value in theirs.items():
        assert found[name] == pytest.approx(float(value), abs=2e-4), name


def test_undefined_is_said_and_wrong_input_refused(cells):
    X, label, batch, before = cells
    one = our.judge_integration(X, label, np.full(len(X), "x"), before=before)
    assert {name for name, value in one.items() if np.isnan(value)} == {
        "asw_batch", "ilisi", "pcr_comparison", "avg_batch", "integration",
    }  # fmt: skip
    alone = our.judge_integration(X, np.full(len(X), "a"), batch, before=before)
    assert np.isnan(alone["asw_label"])
    assert np.isnan(alone["clisi"])
    with pytest.raises(
        DataError, match=r"embedding, labels and batches do not fit.*got \(240, 6\), \(239,\), \(240,\)"
    ):
        our.judge_integration(X, label[1:], batch, before=before)
    with pytest.raises(DataError, match="not finite; got 1 of 1440"):
        our.judge_integration(np.where(np.arange(1440).reshape(240, 6) == 7, np.nan, X), label, batch, before=before)
    assert {record(name).direction for name in (*our.BIO, *our.BATCH, "integration")} == {"higher"}
