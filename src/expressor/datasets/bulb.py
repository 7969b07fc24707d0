"""Mouse olfactory bulb: three sections of Spatial Transcriptomics with small pictures and a thousand genes."""

from collections.abc import Sequence

import anndata as ad
import numpy as np

from expressor.core.errors import DataError, check_choice
from expressor.data import keys
from expressor.data.readers.legacy_st import read_legacy_st
from expressor.datasets.assemble import join, local_folder, place, read_local
from expressor.datasets.dataset import Dataset
from expressor.datasets.fetch import fetch
from expressor.datasets.sources import ORIGINS, remote_files

SECTIONS = ("MOB1", "MOB2", "MOB3")
ARRAY_UNIT_UM = 100.0
PITCH_UM = ARRAY_UNIT_UM * 2**0.5  # spots sit on every second place of the array, as on one colour of a chessboard
SPOT_DIAMETER_UM = 100.0
TECHNOLOGY = "Spatial Transcriptomics 2k"
LICENCE = "MIT"
CITATION = (
    "Bergenstråhle J, Larsson L, Lundeberg J. Seamless integration of image and molecular analysis for spatial "
    "transcriptomics workflows. BMC Genomics 21, 482 (2020). doi:10.1186/s12864-020-06832-3"
)


def mouse_olfactory_bulb(*, sections: Sequence[str] | None = None) -> Dataset:
    """Load sections of the mouse olfactory bulb, the example data of STUtility.

    They come from the folder named by ``EXPRESSOR_DATA`` or else are downloaded once, about 4.3 MB a section.

    Parameters
    ----------
    sections
        Names among ``MOB1``, ``MOB2``, ``MOB3``; by default all.

    Returns
    -------
    Dataset
        ``X``: raw counts, float32 CSR (spot, gene), 1,000 genes named by mouse Ensembl ids with versions. The total counts in
        ``obs`` are over these genes: the source gives no others. ``obsm["spatial"]``: pixels of pictures of 1,905 x 1,905.

    Raises
    ------
    DataError
        An unknown section, or a download that is not possible.

    Notes
    -----
    The source states no scale. It is estimated in each section from the array, whose unit is 100 um. The unit is 21.6 pixels
    wide and 24.1 high, since the pictures were made square: a pixel is about 4.6 um wide and 4.2 um high, and the one number
    given is the geometric mean, 4.4 um per pixel. The spot diameter, 100 um, is that of the older arrays of the same make.
    """
    wanted = list(SECTIONS if sections is None else [sections] if isinstance(sections, str) else sections)
    for one in wanted:
        check_choice(one, SECTIONS, name="section")
    if len(set(wanted)) != len(wanted) or not wanted:
        raise DataError("sections are named twice or not at all", expected="different names", got=wanted)
    parts, sources = zip(*(_load(one) for one in wanted))
    return Dataset(
        join(list(parts)),
        name="mouse_olfactory_bulb",
        licence=LICENCE,
        citation=CITATION,
        source=", ".join(dict.fromkeys(sources)),
    )


def _load(section: str) -> tuple[ad.AnnData, str]:
    folder = local_folder("mob", f"{section}.h5ad", f"{section}.jpg")
    if folder is None:
        paths = {role: fetch(file) for role, file in remote_files("mob", section).items()}
        adata = read_legacy_st(
            paths["counts"], paths["spots"], None, section=section, um_per_px="from_pitch", array_unit_um=ARRAY_UNIT_UM
        )
        image, source = paths["image"], ORIGINS["mob"].url
    else:
        adata = read_local(folder / f"{section}.h5ad")
        image, source = folder / f"{section}.jpg", str(folder)
    points = np.asarray(adata.obsm[keys.SPATIAL], dtype=np.float64)
    placed = place(
        adata,
        section=section,
        patient=None,
        image=image,
        points=points,
        um_per_px=_estimate_scale(adata.obs[["array_x", "array_y"]].to_numpy(dtype=np.float64), points),
        spot_diameter_um=SPOT_DIAMETER_UM,
        pitch_um=PITCH_UM,
        technology=TECHNOLOGY,
        keep=("array_x", "array_y"),
    )
    return placed, source


def _estimate_scale(array: np.ndarray, points: np.ndarray) -> float:
    """Return um per pixel from an affine fit of (spot, 2) pixels to (spot, 2) array positions: the root of its area scale."""
    design = np.column_stack([array, np.ones(len(array))])
    linear = np.linalg.lstsq(design, points, rcond=None)[0][:2]
    return ARRAY_UNIT_UM / float(np.sqrt(abs(np.linalg.det(linear))))
