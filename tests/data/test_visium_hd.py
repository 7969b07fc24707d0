import importlib.util
import json

import numpy as np
import pytest

from expressor.core.errors import DataError, FormatError, MissingExtra
from expressor.data import image_path, microns_per_pixel, spot_diameter_um
from expressor.data.readers import read_visium_hd

needs_arrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow (extra spatial) is not installed"
)


@pytest.mark.parametrize("parquet", [False, pytest.param(True, marks=needs_arrow)])
@pytest.mark.parametrize("inner", ["", "binned_outputs", "binned_outputs/square_016um"])
def test_bins_come_in_as_they_were_written(tmp_path, folders, parquet, inner):
    made = folders.visium_hd(tmp_path / "outs", parquet=parquet, image=True)
    adata = read_visium_hd(made.path / inner, image=made.image)
    assert (adata.X.toarray() == made.counts).all()
    assert list(adata.obs_names) == [f"hd_1_{one}" for one in made.spots]
    np.testing.assert_allclose(adata.obsm["spatial"], made.pixels)
    assert microns_per_pixel(adata, "hd_1") == 0.25
    assert spot_diameter_um(adata, "hd_1") == pytest.approx(16.0)
    assert image_path(adata, "hd_1") == made.image
    assert adata.uns["spatial"]["hd_1"]["metadata"]["pitch_um"] == 16.0
    assert adata.uns["spatial"]["hd_1"]["metadata"]["technology"] == "Visium HD"


def test_other_bin_sizes_are_named(tmp_path, folders):
    made = folders.visium_hd(tmp_path / "outs", bin_um=8)
    assert read_visium_hd(made.path, bin_um=8).n_obs == 77
    with pytest.raises(
        DataError, match="there are no bins of 16 um in .*; expected a folder square_016um, got square_008um"
    ):
        read_visium_hd(made.path)
    with pytest.raises(
        DataError, match="the bins of .* are of another size; expected bin_um=16, got 8 um. Ask for bin_um=8"
    ):
        read_visium_hd(made.path / "binned_outputs" / "square_008um")


def test_contradictions_are_refused(tmp_path, folders):
    made = folders.visium_hd(tmp_path / "outs")
    path = made.path / "binned_outputs/square_016um/spatial/scalefactors_json.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"microns_per_pixel": 0.5}, "contradicts the pitch of its spots; expected about 0.25"),
        (
            {"spot_diameter_fullres": 8.0},
            "do not fit its bins; expected spot_diameter_fullres of about 64.00 px, got 8.00 px",
        ),
        ({"tissue_hires_scalef": 0.9}, "lie outside the hires image"),
    ]:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=message):
            read_visium_hd(made.path)
    path.write_text(json.dumps(good))
    with pytest.raises(DataError, match="contradicts the pitch"):
        read_visium_hd(made.path, um_per_px=1.0)


def test_the_scale_may_come_from_the_bins(tmp_path, folders):
    made = folders.visium_hd(tmp_path / "outs")
    path = made.path / "binned_outputs/square_016um/spatial/scalefactors_json.json"
    factors = json.loads(path.read_text())
    del factors["microns_per_pixel"], factors["spot_diameter_fullres"]
    path.write_text(json.dumps(factors))
    adata = read_visium_hd(made.path)
    assert microns_per_pixel(adata, "hd_1") == pytest.approx(0.25)
    assert spot_diameter_um(adata, "hd_1") == pytest.approx(16.0)


def test_parquet_without_its_reader_says_what_to_install(tmp_path, folders, monkeypatch):
    made = folders.visium_hd(tmp_path / "outs")
    (made.path / "binned_outputs/square_016um/spatial/tissue_positions.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(
        MissingExtra, match=r"'pyarrow' is needed to read the bin positions of Visium HD.*expressor\[spatial\]"
    ):
        read_visium_hd(made.path)


@needs_arrow
def test_damaged_parquet_is_refused(tmp_path, folders):
    made = folders.visium_hd(tmp_path / "outs", parquet=True)
    path = made.path / "binned_outputs/square_016um/spatial/tissue_positions.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match="tissue_positions.parquet cannot be read as parquet"):
        read_visium_hd(made.path)
