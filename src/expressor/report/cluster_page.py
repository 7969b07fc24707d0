"""The report of clusters: one HTML file without scripts, its figures inside and as files beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.manifold import TSNE

from expressor.core.errors import DataError
from expressor.core.rng import child_seed, stream
from expressor.data.fields import fingerprint, read
from expressor.estimator.roles import Clusters, Encodes
from expressor.report import figures, summary
from expressor.report.drawn_page import Drawing, inline, write_drawings, write_page
from expressor.report.tables import metric_rows

DRAWN = 3000
"""Cells that are drawn at most."""
GENES = 8
"""Genes that are named for each cluster."""
PERPLEXITY = 30.0


def write_cluster_report(
    model: Any, data: Any, out: str | Path, *, label: str | None = None, files: bool = True
) -> Path:
    """Draw cells at the positions and in the clusters of a fitted model, compare with known types, and write one HTML file.

    Parameters
    ----------
    model
        A fitted system that clusters cells (``Clusters``) by positions (``Encodes``), such as DIPHW.
    data
        Cells on the scale of the fit: AnnData, or the path of an h5ad.
    out
        The HTML file.
    label
        Column of ``obs`` with known types; the model's own ``label`` by default, where the data have it.
    files
        Write PNG and SVG figures into the folder ``figures`` beside the HTML file, too.

    Returns
    -------
    Path of the HTML file.

    Raises
    ------
    DataError
        The model does not cluster; the column is not there; no cell has a position; the file cannot be written.
    """
    if not all(isinstance(model, role) for role in (Clusters, Encodes)):
        raise DataError(
            f"{type(model).__name__} makes no clusters of cells", expected="a model that does, such as DIPHW"
        )
    adata = read(data)
    known = _known(adata, model, label)
    in_sample = fingerprint(adata) == model.data_fingerprint_
    positions = np.asarray(model.embedding_ if in_sample else model.transform(adata))
    labels = np.asarray(model.labels_ if in_sample else model.assign(adata))
    placed = labels >= 0
    if placed.sum() < 2:
        raise DataError("cells cannot be drawn", expected="at least 2 that have a position", got=int(placed.sum()))
    drawn = {
        "maps": _maps(positions, labels, known, seed=model.random_state),
        "agreement": _agreement(labels, known),
        "counts": _counts(model),
    }
    path = Path(out)
    _write(path, model, adata, labels, known, drawn, in_sample=in_sample)
    if files:
        write_drawings([one for part in drawn.values() for one in part], path.parent / "figures")
    return path


def _known(adata: AnnData, model: Any, label: str | None) -> pd.Series | None:
    """Return known types, "" where there is none; None where the data have no such column and none was asked for."""
    column = label or getattr(model, "label", None)
    if column not in adata.obs:
        if label is None:
            return None
        raise DataError(
            f"the data have no obs[{label!r}]", expected="a column of known types", got=list(adata.obs.columns)
        )
    found = adata.obs[column]
    return found.astype(object).where(found.notna(), "").astype(str)


def _maps(positions: np.ndarray, labels: np.ndarray, known: pd.Series | None, *, seed: int) -> list[Drawing]:
    rows = np.flatnonzero(labels >= 0)
    if len(rows) > DRAWN:
        rows = np.sort(stream(seed, "cells that are drawn").choice(rows, DRAWN, replace=False))
    places = _in_two_dimensions(positions[rows], seed=seed)
    some = f"{DRAWN:,} cells drawn at random" if (labels >= 0).sum() > DRAWN else summary.count(len(rows), "cell")
    how = f"{some}; positions in two dimensions by t-SNE, in which near cells are near and long distances mean little"
    made: list[Drawing] = [
        ("cells_by_cluster", f"Clusters. {how}.", figures.cell_map(places, labels[rows].astype(str), title="Cluster"))
    ]
    if known is not None:
        drawing = figures.cell_map(places, known.to_numpy()[rows], title=str(known.name))
        made.append(("cells_by_type", "The same cells by their known type. Clusters were made without it.", drawing))
    return made


def _in_two_dimensions(positions: np.ndarray, *, seed: int) -> np.ndarray:
    if len(positions) < 5:
        return np.column_stack([np.arange(len(positions)), np.zeros(len(positions))])
    perplexity = min(PERPLEXITY, (len(positions) - 1) / 3)
    return TSNE(perplexity=perplexity, init="random" if positions.shape[1] < 2 else "pca",
                random_state=child_seed(seed, "t-SNE") % 2**32).fit_transform(positions)  # fmt: skip


def _agreement(labels: np.ndarray, known: pd.Series | None) -> list[Drawing]:
    if known is None:
        return []
    both = (known != "").to_numpy() & (labels >= 0)
    if not both.any():
        return []
    drawing = figures.cluster_agreement(known.to_numpy()[both], labels[both].astype(str))
    return [("cluster_agreement", "Of each known type, how many of a hundred cells are in which cluster.", drawing)]


def _counts(model: Any) -> list[Drawing]:
    history = getattr(model, "history_", None)
    if history is None or "silhouette" not in history:
        return []
    if "walk" in history:
        history = history[history["walk"] == model.walk_]
    if history["silhouette"].notna().sum() < 2:
        return []
    chosen = int(model.labels_.max()) + 1
    words = "Mean silhouette of each number of clusters that was tried; dashed, the number that was taken."
    return [("cluster_counts", words, figures.cluster_counts(history, chosen))]


def _write(path: Path, model: Any, adata: AnnData, labels: np.ndarray, known: pd.Series | None,
           drawn: dict[str, list[Drawing]], *, in_sample: bool) -> None:  # fmt: skip
    modules = getattr(model, "modules_", None)
    clusters = _rows(labels, known, modules)
    judged = known is not None and (known != "").any() and known.name == getattr(model, "label", None)
    placed = int((labels >= 0).sum())
    title = f"{summary.count(placed, 'cell')} in {summary.count(len(clusters), 'cluster')} by {type(model).__name__}"
    write_page(
        path, "clusters.html.j2", title=title, heading=title,
        opening=_opening(labels, clusters, in_sample=in_sample),
        facts=[
            ("Model", f"{type(model).__name__}: {model.card().title}"), ("Cells", f"{adata.n_obs:,}"),
            ("Genes of the fit", f"{len(model.genes_in_):,}"), ("Clusters", f"{len(clusters)}"),
            ("Same cells as the fit", "yes" if in_sample else "no"),
        ],
        **{part: inline(one) for part, one in drawn.items()},
        clusters=clusters, named=known is not None, carried=modules is not None,
        listed=int(modules.groupby("cluster").size().max()) if modules is not None and len(modules) else 0,
        evaluation=metric_rows(model.evaluate(adata)) if judged else [], resampled="cells, or patients where they are known",
        methods=model.describe(), environment=model.environment_, parameters=model._parameters(),
    )  # fmt: skip


def _rows(labels: np.ndarray, known: pd.Series | None, modules: pd.DataFrame | None) -> list[dict[str, Any]]:
    rows = []
    for one in np.unique(labels[labels >= 0]):
        inside = labels == one
        types = known[inside & (known != "").to_numpy()] if known is not None else pd.Series(dtype=str)
        counts = types.value_counts()
        rows.append({
            "cluster": int(one), "cells": f"{int(inside.sum()):,}",
            "type": f"{counts.index[0]} ({100 * counts.iloc[0] / len(types):.0f} %)" if len(types) else "unknown",
            "genes": _genes(modules, int(one)),
        })  # fmt: skip
    return rows


def _genes(modules: pd.DataFrame | None, cluster: int) -> str:
    if modules is None:
        return ""
    own = modules[modules["cluster"] == cluster].sort_values("lift", ascending=False, kind="stable").head(GENES)
    return ", ".join(f"{gene} ({lift:.1f})" for gene, lift in zip(own["gene"], own["lift"]))


def _opening(labels: np.ndarray, clusters: list[dict[str, Any]], *, in_sample: bool) -> list[str]:
    said = []
    if not in_sample:
        said.append("These are not the cells of the fit: each was put into the cluster whose mean position is nearest.")
    lost = int((labels < 0).sum())
    if lost:
        said.append(f"{summary.count(lost, 'cell')} of {len(labels):,} express no chosen gene and are in no cluster.")
    if len(clusters) == 1:
        said.append("All cells are in one cluster.")
    said.append(
        "A cluster is a group of cells that walks over shared genes often see near each other. That it is a type of cells is "
        "for its genes to show, and for other data to confirm."
    )
    return said
