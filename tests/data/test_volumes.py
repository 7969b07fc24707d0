"""A user's map at places and per parcel, against the formula it was made from."""

import numpy as np
import pandas as pd
import pytest

from expressor.core.errors import DataError, FormatError
from expressor.data import volume_at, volume_per_parcel
from expressor.data.parcels import Parcellation

nibabel = pytest.importorskip("nibabel")
AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -30], [0, 0, 2, -10], [0, 0, 0, 1]])


def plane(points: np.ndarray) -> np.ndarray:
    return points @ [0.5, -1.0, 2.0] + 3.0


@pytest.fixture
def image(tmp_path):
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in (20, 25, 15)), indexing="ij"), -1)
    volume = plane(voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3])
    volume[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE), tmp_path / "map.nii.gz")
    return tmp_path / "map.nii.gz"


def test_between_voxels(image):
    points = np.random.default_rng(0).uniform([-17, -29, -9], [19, 17, 17], size=(40, 3))
    np.testing.assert_allclose(volume_at(image, points), plane(points), atol=1e-5)
    assert np.isnan(volume_at(image, np.array([[90.0, 0, 0], [19.8, -29.8, -9.8]]))).all()
    beside = np.array([[18.0, -30, -10]])  # a voxel's middle, next to the one that is NaN
    np.testing.assert_allclose(volume_at(image, beside), plane(beside), atol=1e-5)


def test_per_parcel(image):
    labels = np.zeros((4, 4, 4), dtype=np.int32)
    labels[:2], labels[2:, 2:] = 9, 4
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = [-5, -10, 0]
    table = pd.DataFrame(
        {"label": list("abc"), "hemisphere": "L", "part": "cortex"}, index=pd.Index([9, 2, 4], name="id")
    )
    found = volume_per_parcel(image, Parcellation(labels, affine, table))
    expected = [plane(np.argwhere(labels == one) * 3.0 + [-5, -10, 0]).mean() for one in (9, 4)]
    np.testing.assert_allclose(found[[0, 2]], expected, atol=1e-5)
    assert np.isnan(found[1])


def test_what_is_refused(tmp_path):
    with pytest.raises(DataError, match="none.nii"):
        volume_at(tmp_path / "none.nii", np.zeros((1, 3)))
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2)), AFFINE), tmp_path / "four.nii")
    with pytest.raises(FormatError, match=r"is no volume; expected three dimensions, got \(3, 3, 3, 2\)"):
        volume_at(tmp_path / "four.nii", np.zeros((1, 3)))
