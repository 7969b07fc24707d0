"""The mouse olfactory bulb, where the originals are at hand."""

import os

import numpy as np
import pytest

from expressor.core.errors import DataError
from expressor.data.images import open_image
from expressor.data.spatial import check_spatial, pitch_px
from expressor.datasets import mouse_olfactory_bulb
from expressor.datasets.bulb import _estimate_scale
from expressor.genes.ids import detect_namespace

needs_data = pytest.mark.skipif("EXPRESSOR_DATA" not in os.environ, reason="EXPRESSOR_DATA is not set")


@needs_data
def test_three_sections_in_the_layout():
    dataset = mouse_olfactory_bulb()
    adata = dataset.adata
    assert dict(adata.obs["section"].value_counts()) == {"MOB3": 438, "MOB2": 407, "MOB1": 379}
    assert adata.n_vars == 1000
    assert detect_namespace(adata.var_names) == "ensembl"
    assert dataset.licence == "MIT"
    assert "patient" not in adata.obs
    check_spatial(adata)
    train, test = dataset.split(by="section", held_out=["MOB2"])
    assert (train.n_obs, test.n_obs) == (379 + 438, 407)


@needs_data
@pytest.mark.parametrize("section", ["MOB1", "MOB2", "MOB3"])
def test_spots_lie_on_tissue(section):
    adata = mouse_olfactory_bulb(sections=[section]).adata
    entry = adata.uns["spatial"][section]
    scale = entry["scalefactors"]["microns_per_pixel"]
    assert scale == pytest.approx(4.38, abs=0.01)
    assert pitch_px(adata.obsm["spatial"]) * scale == pytest.approx(141.4, rel=0.05)
    with open_image(entry["metadata"]["image"], um_per_px=scale) as image:
        tissue = image.tissue_mask(1905)

    def share(points: np.ndarray) -> float:
        x, y = np.clip(points.astype(int), 0, 1904).T
        return float(tissue[y, x].mean())

    assert share(adata.obsm["spatial"]) > 0.87
    assert share(adata.obsm["spatial"] + [0, 250]) < 0.75
    assert share(adata.obsm["spatial"] - [250, 0]) < 0.75


def test_scale_is_measured_on_the_array():
    array = np.array([(x, y) for x in range(6) for y in range(5)], dtype=float)
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    points = array @ (np.diag([20.0, 25.0]) @ turn) + [300, 40]
    assert _estimate_scale(array, points) == pytest.approx(100 / np.sqrt(20 * 25))


def test_what_a_user_may_get_wrong():
    with pytest.raises(DataError, match="unknown section 'MOB9'"):
        mouse_olfactory_bulb(sections=["MOB9"])
    with pytest.raises(DataError, match="named twice"):
        mouse_olfactory_bulb(sections=["MOB1", "MOB1"])
