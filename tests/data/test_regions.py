"""Samples averaged per parcel: against abagen on a generated folder, against loops, and what is refused."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad

from expressor.core.errors import DataError
from expressor.data import assign_parcels, read_ahba, to_parcels
from expressor.data.parcels import Parcellation
from expressor.datasets import simulate_ahba_folder

GOLDEN = Path(__file__).with_name("abagen_parcels_golden.csv")
SRS = {"sample_norm": "srs", "gene_norm": "srs"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder from which ``scripts/abagen_golden.py`` made the golden values."""
    path = tmp_path_factory.mktemp("ahba") / "microarray"
    simulate_ahba_folder(path, n_donors=2, noise=1.0)
    return path


@pytest.fixture(scope="module")
def atlas() -> Parcellation:
    """The boxes of ``scripts/abagen_golden.py``."""
    spec = importlib.util.spec_from_file_location(
        "abagen_golden", Path(__file__).parents[2] / "scripts/abagen_golden.py"
    )
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    volume, affine, table = recipe.parcellation()
    return Parcellation(volume, affine, table.set_index("id").rename(columns={"structure": "part"}))


@pytest.fixture(scope="module")
def samples(folder):
    return read_ahba(folder, sample_norm="none", gene_norm="none")


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("default", SRS), ("no_tolerance", SRS | {"tolerance": 0}), ("centroids", SRS | {"missing": "centroids"}),
        ("interpolate", SRS | {"missing": "interpolate"}), ("samples_median", {"average": "samples", "metric": "median"}),
        ("mirrored", {"sample_norm": "srs", "gene_norm": "zscore"}), ("anywhere", SRS | {"tolerance": 4, "constrain": False}),
    ],
)  # fmt: skip
def test_agrees_with_abagen(folder, samples, atlas, case, options):
    table = pd.read_csv(GOLDEN).set_index("parcel")
    golden, default = table.query("case == @case"), table.query("case == 'default'")
    if "missing" in options:
        assert (golden["GENE2"].notna() & default["GENE2"].isna()).any()
    given = (
        read_ahba(folder, mirror="bidirectional", sample_norm="none", gene_norm="none")
        if case == "mirrored"
        else samples
    )
    made = to_parcels(given, atlas, **options)
    genes = ["GENE2", "GENE3", "GENE12"]
    assert golden[genes[0]].notna().sum() > 10
    np.testing.assert_allclose(made[:, genes].X, golden[genes], atol=2e-5)
    np.testing.assert_array_equal(made.uns["counts"], golden[["n_10021", "n_9861"]])


def test_what_is_returned(samples, atlas, tmp_path):
    made = to_parcels(samples, atlas, missing="centroids")
    assert made.shape == (48, samples.n_vars)
    assert made.uns["counts"].sum(axis=1).tolist() == made.obs["samples"].tolist()
    assert made.obs["samples"].sum() == samples.n_obs - (made.uns["dropped"]["step"] == "parcel").sum()
    assert made.obs.loc["43", "filled"]
    assert not made.obs.loc["1", "filled"]
    donors = np.stack([made.layers["donor_10021"], made.layers["donor_9861"]])
    both = np.isfinite(donors).all(axis=(0, 2))
    np.testing.assert_allclose(made.X[both], donors.mean(axis=0)[both], rtol=1e-6)
    np.testing.assert_allclose(made.obsm["mni"], atlas.centroids())
    assert (made.obs["voxels"].to_numpy() == np.bincount(atlas.volume.ravel())[1:]).all()
    assert "samples were assigned to" in made.uns["methods"]
    made.write_h5ad(tmp_path / "regions.h5ad")
    again = read_h5ad(tmp_path / "regions.h5ad")
    np.testing.assert_array_equal(again.X, made.X)
    np.testing.assert_array_equal(again.uns["counts"], made.uns["counts"])
    assert made.uns["methods"].startswith("Microarray expression of 2 donors")


def test_assignment_against_loops(samples, atlas):
    """With the nearest voxel: its parcel, else the fitting parcel first met when the radius grows by mm, by its centroid."""
    place = samples.obsm["mni"] + 1.0
    side, part = samples.obs["hemisphere"].to_numpy(dtype=str), samples.obs["part"].to_numpy(dtype=str)
    found = assign_parcels(place, atlas, hemisphere=side, part=part, tolerance=3, snap="nearest")
    voxels, parcel = atlas.voxels()
    for row in range(len(place)):
        centre = np.rint((place[row] + [80, 90, 60]) / 2) * 2 - [80, 90, 60]
        away = np.linalg.norm(voxels - centre, axis=1)
        expected = 0
        for radius in range(4):
            fitting = [
                one
                for one in np.unique(parcel[away <= radius])
                if tuple(atlas.table.loc[one, ["hemisphere", "part"]]) == (side[row], part[row])
            ]
            if fitting and not expected:
                expected = min(
                    fitting, key=lambda one: np.linalg.norm(voxels[parcel == one].mean(axis=0) - centre, axis=0)
                )
        assert found[row] == expected
    assert (found > 0).sum() > 20
    assert (found == 0).any()


def test_both_sides_are_held_to_the_part_alone():
    volume = np.zeros((10, 3, 3), dtype=np.int32)
    volume[:5], volume[5:] = 7, 3  # numbers out of order
    table = pd.DataFrame(
        {"label": ["right", "stem"], "hemisphere": ["R", "B"], "part": ["cortex", "other"]},
        index=pd.Index([3, 7], name="id"),
    )
    atlas = Parcellation(volume, np.eye(4), table)
    places = np.array([[1.0, 1, 1], [1, 1, 1], [8, 1, 1], [8, 1, 1]])
    side, part = np.array(["L", "L", "R", "L"]), np.array(["other", "cortex", "cortex", "cortex"])
    found = assign_parcels(places, atlas, hemisphere=side, part=part, snap="nearest")
    assert found.tolist() == [7, 0, 3, 0]
    assert assign_parcels(places, atlas, snap="nearest").tolist() == [7, 7, 3, 3]
    turned = Parcellation(volume, np.array([[0, 1.0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), table)
    with pytest.raises(DataError, match=r'axes are turned.*Use snap="nearest"'):
        assign_parcels(places, turned)
    with pytest.raises(DataError, match="one of hemisphere and part is missing"):
        assign_parcels(places, atlas, part=part)


def test_what_is_refused(samples, atlas):
    with pytest.raises(DataError, match="unknown missing 'centroid'.*nearest: 'centroids'"):
        to_parcels(samples, atlas, missing="centroid")
    plain = samples.copy()
    del plain.obs["part"]
    with pytest.raises(DataError, match="obs has no 'part'.*constrain=False"):
        to_parcels(plain, atlas)
    assert (to_parcels(plain, atlas, constrain=False).obs["samples"] > 0).any()
    elsewhere = Parcellation(atlas.volume, atlas.affine + [[0, 0, 0, 400], [0] * 4, [0] * 4, [0] * 4], atlas.table)
    with pytest.raises(DataError, match="no sample is in a parcel or within 2 mm of one"):
        to_parcels(samples, elsewhere)
    gappy = samples.copy()
    gappy.X[3, 2] = np.nan
    with pytest.raises(DataError, match="NaN or infinite somewhere"):
        to_parcels(gappy, atlas)
    other = samples.copy()
    other.uns["space"] = "fsaverage"
    with pytest.raises(DataError, match="in another space; expected MNI152"):
        to_parcels(other, atlas)
    del other.obsm["mni"]
    with pytest.raises(DataError, match="obsm has no 'mni'"):
        to_parcels(other, atlas)
