"""Auxiliary genes whose usefulness is known: a table of features and counts with a planted cut."""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, check_range
from expressor.core.rng import stream
from expressor.data import keys
from expressor.datasets.tissue import grid_points, simulate_tissue

__all__ = ["simulate_auxiliaries", "simulate_tissue"]

PITCH_UM = 200.0
# Signal of the log rates, as standard deviations. Useless genes vary less, so that a ranking by dispersion finds the planted
# order too; they are as predictable from the features as the informative ones, which is what makes them harmful.
INFORMATIVE_SD = 0.9
USELESS_SD = 0.55
PRIMARY_SD = 0.5
MIXING = 0.2
# A useless factor drives more genes than a shared one, so that it wins the trunk's capacity from it.
CROWDING = 1.2
BLOCK_WITHOUT_INFORMATIVE = 12


def simulate_auxiliaries(
    *,
    n_spots: int = 240,
    n_features: int = 48,
    n_primary: int = 12,
    n_informative: int = 60,
    n_useless: int = 180,
    n_factors: int = 6,
    noise: float = 0.7,
    depth: float = 40.0,
    sections: int = 2,
    seed: int = 0,
) -> ad.AnnData:
    """Simulate primary genes, auxiliaries that help to learn them, and auxiliaries that do harm.

    ``n_factors`` *shared* factors, directions of the features, drive the primaries, with much noise of their own, and the
    informative auxiliaries, with little. So a shared trunk sees the shared factors more clearly with the informative
    auxiliaries than without. They come in blocks of rising rank, one block a factor: every block adds, until the last. The
    useless auxiliaries are driven by *other* factors, as plain to see in the features and unrelated to the primaries, one
    after the other in blocks of rising rank. A trunk about as wide as ``n_factors`` can hold these only in place of shared
    ones. Validation correlation of the primaries against the number k of auxiliaries kept, best first, is a tent with its
    peak at ``n_informative``; with ``n_informative=0`` it falls from k = 0.

    Parameters
    ----------
    n_spots
        Spots in all, at least 4 a section.
    n_features
        Image features, standard normal and independent; at least ``n_factors`` + 1.
    n_primary, n_informative, n_useless
        Numbers of genes; ``n_primary`` at least 1, the others may be 0.
    n_factors
        Number of shared factors; the width of trunk at which useless auxiliaries hurt.
    noise
        Standard deviation of the primaries' own log-rate noise, at least 0.
    depth
        Mean count of a gene, more than 0.
    sections
        Number of sections of equal size (within one spot), each of its own patient.
    seed
        Seed of all draws.

    Returns
    -------
    AnnData
        ``X``: counts, float32 CSR (spot, gene). ``obsm["X_simulated"]``: features, float32 (spot, feature).
        ``var["role"]``: primary, informative or useless; ``var["planted_rank"]``: rank among the auxiliaries, best 0,
        and -1 for primaries. ``obsm["shared_factors"]``, ``obsm["other_factors"]``: what drives the genes. ``uns["truth"]``:
        ``primary`` (names), ``ranking`` (names of the auxiliaries, best first) and ``cut`` (how many of them help).
        There is no image.
    """
    _check_sizes(n_spots, n_features, n_primary, n_informative, n_useless, n_factors, sections)
    check_range(noise, name="noise", low=0)
    check_range(depth, name="depth", low=0, open_low=True)
    factors = _draw_factors(n_spots, n_features, n_factors, n_informative, n_useless, seed)
    rng = stream(seed, "auxiliary loadings")
    primary = PRIMARY_SD * factors.shared @ _unit(rng.normal(size=(n_primary, n_factors))).T
    primary = primary + noise * stream(seed, "primary noise").normal(size=primary.shape)
    blocks = np.arange(n_informative) * n_factors // max(n_informative, 1)
    informative = INFORMATIVE_SD * factors.shared @ _blocked(blocks, n_factors, rng).T
    n_other = factors.other.shape[1]
    useless = (
        USELESS_SD * factors.other @ _blocked(np.arange(n_useless) // factors.block % max(n_other, 1), n_other, rng).T
    )
    log_rate = np.concatenate([primary, informative, useless], axis=1)
    log_mean = np.log(depth) + 0.3 * stream(seed, "gene means").normal(size=log_rate.shape[1])
    rate = np.exp(log_mean + log_rate - log_rate.var(axis=0) / 2)
    counts = stream(seed, "counts").poisson(rate).astype(np.float32)

    var = _name_genes(n_primary, n_informative, n_useless)
    adata = ad.AnnData(sparse.csr_matrix(counts), obs=_name_spots(n_spots, sections), var=var)
    _put_on_glass(adata)
    adata.obsm[keys.FEATURES + "simulated"] = factors.features.astype(np.float32)
    adata.obsm["shared_factors"] = factors.shared
    adata.obsm["other_factors"] = factors.other
    names = var.index.to_numpy(dtype=str)
    adata.uns["truth"] = {
        "primary": names[:n_primary].astype(object),
        "ranking": names[n_primary:].astype(object),
        "cut": n_informative,
    }
    return adata


@dataclass(frozen=True)
class _Factors:
    features: np.ndarray  # (spot, feature)
    shared: np.ndarray  # (spot, factor), unit variance
    other: np.ndarray  # (spot, factor), unit variance, independent of the shared
    block: int  # useless genes a factor


def _draw_factors(
    n_spots: int, n_features: int, n_factors: int, n_informative: int, n_useless: int, seed: int
) -> _Factors:
    features = stream(seed, "features").normal(size=(n_spots, n_features))
    directions, _ = np.linalg.qr(stream(seed, "directions").normal(size=(n_features, n_features)))
    block = BLOCK_WITHOUT_INFORMATIVE
    if n_informative:
        block = max(1, round(CROWDING * n_informative / n_factors))
    n_other = min(-(-n_useless // block), n_features - n_factors)
    projected = features @ directions
    return _Factors(features, projected[:, :n_factors], projected[:, n_factors : n_factors + n_other], block)


def _blocked(block: np.ndarray, n_factors: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit loadings (gene, factor) that lie mostly on the factor ``block`` of each gene."""
    pure = np.eye(n_factors)[block] if len(block) else np.zeros((0, n_factors))
    return _unit(pure + MIXING * rng.normal(size=pure.shape))


def _unit(loadings: np.ndarray) -> np.ndarray:
    return loadings / np.linalg.norm(loadings, axis=1, keepdims=True)


def _name_genes(n_primary: int, n_informative: int, n_useless: int) -> pd.DataFrame:
    roles = ["primary"] * n_primary + ["informative"] * n_informative + ["useless"] * n_useless
    names = [f"{role[:3].upper()}{i + 1:04d}" for i, role in enumerate(roles)]
    rank = np.concatenate([np.full(n_primary, -1), np.arange(n_informative + n_useless)])
    return pd.DataFrame({"role": pd.Categorical(roles), "planted_rank": rank}, index=names)


def _name_spots(n_spots: int, sections: int) -> pd.DataFrame:
    number = np.arange(n_spots) * sections // n_spots
    return pd.DataFrame(
        {
            keys.SECTION: pd.Categorical([f"S{i + 1}" for i in number]),
            keys.PATIENT: pd.Categorical([f"P{i + 1}" for i in number]),
        },
        index=[f"S{i + 1}_{spot}" for spot, i in enumerate(number)],
    )


def _put_on_glass(adata: ad.AnnData) -> None:
    """Give every section's spots a square grid at 1 um per pixel; there is no image."""
    points = np.zeros((adata.n_obs, 2))
    entries = {}
    for section in adata.obs[keys.SECTION].cat.categories:
        rows = np.flatnonzero(adata.obs[keys.SECTION] == section)
        points[rows] = grid_points(len(rows)) * PITCH_UM
        entries[section] = {
            keys.SCALEFACTORS: {keys.SPOT_DIAMETER: PITCH_UM / 2, keys.UM_PER_PX: 1.0},
            keys.METADATA: {
                keys.IMAGE: "",
                keys.IMAGE_WIDTH: 0,
                keys.IMAGE_HEIGHT: 0,
                keys.TECHNOLOGY: "simulated",
                keys.PITCH_UM: PITCH_UM,
            },
        }
    adata.obsm[keys.SPATIAL] = points
    adata.uns[keys.SPATIAL] = entries


def _check_sizes(
    n_spots: int, n_features: int, n_primary: int, n_informative: int, n_useless: int, n_factors: int, sections: int
) -> None:
    check_range(sections, name="sections", low=1, integer=True)
    check_range(n_spots, name="n_spots", low=4 * sections, integer=True)
    check_range(n_factors, name="n_factors", low=1, integer=True)
    check_range(n_features, name="n_features", low=n_factors + 1, integer=True)
    check_range(n_primary, name="n_primary", low=1, integer=True)
    check_range(n_informative, name="n_informative", low=0, integer=True)
    check_range(n_useless, name="n_useless", low=0, integer=True)
    if 0 < n_informative < n_factors:
        raise DataError(
            "too few informative auxiliaries to cover the shared factors",
            expected=f"0, or at least n_factors = {n_factors}",
            got=n_informative,
            fix="Raise n_informative or lower n_factors.",
        )
