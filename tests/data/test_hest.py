import json

import anndata
import h5py
import numpy as np
import pytest

from expressor.core.errors import DataError, FormatError
from expressor.data import check_spatial, microns_per_pixel, spot_diameter_um
from expressor.data.readers import read_hest


def read(made, **options):
    options = {"um_per_px": made.um_per_px, "patch_um": 8.0, **options}
    return read_hest(made.path / "TENX1.h5ad", made.path / "patches.h5", **options)


def test_spots_and_patches_come_row_for_row(tmp_path, folders, caplog):
    made = folders.hest(tmp_path)
    with caplog.at_level("WARNING", logger="expressor"):
        adata, patches = read(made, patient="P")
    assert "1 of 14 spots have no patch and are left out" in caplog.text
    assert list(adata.obs_names) == [f"TENX1_{one}" for one in made.spots[1:]]
    assert (adata.X.toarray() == made.counts[1:]).all()
    assert list(adata.var["gene_ids"]) == made.ids
    np.testing.assert_allclose(adata.obsm["spatial"], made.pixels[1:])
    assert list(patches.names) == made.spots[1:]
    assert len(patches) == adata.n_obs
    # The fixture paints the patch of spot i in grey level i.
    assert [int(batch[0, 0, 0]) for part in patches.batches(4) for batch in part] == list(range(1, 14))
    assert microns_per_pixel(adata, "TENX1") == made.um_per_px
    assert spot_diameter_um(adata, "TENX1") == pytest.approx(55.0)
    library = adata.uns["spatial"]["TENX1"]
    assert library["metadata"]["patches"] == str(tmp_path / "patches.h5")
    assert library["images"]["hires"].dtype == np.uint8
    assert library["scalefactors"]["tissue_hires_scalef"] == 0.05
    adata.write_h5ad(tmp_path / "out.h5ad")
    check_spatial(anndata.read_h5ad(tmp_path / "out.h5ad"))


def test_the_scale_comes_from_the_caller_or_the_metadata(tmp_path, folders):
    made = folders.hest(tmp_path)
    with pytest.raises(DataError, match="scale of section 'TENX1' is not known.*or the sample's metadata JSON"):
        read(made, um_per_px=None)
    adata, _ = read(made, um_per_px=None, metadata=tmp_path / "TENX1.json", section="x")
    assert microns_per_pixel(adata, "x") == made.um_per_px
    (tmp_path / "TENX1.json").write_text(json.dumps({"pixel_size_um_estimated": None}))
    with pytest.raises(FormatError, match="does not tell the pixel size"):
        read(made, um_per_px=None, metadata=tmp_path / "TENX1.json")


def test_files_of_different_samples_are_refused(tmp_path, folders):
    made = folders.hest(tmp_path)
    with h5py.File(tmp_path / "patches.h5", "r+") as file:
        file["barcode"][...] = np.array([[b"z%03d" % i] for i in range(14)])
    with pytest.raises(
        DataError,
        match="no spot of .* has a patch in .*; expected barcodes such as '000x001', got barcodes such as 'z000'",
    ):
        read(made)


def test_wrong_files_are_refused(tmp_path, folders):
    made = folders.hest(tmp_path)
    with pytest.raises(DataError, match="there is no HEST h5ad"):
        read_hest(tmp_path / "no.h5ad", tmp_path / "patches.h5", um_per_px=0.5)
    with pytest.raises(DataError, match="there is no HEST patch file"):
        read_hest(tmp_path / "TENX1.h5ad", tmp_path / "no.h5", um_per_px=0.5)
    with pytest.raises(FormatError, match="holds no patches"):
        read_hest(tmp_path / "TENX1.h5ad", tmp_path / "TENX1.h5ad", um_per_px=0.5)
    (tmp_path / "patches.h5").write_bytes((tmp_path / "patches.h5").read_bytes()[:3000])
    with pytest.raises(FormatError, match="patches.h5 cannot be read"):
        read(made)
