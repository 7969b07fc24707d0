import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse

from expressor.core.errors import DataError, FormatError, MissingExtra
from expressor.data import image_path, microns_per_pixel, spot_diameter_um
from expressor.data.readers import read_spatialdata

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("spatialdata") is None, reason="spatialdata (extra spatial) is not installed"
)
pytestmark = pytest.mark.filterwarnings("ignore")

WIDTH, HEIGHT = 640, 480


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    for data in (tmp_path, object()):
        with pytest.raises(MissingExtra, match=r"'spatialdata' is needed to read SpatialData.*expressor\[spatial\]"):
            read_spatialdata(data, um_per_px=0.5)


def make(two_regions=False, pyramid=False):
    """Circles in micrometres, an image of 0.5 um per pixel that is turned by 90 degrees and shifted, both in 'global'."""
    import geopandas as gpd
    from shapely import Point
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Identity

    rng = np.random.default_rng(0)
    to_global = np.array([[0.0, -0.5, 300.0], [0.5, 0.0, 20.0], [0.0, 0.0, 1.0]])
    pixels = rng.uniform(50, 400, (20, 2))
    um = pixels @ to_global[:2, :2].T + to_global[:2, 2]
    data = rng.integers(0, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
    image = Image2DModel.parse(
        data,
        dims=("c", "y", "x"),
        transformations={"global": Affine(to_global, input_axes=("x", "y"), output_axes=("x", "y"))},
        scale_factors=[2] if pyramid else None,
    )
    names = ["spots", "others"] if two_regions else ["spots"]
    shapes = {}
    for name in names:
        frame = gpd.GeoDataFrame(
            {"radius": np.full(20, 12.0)}, geometry=[Point(*at) for at in um], index=[f"id{i}" for i in range(20)]
        )
        shapes[name] = ShapesModel.parse(frame, transformations={"global": Identity()})
    order = rng.permutation(20)
    counts = rng.poisson(2, (20, 6)).astype(np.float32)
    obs = pd.DataFrame(
        {"region": pd.Categorical(["spots"] * 20), "key": [f"id{i}" for i in order]}, index=[f"b{i}" for i in order]
    )
    if two_regions:
        obs["region"] = pd.Categorical(np.where(order < 15, "spots", "others"))
    table = AnnData(sparse.csr_matrix(counts[order]), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(6)]))
    table = TableModel.parse(table, region=names, region_key="region", instance_key="key")
    sdata = SpatialData(images={"he": image}, shapes=shapes, tables={"table": table})
    return sdata, pixels[order], counts[order], data


@needs_library
@pytest.mark.parametrize("pyramid", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_positions_are_moved_into_the_pixels_of_the_image(tmp_path, pyramid, stored):
    sdata, pixels, counts, data = make(pyramid=pyramid)
    if stored:
        sdata.write(tmp_path / "s.zarr")
        sdata = tmp_path / "s.zarr"
    Image.fromarray(np.moveaxis(data, 0, -1)).save(tmp_path / "he.png")
    adata = read_spatialdata(sdata, um_per_px=0.5, image_path=tmp_path / "he.png", patient="P")
    np.testing.assert_allclose(adata.obsm["spatial"], pixels, atol=1e-6)
    assert (adata.X.toarray() == counts).all()
    assert microns_per_pixel(adata, "spots") == 0.5
    # A radius of 12 um is 48 px across.
    assert spot_diameter_um(adata, "spots") == pytest.approx(24.0)
    assert image_path(adata, "spots") == tmp_path / "he.png"
    assert adata.uns["spatial"]["spots"]["metadata"]["image_width"] == WIDTH


@needs_library
def test_what_is_ambiguous_or_missing_is_asked_for(tmp_path):
    sdata, _, _, _ = make(two_regions=True)
    with pytest.raises(DataError, match="it is not clear which region is meant; expected one of 'spots', 'others'"):
        read_spatialdata(sdata, um_per_px=0.5)
    assert read_spatialdata(sdata, um_per_px=0.5, region="spots").n_obs == 15
    with pytest.raises(DataError, match="there is no region 'spot'; .*nearest: 'spots'"):
        read_spatialdata(sdata, um_per_px=0.5, region="spot")
    with pytest.raises(DataError, match="scale of region 'spots' is not known.*Give um_per_px"):
        read_spatialdata(sdata, region="spots")
    with pytest.raises(DataError, match="there is no table 'tables'"):
        read_spatialdata(sdata, table="tables", um_per_px=0.5)
    with pytest.raises(DataError, match="which image in the coordinate system 'aligned' is meant; got no image"):
        read_spatialdata(sdata, region="spots", um_per_px=0.5, coordinate_system="aligned")
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match="small.png is not the full resolution of the image; expected 640 x 480 px"):
        read_spatialdata(sdata, region="spots", um_per_px=0.5, image_path=tmp_path / "small.png")


@needs_library
def test_a_damaged_store_is_refused(tmp_path):
    sdata, _, _, _ = make()
    sdata.write(tmp_path / "s.zarr")
    meta = tmp_path / "s.zarr" / "zarr.json"
    meta.write_text(meta.read_text()[:-30])
    with pytest.raises(FormatError, match="cannot be read as zarr"):
        read_spatialdata(tmp_path / "s.zarr", um_per_px=0.5)
