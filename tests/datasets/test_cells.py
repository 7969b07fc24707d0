"""The simulators of cells keep to what they say."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from expressor.core.errors import DataError
from expressor.data import fingerprint
from expressor.datasets import example, simulate_cells, simulate_modules


def test_layout_of_the_example():
    adata = example("cells")
    assert adata.shape == (80, 50)
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.floor(adata.X.data)).all()
    assert adata.X.sum(axis=1).min() > 0
    assert adata.obs["cell_type"].value_counts().tolist() == [20] * 4
    assert adata.obs["batch"].value_counts().tolist() == [40] * 2
    assert example("cells", n=9).n_obs == 9


def test_seeds_are_new_cells_of_one_tissue(tmp_path):
    first, second = example("cells"), example("cells", seed=1)
    assert first.var.equals(second.var)
    assert not set(first.obs_names) & set(second.obs_names)
    assert fingerprint(first) == fingerprint(example("cells"))
    assert fingerprint(first) != fingerprint(second)
    first.write_h5ad(tmp_path / "cells.h5ad")


def test_markers_batches_and_depth_are_as_stated():
    adata = simulate_cells(n_cells=4000, marker_fold=5.0, batch_fold=1.0, depth=1000.0, dispersion=0.0)
    X = adata.X.toarray()
    X = X / X.sum(axis=1, keepdims=True)
    kind, marks = adata.obs["cell_type"].to_numpy(), adata.var["marks"].to_numpy()
    assert np.median(np.asarray(adata.X.sum(axis=1))) == pytest.approx(1000, rel=0.05)
    folds = [X[kind == one].mean(0) / X[kind != one].mean(0) for one in np.unique(kind)]
    ratio = [np.median(fold[marks == one] / np.median(fold[marks == ""])) for fold, one in zip(folds, np.unique(kind))]
    np.testing.assert_allclose(ratio, 5.0, rtol=0.1)
    batch = adata.obs["batch"].to_numpy()
    np.testing.assert_allclose(X[batch == "B1"].mean(0), X[batch == "B2"].mean(0), rtol=0.25)


def test_a_tiny_depth_leaves_no_cell_empty():
    assert simulate_cells(depth=0.5).X.sum(axis=1).min() >= 1


def test_modules_have_their_sizes_and_densities():
    adata = simulate_modules(modules=10, genes_per_module=50, n_genes=1000, n_cells=500, share_between=0.0, seed=3)
    X = adata.X.toarray()
    cells, genes = adata.obs["cell_type"].to_numpy(), adata.var["module"].to_numpy()
    sizes = [(cells == one).sum() for one in np.unique(cells) if one != "none"]
    assert len(sizes) == 10
    assert max(sizes) <= 50
    assert np.mean([(genes == one).sum() for one in np.unique(genes) if one != "none"]) == pytest.approx(50, abs=8)
    inside = np.concatenate(
        [X[np.ix_(cells == one, genes == one)].ravel() for one in np.unique(cells) if one != "none"]
    )
    # A few of the zeros inside are filled like those outside.
    assert (inside > 0).mean() == pytest.approx(0.31, abs=0.01)
    assert inside[inside > 0].mean() == pytest.approx(19.7, abs=0.3)
    # The authors' program takes the counts inside modules off the number outside.
    assert (X > 0).mean() == pytest.approx(0.03 * (1 - inside.size / X.size), abs=0.0005)


def test_pairs_of_modules_are_overwritten():
    adata = simulate_modules(
        modules=5, genes_per_module=40, n_genes=300, n_cells=300, share_between=1.0, density_outside=0.0
    )
    X, cells, genes = adata.X.toarray(), adata.obs["cell_type"].to_numpy(), adata.var["module"].to_numpy()
    across = X[np.ix_(cells == "M001", genes == "M004")]
    assert (across > 0).mean() == pytest.approx(0.1, abs=0.03)
    assert X[cells == "none"].sum() == 0


def test_weak_modules_hide_from_principal_components():
    """What the paper is about: with ten genes a module its cells are not seen in the leading components."""
    adata = simulate_modules(modules=10, genes_per_module=10, n_genes=1000, n_cells=300, seed=2)
    strong = simulate_modules(modules=10, genes_per_module=90, n_genes=1000, n_cells=300, seed=2)
    assert _told(adata) < 0.3 < 0.8 < _told(strong)


def _told(adata) -> float:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    X = adata.X.toarray()
    X = np.log2(X / np.maximum(X.sum(axis=1, keepdims=True), 1) * 1e6 + 1)
    labels = KMeans(10, n_init=5, random_state=0).fit_predict(PCA(30, random_state=0).fit_transform(X))
    return adjusted_rand_score(adata.obs["cell_type"], labels)


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (simulate_cells, {"n_cells": 3}, r"n_cells is out of range; expected an integer in \[4, inf\], got 3"),
        (simulate_cells, {"depth": 0}, "depth is out of range"),
        (simulate_modules, {"modules": 0}, "modules is out of range"),
        (simulate_modules, {"n_genes": 20}, r"n_genes is out of range; expected an integer in \[30, inf\]"),
        (simulate_modules, {"density_between": 1.5}, "density_between is out of range"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words, message):
    with pytest.raises(DataError, match=message):
        make(**words)
