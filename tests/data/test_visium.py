import json
import logging

import anndata
import numpy as np
import pandas as pd
import pytest

from expressor.core.errors import DataError, FormatError
from expressor.data import check_spatial, fingerprint, image_path, microns_per_pixel, spot_diameter_um
from expressor.data.readers import read_visium


@pytest.mark.parametrize("header", [True, False], ids=["tissue_positions.csv", "tissue_positions_list.csv"])
@pytest.mark.parametrize("matrix", ["h5", "mtx", "mtx-plain"])
def test_every_layout_gives_the_same_section(tmp_path, folders, header, matrix):
    made = folders.visium(tmp_path / "sample_7" / "outs", header=header, matrix=matrix)
    adata = read_visium(made.path, patient="P")
    assert (adata.X.toarray() == made.counts).all()
    assert list(adata.var_names) == made.genes
    assert list(adata.var["gene_ids"]) == made.ids
    section = "sample_1" if matrix == "h5" else "sample_7"
    assert list(adata.obs_names) == [f"{section}_{one}" for one in made.spots]
    np.testing.assert_array_equal(adata.obsm["spatial"], made.pixels)
    assert microns_per_pixel(adata, section) == pytest.approx(0.5, rel=1e-3)
    assert spot_diameter_um(adata, section) == pytest.approx(65, rel=1e-3)
    library = adata.uns["spatial"][section]
    assert library["metadata"] == {
        "image": "", "image_width": 0, "image_height": 0, "technology": "Visium", "pitch_um": 100.0,
    }  # fmt: skip
    assert library["images"]["hires"].dtype == np.uint8
    assert library["scalefactors"]["tissue_hires_scalef"] == 0.125
    assert list(adata.obs.columns) == ["section", "patient", "array_row", "array_col"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    check_spatial(back)
    assert fingerprint(back) == fingerprint(adata)


def test_it_agrees_with_scanpy(tmp_path, folders):
    import scanpy as sc

    made = folders.visium(tmp_path / "outs", header=False)
    expected = sc.read_10x_h5(made.path / "filtered_feature_bc_matrix.h5")
    adata = read_visium(made.path, section="s")
    assert (adata.X != expected.X).nnz == 0
    assert [f"s_{one}" for one in expected.obs_names] == list(adata.obs_names)
    assert list(adata.var_names) == list(expected.var_names)
    assert list(adata.var["gene_ids"]) == list(expected.var["gene_ids"])


@pytest.mark.parametrize("turn", [0.0, 13.0, 90.0, 200.0])
def test_the_scale_is_measured_on_turned_images_too(tmp_path, folders, turn):
    made = folders.visium(tmp_path / "outs", turn=turn, um_per_px=0.37)
    assert microns_per_pixel(read_visium(made.path), "sample_1") == pytest.approx(0.37, rel=2e-3)


def test_the_full_image_is_taken_in(tmp_path, folders):
    made = folders.visium(tmp_path / "outs", image=True)
    adata = read_visium(made.path, image=made.image, um_per_px=0.5)
    assert image_path(adata, "sample_1") == made.image
    assert microns_per_pixel(adata, "sample_1") == 0.5
    assert adata.uns["spatial"]["sample_1"]["metadata"]["image_width"] > 1000


def test_wrong_scales_and_images_are_refused(tmp_path, folders):
    made = folders.visium(tmp_path / "outs", image=True)
    with pytest.raises(DataError, match="contradicts the pitch of its spots; expected about 0.[45]"):
        read_visium(made.path, um_per_px=0.25)
    with pytest.raises(
        DataError, match=r"lie outside the image.*Times tissue_hires_scalef \(0.125\) they fit.*full-resolution"
    ):
        read_visium(made.path, image=made.path / "spatial" / "tissue_hires_image.png")
    large = folders.image(tmp_path / "other.png", 4000, 4000)
    with pytest.raises(
        DataError, match="the images of section 'sample_1' do not fit together; expected a full-resolution image of"
    ):
        read_visium(made.path, image=large)


def edit_json(path, **changes):
    factors = json.loads(path.read_text())
    factors.update(changes)
    path.write_text(json.dumps(factors))


def edit_positions(folder, change):
    path = folder / "spatial" / "tissue_positions.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


def swap(table):
    return table.rename(
        columns={"pxl_row_in_fullres": "pxl_col_in_fullres", "pxl_col_in_fullres": "pxl_row_in_fullres"}
    )


POSITIONS = {
    "swapped": (swap, DataError, "lie outside the hires image.*x and y are swapped"),
    "hires pixels": (
        lambda t: t.assign(pxl_row_in_fullres=t["pxl_row_in_fullres"] * 0.125, pxl_col_in_fullres=t["pxl_col_in_fullres"] * 0.125),
        DataError, "scale factors of section 'sample_1' do not fit its positions; expected a spot diameter of about 16"),
    "one axis scaled": (
        lambda t: t.assign(pxl_row_in_fullres=t["pxl_row_in_fullres"] * 0.5),
        DataError, "pixel and array positions .* do not agree"),
    "other sample": (
        lambda t: t.assign(barcode=t["barcode"] + "x"),
        DataError, "barcodes of .* have no position, such as .*one run"),
    "twice": (lambda t: pd.concat([t, t.iloc[:1]]), FormatError, "has the barcode .* twice"),
    "in tissue": (lambda t: t.assign(in_tissue=3), FormatError, "'in_tissue' of .* is no choice"),
    "text": (
        lambda t: t.assign(array_row="a"),
        FormatError, "72 cells of column 'array_row' in .* are no whole numbers; got 'a' in row 1"),
    "gaps": (
        lambda t: t.assign(pxl_col_in_fullres=[None, *t["pxl_col_in_fullres"][1:]]),
        FormatError, "are no numbers; got ''"),
    "column": (
        lambda t: t.rename(columns={"in_tissue": "tissue"}),
        FormatError, "has no column 'in_tissue'.*nearest: 'tissue'"),
}  # fmt: skip


@pytest.mark.parametrize("case", POSITIONS)
def test_wrong_positions_are_refused(tmp_path, folders, case):
    change, error, message = POSITIONS[case]
    made = folders.visium(tmp_path / "outs")
    edit_positions(made.path, change)
    with pytest.raises(error, match=message):
        read_visium(made.path)


def test_wrong_factors_are_refused(tmp_path, folders):
    made = folders.visium(tmp_path / "outs")
    path = made.path / "spatial" / "scalefactors_json.json"
    good = path.read_text()
    edit_json(path, spot_diameter_fullres=16.0)
    with pytest.raises(DataError, match="scale factors of section 'sample_1' do not fit its positions"):
        read_visium(made.path)
    path.write_text(good)
    edit_json(path, tissue_hires_scalef=0.3)
    with pytest.raises(DataError, match="lie outside the hires image.*the factor is of another image"):
        read_visium(made.path)
    for bad, message in [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no scale factors"),
        ('{"tissue_hires_scalef": -1}', "is no scale"),
    ]:
        path.write_text(bad)
        with pytest.raises(FormatError, match=message):
            read_visium(made.path)
    path.write_text("{}")
    with pytest.raises(FormatError, match="has no 'spot_diameter_fullres'"):
        read_visium(made.path)


def test_missing_parts_are_told(tmp_path, folders):
    with pytest.raises(DataError, match="there are no filtered counts in .*Space Ranger calls 'outs'"):
        read_visium(tmp_path)
    made = folders.visium(tmp_path / "outs")
    (made.path / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(
        DataError, match="no spot positions in .*; expected tissue_positions.csv or tissue_positions_list.csv"
    ):
        read_visium(made.path)
    with pytest.raises(DataError, match="there is no Space Ranger folder at"):
        read_visium(tmp_path / "out")


def test_shared_symbols_are_replaced_by_identifiers_and_reported(tmp_path, folders, caplog):
    symbols = ["TBCE", "A", "B", "TBCE", "C", "D", "E", "F", "ENSG00000000008"]
    made = folders.visium(tmp_path / "outs", symbols=symbols)
    with caplog.at_level(logging.WARNING, logger="expressor"):
        adata = read_visium(made.path)
    assert list(adata.var_names) == [made.ids[0], "A", "B", made.ids[3], "C", "D", "E", "F", "ENSG00000000008"]
    assert (adata.X.toarray() == made.counts).all()
    assert "2 genes share their symbol with another (such as TBCE); they are named by their identifiers" in caplog.text
    assert list(read_visium(made.path, gene_names="ensembl").var_names) == made.ids


def test_features_that_are_no_genes_are_left_out(tmp_path, folders):
    types = ["Gene Expression"] * 7 + ["Antibody Capture"] * 2
    made = folders.visium(tmp_path / "outs", types=types)
    adata = read_visium(made.path)
    assert list(adata.var_names) == made.genes[:7]
    assert (adata.X.toarray() == made.counts[:, :7]).all()
    made = folders.visium(tmp_path / "protein", types=["Antibody Capture"] * 9)
    with pytest.raises(DataError, match="holds no gene expression; got features of type Antibody Capture"):
        read_visium(made.path)


def test_the_two_columns_of_old_gene_tables_are_read(tmp_path, folders):
    made = folders.visium(tmp_path / "outs", matrix="mtx-plain", version=2)
    assert (read_visium(made.path).X.toarray() == made.counts).all()


MTX = {
    "short": (
        lambda text: text[: text.rindex("\n", 0, -1) + 1],
        "truncated or damaged; expected .* lines of three whole numbers",
    ),
    "real": (lambda text: text.replace("integer", "real"), "is no 10x matrix"),
    "outside": (
        lambda text: text[: text.rindex("\n", 0, -1) + 1] + "99 1 1\n",
        "points outside the matrix; expected 1 to 9",
    ),
    "zero": (lambda text: text[: text.rindex("\n", 0, -1) + 1] + "0 1 1\n", "points outside the matrix"),
    "words": (lambda text: text[: text.rindex("\n", 0, -1) + 1] + "a b c\n", "truncated or damaged"),
    "other names": (
        lambda text: text.replace("\n9 55 ", "\n8 55 "),
        "does not fit its names; expected 9 genes and 55 barcodes",
    ),
    "huge": (lambda text: text.replace("\n9 55 ", "\n9 55 9999999999"), "truncated or damaged; expected 9999999999"),
    "negative": (lambda text: text.replace("\n9 55 ", "\n9 -55 "), "bad line of sizes"),
    "empty": (lambda text: "", "is no 10x matrix"),
    "comments": (lambda text: text.split("\n")[0], "truncated"),
}


@pytest.mark.parametrize("case", MTX)
def test_wrong_matrices_are_refused(tmp_path, folders, case):
    change, message = MTX[case]
    made = folders.visium(tmp_path / "outs", matrix="mtx-plain")
    path = made.path / "filtered_feature_bc_matrix" / "matrix.mtx"
    path.write_text(change(path.read_text()))
    with pytest.raises(FormatError, match=message):
        read_visium(made.path)


def test_wrong_hdf5_is_refused(tmp_path, folders):
    import h5py

    made = folders.visium(tmp_path / "outs")
    path = made.path / "filtered_feature_bc_matrix.h5"
    good = path.read_bytes()

    def damage(change, message):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(FormatError, match=message):
            read_visium(made.path)

    def replace(name, value):
        def change(file):
            del file[name]
            if value is not None:
                file[name] = value

        return change

    damage(replace("matrix", None), "has no group 'matrix'")
    damage(replace("matrix/data", None), "has no usable 'matrix/data'.* got nothing")
    damage(
        lambda file: (file.__delitem__("matrix/data"), file.create_group("matrix/data")),
        "has no usable 'matrix/data'.* got a group",
    )
    damage(
        replace("matrix/data", np.zeros(3, dtype="f8")),
        "has no usable 'matrix/data'; expected one axis of integers, got float64",
    )
    damage(replace("matrix/data", np.zeros(3, dtype="i4")), "parts of .* do not fit together")
    damage(replace("matrix/shape", np.array([9, 9])), "parts of .* do not fit together")
    damage(replace("matrix/shape", np.array([9])), "bad shape")
    damage(replace("matrix/barcodes", np.arange(55)), "expected one axis of text")
    damage(lambda file: file["matrix/indices"].__setitem__(3, 900), "the sparse matrix of .* is damaged")
    damage(lambda file: file["matrix/indptr"].__setitem__(3, 9000), "damaged")
    damage(
        lambda file: file["matrix/data"].__setitem__(3, -1), "counts in .* are damaged; expected counts from 0, got -1"
    )
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(FormatError, match="cannot be read as HDF5"):
        read_visium(made.path)
