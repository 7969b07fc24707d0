"""Writes a run folder: a fitted model, its predictions of a tissue, how good they are; everything a report is made from."""

from pathlib import Path
from typing import Any, Protocol

import anndata
import numpy as np
import pandas as pd

from expressor.core.errors import DataError
from expressor.core.serial import write_json
from expressor.data import fields, keys
from expressor.data.writing import write_h5ad
from expressor.estimator.storage import write_folder

MARK = "predictions.h5ad"


class TissueModel(Protocol):
    """A fitted system that predicts expression of tissue with intervals, as :class:`expressor.systems.agl.AGL` does."""

    target_genes_: pd.Index
    gene_table_: pd.DataFrame
    history_: pd.DataFrame
    environment_: dict[str, Any]
    target_scale: str

    def predict(self, data: Any) -> pd.DataFrame:
        """Return (spot, gene)."""
        ...

    def predict_interval(self, data: Any, coverage: float = 0.9) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return lower and upper bounds, (spot, gene) each."""
        ...

    def predict_grid(self, data: Any, section: str, spacing_um: float) -> anndata.AnnData:
        """Return predictions on a regular grid over the tissue of one section."""
        ...

    def describe(self) -> str:
        """Return the methods paragraph and the references."""
        ...

    def save(self, folder: Path) -> Path:
        """Save the model."""
        ...


def write_run(
    model: TissueModel,
    tissue: anndata.AnnData,
    folder: str | Path,
    *,
    evaluation: pd.DataFrame | None = None,
    coverage: float = 0.9,
    grid_um: float | None = None,
    report: bool = True,
) -> Path:
    """Write a run folder; see :mod:`expressor.report.run` for what stands in it.

    Parameters
    ----------
    model
        A fitted system.
    tissue
        Spots to predict, in the tissue layout; its counts, where it has them, are what was measured.
    folder
        Where to write. An older run there is replaced when the new one is complete; anything else is refused.
    evaluation
        Tidy table of methods and metrics, as :func:`expressor.bench.run` gives.
    coverage
        Of the predictive intervals, in (0, 1).
    grid_um
        Spacing of a denser map over every section, um; none by default.
    report
        Write the HTML report and the figures, too.

    Returns
    -------
    The folder.

    Raises
    ------
    DataError
        The folder holds something else, or cannot be written; nothing is lost then.
    """

    def write(temporary: Path) -> None:
        model.save(temporary / "model")
        write_h5ad(predictions(model, tissue, coverage=coverage), temporary / MARK)
        if grid_um is not None:
            write_h5ad(_dense_map(model, tissue, grid_um, coverage), temporary / "grid.h5ad")
        if evaluation is not None:
            evaluation.to_csv(temporary / "evaluation.csv", index=False)
        model.history_.to_csv(temporary / "history.csv", index=False)
        (temporary / "methods.txt").write_text(model.describe(), encoding="utf-8")
        write_json(temporary / "environment.json", model.environment_)
        if report:
            from expressor.report.html import write_report

            write_report(temporary)

    return write_folder(Path(folder), write, mark=MARK)


def predictions(model: TissueModel, tissue: anndata.AnnData, *, coverage: float = 0.9) -> anndata.AnnData:
    """Return the predictions of a tissue as an AnnData of the target genes.

    Returns
    -------
    ``X`` predicted; layers ``lower``, ``upper`` and, where the tissue holds counts of every target gene, ``measured``; all float32
    (spot, gene) in the unit ``uns["unit"]``; ``var`` the model's gene table.
    """
    predicted = model.predict(tissue)
    lower, upper = model.predict_interval(tissue, coverage)
    genes = list(predicted.columns)
    layers = {"lower": _plain(lower), "upper": _plain(upper)}
    if set(genes) <= set(tissue.var_names) and tissue.X is not None:
        layers["measured"] = fields.expression(tissue, genes, scale=model.target_scale)
    keep = {name: tissue.uns[name] for name in (keys.SPATIAL,) if name in tissue.uns}
    return anndata.AnnData(
        _plain(predicted),
        obs=tissue.obs.copy(),
        var=model.gene_table_.reindex(genes),
        obsm={name: np.array(tissue.obsm[name]) for name in (keys.SPATIAL,) if name in tissue.obsm},
        layers=layers,
        uns=keep | {"unit": predicted.attrs["unit"], "coverage": float(coverage)},
    )


def _plain(table: pd.DataFrame) -> np.ndarray:
    return table.to_numpy(dtype=np.float32)


def _dense_map(model: TissueModel, tissue: anndata.AnnData, spacing_um: float, coverage: float) -> anndata.AnnData:
    from expressor.data.spatial import sections

    if keys.SPATIAL not in tissue.uns:
        raise DataError("a dense map needs images", fix=f"Give a tissue with uns[{keys.SPATIAL!r}], or grid_um=None.")
    parts = [model.predict_grid(tissue, section, spacing_um) for section in sections(tissue)]
    return parts[0] if len(parts) == 1 else anndata.concat(parts, merge="same", uns_merge="unique")
