"""``expressor demo --system bmfm``: pretrain on simulated cells, tell types of another batch, restore genes it did not measure."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.cli.terminal import console, show_table
from expressor.core.errors import DataError

MARK = "scores.csv"
_CELLS, _GENES, _TYPES, _LACKING, _EPOCHS = 1200, 200, 6, 20, 30


def run(out: Path, *, seed: int) -> None:
    """Write model, annotated cells and scores to ``out``, and print the scores.

    Raises
    ------
    DataError
        ``out`` holds something else.
    """
    import expressor as ex

    started = time.perf_counter()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists())):
        raise DataError(f"{out} exists and is no such run", fix="Choose a new folder with -o; nothing was changed.")
    cells = ex.datasets.simulate_cells(n_cells=_CELLS, n_genes=_GENES, n_types=_TYPES, n_batches=2, seed=seed)
    first = (cells.obs["batch"] == "B1").to_numpy()
    train, new = cells[first].copy(), cells[~first].copy()
    console.print(
        f"{train.n_obs} simulated cells of one batch train, {new.n_obs} of another are new; {_LACKING} of {_GENES} genes were not "
        "measured in them"
    )
    fewer = new[:, _LACKING:].copy()
    with console.status("fitting"):
        model, untrained = (_fit(train, objectives, seed) for objectives in ("wced", ""))
    truth = new.obs["cell_type"].astype(str).to_numpy()
    scores = [
        (name, float((one.predict(fewer)["cell_type"].to_numpy() == truth).mean()))
        for name, one in (("whole-cell decoding", model), ("untrained network", untrained))
    ]
    scores.append(("50 principal components", _by_components(train, fewer, new)))
    restored = model.impute(fewer)[:, [list(model.genes_in_).index(one) for one in new.var_names[:_LACKING]]]
    true = new.X[:, :_LACKING].toarray()
    r = float(np.corrcoef(np.log1p(restored.mean(axis=0)), np.log1p(true.mean(axis=0)))[0, 1])
    model.annotate(fewer)
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "model")
    fewer.write_h5ad(out / "cells.h5ad")
    table = pd.DataFrame(scores, columns=["method", "accuracy"])
    table.to_csv(out / MARK, index=False)
    show_table("\nTypes of the new batch, by logistic regression on vectors of the cells", ["method", "accuracy"],
               [[name, f"{value:.3f}"] for name, value in scores])  # fmt: skip
    explained = model.history_["val_r2"].max()
    console.print(
        f"Of the variance of held-out cells around gene means, {explained:.2f} is explained from the cell's vector."
    )
    console.print(
        f"Mean counts of the {_LACKING} genes that the new batch lacks: r = {r:.2f} with what was left out of it."
    )
    console.print(f"{time.perf_counter() - started:.0f} s. Written to {out}/:", markup=False)
    for name, what in (
        ("cells.h5ad", "the new cells with types, probabilities and vectors"),
        ("scores.csv", "the table above"),
        ("model", "the fitted model, for `expressor predict`"),
    ):
        console.print(f"  {name:<12}{what}", markup=False)


def _fit(train: Any, objectives: str, seed: int) -> Any:
    import expressor as ex

    model = ex.BMFM(objectives=objectives, label="cell_type", random_state=seed)
    model.plan.set_params(epochs=_EPOCHS)
    return model.fit(train)


def _by_components(train: Any, fewer: Any, new: Any) -> float:
    """Return the accuracy of logistic regression on principal components of the genes that both batches measured."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from expressor.data.fields import expression

    genes = list(fewer.var_names)
    values = [expression(one, genes, scale="log1p_cp10k") for one in (train, fewer)]
    model = make_pipeline(PCA(50, random_state=0), StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(values[0], train.obs["cell_type"].astype(str))
    return float(model.score(values[1], new.obs["cell_type"].astype(str)))
