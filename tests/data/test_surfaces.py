"""The cortex's mesh lies on the template's brain, each side on its own."""

import numpy as np
import pytest

from expressor.core.errors import DataError, FormatError
from expressor.data import check_places, distance_to_brain, fsaverage, tissue_at
from expressor.data.surfaces import read_vertices

pytest.importorskip("nilearn")
nibabel = pytest.importorskip("nibabel")


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


def test_vertices_are_read_from_a_file_or_taken_from_a_pair(tmp_path):
    vertices, faces = (
        np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32),
        np.array([[0, 1, 2]], dtype=np.int32),
    )
    codes = {"pointset": vertices, "triangle": faces, "shape": vertices[:, 0]}
    arrays = {
        name: nibabel.gifti.GiftiDataArray(one, intent=f"NIFTI_INTENT_{name.upper()}") for name, one in codes.items()
    }
    nibabel.GiftiImage(darrays=[arrays["pointset"], arrays["triangle"]]).to_filename(tmp_path / "lh.surf.gii")
    nibabel.GiftiImage(darrays=[arrays["shape"]]).to_filename(tmp_path / "lh.shape.gii")
    for mesh in (str(tmp_path / "lh.surf.gii"), vertices, (vertices, faces), [vertices, faces]):
        np.testing.assert_array_equal(read_vertices(mesh), vertices)
    with pytest.raises(FormatError, match=r"lh.shape.gii holds no surface.*give the surface's own file"):
        read_vertices(tmp_path / "lh.shape.gii")
    with pytest.raises(DataError, match="there is no GIFTI surface at fsaverage5"):
        read_vertices("fsaverage5")
