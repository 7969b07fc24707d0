"""HER2ST: HER2-positive breast tumours, Spatial Transcriptomics counts with haematoxylin-eosin pictures."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_choice
from expressor.datasets.assemble import join, local_folder, place, read_local, spatial_entry
from expressor.datasets.dataset import Dataset, take

SAMPLE = Path(__file__).resolve().parent / "sample"
SAMPLE_SECTIONS = ("C2", "C3", "C4", "C5")
SECTIONS = ("A1", "B4", "C2", "C3", "C4", "C5", "C6")
"""Sections with a picture whose bytes could be checked. The source has 36 sections of eight patients."""

RESOLUTIONS = ("sample", "full")
SPOT_DIAMETER_UM = 100.0
PITCH_UM = 200.0
TECHNOLOGY = "Spatial Transcriptomics"
LICENCE = "CC BY 4.0"
CITATION = (
    "Andersson A, Larsson L, Stenbeck L, et al. Spatial deconvolution of HER2-positive breast cancer delineates "
    "tumor-associated cell type interactions. Nature Communications 12, 6012 (2021). doi:10.1038/s41467-021-26271-2"
)


def her2st(*, sections: Sequence[str] | None = None, resolution: str | None = None) -> Dataset:
    """Load sections of HER2ST; four of them (patient C) come with the package.

    Parameters
    ----------
    sections
        Names among ``A1``, ``B4``, ``C2`` to ``C6``; the letter is the patient. By default ``C2`` to ``C5``.
    resolution
        ``"sample"``: as shipped, pictures at 1 um per pixel cut to the tissue (``C2`` to ``C5`` only).
        ``"full"``: the original pictures, 0.69 um per pixel (A1: a picture of 3.2 um per pixel, background blacked), from the
        folder named by ``EXPRESSOR_DATA`` or else downloaded once, about 5 MB a section. By default ``"sample"`` where it has
        all the sections, else ``"full"``.

    Returns
    -------
    Dataset
        ``X``: raw counts, float32 CSR (spot, gene), spots of 100 um at a pitch of 200 um, gene symbols. ``obs``: section,
        patient, array position, expression cluster, total counts over all listed genes, for A1 the pathologist's label.
        ``obsm["spatial"]``: pixels of the picture named in ``uns["spatial"]``.

    Raises
    ------
    DataError
        An unknown section or resolution, or a download that is not possible.
    """
    wanted = list(SAMPLE_SECTIONS if sections is None else [sections] if isinstance(sections, str) else sections)
    for one in wanted:
        check_choice(one, SECTIONS, name="section")
    if len(set(wanted)) != len(wanted) or not wanted:
        raise DataError("sections are named twice or not at all", expected="different names", got=wanted)
    if resolution is None:
        resolution = "sample" if set(wanted) <= set(SAMPLE_SECTIONS) else "full"
    check_choice(resolution, RESOLUTIONS, name="resolution")
    if resolution == "full":
        parts, sources = zip(*(_full(one) for one in wanted))
        adata, source = join(list(parts)), ", ".join(dict.fromkeys(sources))
    else:
        missing = [one for one in wanted if one not in SAMPLE_SECTIONS]
        if missing:
            raise DataError(
                f"the shipped sample does not have {', '.join(missing)}",
                expected="some of " + ", ".join(SAMPLE_SECTIONS),
                fix='Use resolution="full", which reads EXPRESSOR_DATA or downloads.',
            )
        adata, source = _sample(wanted), str(SAMPLE)
    return Dataset(adata, name="her2st", licence=LICENCE, citation=CITATION, source=source)


def _sample(wanted: list[str]) -> ad.AnnData:
    adata = ad.read_h5ad(SAMPLE / "her2st.h5ad")
    adata.X = adata.X.astype(np.float32)
    names = adata.obs["section"].astype(str).to_numpy()
    adata = take(adata, np.concatenate([np.flatnonzero(names == one) for one in wanted]))
    for name, entry in adata.uns["spatial"].items():
        adata.uns["spatial"][name] = spatial_entry(
            SAMPLE / str(entry["metadata"]["image"]),
            um_per_px=float(entry["scalefactors"]["microns_per_pixel"]),
            spot_diameter_um=SPOT_DIAMETER_UM,
            pitch_um=PITCH_UM,
            technology=TECHNOLOGY,
        )
    return adata


def _full(section: str) -> tuple[ad.AnnData, str]:
    folder = local_folder("her2st", f"{section}.h5ad")
    if folder is None:
        return _download(section)
    adata = read_local(folder / f"{section}.h5ad")
    scale = float(adata.uns.get("img_scale", 1.0))  # A1's picture is smaller than the pixels its coordinates count
    placed = place(
        adata,
        section=section,
        patient=section[0],
        image=folder / ("A1_lowres.png" if section == "A1" else f"{section}.jpg"),
        points=np.asarray(adata.obsm["spatial"], dtype=np.float64) * scale,
        um_per_px=float(adata.uns["um_per_px"]) / scale,
        spot_diameter_um=SPOT_DIAMETER_UM,
        pitch_um=PITCH_UM,
        technology=TECHNOLOGY,
        keep=("array_x", "array_y", "cluster", "pathologist"),
    )
    placed.obsm["cell_types"] = pd.DataFrame(
        np.asarray(adata.obsm["stereoscope_major"], dtype=np.float32),
        index=placed.obs_names,
        columns=[str(one) for one in adata.uns["stereoscope_major_names"]],
    )
    return placed, str(folder)


def _download(section: str) -> tuple[ad.AnnData, str]:
    raise DataError(
        f"section {section} of HER2ST at full resolution is not in the folder named by EXPRESSOR_DATA",
        fix="Set EXPRESSOR_DATA to a folder that holds her2st/.",
    )
