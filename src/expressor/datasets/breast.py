"""HER2ST: HER2-positive breast tumours, Spatial Transcriptomics counts with haematoxylin-eosin pictures."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_choice
from expressor.data import keys
from expressor.data.readers.legacy_st import read_legacy_st
from expressor.datasets.assemble import join, local_folder, place, read_local, spatial_entry
from expressor.datasets.dataset import Dataset, take
from expressor.datasets.fetch import fetch
from expressor.datasets.sources import ORIGINS, remote_files

SAMPLE = Path(__file__).resolve().parent / "sample"
SAMPLE_SECTIONS = ("C2", "C3", "C4", "C5")
SECTIONS = ("A1", "B4", "C2", "C3", "C4", "C5", "C6")
"""Sections with a picture whose bytes could be checked. The source has 36 sections of eight patients."""

UM_PER_PX = {
    "A1": 0.9203336, "B4": 0.6902503, "C2": 0.6901013, "C3": 0.6903989, "C4": 0.6898037, "C5": 0.6902504, "C6": 0.6891,
}  # fmt: skip
"""Micrometres per pixel that positions count, measured on the pitch of 200 um."""

A1_SHRINK = 0.2876042565429968
"""Pixels of A1's picture per pixel that its positions count."""

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
        ``"full"``: the original pictures, 0.69 um per pixel (A1: 3.2 um per pixel, background blacked, an overview with the
        pathologist's outlines in a corner), from the folder named by ``EXPRESSOR_DATA`` or else downloaded once, about 5 MB a
        section. By default ``"sample"`` where it has all the sections, else ``"full"``.

    Returns
    -------
    Dataset
        ``X``: raw counts, float32 CSR (spot, gene), spots of 100 um at a pitch of 200 um, gene symbols; a gene that a
        section's table does not list has no count there. ``obs``: section, patient, array position, expression cluster of
        the authors, total counts, for A1 the pathologist's label. ``obsm["spatial"]``: pixels of the picture named in
        ``uns["spatial"]``. ``obsm["cell_types"]``: proportions estimated by the authors (not with downloaded sections).

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
    picture = "A1_lowres.png" if section == "A1" else f"{section}.jpg"
    folder = local_folder("her2st", f"{section}.h5ad", picture)
    if folder is None:
        return _download(section)
    adata = read_local(folder / f"{section}.h5ad")
    placed = _place(adata, section, image=folder / picture)
    placed.obsm["cell_types"] = pd.DataFrame(
        np.asarray(adata.obsm["stereoscope_major"], dtype=np.float32),
        index=placed.obs_names,
        columns=[str(one) for one in adata.uns["stereoscope_major_names"]],
    )
    return placed, str(folder)


def _download(section: str) -> tuple[ad.AnnData, str]:
    paths = {role: fetch(file) for role, file in remote_files("her2st", section).items()}
    # Without the picture: A1's is smaller than the pixels that its positions count, which the reader rightly refuses.
    adata = read_legacy_st(
        paths["counts"], paths["spots"], None, section=section, patient=section[0], um_per_px=UM_PER_PX[section]
    )
    clusters = pd.read_csv(paths["clusters"], sep="\t", index_col=0)
    clusters.index = [f"{section}_{x}x{y}" for x, y in zip(clusters["x"], clusters["y"])]
    if section == "A1":
        # The picture is the warped one, and only spots of this table have a position on it.
        adata = adata[adata.obs_names.isin(clusters.index)].copy()
        adata.obsm[keys.SPATIAL] = clusters.loc[adata.obs_names, ["warped_x", "warped_y"]].to_numpy(dtype=np.float64)
        labels = pd.read_csv(paths["labels"], sep="\t")
        labels.index = [f"{section}_{x:.0f}x{y:.0f}" for x, y in zip(labels["x"], labels["y"])]
        adata.obs["pathologist"] = pd.Categorical(labels["label"].reindex(adata.obs_names))
    # Spots with few counts were not clustered.
    adata.obs["cluster"] = pd.Categorical(clusters["label"].astype(str).reindex(adata.obs_names))
    return _place(adata, section, image=paths["image"]), ORIGINS["her2st"].url


def _place(adata: ad.AnnData, section: str, *, image: Path) -> ad.AnnData:
    shrink = A1_SHRINK if section == "A1" else 1.0
    return place(
        adata,
        section=section,
        patient=section[0],
        image=image,
        points=np.asarray(adata.obsm[keys.SPATIAL], dtype=np.float64) * shrink,
        um_per_px=UM_PER_PX[section] / shrink,
        spot_diameter_um=SPOT_DIAMETER_UM,
        pitch_um=PITCH_UM,
        technology=TECHNOLOGY,
        keep=("array_x", "array_y", "cluster", "pathologist"),
    )
