"""The estimator on data whose truth is known, and at its edges."""

import logging
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import expressor as ex
from expressor.core.errors import DataError, GeneError
from expressor.datasets import example, simulate_cells, simulate_modules
from expressor.estimator import clustering as grouping
from expressor.metrics.clustering import adjusted_rand_index
from expressor.systems.diphw import DIPHW


@pytest.fixture(scope="module")
def weak() -> ad.AnnData:
    return simulate_modules(modules=10, genes_per_module=14, n_genes=700, n_cells=300, seed=2)


def paper(**words: Any) -> DIPHW:
    return DIPHW(**({"walk": "both", "exponent": 50.0, "n_genes": None, "log": "log2", "n_clusters": 10} | words))


def agreement(adata: ad.AnnData, model: Any) -> float:
    return adjusted_rand_index(adata.obs["cell_type"], model.fit(adata).labels_)


def test_weak_modules_are_found(weak: ad.AnnData) -> None:
    found = {
        walk: agreement(weak, paper(walk=walk, lazy=walk != "edvw"))
        for walk in ("edvw", "diphw", "both", "comem_diphw", "comem_both")
    }
    assert found["both"] > 0.8
    assert found["comem_both"] > 0.7
    assert found["diphw"] > 0.65
    assert found["comem_diphw"] > 0.6
    assert found["edvw"] < 0.4


def test_a_restricted_walk_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("expressor.systems.diphw.estimator.DENSE_LIMIT", 50)
    monkeypatch.setattr("expressor.systems.diphw.estimator.NEAR_BEYOND", 20)
    with caplog.at_level(logging.WARNING):
        DIPHW(walk="comem_both", n_clusters=4).fit(example("cells"))
        assert (
            'among 80 cells sees the 20 nearest of each alone, which finds types less well; walk="auto"' in caplog.text
        )
        caplog.clear()
        DIPHW(walk="comem_both", n_clusters=4, memory_neighbors=20).fit(example("cells"))
        DIPHW(n_clusters=4).fit(example("cells"))
    assert caplog.text == ""


def test_the_default_walk_is_the_one_of_the_larger_silhouette(weak: ad.AnnData) -> None:
    words: dict[str, Any] = {"exponent": 50.0, "n_genes": None, "log": "log2", "n_clusters": 10}
    model = DIPHW(**words).fit(weak)
    assert model.history_["walk"].tolist() == ["comem_diphw", "both"]
    assert model.walk_ == model.history_.loc[model.history_["silhouette"].idxmax(), "walk"] == "both"
    alone = DIPHW(walk="both", **words).fit(weak)
    np.testing.assert_array_equal(model.labels_, alone.labels_)
    np.testing.assert_array_equal(model.embedding_, alone.embedding_)
    assert alone.history_["silhouette"].tolist() == model.history_["silhouette"].tolist()[1:]
    assert "of 'comem_diphw' and 'both' the one" in model.describe()


def test_the_default_has_no_memory_among_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expressor.systems.diphw.estimator.DENSE_LIMIT", 50)
    model = DIPHW(n_clusters=4, n_landmarks=30).fit(example("cells"))
    assert model.history_["walk"].tolist() == ["diphw", "both"]
    assert model.backend_ == "landmarks"


def test_three_ways_give_one_result() -> None:
    data = simulate_cells(n_cells=100, marker_fold=12.0, batch_fold=1.0)
    found = [
        DIPHW(walk="both", n_clusters=4, backend=backend, n_landmarks=60).fit(data)
        for backend in ("closed_form", "landmarks", "sampled")
    ]
    for one in found:
        assert adjusted_rand_index(found[0].labels_, one.labels_) > 0.9
    near = [(one.embedding_ @ one.embedding_.T)[np.triu_indices(100, 1)] for one in found]
    alike = np.corrcoef(near)[0]
    assert alike[1] > 0.95
    assert alike[2] > 0.5


def test_drawn_walks_and_landmarks_find_them_too(weak: ad.AnnData) -> None:
    assert agreement(weak, paper(backend="sampled", walks_per_cell=10, epochs=3)) > 0.6
    assert agreement(weak, paper(backend="landmarks", n_landmarks=100)) > 0.6


@pytest.mark.parametrize("walk", ["edvw", "diphw", "both"])
@pytest.mark.parametrize("backend", ["closed_form", "landmarks"])
def test_a_cell_is_placed_where_it_stood(walk: Any, backend: Any) -> None:
    data = simulate_cells(n_cells=150)
    model = DIPHW(walk=walk, backend=backend, n_landmarks=60, n_clusters=4, dim=6).fit(data)
    np.testing.assert_allclose(model.transform(data), model.embedding_, atol=1e-4)
    np.testing.assert_array_equal(model.assign(data), model.labels_)
    some = data[[7, 3, 99]].copy()
    np.testing.assert_allclose(model.transform(some), model.embedding_[[7, 3, 99]], atol=1e-4)


@pytest.mark.parametrize("backend", ["closed_form", "sampled"])
def test_rows_as_learnt_or_at_unit_length(backend: Any) -> None:
    data = simulate_cells(n_cells=120)
    words: dict[str, Any] = {"walk": "diphw", "backend": backend, "walks_per_cell": 3, "dim": 6, "n_clusters": 4}
    scaled, learnt = DIPHW(**words, unit_rows=True).fit(data), DIPHW(**words).fit(data)
    length = np.linalg.norm(learnt.embedding_, axis=1)
    assert np.abs(length - 1).max() > 0.05
    np.testing.assert_allclose(learnt.embedding_ / length[:, None], scaled.embedding_, atol=1e-5)
    if backend == "closed_form":
        np.testing.assert_allclose(learnt.transform(data), learnt.embedding_, atol=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"walk": "comem_diphw"},
        pytest.param({"backend": "sampled", "epochs": 20}, marks=pytest.mark.slow),
        {"walk": "diphw", "lazy": False},
    ],
)
def test_new_cells_join_the_cluster_of_their_type(words: dict[str, Any]) -> None:
    train, test = (simulate_cells(n_cells=200 - 80 * seed, marker_fold=12.0, seed=seed) for seed in (0, 1))
    model = DIPHW(n_clusters=4, **words).fit(train)
    assert adjusted_rand_index(test.obs["cell_type"], model.assign(test)) > 0.8
    assert model.score(test) == pytest.approx(adjusted_rand_index(test.obs["cell_type"], model.assign(test)))
    table = model.evaluate(test)
    assert table["metric"].tolist() == ["ari", "nmi", "ami"]
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()


def test_genes_and_modules_are_those_of_the_truth() -> None:
    data = simulate_cells(n_cells=300, marker_fold=12.0)
    for walk in ("both", "comem_both"):
        model = DIPHW(n_clusters=4, walk=walk, exponent=5.0).fit(data)
        kinds = pd.crosstab(model.labels_, data.obs["cell_type"].to_numpy()).idxmax(axis=1)
        table = model.modules_
        for cluster, rows in table.groupby("cluster"):
            top = rows.nlargest(4, "lift")["gene"]
            assert (data.var.loc[top, "marks"] == kinds[cluster]).mean() >= 0.75, walk
        genes = model.gene_embedding_
        assert genes.shape == (50, 30)
        own = data.var.loc[genes.index, "marks"].to_numpy().astype(str)
        near = genes.to_numpy() @ genes.to_numpy().T
        marked = own != ""
        same = own[:, None] == own
        np.fill_diagonal(same, False)
        assert near[np.ix_(marked, marked)][same[np.ix_(marked, marked)]].mean() > near[marked].mean() + 0.2
        groups = table.groupby("cluster")["share"]
        assert (groups.sum() <= 1 + 1e-9).all()


def test_number_of_clusters_by_silhouette() -> None:
    data = simulate_cells(n_cells=200, n_genes=80, marker_fold=15.0, batch_fold=1.0, depth=2000)
    model = DIPHW(dim=6, max_clusters=8).fit(data)
    assert model.labels_.max() + 1 == 4
    assert model.history_.loc[model.history_["silhouette"].idxmax(), "n_clusters"] == 4
    sizes = np.bincount(model.labels_)
    assert (np.diff(sizes) <= 0).all()


def test_leiden() -> None:
    pytest.importorskip("graspologic_native")
    data = simulate_cells(n_cells=200, marker_fold=12.0)
    model = DIPHW(clustering="leiden", resolution=0.5)
    assert agreement(data, model) > 0.8
    np.testing.assert_array_equal(model.labels_, DIPHW(clustering="leiden", resolution=0.5).fit_predict(data))
    assert "Leiden" in model.describe()
    assert grouping.leiden(np.zeros((1, 3), dtype=np.float32), n_neighbors=5, resolution=1.0, seed=0).tolist() == [0]


def test_silent_cells_get_no_position_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    data = example("cells")
    X = data.X.tolil()
    X[5], X[:, 7] = 0, 0
    silent = ad.AnnData(sparse.csr_matrix(X), obs=data.obs, var=data.var)
    with caplog.at_level(logging.WARNING):
        model = DIPHW(n_clusters=4).fit(silent)
    assert "1 of 80 cells express no chosen gene" in caplog.text
    assert model.n_unplaced_ == 1
    assert model.labels_[5] == model.assign(silent)[5] == -1
    assert (model.embedding_[5] == 0).all()
    assert (np.delete(model.labels_, 5) >= 0).all()
    assert data.var_names[7] not in model.gene_embedding_.index


def test_logarithms_are_taken_as_given() -> None:
    data = simulate_cells(n_cells=120)
    logged = data.copy()
    size = np.asarray(data.X.sum(axis=1))
    logged.X = sparse.csr_matrix(np.log1p(data.X.toarray() / size * 1e6))
    one, other = (DIPHW(n_clusters=4).fit(each) for each in (data, logged))
    np.testing.assert_array_equal(one.labels_, other.labels_)
    with pytest.raises(DataError, match="X does not hold raw counts, as the data of the fit did"):
        one.transform(logged)
    with pytest.raises(DataError, match="X holds raw counts, and the fit was on values as given"):
        other.transform(data)
    with pytest.raises(DataError, match='expected whole numbers from 0. Give raw counts, or scale="as given"'):
        DIPHW(scale="counts").fit(logged)


def test_negative_values_are_refused_with_the_remedy() -> None:
    data = example("cells")
    data.X = data.X.toarray() - 1.0
    message = (
        "X holds negative values.*expected values from 0, got -1. Give raw counts or their logarithms, before centring"
    )
    with pytest.raises(DataError, match=message):
        DIPHW().fit(data)


def test_one_gene_two_cells_and_too_few() -> None:
    one_gene = DIPHW(n_clusters=1, n_genes=1).fit(example("cells"))
    assert one_gene.embedding_.shape[1] == 30
    assert np.isfinite(one_gene.transform(example("cells"))).all()
    two = DIPHW(n_clusters=2).fit(example("cells", n=4)[:2].copy())
    assert two.embedding_.shape == (2, 2)
    with pytest.raises(
        DataError, match="cells cannot be compared; expected at least 2 that express a chosen gene, got 1"
    ):
        DIPHW().fit(example("cells", n=4)[:1].copy())
    with pytest.raises(DataError, match="there are more clusters than cells; expected n_clusters of at most 4, got 5"):
        DIPHW(n_clusters=5).fit(example("cells", n=4))
    silent = example("cells")
    silent.X = sparse.csr_matrix(silent.shape, dtype=np.float32)
    with pytest.raises(DataError, match="no gene is expressed in any cell; got 80 cells of zeros"):
        DIPHW().fit(silent)


def test_missing_genes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model, data = DIPHW(n_clusters=4).fit(example("cells")), example("cells", seed=1)
    with caplog.at_level(logging.WARNING):
        few = model.transform(data[:, 10:].copy())
    assert "10 of 50 genes of the hypergraph are not in the data and join no cell" in caplog.text
    assert np.isfinite(few).all()
    data.var_names = [f"other{i}" for i in range(50)]
    with pytest.raises(GeneError, match="none of the 50 genes of the hypergraph is in the data"):
        model.transform(data)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"walk": "dipwh"}, "unknown walk 'dipwh'.*diphw"),
        ({"exponent": -1.0}, "exponent is out of range"),
        ({"backend": "exact"}, "unknown backend 'exact'"),
        ({"n_clusters": 0}, "n_clusters is out of range"),
        ({"window": 0}, "window is out of range"),
        ({"resolution": 0.0}, "resolution is out of range"),
    ],
)
def test_parameters_out_of_range(words: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DIPHW().set_params(**words).fit(example("cells"))


def test_no_labels_to_judge_by() -> None:
    data = example("cells")
    model = DIPHW(n_clusters=4).fit(data)
    del data.obs["cell_type"]
    with pytest.raises(DataError, match=r"no obs\['cell_type'\] to compare clusters with. Name the column"):
        model.evaluate(data)


@pytest.mark.parametrize("walk", ["auto", "both", "comem"])
def test_everything_is_saved(walk: Any, tmp_path: Any) -> None:
    data = example("cells")
    model = DIPHW(n_clusters=4, walk=walk).fit(data)
    again = ex.load(model.save(tmp_path / "model"))
    pd.testing.assert_frame_equal(model.modules_, again.modules_)
    pd.testing.assert_frame_equal(model.gene_embedding_, again.gene_embedding_)
    np.testing.assert_array_equal(model.labels_, again.labels_)
    np.testing.assert_array_equal(model.assign(data), again.assign(data))
    again.annotate(data)
    assert data.obsm["diphw"].shape == (80, 30)
    np.testing.assert_array_equal(data.obs["diphw_cluster"].astype(int), model.assign(data))
    assert again.walk_ == model.walk_
