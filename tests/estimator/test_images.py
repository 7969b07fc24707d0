"""image_features: the right patches of the right image for every spot; what is refused; features made elsewhere."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image

from expressor.core.errors import DataError, FormatError
from expressor.data.images import open_image
from expressor.data.patches import Patches, PatchSpec
from expressor.encoders import FeatureCache, encode
from expressor.encoders.descriptor import CARD
from expressor.estimator.images import attach_features, image_features

SIDE, UM_PER_PX = {"S1": (420, 380), "S2": (300, 340)}, {"S1": 1.0, "S2": 2.0}


class Mean:
    """Mean colour; the mean of the four quarters as tokens."""

    def __init__(self):
        self.card = replace(CARD, name="mean", input_px=16, um_per_px=1.0, dim=3)
        self.identity = ("mean", "1")
        self.seen = 0

    def __call__(self, pixels):
        self.seen += len(pixels)
        return pixels.mean(axis=(1, 2), dtype=np.float32)

    def tokens(self, pixels):
        return np.stack(
            [pixels[:, r : r + 8, c : c + 8].mean(axis=(1, 2)) for r in (0, 8) for c in (0, 8)], axis=1
        ).astype(np.float32)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    made = {}
    for section, size in SIDE.items():
        made[section] = tmp_path / f"{section}.png"
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC).save(
            made[section]
        )
    return made


def tissue(pictures, *, hires=False, seed=1):
    """Spots of two sections in mixed order, on a grid of 30 px."""
    rng = np.random.default_rng(seed)
    places, labels = [], []
    for section, (width, height) in SIDE.items():
        grid = np.stack(np.meshgrid(np.arange(25, width - 25, 40), np.arange(25, height - 25, 40)), axis=-1).reshape(
            -1, 2
        )
        places.append(grid + 0.25)
        labels += [section] * len(grid)
    order = rng.permutation(len(labels))
    labels, places = np.array(labels)[order], np.concatenate(places)[order].astype(np.float64)
    spatial = {}
    for section, (width, height) in SIDE.items():
        spatial[section] = {
            "images": {},
            "scalefactors": {"spot_diameter_fullres": 20.0, "microns_per_pixel": UM_PER_PX[section]},
            "metadata": {
                "image": str(pictures[section]),
                "image_width": width,
                "image_height": height,
                "technology": "test",
            },
        }
        if hires:
            small = Image.open(pictures[section]).resize((width // 2, height // 2), Image.Resampling.BOX)
            spatial[section]["images"]["hires"] = np.asarray(small)
            spatial[section]["scalefactors"]["tissue_hires_scalef"] = 0.5
            spatial[section]["metadata"]["image"] = ""
    return AnnData(
        X=np.ones((len(labels), 2), np.float32),
        obs=pd.DataFrame({"section": pd.Categorical(labels)}, index=[f"spot{i}" for i in range(len(labels))]),
        obsm={"spatial": places},
        uns={"spatial": spatial},
    )


def test_every_spot_gets_the_features_of_its_own_place(pictures):
    adata = tissue(pictures)
    found = image_features(adata, encoder=Mean(), patch_um=24.0, cache=None)
    assert found.shape == (adata.n_obs, 3)
    assert found.dtype == np.float32
    for row in range(adata.n_obs):
        section = adata.obs["section"].iloc[row]
        with open_image(pictures[section], um_per_px=UM_PER_PX[section]) as image:
            one = Patches(image, adata.obsm["spatial"][[row]], PatchSpec(size_um=24.0, px=16))
            np.testing.assert_array_equal(found[row], encode(one, Mean())[0])


def test_order_subsets_and_tokens(pictures):
    adata = tissue(pictures)
    found = image_features(adata, encoder=Mean(), cache=None)
    order = np.random.default_rng(5).permutation(adata.n_obs)[:30]
    np.testing.assert_array_equal(image_features(adata[order], encoder=Mean(), cache=None), found[order])
    tokens = image_features(adata, encoder=Mean(), cache=None, pooled=False)
    assert tokens.shape == (adata.n_obs, 4, 3)
    np.testing.assert_allclose(tokens.mean(axis=1), found, atol=0.01)


def test_the_side_defaults_to_what_the_encoder_was_made_for(pictures):
    adata = tissue(pictures)
    np.testing.assert_array_equal(
        image_features(adata, encoder=Mean(), cache=None),
        image_features(adata, encoder=Mean(), patch_um=16.0, cache=None),
    )


def test_the_cache_serves_any_split(pictures, tmp_path, monkeypatch):
    adata, model, store = tissue(pictures), Mean(), FeatureCache(tmp_path / "cache")
    whole = image_features(adata, encoder=model, cache=store)
    assert model.seen == adata.n_obs
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(adata.n_obs)[:20]
        np.testing.assert_array_equal(image_features(adata[rows].copy(), encoder=model, cache=store), whole[rows])
    assert model.seen == adata.n_obs
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path / "own"))
    image_features(adata, encoder=model)
    assert model.seen == 2 * adata.n_obs
    assert list((tmp_path / "own" / "features").rglob("*.safetensors"))


def test_the_users_data_is_unchanged(pictures):
    adata = tissue(pictures)
    before = adata.copy()
    image_features(adata, encoder=Mean(), cache=None)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.obsm["spatial"], before.obsm["spatial"])
    assert list(adata.obsm) == list(before.obsm)
    assert set(adata.uns) == set(before.uns)


def test_without_an_image_file_the_preview_is_used_and_said(pictures, caplog):
    adata = tissue(pictures, hires=True)
    with caplog.at_level(logging.INFO, logger="expressor"):
        found = image_features(adata, encoder=Mean(), patch_um=40.0, cache=None)
    assert "section S1 names no image file; its patches come from the preview at 2 um/px" in caplog.text
    full = image_features(tissue(pictures), encoder=Mean(), patch_um=40.0, cache=None)
    assert np.abs(found - full).mean() < 3  # the same tissue at half the resolution
    assert np.corrcoef(found.ravel(), full.ravel())[0, 1] > 0.99


def test_images_from_another_place(pictures, tmp_path):
    adata = tissue(pictures)
    expected = image_features(adata, encoder=Mean(), cache=None)
    moved = {}
    for section, path in pictures.items():
        moved[section] = tmp_path / "elsewhere" / path.name
        moved[section].parent.mkdir(exist_ok=True)
        path.rename(moved[section])
    with pytest.raises(DataError, match="the image of section 'S1' is not there"):
        image_features(adata, encoder=Mean(), cache=None)
    np.testing.assert_array_equal(image_features(adata, encoder=Mean(), cache=None, images=moved), expected)


def test_the_wrong_image_is_refused(pictures):
    adata = tissue(pictures)
    with pytest.raises(
        DataError,
        match=r"not the one that the positions of section 'S1' belong to",
    ):
        image_features(adata, encoder=Mean(), cache=None, images={"S1": pictures["S2"]})


def test_images_and_scales_are_checked(pictures):
    adata = tissue(pictures)
    adata.uns["spatial"]["S1"]["metadata"]["image"] = ""
    with pytest.raises(DataError, match="section 'S1' names no full-resolution image"):
        image_features(adata, encoder=Mean(), cache=None)
    adata = tissue(pictures)
    del adata.uns["spatial"]["S2"]["scalefactors"]["microns_per_pixel"]
    with pytest.raises(DataError, match="the scale of section 'S2' is not known"):
        image_features(adata, encoder=Mean(), cache=None)
    adata = tissue(pictures)
    adata.obsm["spatial"] = adata.obsm["spatial"] + 500
    with pytest.raises(DataError, match="lie outside the image"):
        image_features(adata, encoder=Mean(), cache=None)
    pictures["S1"].write_bytes(pictures["S1"].read_bytes()[:900])
    with pytest.raises(FormatError, match="S1.png cannot be read as an image"):
        image_features(tissue(pictures), encoder=Mean(), cache=None)


def test_no_spots(pictures):
    with pytest.raises(DataError):
        image_features(tissue(pictures)[:0], encoder=Mean(), cache=None)


@pytest.mark.parametrize("kind", ["array", "frame", "sparse"])
def test_precomputed_features(pictures, kind):
    from scipy import sparse

    adata = tissue(pictures)
    values = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    adata.obsm["X_uni"] = {
        "array": values,
        "frame": pd.DataFrame(values, index=adata.obs_names, columns=list("abcd")),
        "sparse": sparse.csr_matrix(values),
    }[kind]
    found = image_features(adata, encoder="precomputed:X_uni")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))
    found[:] = 0  # a copy
    assert image_features(adata, encoder="precomputed:X_uni").any()


def test_precomputed_features_that_are_not_right(pictures):
    adata = tissue(pictures)
    adata.obsm["X_uni"] = np.ones((adata.n_obs, 3))
    with pytest.raises(DataError, match=r"no precomputed features obsm\['X_uno'\].*nearest: 'X_uni'"):
        image_features(adata, encoder="precomputed:X_uno")
    adata.obsm["X_uni"][4, 1] = np.nan
    with pytest.raises(DataError, match="of 1 of .* spots are not finite; got the first is 'spot4'"):
        image_features(adata, encoder="precomputed:X_uni")
    adata.obsm["X_text"] = pd.DataFrame({"a": ["x"] * adata.n_obs}, index=adata.obs_names)
    with pytest.raises(DataError, match="does not hold numbers"):
        image_features(adata, encoder="precomputed:X_text")


def test_patches_that_were_cut_before(pictures, tmp_path):
    adata = tissue(pictures)
    for section in SIDE:
        names = adata.obs_names[adata.obs["section"] == section]
        rng = np.random.default_rng(len(names))
        with h5py.File(tmp_path / f"{section}.h5", "w") as file:
            file["img"] = rng.integers(0, 256, (len(names), 16, 16, 3), dtype=np.uint8)
            file["coords"] = np.zeros((len(names), 2))
            file["barcode"] = np.array([[name.encode()] for name in names[::-1]])
        adata.uns["spatial"][section]["metadata"]["patches"] = str(tmp_path / f"{section}.h5")
    found = image_features(adata, encoder=Mean(), cache=None)
    rows = np.flatnonzero(adata.obs["section"] == "S1")
    with h5py.File(tmp_path / "S1.h5") as file:
        expected = file["img"][:].mean(axis=(1, 2), dtype=np.float32)[::-1]
    np.testing.assert_array_equal(found[rows], expected)


def write_features(path, adata, rows, width=6):
    """TRIDENT's layout: one patch around each spot, shuffled, and a far one."""
    order = np.random.default_rng(0).permutation(len(rows))
    values = np.random.default_rng(1).normal(size=(len(rows) + 1, width)).astype(np.float32)
    corners = np.concatenate([adata.obsm["spatial"][rows][order] - 8 + 1.5, [[-5000, -5000]]])
    with h5py.File(path, "w") as file:
        file["features"] = values
        file["coords"] = corners
        file["coords"].attrs["patch_size_level0"] = 16
    expected = np.empty((len(rows), width), np.float32)
    expected[order] = values[:-1]
    return expected


def test_features_of_other_tools_are_attached(pictures, tmp_path):
    adata = tissue(pictures)
    expected, files = np.empty((adata.n_obs, 6), np.float32), {}
    for section in SIDE:
        rows = np.flatnonzero(adata.obs["section"] == section)
        files[section] = tmp_path / f"{section}.h5"
        expected[rows] = write_features(files[section], adata, rows)
    with pytest.raises(DataError, match="1 of 2 sections have no feature file, for example 'S2'"):
        attach_features(adata, files["S1"], key="X_uni")
    with pytest.raises(DataError, match="have no patch .* near enough; expected a patch centre within 1 px"):
        attach_features(adata, files, key="X_uni", within_um=1.0)
    assert "X_uni" not in adata.obsm
    attach_features(adata, files, key="X_uni", within_um=5.0)
    np.testing.assert_array_equal(image_features(adata, encoder="precomputed:X_uni"), expected)
    with pytest.raises(DataError, match=r"obsm\['X_uni'\] exists already"):
        attach_features(adata, files, key="X_uni")
    write_features(files["S2"], adata, np.flatnonzero(adata.obs["section"] == "S2"), width=7)
    with pytest.raises(DataError, match="differ in the number of features; expected 6, got 7 in"):
        attach_features(adata, files, key="X_other", within_um=5.0)


def test_real_tissue():
    """Dense tissue has more RNA: on a real section colour follows the library size (.53 measured, about .2 by chance)."""
    root = os.environ.get("EXPRESSOR_DATA")
    if root is None:
        pytest.skip("EXPRESSOR_DATA is not set")
    from anndata import read_h5ad

    raw = read_h5ad(Path(root) / "her2st" / "C2.h5ad")
    um_per_px = float(raw.uns["um_per_px"])
    adata = AnnData(
        X=raw.X,
        obs=raw.obs[["section"]],
        obsm={"spatial": raw.obsm["spatial"]},
        uns={
            "spatial": {
                "C2": {
                    "images": {},
                    "scalefactors": {"microns_per_pixel": um_per_px, "spot_diameter_fullres": 100 / um_per_px},
                    "metadata": {"image": str(Path(root) / "her2st" / "C2.jpg"), "technology": "ST"},
                }
            }
        },
    )
    found = image_features(adata, encoder="colour")
    library = np.log(np.asarray(adata.X.sum(axis=1)).ravel())
    correlation = np.array([np.corrcoef(column, library)[0, 1] for column in found.T])
    assert found.shape == (187, 46)
    assert np.abs(correlation).max() > 0.45
