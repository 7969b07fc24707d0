import gzip
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from expressor.core.errors import DataError, FormatError, GeneError
from expressor.data import check_spatial, image_path, keys, microns_per_pixel, spot_diameter_um
from expressor.data.readers import read_legacy_st


def read(made, **options):
    options = {"section": "C2", "um_per_px": made.um_per_px, **options}
    counts = next(one for one in (made.path / "counts.tsv.gz", made.path / "counts.tsv") if one.exists())
    return read_legacy_st(counts, made.path / "spots.tsv", made.image, **options)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("corner", [True, False])
def test_a_section_comes_in_as_it_was_written(tmp_path, folders, packed, corner):
    made = folders.legacy(tmp_path, packed=packed, corner=corner)
    adata = read(made, patient="C")
    assert (adata.X.toarray() == made.counts).all()
    assert list(adata.var_names) == made.genes
    assert list(adata.obs_names) == [f"C2_{one}" for one in made.spots]
    assert list(adata.obs.columns) == ["section", "patient", "array_x", "array_y"]
    assert [f"{x}x{y}" for x, y in zip(adata.obs["array_x"], adata.obs["array_y"])] == made.spots
    np.testing.assert_array_equal(adata.obsm["spatial"], made.pixels)
    assert adata.obsm["spatial"].dtype == np.float64
    assert microns_per_pixel(adata, "C2") == made.um_per_px
    assert spot_diameter_um(adata, "C2") == pytest.approx(100.0)
    assert image_path(adata, "C2") == made.image
    library = adata.uns["spatial"]["C2"]
    with Image.open(made.image) as picture:
        assert (library["metadata"]["image_width"], library["metadata"]["image_height"]) == picture.size
        assert library["images"]["hires"].shape[1] / library["scalefactors"]["tissue_hires_scalef"] == pytest.approx(
            picture.width
        )
    assert library["metadata"]["technology"] == "legacy ST"
    assert library["metadata"]["pitch_um"] == 200.0
    check_spatial(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    check_spatial(anndata.read_h5ad(tmp_path / "a.h5ad"))


def test_the_scale_is_never_guessed(tmp_path, folders):
    made = folders.legacy(tmp_path)
    with pytest.raises(
        DataError, match=r"scale of section 'C2' is not known.*suggests 0.7\d*; um_per_px='from_pitch' takes it"
    ):
        read(made, um_per_px=None)
    assert microns_per_pixel(read(made, um_per_px="from_pitch"), "C2") == pytest.approx(0.7, rel=1e-3)
    with pytest.raises(
        DataError, match=r"contradicts the pitch of its spots; expected about 0.7\d* um per pixel, got um_per_px=0.35"
    ):
        read(made, um_per_px=0.35)
    with pytest.raises(
        DataError, match="neither a number nor a known word; expected a number or 'from_pitch', got 'guess'"
    ):
        read(made, um_per_px="guess")
    with pytest.raises(DataError, match="um_per_px is out of range"):
        read(made, um_per_px=-1.0)


def rewrite(made, change):
    table = pd.read_csv(made.path / "spots.tsv", sep="\t")
    change(table).to_csv(made.path / "spots.tsv", sep="\t", index=False)


SPOTS = {
    "pixels swapped": (
        lambda t: t.rename(columns={"pixel_x": "pixel_y", "pixel_y": "pixel_x"}),
        DataError, "pixel_x and pixel_y of section 'C2' are swapped"),
    "other section": (
        lambda t: t.assign(x=t["x"] + 40),
        DataError, "share no spot; expected spots such as '4x4'.*tables of one section"),
    "array swapped": (
        lambda t: t.assign(x=t["y"] + 20, y=t["x"] + 20), DataError, "share no spot"),
    "positions of hires": (
        lambda t: t.assign(pixel_x=t["pixel_x"] * 0.2, pixel_y=t["pixel_y"] * 0.2), DataError, "contradicts the pitch"),
    "outside": (
        lambda t: t.assign(pixel_x=t["pixel_x"] + 900),
        DataError, r"\d+ of 49 spots of section 'C2' lie outside the image"),
    "shuffled": (
        lambda t: t.assign(pixel_x=t["pixel_x"].sample(frac=1, random_state=0).to_numpy()),
        DataError, "pixel and array positions .* do not agree"),
    "no column": (lambda t: t.drop(columns="pixel_x"), FormatError, "has no column 'pixel_x'"),
    "text": (
        lambda t: t.assign(pixel_x="far"),
        FormatError, r"56 cells of column 'pixel_x' in .* are no numbers; got 'far' in row 1"),
    "fraction": (lambda t: t.assign(x=t["x"] + 0.5), FormatError, "cells of column 'x' in .* are no whole numbers"),
    "infinite": (lambda t: t.assign(pixel_y=np.inf), FormatError, "are no numbers; got 'inf'"),
    "twice": (lambda t: pd.concat([t, t.iloc[[2]]]), FormatError, "has the spot .* twice"),
    "none selected": (lambda t: t.assign(selected=0), FormatError, "selects no spot"),
    "no choice": (lambda t: t.assign(selected=2), FormatError, "is no choice; expected 0 or 1, got 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOTS)
def test_wrong_spot_tables_are_refused(tmp_path, folders, case):
    change, error, message = SPOTS[case]
    made = folders.legacy(tmp_path)
    rewrite(made, change)
    with pytest.raises(error, match=message):
        read(made)


def test_spots_in_one_table_only_are_left_out_and_counted(tmp_path, folders, caplog):
    made = folders.legacy(tmp_path)
    rewrite(made, lambda t: t[(t["x"] != 5) & (t["selected"] == 1)])
    with caplog.at_level("WARNING", logger="expressor"):
        adata = read(made)
    kept = [not one.startswith("5x") for one in made.spots]
    assert (adata.X.toarray() == made.counts[kept]).all()
    assert (
        f"{sum(kept)} spots are in both tables; {len(kept) - sum(kept)} without a position and 0 without counts"
        in caplog.text
    )


def test_a_table_without_selection_takes_all_spots(tmp_path, folders):
    made = folders.legacy(tmp_path)
    rewrite(made, lambda t: t[t["selected"] == 1].drop(columns="selected"))
    assert read(made).n_obs == len(made.spots)


COUNTS = {
    "transposed": (lambda t: t.set_index(t.columns[0]).T.reset_index(), FormatError, "spots as columns.*Transpose"),
    "row names": (
        lambda t: t.assign(**{t.columns[0]: [f"spot{i}" for i in range(len(t))]}),
        FormatError, "49 rows .* not named after a spot"),
    "spot twice": (lambda t: pd.concat([t, t.iloc[[2]]]), FormatError, "has 1 spots twice"),
    "gene twice": (
        lambda t: t.rename(columns={"GENE3": "GENE1"}),
        GeneError, "1 gene names in .* more than once, such as 'GENE1'"),
    "mixed names": (
        lambda t: t.rename(columns={f"GENE{i}": f"ENSG{i:011d}" for i in range(4)}), GeneError, "several namespaces"),
    "text": (
        lambda t: t.assign(GENE4="many"),
        FormatError, "1 columns of .* hold cells that are no numbers; got 'many' in row 1, column 5"),
    "empty cell": (
        lambda t: t.assign(GENE4=["", *t["GENE4"][1:]]),
        FormatError, "hold cells that are no numbers; got '' in row 1, column 5"),
    "normalised": (lambda t: t.assign(GENE4=t["GENE4"] / 3), DataError, "section 'C2' does not hold raw counts"),
    "negative": (lambda t: t.assign(GENE4=-1), DataError, "does not hold raw counts"),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTS)
def test_wrong_count_tables_are_refused(tmp_path, folders, case):
    change, error, message = COUNTS[case]
    made = folders.legacy(tmp_path, packed=False)
    table = pd.read_csv(made.path / "counts.tsv", sep="\t")
    change(table).rename(columns={"Unnamed: 0": "", "index": ""}).to_csv(
        made.path / "counts.tsv", sep="\t", index=False
    )
    with pytest.raises(error, match=message):
        read(made)


def test_missing_and_truncated_files_are_told(tmp_path, folders):
    made = folders.legacy(tmp_path)
    with pytest.raises(DataError, match="there is no count table at .*nearest: 'counts.tsv.gz'"):
        read_legacy_st(tmp_path / "counts.tsv", tmp_path / "spots.tsv", None, section="C2", um_per_px=0.7)
    with pytest.raises(DataError, match="he2.jpg"):
        read_legacy_st(
            tmp_path / "counts.tsv.gz", tmp_path / "spots.tsv", tmp_path / "he2.jpg", section="C2", um_per_px=0.7
        )
    whole = (tmp_path / "counts.tsv.gz").read_bytes()
    (tmp_path / "counts.tsv.gz").write_bytes(whole[:-40])
    with pytest.raises(FormatError, match="counts.tsv.gz is truncated"):
        read(made)
    (tmp_path / "counts.tsv.gz").write_bytes(b"\x1f\x8b" + bytes(60))
    with pytest.raises(FormatError, match="cannot be read as text"):
        read(made)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, folders, monkeypatch):
    from expressor.data.readers import tables

    made = folders.legacy(tmp_path)
    (tmp_path / "spots.tsv").write_bytes(gzip.compress(b"0\t" * 4_000_000))
    with pytest.raises(FormatError, match="too large for a table; expected at most 1,000,000 bytes"):
        tables.read_text(tmp_path / "spots.tsv", limit=1_000_000)
    with pytest.raises(FormatError):
        read(made)


DATA = Path(os.environ.get("EXPRESSOR_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(
    not (DATA / "her2st").is_dir(), reason="EXPRESSOR_DATA does not name the folder of real data"
)


@needs_data
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("name", "unit_um"), [("her2st/C2", 200.0), ("mob/MOB1", 100.0)])
def test_a_real_section_survives_the_original_layout(tmp_path, name, unit_um):
    """Write a real section as its authors published it, and read the same data back."""
    original = anndata.read_h5ad(DATA / f"{name}.h5ad")
    section = Path(name).name
    obs = original.obs
    frame = original.to_df().astype(int)
    frame.index = [f"{x}x{y}" for x, y in zip(obs["array_x"], obs["array_y"])]
    frame.to_csv(tmp_path / "counts.tsv.gz", sep="\t")
    x, y = ("new_x", "new_y") if "new_x" in obs else ("array_x", "array_y")
    table = pd.DataFrame(
        {
            "x": obs["array_x"], "y": obs["array_y"], "new_x": obs[x], "new_y": obs[y],
            "pixel_x": obs["pixel_x"], "pixel_y": obs["pixel_y"], "selected": 1,
        }
    )  # fmt: skip
    table.to_csv(tmp_path / "spots.tsv", sep="\t", index=False)
    image = DATA / f"{name}.jpg"
    adata = read_legacy_st(
        tmp_path / "counts.tsv.gz",
        tmp_path / "spots.tsv",
        image,
        section=section,
        um_per_px="from_pitch",
        array_unit_um=unit_um,
    )
    assert (adata.X != original.X).nnz == 0
    assert list(adata.obs_names) == list(original.obs_names)
    assert list(adata.var_names) == list(original.var_names)
    np.testing.assert_array_equal(adata.obsm["spatial"].astype(np.float32), original.obsm["spatial"].astype(np.float32))
    scale = microns_per_pixel(adata, section)
    if "um_per_px" in original.uns:
        assert scale == pytest.approx(original.uns["um_per_px"], rel=0.01)
    with Image.open(image) as picture:
        assert adata.uns["spatial"][section][keys.METADATA][keys.IMAGE_WIDTH] == picture.width
