"""How well the map between two simulated species is found: which of a gene's orthologs does the same.

Two species of 600 gene families are simulated; a part of the families is lost in either. In a family of several genes one pair
is functional. A multinomial regression of the first species stands behind TRON's layer, which is learnt on labelled cells of the
second. Printed is the area under the ROC curve of functional pairs among all pairs of genes with several orthologs: of the weights
and of importance, each relative to its gene's mean, and of the table's confidence, which puts the functional pair first in 60 % of
the families; and accuracy on new cells with the layer at its start and learnt. One half is chance: the start has all weights alike.

    python benchmarks/transfer.py            # half a minute
"""

import argparse

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from expressor.data.fields import expression
from expressor.datasets.species import SPECIES, simulate_species
from expressor.estimator.expression_models import expression_model
from expressor.systems.tron import TRON
from expressor.train.plan import TrainPlan

FAMILIES, CELLS, TYPES, DEPTH = 600, 400, 6, 300.0


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print(f"{FAMILIES} families, {TYPES} types, {CELLS} cells of each species; means over {seeds} simulated pairs")
    print(
        f"{'loss':>6}{'noise':>7}{'labelled':>10}{'pairs':>7}{'confidence':>12}{'weight':>8}{'importance':>12}{'start':>8}{'learnt':>8}"
    )
    for loss, noise in ((0.0, 0.3), (0.2, 0.3), (0.2, 1.0)):
        for labelled in (5, 20, 60):
            rows = np.array([measure(loss, noise, labelled, seed) for seed in range(seeds)]).mean(axis=0)
            print(f"{loss:>6}{noise:>7}{labelled:>10}{rows[0]:>7.0f}{rows[1]:>12.3f}{rows[2]:>8.3f}{rows[3]:>12.3f}{rows[4]:>8.3f}"
                  f"{rows[5]:>8.3f}", flush=True)  # fmt: skip


def measure(loss: float, noise: float, labelled: int, seed: int) -> list[float]:
    """Return the number of pairs, three areas, and accuracy at the start and learnt, of one simulated pair of species."""
    settings = {
        "n_cells": CELLS,
        "n_families": FAMILIES,
        "n_types": TYPES,
        "loss": loss,
        "noise": noise,
        "mechanism": seed,
    }
    pair, new = simulate_species(**settings, seed=seed), simulate_species(**settings, seed=seed + 1000).target
    x = expression(pair.source, scale="log1p_cp10k").astype(np.float64)
    model = LogisticRegression(C=0.05, max_iter=500).fit(x, pair.source.obs["cell_type"].astype(str))
    source = expression_model(model, genes=list(pair.source.var_names), mean=x.mean(0), spread=x.std(0))
    few = pair.target.copy()
    place = few.obs.groupby("cell_type", observed=True).cumcount()
    few.obs["cell_type"] = few.obs["cell_type"].astype(object).where(place < labelled)
    plan = TrainPlan(lr=1e-2, weight_decay=0.0, batch_size=64, epochs=100, max_steps=200)
    given = {"source": source, "orthologs": pair.orthologs, "species": SPECIES, "match": "moments", "plan": plan}
    start, learnt = TRON(**given, mode="zero-shot").fit(few), TRON(**given).fit(few)
    edges = learnt.edges_.merge(pair.edges, left_on=["source", "target"], right_on=list(SPECIES), suffixes=("", "_"))
    edges = edges[edges["source"].duplicated(keep=False)]
    truth = edges["functional"]
    # Matching stretches all orthologs of a gene alike, and genes differ in what they tell: both are compared within a gene.
    share = edges["importance"] / edges.groupby("source")["importance"].transform("mean")
    areas = [roc_auc_score(truth, one) for one in (edges["confidence"], edges["weight"] / edges["start"], share)]
    right = [
        float((one.predict(new)["cell_type"] == new.obs["cell_type"].astype(str)).mean()) for one in (start, learnt)
    ]
    return [float(len(edges)), *areas, *right]


if __name__ == "__main__":
    main()
