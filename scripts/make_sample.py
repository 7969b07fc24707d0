"""Make the sample of HER2ST that the package ships: sections C2 to C5, small, with their pictures.

    EXPRESSOR_DATA=/folder/of/originals python scripts/make_sample.py [--out FOLDER]

Reads ``her2st/<section>.h5ad`` and ``her2st/<section>.jpg`` of ``EXPRESSOR_DATA`` and writes ``her2st.h5ad``, one JPEG a
section and ``PROVENANCE.md``. The same input, Pillow and HDF5 give the same bytes.

Pictures are cut to the spots' bounding box plus a margin and resampled to exactly one um per pixel in both directions; the
coordinates move with them. The whole glass slide is a third tissue at most, so this loses background and optical
resolution below 1 um, nothing else. Genes without one count in any spot of the four sections are left out, which changes
no library size.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from PIL import Image

SECTIONS = ("C2", "C3", "C4", "C5")
UM_PER_PX = 1.0
MARGIN_UM = 250.0  # beyond the outermost spot centres; half a patch of 224 um and the section's rim fit in
JPEG_QUALITY = 78
MIN_SPOTS = 1  # a gene stays if it is detected in this many of the 732 spots; 1 loses no count at all
SPOT_DIAMETER_UM = 100.0
MAX_TOTAL_BYTES = 15_000_000
OBS = ("section", "patient", "array_x", "array_y", "cluster")

PROVENANCE = """\
# HER2ST sample: sections C2, C3, C4, C5

HER2-positive breast tumour, patient C, four neighbouring sections: legacy Spatial Transcriptomics counts (spots of 100 um,
pitch 200 um) and the haematoxylin-eosin pictures.

- Authors: A. Andersson, L. Larsson, L. Stenbeck, F. Salmén, A. Ehinger, S. Z. Wu, G. Al-Eryani, D. Roden, A. Swarbrick,
  Å. Borg, J. Frisén, C. Engblom, J. Lundeberg
- Paper: Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type interactions.
  Nature Communications 12, 6012 (2021). https://doi.org/10.1038/s41467-021-26271-2
- Data: https://github.com/almaan/her2st, https://doi.org/10.5281/zenodo.4751624
- Licence: Creative Commons Attribution 4.0 International (CC BY 4.0), https://creativecommons.org/licenses/by/4.0/, as
  listed for the Zenodo record (the code repository itself carries no licence file).
  The licence of the package's code (BSD-3-Clause) does not cover this folder.

## What was changed

- Pictures: cut to the bounding box of the spots plus {margin:g} um, resampled (Lanczos) from about 0.69 um per pixel to
  {um_per_px:g} um per pixel, saved as JPEG of quality {quality}.
- Coordinates: moved and scaled with the pictures. `uns["sample"]` holds origin and scale for the way back.
- Counts: the four tables joined (a gene that a table does not list has no count in that section); genes detected in fewer
  than {min_spots} of {spots} spots left out: {genes} of {listed} listed genes stay, and {lost:.3g} % of the counts are lost.
  `obs["total_counts"]` is the library size over all listed genes, computed before that filter.
- `obs["cluster"]` (expression cluster; none for a few spots with hardly any count) and
  `obsm["cell_types"]` (proportions estimated with stereoscope) are the authors'.

| section | spots | counts | picture (px) | size (MB) |
|---|---|---|---|---|
{rows}

Made by `scripts/make_sample.py`.
"""


@dataclass(frozen=True)
class Crop:
    """How a point of the original picture moves: ``(point - origin) * scale``, in pixels."""

    origin: tuple[float, float]
    scale: float
    width: int
    height: int

    def move(self, points: np.ndarray) -> np.ndarray:
        """Return (spot, 2) original pixel coordinates as coordinates of the cut picture."""
        return (np.asarray(points, dtype=np.float64) - np.asarray(self.origin)) * self.scale

    def apply(self, image: Image.Image) -> Image.Image:
        """Cut and resample; the box is fractional, so that both directions have exactly one scale."""
        x, y = self.origin
        box = (x, y, x + self.width / self.scale, y + self.height / self.scale)
        return image.resize((self.width, self.height), Image.Resampling.LANCZOS, box=box)


def find_crop(points: np.ndarray, size: tuple[int, int], um_per_px: float) -> Crop:
    """Return the crop around (spot, 2) points of a picture of ``size`` (width, height) pixels."""
    margin = MARGIN_UM / um_per_px
    low = np.maximum(np.floor(points.min(axis=0) - margin), 0)
    high = np.minimum(points.max(axis=0) + margin, size)
    scale = um_per_px / UM_PER_PX
    width, height = np.floor((high - low) * scale).astype(int).tolist()
    return Crop((float(low[0]), float(low[1])), scale, width, height)


def read_section(folder: Path, name: str) -> ad.AnnData:
    """Return the original section with sparse counts."""
    adata = ad.read_h5ad(folder / f"{name}.h5ad")
    adata.X = sp.csr_matrix(adata.X)
    return adata


def join_counts(parts: list[ad.AnnData]) -> ad.AnnData:
    """Join the sections' counts, with the library size before and only the detected genes after."""
    whole = ad.concat(parts, join="outer", fill_value=0)
    counts = sp.csr_matrix(whole.X)
    spots_with = np.asarray((counts > 0).sum(axis=0)).ravel()
    kept = counts[:, spots_with >= MIN_SPOTS].astype(np.uint16)
    kept.sort_indices()
    obs = whole.obs[list(OBS)].copy()
    obs["total_counts"] = np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)
    for key in ("section", "patient", "cluster"):
        obs[key] = pd.Categorical(obs[key].astype(str).where(obs[key].notna()))
    joined = ad.AnnData(kept, obs=obs, var=pd.DataFrame(index=whole.var_names[spots_with >= MIN_SPOTS]))
    joined.uns["listed_genes"] = int(whole.n_vars)
    return joined


def write(adata: ad.AnnData, path: Path) -> None:
    """Write an h5ad whose matrix is shuffled before compression, which anndata does not offer for whole objects."""
    rest = ad.AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), uns=dict(adata.uns))
    rest.write_h5ad(path, compression="gzip", compression_opts=9)
    with h5py.File(path, "a") as file:
        packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
        ad.io.write_elem(file, "X", sp.csr_matrix(adata.X), dataset_kwargs=packed)


def make(source: Path, out: Path) -> None:
    """Write the sample's files to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    Image.MAX_IMAGE_PIXELS = 120_000_000  # a slide has 92 million
    parts = [read_section(source, name) for name in SECTIONS]
    joined = join_counts(parts)
    listed = joined.uns.pop("listed_genes")
    points, spatial, sample, rows = [], {}, {}, []
    for name, part in zip(SECTIONS, parts):
        with Image.open(source / f"{name}.jpg") as image:
            crop = find_crop(part.obsm["spatial"], image.size, float(part.uns["um_per_px"]))
            small = crop.apply(image.convert("RGB"))
        path = out / f"{name}.jpg"
        small.save(path, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling="4:2:0")
        points.append(crop.move(part.obsm["spatial"]))
        spatial[name] = {
            "scalefactors": {"spot_diameter_fullres": SPOT_DIAMETER_UM / UM_PER_PX, "microns_per_pixel": UM_PER_PX},
            "metadata": {
                "image": path.name,
                "image_width": crop.width,
                "image_height": crop.height,
                "technology": "Spatial Transcriptomics",
            },
        }
        sample[name] = {"origin": np.array(crop.origin), "scale": crop.scale}
        counts = int(part.X.sum())
        rows.append(
            f"| {name} | {part.n_obs} | {counts:,} | {crop.width} x {crop.height} | {path.stat().st_size / 1e6:.2f} |"
        )
    joined.obsm["spatial"] = np.concatenate(points)
    joined.obsm["cell_types"] = pd.DataFrame(
        np.concatenate([part.obsm["stereoscope_major"] for part in parts]).astype(np.float32),
        index=joined.obs_names,
        columns=[str(one) for one in parts[0].uns["stereoscope_major_names"]],
    )
    joined.uns.update(spatial=spatial, sample=sample)
    write(joined, out / "her2st.h5ad")
    lost = 100 * (1 - float(joined.X.sum(dtype=np.int64)) / float(joined.obs["total_counts"].sum()))
    (out / "PROVENANCE.md").write_text(
        PROVENANCE.format(
            margin=MARGIN_UM, um_per_px=UM_PER_PX, quality=JPEG_QUALITY, min_spots=MIN_SPOTS, spots=joined.n_obs,
            genes=f"{joined.n_vars:,}", listed=f"{listed:,}", lost=lost, rows="\n".join(rows),
        ),
        encoding="utf-8",
    )  # fmt: skip
    total = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {total / 1e6:.2f} MB, {joined.n_obs} spots, {joined.n_vars} genes, {lost:.3g} % of counts lost")
    if total > MAX_TOTAL_BYTES:
        raise SystemExit(f"the sample has {total} bytes, more than {MAX_TOTAL_BYTES}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / "src" / "expressor" / "datasets" / "sample"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to")
    folder = os.environ.get("EXPRESSOR_DATA")
    if not folder:
        raise SystemExit("set EXPRESSOR_DATA to the folder that holds her2st/")
    make(Path(folder) / "her2st", parser.parse_args().out)
