"""MNI space: grids, tissue, what is refused and how, and NIfTI written piece by piece."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from expressor.core.errors import DataError, FormatError
from expressor.data import brainspace, keys
from expressor.data.brainspace import (
    Grid,
    brain_grid,
    check_brain,
    check_places,
    grid_of,
    read_grid,
    tissue_at,
    write_maps,
)
from expressor.data.parcels import check_parcellation, read_parcellation

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")


@pytest.fixture(scope="module")
def grid() -> Grid:
    return brain_grid(resolution=4)


def test_grid_covers_the_brain(grid):
    points = grid.points()
    assert points.shape == (len(grid), 3)
    assert 0.9 < len(grid) * 64 / (235_375 * 8) < 1.1  # the same volume as at 2 mm
    assert ((points > brainspace.BOX[0]) & (points < brainspace.BOX[1])).all()
    assert (brainspace.distance_to_brain(points) <= 4).all()
    volume = grid.fill(np.arange(len(grid)))
    np.testing.assert_array_equal(volume[grid.mask], np.arange(len(grid)))
    assert np.isnan(volume[~grid.mask]).all()
    with pytest.raises(DataError, match=r"values do not fit the grid; expected \(\d+,\), got \(3,\)"):
        grid.fill(np.zeros(3))
    with pytest.raises(DataError, match="unknown mask 'gray'.*nearest: 'grey'"):
        brain_grid(mask="gray")


def test_tissue_against_the_template_voxel_by_voxel():
    from nilearn import datasets

    grey, white = (
        np.asarray(one().dataobj) for one in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    affine = datasets.load_mni152_gm_template().affine
    rng = np.random.default_rng(0)
    voxel = rng.integers(5, 180, size=(200, 3)) % np.array(grey.shape)
    points = voxel @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(tissue_at(points)[:, 0], grey[tuple(voxel.T)], atol=1e-6)
    np.testing.assert_allclose(tissue_at(points)[:, 1], white[tuple(voxel.T)], atol=1e-6)
    # Between two voxels: the mean of both.
    half = points + np.array([0.5, 0, 0])
    mean = (grey[tuple(voxel.T)] + grey[tuple((voxel + [1, 0, 0]).T)]) / 2
    np.testing.assert_allclose(tissue_at(half)[:, 0], mean, atol=1e-6)
    assert (tissue_at(np.array([[300.0, 0, 0]])) == 0).all()
    deep = tissue_at(np.array([[-26.0, -20, 26]]))  # deep white matter
    assert deep[0, 1] > 0.9 > 0.1 > deep[0, 0]


def test_places_are_checked():
    good = np.array([[0.0, 0, 0], [-40, -60, 20]])
    np.testing.assert_array_equal(check_places(good, template=True), good)
    with pytest.raises(
        DataError, match=r"coordinates hold no places; expected numbers \(point, 3\).*got float64 \(2, 2\)"
    ):
        check_places(good[:, :2])
    with pytest.raises(DataError, match="1 of 2 coordinates are NaN or infinite; got the first in row 1"):
        check_places(np.array([[0.0, 0, 0], [np.nan, 0, 0]]))
    with pytest.raises(
        DataError, match=r"1 of 2 coordinates lie outside the brain.*got \(0, 0, 150\) in row 1.*own space"
    ):
        check_places(np.array([[0.0, 0, 0], [0, 0, 150]]))
    # Inside the box, but in the air beside the head: only the template tells.
    corner = np.array([[75.0, 75, 80]])
    check_places(corner)
    with pytest.raises(DataError, match="outside the brain"):
        check_places(corner, template=True)
    with pytest.raises(DataError, match="lie within 0.1 mm.*metres"):
        check_places(np.random.default_rng(0).uniform(-0.05, 0.05, size=(100, 3)).round(3) * [1, 1, 1.0])


@pytest.mark.parametrize(
    ("size", "offset", "name"), [(1, [98, 134, 72], "1 mm (ICBM 2009)"), (2, [-45, 63, 36], "2 mm (FSL)")]
)
def test_voxel_numbers_are_told_from_mm(size, offset, name):
    mm = np.random.default_rng(1).uniform([-60, -90, -40], [60, 60, 70], size=(50, 3))
    voxel = (
        np.rint(mm / size + offset)
        if size == 1
        else np.rint(np.stack([(90 - mm[:, 0]) / 2, (mm[:, 1] + 126) / 2, (mm[:, 2] + 72) / 2], axis=1))
    )
    with pytest.raises(DataError, match=re.escape(f"look like voxel numbers of a {name} grid")):
        check_places(np.vstack([voxel, [[60, 90, 90]]]))


def samples(n: int = 60) -> ad.AnnData:
    rng = np.random.default_rng(2)
    places = rng.uniform([-60, -90, -40], [60, 60, 70], size=(n, 3))
    obs = pd.DataFrame({keys.DONOR: np.repeat(["a", "b", "c"], n // 3)}, index=[f"s{i}" for i in range(n)])
    return ad.AnnData(rng.normal(size=(n, 4)).astype(np.float32), obs=obs, obsm={keys.MNI: places})


def test_brain_data_are_checked():
    adata = samples()
    np.testing.assert_array_equal(check_brain(adata), adata.obsm[keys.MNI])
    other = adata.copy()
    other.X[7, 2] = np.nan
    with pytest.raises(DataError, match="1 values of expression are NaN or infinite, the first in sample 's7'"):
        check_brain(other)
    other = adata.copy()
    other.obsm[keys.MNI][:20] += [100, 130, 75]
    with pytest.raises(
        DataError, match="donor 'a' is in another space than the others; expected samples around y .*own scan"
    ):
        check_brain(other)
    other = adata.copy()
    other.obs["space"] = ["MNI152"] * 20 + ["native"] * 40
    with pytest.raises(DataError, match="donors are in different spaces; got MNI152, native"):
        check_brain(other)
    other = adata.copy()
    other.uns[keys.SPACE] = "Talairach"
    with pytest.raises(DataError, match="the samples are in another space; expected MNI152, got 'Talairach'"):
        check_brain(other)
    del other.obsm[keys.MNI]
    with pytest.raises(DataError, match="obsm has no 'mni'"):
        check_brain(other)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_maps_are_written_as_nibabel_reads_them(grid, tmp_path, suffix):
    values = np.random.default_rng(3).normal(size=(3, len(grid))).astype(np.float32)
    path = write_maps(tmp_path / f"maps{suffix}", grid, iter(values), n_maps=3)
    image = nibabel.load(path)
    assert image.shape == (*grid.mask.shape, 3)
    np.testing.assert_array_equal(image.affine, grid.affine)
    for i in range(3):
        np.testing.assert_array_equal(np.asarray(image.dataobj)[..., i][grid.mask], values[i])
    assert image.header.get_xyzt_units()[0] == "mm"
    single = write_maps(tmp_path / f"one{suffix}", grid, [values[0]], n_maps=1, outside=0.0)
    assert nibabel.load(single).shape == grid.mask.shape
    again = grid_of(single)
    np.testing.assert_array_equal(again.mask, grid.mask)
    with pytest.raises(DataError, match="exists"):
        write_maps(single, grid, [values[0]], n_maps=1)
    with pytest.raises(DataError, match="not as many as announced; expected 2, got 1"):
        write_maps(tmp_path / f"two{suffix}", grid, [values[0]], n_maps=2)
    assert not (tmp_path / f"two{suffix}").exists()
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(DataError, match="there is no folder .*none to write map.nii into"):
        write_maps(tmp_path / "none" / "map.nii", grid, [values[0]], n_maps=1)
    with pytest.raises(DataError, match="ends in .nii"):
        write_maps(tmp_path / "map.img", grid, [values[0]], n_maps=1)


def test_parcellations_are_read_and_checked(tmp_path):
    volume = np.zeros((6, 5, 4), dtype=np.int16)
    volume[:3], volume[3:, 2:] = 1, 2
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [-6, -5, -4]
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "atlas.nii.gz")
    table = "id,label,hemisphere,structure\n1,one,L,cortex\n2,two,R,cortex\n3,three,R,cortex\n"
    (tmp_path / "atlas.csv").write_text(table)
    atlas = read_parcellation(tmp_path / "atlas.nii.gz", tmp_path / "atlas.csv")
    for parcel in (1, 2):
        index = np.argwhere(volume == parcel)
        np.testing.assert_allclose(atlas.centroids().loc[parcel], (index * 2 + affine[:3, 3]).mean(axis=0))
    assert atlas.centroids().loc[3].isna().all()
    assert atlas.at(np.array([[-6.0, -5, -4], [4.4, 3.2, 2.1], [4.0, -5, -4], [40, 0, 0]])).tolist() == [1, 2, 0, 0]
    (tmp_path / "atlas.csv").write_text("\n".join(table.splitlines()[:2]))
    with pytest.raises(DataError, match="parcel 2 of the volume is not in the table"):
        read_parcellation(tmp_path / "atlas.nii.gz", tmp_path / "atlas.csv")
    (tmp_path / "atlas.csv").write_text(table.replace("hemisphere", "side"))
    with pytest.raises(FormatError, match="has no column 'hemisphere'"):
        read_parcellation(tmp_path / "atlas.nii.gz", tmp_path / "atlas.csv")
    nibabel.save(nibabel.Nifti1Image(volume + np.float32(0.5), affine), tmp_path / "map.nii.gz")
    with pytest.raises(FormatError, match="holds no parcels; expected whole numbers in three dimensions"):
        read_parcellation(tmp_path / "map.nii.gz", tmp_path / "atlas.csv")
    assert check_parcellation(atlas) is atlas
    with pytest.raises(DataError, match="this is no parcellation; expected a Parcellation, got str. Read it with"):
        check_parcellation("atlas.nii.gz")
    parcels = np.array([2, 1, 2])
    mean, count = atlas.means([(parcels, np.array([[1.0, 0], [5, 6], [3, 4]])), (parcels[:1], np.array([[5.0, 2]]))])
    np.testing.assert_array_equal(mean, [[5, 6], [3, 2], [np.nan, np.nan]])
    assert count.tolist() == [1, 3, 0]
    (tmp_path / "map.nii.gz").write_bytes(b"no image")
    with pytest.raises(FormatError, match="cannot be read as NIfTI"):
        grid_of(tmp_path / "map.nii.gz")
    with pytest.raises(DataError, match="there is no NIfTI at"):
        read_grid(tmp_path / "absent.nii.gz")
    with pytest.raises(DataError, match="this is no grid; expected a Grid, or the path of a NIfTI, got ndarray"):
        read_grid(volume)
