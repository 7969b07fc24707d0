"""A Cox model of one simulated species that serves another: concordance on new samples, with none to 200 outcomes of the second.

Two species of 200 gene families are simulated, of which a fifth is lost in either. A sample's log hazard is that of its type, and
times are censored for a third. A ridge-Cox model of 400 samples of the first species stands behind the layer, which is learnt on so
many outcomes of the second by Cox's partial likelihood. Printed is Harrell's C on 400 new samples of the second species, means and
standard deviation of the difference from one-to-one orthologs over simulated pairs, and how far the mean survival curve is from the
product-limit curve of the same new samples. There are no real outcomes of a second species here.

    python benchmarks/transfer_survival.py            # about a minute
"""

import argparse
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from expressor import PenalisedCox
from expressor.core.rng import stream
from expressor.data.fields import expression
from expressor.data.keys import UNIT
from expressor.data.units import LOG1P
from expressor.datasets.species import SPECIES, simulate_species
from expressor.genes import Orthologs
from expressor.metrics.survival import concordance, kaplan_meier
from expressor.systems.tron import TRON
from expressor.train.plan import TrainPlan

FAMILIES, SAMPLES, TYPES = 200, 400, 6
PLAN = TrainPlan(lr=1e-2, weight_decay=0.0, epochs=60)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print(f"{FAMILIES} families, {SAMPLES} samples of each species; means over {seeds} simulated pairs")
    print(f"{'outcomes':>9}  {'method':<34}{'C':>7}{'- one-to-one':>14}{'sd':>7}{'curve off':>11}")
    for outcomes in (0, 20, 60, 200):
        found = [measure(outcomes, seed) for seed in range(seeds)]
        for name in found[0]:
            c, off = np.array([one[name] for one in found]).T
            gap = c - np.array([one["one-to-one orthologs"][0] for one in found])
            print(f"{outcomes:>9}  {name:<34}{c.mean():>7.3f}{gap.mean():>+14.3f}{gap.std(ddof=1):>7.3f}{off.mean():>11.3f}",
                  flush=True)  # fmt: skip


def measure(outcomes: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return C and the error of the mean curve by method, of one simulated pair of species."""
    settings: dict[str, Any] = {
        "n_cells": SAMPLES,
        "n_families": FAMILIES,
        "n_types": TYPES,
        "mechanism": seed,
        "depth": 300.0,
    }
    pair, later = simulate_species(**settings, seed=seed), simulate_species(**settings, seed=seed + 1000).target
    source = PenalisedCox(components=20).fit(with_outcomes(pair.source, seed, 0))
    target, new = with_outcomes(pair.target, seed, 1), with_outcomes(later, seed, 2)
    known = np.arange(target.n_obs) < outcomes
    few = target.copy()
    few.obs["time"] = few.obs["time"].where(known)
    mode = "conversion" if outcomes else "zero-shot"
    names = pair.orthologs.pairs["second"]
    shuffled = dict(zip(names.unique(), stream(seed, "permuted").permutation(names.unique())))
    permuted = Orthologs.from_pairs(pair.orthologs.pairs["first"], names.map(shuffled), species=SPECIES)
    given: dict[str, Any] = {
        "source": source,
        "species": SPECIES,
        "scale": "given",
        "match": "moments",
        "plan": PLAN,
        "mode": mode,
    }
    models: dict[str, Any] = {
        "TRON": TRON(**given, orthologs=pair.orthologs).fit(few),
        "one-to-one orthologs": TRON(**given, orthologs=pair.orthologs, edges="one-to-one").fit(few),
        "permuted orthologs": TRON(**given, orthologs=permuted).fit(few),
    }
    if outcomes >= 60:
        models["ridge-Cox of the second species"] = PenalisedCox(components=20).fit(target[known].copy())
    return {name: judge(model, new) for name, model in models.items()}


def with_outcomes(cells: AnnData, seed: int, which: int) -> AnnData:
    """Return log expression with times whose log hazard is that of the type, -1.5 to 1.5; a third are censored."""
    rng = stream(seed, "outcomes", which)
    kind = cells.obs["cell_type"].astype("category").cat.codes.to_numpy()
    time = rng.exponential(100 * np.exp(-np.linspace(-1.5, 1.5, TYPES)[kind]))
    censored = rng.exponential(200, cells.n_obs)
    obs = pd.DataFrame({"time": np.minimum(time, censored) + 0.1, "event": time <= censored}, index=cells.obs_names)
    return AnnData(expression(cells, scale="log1p_cp10k"), obs=obs, var=cells.var, uns={UNIT: LOG1P})


def judge(model: Any, new: AnnData) -> tuple[float, float]:
    """Return C, and the mean distance of the mean curve from the product-limit curve at the deciles of time."""
    time, event = new.obs["time"].to_numpy(), new.obs["event"].to_numpy()
    at = np.quantile(time, np.linspace(0.1, 0.8, 8))
    curve = model.survival_function(new, times=at).mean(axis=0).to_numpy()
    off = np.abs(curve - kaplan_meier(time, event).at(at)).mean()
    return concordance(time, event, model.risk(new).astype(np.float64)), float(off)


if __name__ == "__main__":
    main()
