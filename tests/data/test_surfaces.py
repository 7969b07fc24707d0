"""The cortex's mesh lies on the template's brain, each side on its own."""

import numpy as np
import pytest

from expressor.core.errors import DataError
from expressor.data import check_places, distance_to_brain, fsaverage, tissue_at

pytest.importorskip("nilearn")


@pytest.mark.parametrize(("side", "sign"), [("left", -1), ("right", 1)])
def test_mesh_lies_on_the_brain(side, sign):
    pial, faces = fsaverage(side)
    white, same = fsaverage(side, kind="white")
    assert pial.shape == white.shape == (10242, 3)
    np.testing.assert_array_equal(faces, same)
    assert faces.shape == (20480, 3)
    assert faces.max() == 10241
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    assert len(pial) - len(edges) + len(faces) == 2  # a closed surface without holes
    assert (np.sign(white[:, 0]) == sign).mean() > 0.97
    assert (sign * pial[:, 0]).max() > 60
    check_places(pial)
    assert distance_to_brain(pial).max() < 5
    assert tissue_at(white)[:, 1].mean() > 1.5 * tissue_at(pial)[:, 1].mean()
    between = tissue_at((pial + white) / 2)
    assert between[:, 0].mean() > 0.5 > between[:, 1].mean()


def test_what_is_refused():
    with pytest.raises(DataError, match="unknown side 'lh'"):
        fsaverage("lh")
    with pytest.raises(DataError, match="unknown surface 'inflated'"):
        fsaverage("left", kind="inflated")
