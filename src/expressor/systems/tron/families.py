"""What the learnt map says: edges that are stable, and families in which another ortholog works than the best match."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.base import clone

from expressor.core.rng import stream


def stability(model: Any, adata: AnnData, *, seeds: int) -> pd.DataFrame:
    """Return the edges of a fitted model with what other fits on resampled labelled observations make of them."""
    weights, importances = [], []
    for seed in range(seeds):
        again: Any = clone(model).set_params(random_state=model.random_state + 1 + seed)
        again.fit(resample(adata, label=model.label, kind=model.source_.kind, seed=again.random_state))
        weights.append(again.edges_["weight"].to_numpy(dtype=np.float64))
        importances.append(again.edges_["importance"].to_numpy(dtype=np.float64))
    w, i = np.stack(weights), np.stack(importances)
    change = w - model.edges_["start"].to_numpy(dtype=np.float64)
    table = model.edges_.assign(
        weight_mean=w.mean(0), weight_sd=w.std(0, ddof=1), same_sign=(np.sign(change) == np.sign(change.mean(0))).mean(0),
        importance_mean=i.mean(0), importance_sd=i.std(0, ddof=1),
    )  # fmt: skip
    ranks = pd.DataFrame(i.T).rank()
    table.attrs["agreement"] = float(np.mean([ranks[a].corr(ranks[b]) for a, b in combinations(range(seeds), 2)]))
    return table


def resample(adata: AnnData, *, label: str, kind: str, seed: int) -> AnnData:
    """Draw labelled observations with replacement, within classes where there are classes; those without a label stay."""
    rng, order = stream(seed, "edge stability"), np.argsort(adata.obs_names.astype(str).to_numpy(), kind="stable")
    groups = (
        adata.obs[label].astype(object).to_numpy()[order] if kind == "classes" else np.zeros(len(order), dtype=object)
    )
    known = pd.notna(groups)
    rows = [order[~known]]
    for one in sorted(set(groups[known].tolist()), key=str):
        mine = order[groups == one]
        rows.append(rng.choice(mine, len(mine)))
    drawn = np.concatenate(rows)
    obs = adata.obs.iloc[drawn].set_axis([f"{i:06d}-{adata.obs_names[row]}" for i, row in enumerate(drawn)])
    return AnnData(adata.X[drawn], obs=obs, var=adata.var, uns=adata.uns)


def disagreeing(edges: pd.DataFrame) -> pd.DataFrame:
    """Return source genes whose ortholog of largest importance is not that of largest confidence; see ``TRON.families``."""
    value = "importance_mean" if "importance_mean" in edges else "importance"
    rows = []
    several = edges[edges["source"].duplicated(keep=False)]
    for gene, part in several.groupby("source", sort=True):
        ranked = part.sort_values("confidence", ascending=False, kind="stable")
        best, functional = ranked.iloc[0], part.iloc[int(part[value].to_numpy().argmax())]
        if ranked["confidence"].iloc[1] == best["confidence"] or functional["target"] == best["target"]:
            continue
        row = {
            "source": gene,
            "best_match": best["target"],
            "functional": functional["target"],
            "n_orthologs": len(part),
        }
        for name, one in (("best", best), ("functional", functional)):
            row |= {f"{name}_{what}": float(one[what]) for what in ("confidence", "weight")}
            row[f"{name}_importance"] = float(one[value])
        row["ratio"] = row["functional_importance"] / max(row["best_importance"], 1e-12)
        if "same_sign" in edges:
            row["same_sign"] = float(functional["same_sign"])
        rows.append(row)
    columns = [
        "source", "best_match", "functional", "n_orthologs", "best_confidence", "best_weight", "best_importance",
        "functional_confidence", "functional_weight", "functional_importance", "ratio",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns + (["same_sign"] if "same_sign" in edges else []))
    gap = table["functional_importance"] - table["best_importance"]
    return table.loc[gap.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
