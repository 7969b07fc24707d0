"""The surface of the cortex that comes with nilearn, in mm of MNI152: fsaverage5, 10,242 vertices a side."""

import importlib.resources
import os
from typing import Any

import numpy as np

from expressor.core.errors import FormatError, check_choice
from expressor.core.optional import need
from expressor.data.guard import find, reading

SIDES = ("left", "right")
KINDS = ("pial", "white")

# FreeSurfer's surfaces are in MNI305; this is its map to MNI152 (FreeSurfer wiki, "CoordinateSystems", case 8).
_TO_MNI152 = np.array([
    [0.9975, -0.0073, 0.0176, -0.0429],
    [0.0146, 1.0009, -0.0024, 1.5496],
    [-0.0130, -0.0093, 0.9971, 1.1840],
])  # fmt: skip


def fsaverage(side: str, *, kind: str = "pial") -> tuple[np.ndarray, np.ndarray]:
    """Return the mesh of one hemisphere's cortex; needs the extra ``brain``.

    Parameters
    ----------
    side
        ``"left"`` or ``"right"``.
    kind
        ``"pial"``: the outer surface. ``"white"``: the border to white matter; expression of the cortex lies between.

    Returns
    -------
    vertices, faces
        float64 (10242, 3) in mm of MNI152, and int64 (20480, 3): the vertices of each triangle. The vertices' order is that of
        fsaverage5, so that values at them can be drawn or compared by any tool that knows it.
    """
    check_choice(side, SIDES, name="side")
    check_choice(kind, KINDS, name="surface")
    nibabel = need("nibabel", extra="brain", purpose="read surfaces")
    need("nilearn", extra="brain", purpose="read its surface")
    folder = importlib.resources.files("nilearn") / "datasets/data/fsaverage5"
    with (
        reading("the surface of nilearn", "GIFTI"),
        importlib.resources.as_file(folder / f"{kind}_{side}.gii.gz") as path,
    ):
        mesh = nibabel.load(path)
        vertices, faces = mesh.agg_data("pointset"), mesh.agg_data("triangle")
    vertices = np.asarray(vertices, dtype=np.float64) @ _TO_MNI152[:, :3].T + _TO_MNI152[:, 3]
    return vertices, np.asarray(faces, dtype=np.int64)


def read_vertices(mesh: Any) -> np.ndarray:
    """Return the vertices of a mesh, (vertex, 3) in its own space.

    Parameters
    ----------
    mesh
        Coordinates, a pair of coordinates and faces such as of :func:`fsaverage`, or the path of a GIFTI surface, for which the
        extra ``brain`` is needed.

    Raises
    ------
    DataError
        There is no such file.
    FormatError
        It holds no surface.
    """
    if not isinstance(mesh, str | os.PathLike):
        return np.asarray(mesh[0] if isinstance(mesh, tuple | list) and len(mesh) == 2 else mesh)
    path = find(mesh, what="GIFTI surface")
    nibabel = need("nibabel", extra="brain", purpose="read surfaces")
    with reading(path, "GIFTI"):
        loaded = nibabel.load(path)
    found = loaded.agg_data("pointset") if isinstance(loaded, nibabel.GiftiImage) else ()
    if not isinstance(found, np.ndarray):
        raise FormatError(f"{path} holds no surface", expected="a GIFTI file with the coordinates of vertices",
                          fix="Files of values (.func.gii, .shape.gii) have none: give the surface's own file.")  # fmt: skip
    return found
