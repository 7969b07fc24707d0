import copy

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.data import check_spatial, grid, image_path, keys, microns_per_pixel, sections, spot_diameter_um
from expressor.data.spatial import pitch_px

WIDTH, HEIGHT = 3000, 2000


def library(**changes):
    factors = {keys.SPOT_DIAMETER: 100.0, keys.HIRES_SCALE: 0.2, keys.UM_PER_PX: 1.0}
    metadata = {keys.IMAGE: "", keys.IMAGE_WIDTH: WIDTH, keys.IMAGE_HEIGHT: HEIGHT, keys.TECHNOLOGY: "legacy ST"}
    one = {keys.SCALEFACTORS: factors, keys.METADATA: metadata}
    for place, value in changes.items():
        for part in one.values():
            if place in part or place == keys.PITCH_UM and part is metadata:
                part[place] = value
    return one


def tissue(names=("a",), **changes):
    """Spots 200 px apart on the right of a 3000 x 2000 px image, at 1 um per px."""
    x, y = np.meshgrid(np.arange(1400.0, 2900.0, 200.0), np.arange(300.0, 1800.0, 200.0))
    coords = np.stack([x.ravel(), y.ravel()], 1) + np.random.default_rng(0).normal(0, 4, (x.size, 2))
    obs = pd.DataFrame({"section": pd.Categorical(np.repeat(names, len(coords)))})
    obs.index = [f"{name}_{i}" for name in names for i in range(len(coords))]
    adata = AnnData(obs=obs, obsm={"spatial": np.tile(coords, (len(names), 1))})
    adata.uns["spatial"] = {name: library(**changes) for name in names}
    return adata


def test_what_is_stated_is_returned(tmp_path):
    adata = tissue(("b", "a"), microns_per_pixel=0.5)
    assert sections(adata) == ["a", "b"]
    assert microns_per_pixel(adata, "a") == 0.5
    assert spot_diameter_um(adata, "b") == 50.0
    with pytest.raises(DataError, match="section 'a' names no full-resolution image"):
        image_path(adata, "a")
    adata.uns["spatial"]["a"]["metadata"]["image"] = str(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="the image of section 'a' is not there"):
        image_path(adata, "a")
    (tmp_path / "a.jpg").touch()
    assert image_path(adata, "a") == tmp_path / "a.jpg"
    check_spatial(adata)


def test_it_survives_being_written(tmp_path):
    from expressor.data import read

    adata = tissue(pitch_um=200.0)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = read(tmp_path / "a.h5ad")
    check_spatial(back)
    assert microns_per_pixel(back, "a") == 1.0
    assert spot_diameter_um(back, "a") == 100.0


def test_one_library_needs_no_section_column():
    adata = tissue()
    del adata.obs["section"]
    assert sections(adata) == ["a"]
    check_spatial(adata)
    adata.uns["spatial"]["b"] = library()
    with pytest.raises(DataError, match="obs has no column 'section'; got 2 entries"):
        sections(adata)


EDITS = {
    "no positions": (lambda a: a.obsm.pop("spatial"), r"obsm has no 'spatial'.*full-resolution"),
    "positions are three": (
        lambda a: a.obsm.update(spatial=np.zeros((a.n_obs, 3))), r"holds no positions; expected numbers \(64, 2\)"),
    "a position is missing": (
        lambda a: a.obsm["spatial"].__setitem__((3, 1), np.nan), r"1 spots have no position; got NaN or infinity at 'a_3'"),
    "no library": (lambda a: a.uns.pop("spatial"), r"uns\['spatial'\] has no scalefactors of section 'a'"),
    "no scale": (
        lambda a: a.uns["spatial"]["a"]["scalefactors"].pop("microns_per_pixel"),
        r"the scale of section 'a' is not known; expected uns.*'microns_per_pixel'.*never guessed"),
    "scale in metres": (
        lambda a: a.uns["spatial"]["a"]["scalefactors"].update(microns_per_pixel=5e-7),
        r"not plausible; .*\[0.05, 50.0\], got 5e-07"),
    "scale is text": (
        lambda a: a.uns["spatial"]["a"]["scalefactors"].update(microns_per_pixel="0.5"), r"not plausible; .* got '0.5'"),
    "axes swapped": (
        lambda a: a.obsm.update(spatial=a.obsm["spatial"][:, ::-1] * [1, 1]),
        r"\d+ of 64 spots of section 'a' lie outside the image.*x and y are swapped"),
    "the hires image was given": (
        lambda a: a.uns["spatial"]["a"]["metadata"].update(image_width=600, image_height=400),
        r"64 of 64 spots .* outside.*Times tissue_hires_scalef \(0.2\) they fit.*full-resolution image"),
    "another image": (
        lambda a: a.obsm.update(spatial=a.obsm["spatial"] * 9),
        r"expected x in \[0, 3000\] and y in \[0, 2000\].*Give the image that"),
    "hires positions": (
        lambda a: a.obsm.update(spatial=a.obsm["spatial"] * 0.2),
        r"too close .*at least the spot diameter of 100.0 px, got 3\d.\d px.*multiplied by tissue_hires_scalef \(0.2\); divide"),
    "no section": (
        lambda a: setattr(a, "obs", a.obs.assign(section=[None] + ["a"] * 63)), r"1 observations have no section"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_each_mixup_is_refused_with_its_remedy(case):
    edit, message = EDITS[case]
    adata = tissue()
    check_spatial(adata)
    edit(adata)
    before = copy.deepcopy(adata.uns)
    with pytest.raises(DataError, match=message):
        check_spatial(adata)
    assert adata.uns == before


@pytest.mark.parametrize(("um_per_px", "word", "wanted"), [(0.5, "close", 400), (2.0, "far apart", 100)])
def test_a_scale_that_contradicts_the_pitch_is_refused(um_per_px, word, wanted):
    check_spatial(tissue(pitch_um=200.0))
    message = rf"too {word} for the stated scale; expected 200 um, which is {wanted}.0 px at {um_per_px:g} um per pixel, got 19"
    with pytest.raises(DataError, match=message + r"\d.\d px between neighbours.* 1.0\d+ would agree"):
        check_spatial(tissue(pitch_um=200.0, microns_per_pixel=um_per_px))


def test_hires_positions_are_named_where_the_pitch_is_stated():
    adata = tissue(pitch_um=200.0)
    adata.obsm["spatial"] = adata.obsm["spatial"] * 0.2
    with pytest.raises(DataError, match="multiplied by tissue_hires_scalef"):
        check_spatial(adata)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.25, 1.0))
def test_a_part_of_the_spots_is_no_contradiction(seed, share):
    adata = tissue(pitch_um=200.0)
    keep = np.random.default_rng(seed).random(adata.n_obs) < share
    keep[0] = True
    check_spatial(adata[keep].copy())


def test_cells_may_overlap_and_coincide():
    adata = tissue()
    adata.obsm["spatial"] = 1000 + np.random.default_rng(0).normal(0, 80, (adata.n_obs, 2))
    adata.obsm["spatial"][:9] = 1000.0
    check_spatial(adata)
    adata.uns["spatial"]["a"]["metadata"]["pitch_um"] = 200.0
    with pytest.raises(DataError, match="got 0.0 px between neighbours. Several spots have one position"):
        check_spatial(adata)


def test_pitch_of_a_jittered_grid():
    assert pitch_px(tissue().obsm["spatial"]) == pytest.approx(200, rel=0.05)
    assert np.isnan(pitch_px(np.zeros((1, 2))))


@pytest.mark.parametrize("spacing", [40.0, 100.0, 250.0])
def test_the_grid_is_regular_on_the_tissue_and_inside_the_image(spacing):
    adata = tissue(pitch_um=200.0, microns_per_pixel=0.8)
    adata.obsm["spatial"] *= 1 / 0.8
    adata.obsm["spatial"] -= [700, 200]
    adata.obs["patient"] = pd.Categorical(["P"] * adata.n_obs)
    check_spatial(adata)
    dense = grid(adata, "a", spacing)
    points = dense.obsm["spatial"]
    step = spacing / 0.8
    assert dense.n_vars == 0
    np.testing.assert_allclose(np.mod(points / step, 1.0), 0.5, atol=1e-9)
    spots = adata.obsm["spatial"]
    reach = 0.75 * pitch_px(spots)
    expected = {
        (i, j)
        for i in range(int(WIDTH / step))
        for j in range(int(HEIGHT / step))
        if np.hypot(*(spots - [(i + 0.5) * step, (j + 0.5) * step]).T).min() <= reach
    }
    assert {tuple(one) for one in np.round(points / step - 0.5).astype(int)} == expected
    assert set(dense.obs["section"]) == {"a"}
    assert set(dense.obs["patient"]) == {"P"}
    assert dense.obs_names.is_unique
    assert spot_diameter_um(dense, "a") == pytest.approx(spacing)
    check_spatial(dense)
    assert "microns_per_pixel" in adata.uns["spatial"]["a"]["scalefactors"]
    assert adata.uns["spatial"]["a"]["scalefactors"][keys.SPOT_DIAMETER] == 100.0


def test_a_mask_takes_points_away():
    adata = tissue()
    mask = np.zeros((20, 30), dtype=bool)
    mask[:, 20:] = True
    right = grid(adata, "a", 50.0, mask=mask).obsm["spatial"]
    everywhere = grid(adata, "a", 50.0).obsm["spatial"]
    assert sorted(map(tuple, right)) == sorted(tuple(p) for p in everywhere if p[0] >= 2000)
    with pytest.raises(DataError, match="tissue mask of section 'a' cannot be laid over its image"):
        grid(adata, "a", 50.0, mask=mask.astype(int))


def test_grids_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="there is no section 'A'; nearest: 'a'"):
        grid(tissue(), "A", 50.0)
    with pytest.raises(DataError, match="too many points"):
        grid(tissue(), "a", 0.05)
    with pytest.raises(DataError, match="no point of the grid falls on the tissue"):
        grid(tissue(), "a", 5000.0)
    with pytest.raises(DataError, match="spacing_um is out of range"):
        grid(tissue(), "a", 0.0)
    with pytest.raises(DataError, match="reach of the spots of section 'a' is not known"):
        grid(tissue()[:1].copy(), "a", 50.0)
