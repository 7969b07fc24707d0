"""Small folders and files in the formats of the assays, byte for byte as their software lays them out."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse


@dataclass
class Made:
    """A written folder or file and what is in it."""

    path: Path
    counts: np.ndarray
    genes: list
    ids: list
    spots: list
    pixels: np.ndarray
    um_per_px: float
    image: Path | None = None


def draw_counts(n, genes, seed=0):
    return np.random.default_rng(seed).poisson(np.linspace(0.2, 4, genes), (n, genes)).astype(np.int64)


def draw_image(path, width, height, seed=0):
    tile = np.random.default_rng(seed).integers(120, 250, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(tile).resize((width, height)).save(path)
    return path


def write_tenx_h5(path, counts, spots, genes, ids, *, types=None, library="sample_1"):
    """Cell Ranger's layout: features by barcodes, compressed by columns; fixed-length byte strings."""
    matrix = sparse.csc_matrix(counts.T)
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array([library.encode()])
        file.attrs["filetype"] = "matrix"
        group = file.create_group("matrix")
        group.create_dataset("data", data=matrix.data.astype("<i4"), compression="gzip", chunks=True)
        group.create_dataset("indices", data=matrix.indices.astype("<i8"), compression="gzip", chunks=True)
        group.create_dataset("indptr", data=matrix.indptr.astype("<i8"), compression="gzip", chunks=True)
        group.create_dataset("shape", data=np.array(matrix.shape, dtype="<i4"))
        group.create_dataset("barcodes", data=np.array(spots, dtype="S"), compression="gzip", chunks=True)
        features = group.create_group("features")
        features.create_dataset("id", data=np.array(ids, dtype="S"))
        features.create_dataset("name", data=np.array(genes, dtype="S"))
        features.create_dataset("feature_type", data=np.array(types or ["Gene Expression"] * len(genes), dtype="S"))
        features.create_dataset("genome", data=np.array(["GRCh38"] * len(genes), dtype="S"))
        features.create_dataset("_all_tag_keys", data=np.array(["genome"], dtype="S"))


def write_tenx_mtx(folder, counts, spots, genes, ids, *, packed=True, version=3):
    folder.mkdir(parents=True)
    entry = np.argwhere(counts.T > 0)
    lines = [
        f"{gene + 1} {spot + 1} {counts[spot, gene]}" for gene, spot in entry[np.argsort(entry[:, 1], kind="stable")]
    ]
    head = [
        "%%MatrixMarket matrix coordinate integer general",
        '%metadata_json: {"software_version": "spaceranger-1.3.0"}',
    ]
    texts = {
        "matrix.mtx": [*head, f"{counts.shape[1]} {counts.shape[0]} {len(lines)}", *lines],
        "barcodes.tsv": spots,
        "features.tsv" if version == 3 else "genes.tsv": [
            f"{one}\t{name}" + ("\tGene Expression" if version == 3 else "") for one, name in zip(ids, genes)
        ],
    }
    for name, text in texts.items():
        data = ("\n".join(text) + "\n").encode()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / name).write_bytes(data)


def draw_names(genes):
    return [f"GENE{i}" for i in range(genes)], [f"ENSG{i:011d}" for i in range(genes)]


def write_visium(folder, *, header=True, matrix="h5", um_per_px=0.5, genes=9, turn=0.0, image=False, **kinds):
    """Space Ranger's ``outs``: a hexagonal array of which some spots are off the tissue."""
    folder = Path(folder)
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    row, col = (grid.ravel() for grid in np.mgrid[0:6, 0:24])
    keep = (row + col) % 2 == 0
    row, col = row[keep], col[keep]
    angle = np.deg2rad(turn)
    rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    pixels = np.stack([col * 50.0, row * 100 * np.sqrt(0.75)], 1) @ rotate / um_per_px
    pixels = np.round(pixels - pixels.min(axis=0) + 300).astype(int)
    spots = [f"{'ACGT'[i % 4]}{i:05d}-1" for i in range(len(row))]
    tissue = (row > 0) & (col > 1)
    table = pd.DataFrame(
        {
            "barcode": spots, "in_tissue": tissue.astype(int), "array_row": row, "array_col": col,
            "pxl_row_in_fullres": pixels[:, 1], "pxl_col_in_fullres": pixels[:, 0],
        }
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(len(table))
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    table.iloc[order].to_csv(spatial / name, index=False, header=header)
    width, height = int(pixels[:, 0].max() + 300), int(pixels[:, 1].max() + 300)
    scale = 0.125
    factors = {
        "spot_diameter_fullres": 65 / um_per_px, "tissue_hires_scalef": scale, "tissue_lowres_scalef": scale / 4,
        "fiducial_diameter_fullres": 105 / um_per_px,
    }  # fmt: skip
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    draw_image(spatial / "tissue_hires_image.png", round(width * scale), round(height * scale))
    counted = [spot for spot, on in zip(spots, tissue) if on]
    counts = draw_counts(len(counted), genes)
    symbols, ids = draw_names(genes)
    symbols = kinds.get("symbols", symbols)
    if matrix == "h5":
        types = kinds.get("types")
        write_tenx_h5(folder / "filtered_feature_bc_matrix.h5", counts, counted, symbols, ids, types=types)
    else:
        write_tenx_mtx(
            folder / "filtered_feature_bc_matrix", counts, counted, symbols, ids,
            packed=matrix == "mtx", version=kinds.get("version", 3),
        )  # fmt: skip
    full = draw_image(folder / "full.jpg", width, height) if image else None
    return Made(folder, counts, symbols, ids, counted, pixels[tissue].astype(float), um_per_px, full)


def write_visium_hd(folder, *, bin_um=16, um_per_px=0.25, genes=9, parquet=False, image=False):
    """Space Ranger's ``outs`` with ``binned_outputs/square_016um``."""
    outs = Path(folder)
    own = outs / "binned_outputs" / f"square_{bin_um:03d}um"
    spatial = own / "spatial"
    spatial.mkdir(parents=True)
    row, col = (grid.ravel() for grid in np.mgrid[0:9, 0:11])
    pixels = np.stack([col + 3.3, row + 2.7], axis=1) * bin_um / um_per_px
    tissue = row > 1
    spots = [f"s_{bin_um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, col)]
    table = pd.DataFrame(
        {
            "barcode": spots, "in_tissue": tissue.astype(int), "array_row": row, "array_col": col,
            "pxl_row_in_fullres": pixels[:, 1], "pxl_col_in_fullres": pixels[:, 0],
        }
    )  # fmt: skip
    if parquet:
        table.to_parquet(spatial / "tissue_positions.parquet")
    else:
        table.to_csv(spatial / "tissue_positions.csv", index=False)
    width, height = int(pixels[:, 0].max() + 200), int(pixels[:, 1].max() + 200)
    factors = {
        "spot_diameter_fullres": bin_um / um_per_px, "bin_size_um": float(bin_um), "microns_per_pixel": um_per_px,
        "tissue_hires_scalef": 0.2, "tissue_lowres_scalef": 0.02, "fiducial_diameter_fullres": 1000.0,
    }  # fmt: skip
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    draw_image(spatial / "tissue_hires_image.png", round(width * 0.2), round(height * 0.2))
    counted = [spot for spot, on in zip(spots, tissue) if on]
    counts = draw_counts(len(counted), genes)
    symbols, ids = draw_names(genes)
    write_tenx_h5(own / "filtered_feature_bc_matrix.h5", counts, counted, symbols, ids, library="hd_1")
    full = draw_image(outs / "full.png", width, height) if image else None
    return Made(outs, counts, symbols, ids, counted, pixels[tissue], um_per_px, full)


def write_legacy(folder, *, um_per_px=0.7, genes=9, packed=True, image=True, corner=True):
    """The two tables and the picture of one legacy section; some spots are not selected."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    x, y = (grid.ravel() for grid in np.mgrid[4:12, 3:10])
    jitter = np.random.default_rng(1).normal(0, 0.03, (len(x), 2)).round(3)
    new = np.stack([x, y], 1) + jitter
    pixels = np.round((new - 1) * 200 / um_per_px, 2)
    spots = [f"{a}x{b}" for a, b in zip(x, y)]
    selected = np.ones(len(x), dtype=int)
    selected[::9] = 0
    table = pd.DataFrame({"x": x, "y": y, "new_x": new[:, 0], "new_y": new[:, 1]})
    table = table.assign(pixel_x=pixels[:, 0], pixel_y=pixels[:, 1], selected=selected)
    table.iloc[::-1].to_csv(folder / "spots.tsv", sep="\t", index=False)
    kept = selected == 1
    counts = draw_counts(int(kept.sum()), genes)
    names = [spot for spot, on in zip(spots, kept) if on]
    symbols, ids = draw_names(genes)
    head = "\t".join(["", *symbols] if corner else symbols)
    text = "\n".join([head, *("\t".join([name, *map(str, row)]) for name, row in zip(names, counts))]) + "\n"
    path = folder / ("counts.tsv.gz" if packed else "counts.tsv")
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    full = (
        draw_image(folder / "he.jpg", int(pixels[:, 0].max() + 250), int(pixels[:, 1].max() + 250)) if image else None
    )
    return Made(folder, counts, symbols, ids, names, pixels[kept], um_per_px, full)


def write_hest(folder, *, um_per_px=0.46, genes=9, n=14, px=16):
    """The h5ad, the patches and the metadata of one HEST sample; one spot has no patch, one patch no spot."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    symbols, ids = draw_names(genes)
    spots = [f"{i:03d}x{i + 1:03d}" for i in range(n)]
    pixels = np.stack([np.arange(n) * 100 / um_per_px, np.arange(n) % 3 * 100 / um_per_px], 1) + 400
    counts = draw_counts(n, genes)
    adata = AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({"in_tissue": 1, "array_row": range(n), "array_col": range(n)}, index=spots),
        var=pd.DataFrame({"gene_ids": ids}, index=symbols),
        obsm={"spatial": pixels},
    )
    size = int(pixels.max() + 400)
    small = np.full((round(1000 * 0.05) + 20, round(size * 0.05), 3), 200, dtype=np.uint8)
    adata.uns["spatial"] = {
        "ST": {
            "images": {"downscaled_fullres": small},
            "scalefactors": {"tissue_downscaled_fullres_scalef": 0.05, "spot_diameter_fullres": 55 / um_per_px},
        }
    }
    adata.write_h5ad(folder / "TENX1.h5ad")
    with h5py.File(folder / "patches.h5", "w") as file:
        order = np.arange(n, 0, -1)
        named = [*spots, "999x999"]
        file.create_dataset("img", data=np.repeat(order, px * px * 3).reshape(n, px, px, 3).astype(np.uint8))
        file.create_dataset("coords", data=np.round(np.vstack([pixels, [[1, 1]]])[order]).astype(int))
        file.create_dataset("barcode", data=np.array([[named[i]] for i in order], dtype="S"))
    (folder / "TENX1.json").write_text(json.dumps({"id": "TENX1", "pixel_size_um_estimated": um_per_px}))
    return Made(folder, counts, symbols, ids, spots, pixels, um_per_px)


class Folders:
    visium = staticmethod(write_visium)
    visium_hd = staticmethod(write_visium_hd)
    legacy = staticmethod(write_legacy)
    hest = staticmethod(write_hest)
    tenx_h5 = staticmethod(write_tenx_h5)
    tenx_mtx = staticmethod(write_tenx_mtx)
    image = staticmethod(draw_image)


@pytest.fixture(scope="session")
def folders():
    """Functions that write the formats."""
    return Folders
