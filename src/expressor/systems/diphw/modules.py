"""The co-expression modules behind clusters: which genes carried the steps of the walk that stayed inside one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from expressor.systems.diphw import equations
from expressor.systems.diphw.hypergraph import FactorWalk, TableWalk
from expressor.systems.diphw.memory import memory_flows

_KEPT = 50


def carriers(
    walk: FactorWalk | TableWalk,
    gamma: sparse.csr_matrix,
    visits: np.ndarray,
    labels: np.ndarray,
    memory: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of steps inside each cluster that each gene carries, (cluster, gene), and of all steps, (gene,).

    For a walk with memory the gene is the second one, through which the next cell is reached.

    Parameters
    ----------
    walk, gamma
        The walk and its expression, (cell, gene).
    visits
        (cell,), how often cells are visited.
    labels
        (cell,), from 0.
    memory
        Options of :func:`expressor.systems.diphw.memory.memory_walk`, for such a walk.
    """
    member = np.eye(labels.max() + 1)[labels]
    if isinstance(walk, FactorWalk):
        leave = walk.A_T @ (member * visits[:, None])
        inside = (leave * (walk.B @ member)).T
        overall = leave.sum(axis=1)
    else:
        inside, overall = memory_flows(gamma, visits, member, **(memory or {}))
    return equations._rows_to_one(inside), overall / max(overall.sum(), 1e-300)


def module_table(inside: np.ndarray, overall: np.ndarray, genes: tuple[str, ...]) -> pd.DataFrame:
    """Return the leading genes of each cluster: cluster, gene, share, lift (share inside over share of all steps)."""
    rows = []
    names = np.asarray(genes, dtype=object)
    for cluster, shares in enumerate(inside):
        best = np.lexsort((names.astype(str), -shares))[:_KEPT]
        best = best[shares[best] > 0]
        lift = shares[best] / np.maximum(overall[best], 1e-300)
        rows.append(pd.DataFrame({"cluster": cluster, "gene": names[best], "share": shares[best], "lift": lift}))
    return pd.concat(rows, ignore_index=True)
