"""Loaders of brain data: shapes, layout, coordinates, and what is refused. Real files where EXPRESSOR_DATA names them."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from expressor import datasets
from expressor.core.errors import DataError, FormatError

ROOT = Path(os.environ.get("EXPRESSOR_DATA") or "absent") / "brain"
real = pytest.mark.skipif(not ROOT.is_dir(), reason="EXPRESSOR_DATA names no folder with brain data")


@pytest.fixture(scope="module")
def samples() -> ad.AnnData:
    return datasets.ahba_samples().adata


@real
def test_samples(samples):
    assert samples.shape == (3702, 10)
    assert samples.X.dtype == np.float32
    assert samples.obs["donor"].value_counts().to_dict() == {
        "9861": 946, "10021": 893, "14380": 529, "15697": 501, "15496": 470, "12876": 363,
    }  # fmt: skip
    assert samples.obs["slab"].value_counts().to_dict() == {"CX": 2748, "BS": 586, "CB": 368}
    assert samples.obs["hemisphere"].value_counts().to_dict() == {"L": 2656, "R": 908, "B": 138}
    assert samples.obs["division"].nunique() == 20
    assert samples.obs_names.is_unique
    for name in ("mni", "mni_original", "mni_corrected", "mni_improved"):
        place = samples.obsm[name]
        assert place.shape == (3702, 3)
        assert place.dtype == np.float64
        assert np.abs(place).max() < 120
        # x runs to the right.
        assert (
            place[samples.obs["hemisphere"] == "L", 0].mean()
            < -20
            < 20
            < place[samples.obs["hemisphere"] == "R", 0].mean()
        )
    mean = pd.DataFrame(samples.X, index=samples.obs["donor"]).groupby(level=0, observed=True).mean()
    assert np.abs(mean).max().max() < 0.1, "standardised per donor"


@real
def test_choices_of_samples(samples):
    other = datasets.ahba_samples(coordinates="corrected", targets="all").adata
    assert other.shape == (3702, 14)
    assert list(other.var_names[:10]) == list(samples.var_names)
    np.testing.assert_array_equal(other.obsm["mni"], samples.obsm["mni_corrected"])
    np.testing.assert_array_equal(samples.obsm["mni"], samples.obsm["mni_improved"])
    np.testing.assert_array_equal(
        other.obsm["mni_corrected"], datasets.ahba_coordinates().loc[other.obs_names.astype(int)]
    )
    with pytest.raises(DataError, match="unknown coordinates 'correct'.*nearest: 'corrected'"):
        datasets.ahba_samples(coordinates="correct")


@real
def test_improved_coordinates_are_those_of_their_own_files(samples):
    files = sorted((ROOT / "ahba_samples/gdevenyi_mni").glob("*.csv"))
    table = pd.concat([pd.read_csv(one) for one in files]).set_index("well_id")
    stated = table.loc[samples.obs_names.astype(int), ["mni_nlin_x", "mni_nlin_y", "mni_nlin_z"]]
    np.testing.assert_allclose(samples.obsm["mni_improved"], stated, atol=1e-9)


@real
def test_regions():
    small, large = datasets.ahba_regions().adata, datasets.ahba_regions("dk82").adata
    assert (small.shape, large.shape) == ((86, 100), (82, 1645))
    assert not np.isnan(small.X).any()
    assert sorted(large.obs_names[np.isnan(large.X).any(axis=1)]) == ["R_frontalpole", "R_temporalpole"]
    assert tuple(sorted(small.var_names)) == datasets.inr_genes()
    # The names given to the rows of the unnamed table are right: the other table's region of that name is the one most like it.
    both = small.var_names.intersection(large.var_names)
    assert len(both) == 16
    deep = [
        one for one in large.obs_names if one.split("_")[1] in ("thalamusproper", "hippocampus", "pallidum", "amygdala")
    ]
    first, second = (one[:, both].to_df() for one in (small, large))
    first, second = ((one - one.mean()) / one.std() for one in (first, second))
    agreement = {one: np.corrcoef(first.loc[one], second.loc[one])[0, 1] for one in deep}
    assert min(agreement.values()) > 0.4, agreement
    cortex = large.obs_names[(large.obs["part"] == "cortex") & ~np.isnan(large.X).any(axis=1)]
    assert np.corrcoef(first.loc[cortex].to_numpy().ravel(), second.loc[cortex].to_numpy().ravel())[0, 1] > 0.8


@real
def test_fly_embryo():
    embryo = datasets.fly_embryo()
    assert embryo.adata.shape == (3039, 84)
    assert embryo.adata.obsm["xyz"].shape == (3039, 3)
    assert np.ptp(embryo.adata.obsm["xyz"], axis=0).argmax() == 0, "the long axis comes first"
    assert "Cell 133" in embryo.citation


@real
def test_atlas(samples):
    atlas = datasets.dk_atlas()
    assert atlas.volume.shape == (146, 182, 155)
    assert (atlas.volume > 0).sum() == 819_621
    assert len(atlas.table) == 83
    centre = atlas.centroids()
    sides = centre.groupby(atlas.table["hemisphere"])["x"].agg(["min", "max"])
    assert sides.loc["L", "max"] < 0 < sides.loc["R", "min"]
    # The place of a parcel's voxel is in that parcel.
    places, parcel = atlas.voxels()
    np.testing.assert_array_equal(atlas.at(places[::997]), parcel[::997])
    assert (atlas.at(np.array([[500.0, 0, 0], [0, -400, 0]])) == 0).all()
    hippocampus = samples[samples.obs["structure"].astype(str).str.startswith("CA1 field, left")]
    nearest = atlas.table.loc[40, "label"]
    found = atlas.at(hippocampus.obsm["mni"])
    assert nearest == "hippocampus"
    assert (found == 40).mean() > 0.4


@real
def test_what_the_paper_reports():
    claims = datasets.inr_claims()
    assert claims.shape == (99, 6)
    assert claims["r_single"].mean() == pytest.approx(0.943, abs=0.001)
    assert claims["r_parcels"].mean() == pytest.approx(0.983, abs=0.001)
    assert set(datasets.inr_genes()) - set(claims.index) == {"DLGAP2"}


@real
def test_reannotation():
    table = datasets.ahba_reannotation()
    assert len(table) == 45892
    assert table["probe_name"].is_unique
    assert table["entrez_id"].isna().sum() == 71


def test_absent_files_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPRESSOR_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=r"'ahba_samples' is not on this machine: no file brain/ahba_samples/MAIN.*guide 'Brain maps'"
    ):
        datasets.ahba_samples()
    with pytest.raises(DataError, match="unknown table of regions 'dk68'; expected one of 'dk86', 'dk82'"):
        datasets.ahba_regions("dk68")


@real
def test_a_cut_file_is_refused(monkeypatch, tmp_path):
    for name in ("dge.txt", "geometry.txt"):
        target = tmp_path / "brain/fly_embryo" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join((ROOT / "fly_embryo" / name).read_text().splitlines()[:50]))
    monkeypatch.setenv("EXPRESSOR_DATA", str(tmp_path))
    with pytest.raises(
        FormatError, match="dge.txt is not the file that this data set is made of; expected 3,039 rows, got 49"
    ):
        datasets.fly_embryo()
