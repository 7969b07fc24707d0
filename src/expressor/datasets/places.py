"""Simulated samples of brain tissue: smooth maps of genes, known everywhere, measured at random places."""

import anndata as ad
import numpy as np
import pandas as pd

from expressor.core.errors import check_range
from expressor.core.rng import stream
from expressor.data import keys

_HALF = np.array([60.0, 80.0, 55.0])  # of an ellipsoid about the size of a brain, mm
_CENTRE = np.array([0.0, -15.0, 10.0])
_WAVES = 6


def simulate_brain(
    *, n_samples: int = 300, n_genes: int = 20, n_donors: int = 3, noise: float = 0.3, length: float = 60.0, seed: int = 0,
    mechanism: int = 0,
) -> ad.AnnData:  # fmt: skip
    """Simulate samples at random places of an ellipsoid in MNI152, with expression that is smooth and the same on both sides.

    Parameters
    ----------
    n_samples
        Samples of all donors together, at least 4.
    n_genes
        Genes, at least 1.
    n_donors
        Donors, at least 1; each has an offset and a scale of its own for every gene.
    noise
        Standard deviation of what is added to each value, at least 0; maps vary by about 1.
    length
        Length in mm over which a map varies, more than 0.
    seed
        Seed of places, donors and noise.
    mechanism
        Seed of the maps. Data of one mechanism and different seeds are other samples of the same maps.

    Returns
    -------
    AnnData
        ``X`` float32 (sample, gene); ``obs``: ``donor``, ``hemisphere``, ``slab`` (``CB`` low and behind, else ``CX``);
        ``obsm["mni"]``; ``layers["truth"]``: without noise, on the donor's scale. Each gene's map is a mix of a few maps that all
        genes share, whose weights are in ``varm["weights"]``.
    """
    for name, value, low in (("n_samples", n_samples, 4), ("n_genes", n_genes, 1), ("n_donors", n_donors, 1)):
        check_range(value, name=name, low=low, integer=True)
    check_range(noise, name="noise", low=0)
    check_range(length, name="length", low=0, open_low=True)
    rng, rules = stream(seed, "brain"), stream(mechanism, "brain maps")
    direction = rng.normal(size=(n_samples, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    places = _CENTRE + _HALF * direction * rng.random((n_samples, 1)) ** (1 / 3)
    wave = rules.normal(size=(3, _WAVES)) / length
    phase, weights = rules.uniform(0, 2 * np.pi, _WAVES), rules.normal(size=(n_genes, _WAVES)) / np.sqrt(_WAVES / 2)
    folded = np.concatenate([np.abs(places[:, :1]), places[:, 1:]], axis=1)
    maps = np.cos(2 * np.pi * folded @ wave + phase) @ weights.T
    donor = np.arange(n_samples) % n_donors
    offset, scale = rng.normal(size=(n_donors, n_genes)) / 2, np.exp(rng.normal(size=(n_donors, n_genes)) / 5)
    truth = maps * scale[donor] + offset[donor]
    values = truth + noise * scale[donor] * rng.normal(size=truth.shape)
    behind = (places[:, 1] < -50) & (places[:, 2] < 0)
    obs = pd.DataFrame(
        {keys.DONOR: pd.Categorical([f"donor{i + 1}" for i in donor]),
         keys.HEMISPHERE: pd.Categorical(np.where(places[:, 0] < 0, "L", "R")),
         keys.SLAB: pd.Categorical(np.where(behind, "CB", "CX"), categories=["CB", "CX"])},
        index=[f"sample{i + 1:04d}" for i in range(n_samples)],
    )  # fmt: skip
    adata = ad.AnnData(
        values.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"GENE{i + 1:03d}" for i in range(n_genes)])
    )
    adata.layers["truth"] = truth.astype(np.float32)
    adata.obsm[keys.MNI], adata.varm["weights"] = places, weights
    adata.uns = {keys.SPACE: "MNI152", keys.UNIT: "simulated"}
    return adata
