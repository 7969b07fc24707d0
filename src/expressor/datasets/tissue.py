"""Simulated tissue: pictures whose look carries part of the expression, and what the picture cannot tell."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage, sparse

from expressor.core.errors import DataError, check_range
from expressor.core.rng import stream
from expressor.data import keys
from expressor.datasets.assemble import THUMBNAIL_PX

ROLES = ("nuclei", "eosin", "hidden", "flat")
"""What drives a simulated gene: density of nuclei, depth of the pink stain, a pattern not in the picture, nothing."""

PITCH_UM = 200.0
SPOT_DIAMETER_UM = 100.0
# Optical densities (red, green, blue) of the two stains: Ruifrok and Johnston, Anal Quant Cytol Histol 23:291 (2001).
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
GLASS = 243.0  # grey level of empty glass
NUCLEUS_RADIUS_UM = 4.0
NUCLEI_PER_MM2 = (400.0, 5000.0)  # where the field is 0 and where it is 1
PATTERN_UM = 250.0  # smoothing of the fields: patterns span a few spots
COARSE_UM = 20.0  # the fields are drawn on this grid and enlarged: they are smooth anyway
SIGNAL_SD = 0.8


def simulate_tissue(
    *,
    sections: int = 2,
    spots: int = 64,
    n_genes: int = 60,
    n_features: int = 16,
    um_per_px: float = 2.0,
    noise: float = 0.3,
    depth: float = 8.0,
    seed: int = 0,
    mechanism: int = 0,
    folder: str | Path | None = None,
) -> ad.AnnData:
    """Simulate sections of tissue with stained pictures and spot counts that depend on what the picture shows.

    Three smooth fields cover each section. The density of nuclei and the depth of the eosin stain are drawn into the
    picture; the third is hidden. A quarter of the genes follows each field, a quarter none (``var["role"]``, in turn). Log
    rates are linear in the field under the spot, with noise and with a library size of the spot's own.

    Parameters
    ----------
    sections
        Number of sections, each of its own patient.
    spots
        Spots a section, at least 4, on a square grid of 200 um.
    n_genes
        Number of genes, at least 4.
    n_features
        Length of the precomputed features, which mix the two visible fields with noise; at least 2.
    um_per_px
        Scale of the pictures, 0.25 to 20.
    noise
        Standard deviation of the genes' own log-rate noise, at least 0; the signal's is 0.8.
    depth
        Mean count of a gene, more than 0.
    seed
        Seed of the tissue: fields, pictures and counts.
    mechanism
        Seed of the genes: what they are called is fixed, how strongly they follow their field and how the features mix is
        drawn from this. Data of one mechanism and different seeds are new tissue of one kind.
    folder
        Where the PNG pictures ``simulated-<section>.png`` are written; by default a new temporary folder, which is the
        caller's to delete.

    Returns
    -------
    AnnData
        ``X``: counts, float32 CSR (spot, gene). ``obs``: section, patient, and the fields under the spot (``nuclei``,
        ``eosin``, ``hidden``, 0 to 1). ``obsm["X_simulated"]``: float32 (spot, feature). ``var``: ``role`` and ``loading``, the
        change of log rate per standard deviation of the field (0 for flat genes).
    """
    check_range(sections, name="sections", low=1, integer=True)
    check_range(spots, name="spots", low=4, integer=True)
    check_range(n_genes, name="n_genes", low=len(ROLES), integer=True)
    check_range(n_features, name="n_features", low=2, integer=True)
    check_range(um_per_px, name="um_per_px", low=0.25, high=20.0)
    check_range(noise, name="noise", low=0)
    check_range(depth, name="depth", low=0, open_low=True)
    target = _make_folder(folder)
    drawn = [_draw_section(spots, um_per_px, seed, number) for number in range(sections)]
    obs = pd.concat([_describe_spots(section.under, number) for number, section in enumerate(drawn)])
    for key in (keys.SECTION, keys.PATIENT):
        obs[key] = pd.Categorical(obs[key])
    # The fields are uniform on [0, 1] by construction: fixed mean and spread, so that tissue of one mechanism is comparable.
    fields = (np.concatenate([section.under for section in drawn]) - 0.5) * np.sqrt(12)
    var = _describe_genes(n_genes, mechanism)
    adata = ad.AnnData(
        _count(fields, var, noise=noise, depth=depth, seed=seed), obs=obs, var=var.drop(columns="log_mean")
    )
    adata.obsm[keys.SPATIAL] = np.concatenate([section.points for section in drawn]) / um_per_px
    mixing = stream(mechanism, "feature mixing").normal(size=(2, n_features))
    blur = 0.5 * stream(seed, "feature noise").normal(size=(len(obs), n_features))
    adata.obsm[keys.FEATURES + "simulated"] = (fields[:, :2] @ mixing + blur).astype(np.float32)
    adata.uns[keys.SPATIAL] = {
        f"S{number + 1}": _save_picture(section.picture, target / f"simulated-S{number + 1}.png", um_per_px)
        for number, section in enumerate(drawn)
    }
    return adata


def grid_points(n: int) -> np.ndarray:
    """Return the ``n`` first points (x, y) of the smallest square grid of unit pitch that holds them, row by row from (1, 1)."""
    side = int(np.ceil(np.sqrt(n)))
    index = np.arange(n)
    return np.stack([index % side, index // side], axis=1) + 1.0


@dataclass(frozen=True)
class _Section:
    points: np.ndarray  # (spot, 2), um
    under: np.ndarray  # (spot, 3): nuclei, eosin and hidden field under the spot, uniform on 0 to 1
    picture: np.ndarray  # uint8 (row, column, 3)


def _draw_section(spots: int, um_per_px: float, seed: int, number: int) -> _Section:
    points = grid_points(spots) * PITCH_UM
    extent = points.max(axis=0) + PITCH_UM  # um, (x, y)
    coarse = (round(extent[1] / COARSE_UM), round(extent[0] / COARSE_UM))
    size = np.ceil(extent / um_per_px).astype(int)
    fields = [_draw_field(coarse, stream(seed, what, number)) for what in ROLES[:3]]
    nuclei, eosin, tissue = (_enlarge(one, size) for one in (fields[0], fields[1], _draw_outline(points, coarse)))
    picture = _stain(nuclei, eosin, tissue, um_per_px, stream(seed, "stain", number))
    rows, columns = (points[:, ::-1] / COARSE_UM - 0.5).T  # the fields are known at the middle of coarse pixels
    under = [ndimage.map_coordinates(one, (rows, columns), order=1) for one in fields]
    return _Section(points, np.stack(under, axis=1), picture)


def _draw_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random field (row, column) whose values are spread evenly over 0 to 1."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), PATTERN_UM / 2 / COARSE_UM, mode="reflect")
    return smooth.ravel().argsort().argsort().reshape(shape) / (smooth.size - 1)


def _draw_outline(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the tissue's cover (row, column), 0 to 1: all within 0.9 of the pitch of a spot."""
    glass = np.ones(shape, dtype=bool)
    rows, columns = np.rint(points[:, ::-1] / COARSE_UM).astype(int).T
    glass[rows, columns] = False
    distance = ndimage.distance_transform_edt(glass) * COARSE_UM
    return np.clip((0.9 * PITCH_UM - distance) / COARSE_UM, 0.0, 1.0)


def _enlarge(field: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the coarse field at the picture's ``size`` (width, height)."""
    image = Image.fromarray(field.astype(np.float32))
    return np.asarray(image.resize((int(size[0]), int(size[1])), Image.Resampling.BILINEAR), dtype=np.float64)


def _stain(
    nuclei: np.ndarray, eosin: np.ndarray, tissue: np.ndarray, um_per_px: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the picture (row, column, 3): light weakened by both stains after Beer and Lambert."""
    low, high = NUCLEI_PER_MM2
    expected = (low + (high - low) * nuclei) * tissue * (um_per_px / 1000.0) ** 2
    spread = ndimage.gaussian_filter(rng.poisson(expected).astype(float), NUCLEUS_RADIUS_UM / um_per_px)
    area = np.pi * NUCLEUS_RADIUS_UM**2 / um_per_px**2
    blue = 1.5 * np.minimum(spread * area, 1.0)
    pink = tissue * (0.1 + 0.5 * eosin) * (1 + 0.15 * rng.normal(size=eosin.shape))
    density = blue[..., None] * HAEMATOXYLIN + np.maximum(pink, 0)[..., None] * EOSIN
    light = GLASS * np.exp(-density) + rng.normal(scale=1.5, size=density.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _describe_spots(under: np.ndarray, number: int) -> pd.DataFrame:
    names = [f"S{number + 1}_{i}" for i in range(len(under))]
    return pd.DataFrame(
        {keys.SECTION: f"S{number + 1}", keys.PATIENT: f"P{number + 1}", **dict(zip(ROLES[:3], under.T))}, index=names
    )


def _describe_genes(n_genes: int, mechanism: int) -> pd.DataFrame:
    rng = stream(mechanism, "simulated genes")
    role = np.arange(n_genes) % len(ROLES)
    strength = SIGNAL_SD * rng.uniform(0.5, 1.0, size=n_genes) * rng.choice([1.0, 1.0, -1.0], size=n_genes)
    return pd.DataFrame(
        {
            "role": pd.Categorical([ROLES[one] for one in role], categories=ROLES),
            "loading": np.where(role < 3, strength, 0.0),
            "log_mean": rng.normal(scale=0.5, size=n_genes),
        },
        index=[f"SIM{i + 1:04d}" for i in range(n_genes)],
    )


def _count(fields: np.ndarray, var: pd.DataFrame, *, noise: float, depth: float, seed: int) -> sparse.csr_matrix:
    driver = np.column_stack([fields, np.zeros(len(fields))])[:, var["role"].cat.codes.to_numpy()]
    rng = stream(seed, "expression")
    log_rate = np.log(depth) + var["log_mean"].to_numpy() + driver * var["loading"].to_numpy()
    log_rate = log_rate + noise * rng.normal(size=log_rate.shape) + 0.3 * rng.normal(size=(len(fields), 1))
    return sparse.csr_matrix(rng.poisson(np.exp(log_rate)).astype(np.float32))


def _make_folder(folder: str | Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="expressor-tissue-"))
    target = Path(folder).absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder {target} for the pictures cannot be made ({error.strerror})", fix="Give a writable folder."
        ) from error
    return target


def _save_picture(picture: np.ndarray, path: Path, um_per_px: float) -> dict[str, dict[str, object]]:
    try:
        Image.fromarray(picture).save(path, "PNG", compress_level=1)
    except OSError as error:
        raise DataError(f"the picture {path} cannot be written ({error})", fix="Give a writable folder.") from error
    height, width = picture.shape[:2]
    small = Image.fromarray(picture)
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return {
        keys.IMAGES: {keys.HIRES: np.asarray(small)},
        keys.SCALEFACTORS: {
            keys.SPOT_DIAMETER: SPOT_DIAMETER_UM / um_per_px,
            keys.HIRES_SCALE: small.width / width,
            keys.UM_PER_PX: float(um_per_px),
        },
        keys.METADATA: {
            keys.IMAGE: str(path),
            keys.IMAGE_WIDTH: width,
            keys.IMAGE_HEIGHT: height,
            keys.TECHNOLOGY: "simulated",
            keys.PITCH_UM: PITCH_UM,
        },
    }
