"""Reads a run folder: the predictions, and whatever of evaluation, history, methods and environment lies beside them.

Only ``predictions.h5ad`` must be there. It is an AnnData of spots and target genes: ``X`` predicted; layers ``lower``, ``upper``
and ``measured`` where known, all in the unit ``uns["unit"]``; ``var`` the gene table (``pcc``, ``pcc_low``, ``pcc_high``,
``p_value``, ``q_value``, ``trusted``, ...); ``obs["section"]``; ``obsm["spatial"]`` in full-resolution pixels; ``uns["spatial"]``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError, check_choice
from expressor.core.serial import read_json
from expressor.data import files, keys
from expressor.data.checks import check_sparse
from expressor.metrics.genewise import pearson

LAYERS = ("predicted", "measured", "lower", "upper")
UNITS = {"log1p_cp10k": "log1p of counts per 10,000", "log1p_counts": "log1p of counts"}
GENE_NUMBERS = ("pcc", "pcc_low", "pcc_high", "p_value", "q_value")


@dataclass(frozen=True)
class Run:
    """What a run folder holds, read and checked.

    Attributes
    ----------
    folder
        Where it was read from.
    predictions
        AnnData (spot, gene), see :mod:`expressor.report.run`.
    grid
        The dense map (point, gene) with the same layers, or None.
    evaluation, history
        The tables ``evaluation.csv`` and ``history.csv``; empty where there is no such file.
    methods
        Text of ``methods.txt``, or ``""``.
    environment, config
        Contents of ``environment.json`` and of the model's ``config.json``; empty where there is no such file.
    """

    folder: Path
    predictions: anndata.AnnData
    grid: anndata.AnnData | None = None
    evaluation: pd.DataFrame = field(default_factory=pd.DataFrame)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    methods: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """The unit of the values, in words; ``"unit not stated"`` where the run does not say."""
        unit = str(self.predictions.uns.get("unit", ""))
        return UNITS.get(unit, unit) or "unit not stated"

    @property
    def coverage(self) -> float | None:
        """The coverage that the intervals aim at (0.9 for 90 %), or None where the run does not say."""
        value = self.predictions.uns.get("coverage")
        return None if value is None else float(value)

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the sections, in the order of their first spot."""
        return tuple(dict.fromkeys(self.section_of_spot))

    @cached_property
    def section_of_spot(self) -> np.ndarray:
        """Section name of every spot, object (spot,); ``"tissue"`` throughout where ``obs`` has no column ``section``."""
        return section_names(self.predictions)

    @cached_property
    def gene_table(self) -> pd.DataFrame:
        """The gene table, most trusted first, then by correlation, then by name.

        Index: gene name. Columns: ``pcc, pcc_low, pcc_high, p_value, q_value`` (float64, NaN where unknown) and ``trusted``
        (object: True, False, or None where there is no verdict).
        """
        var = self.predictions.var
        table = pd.DataFrame(index=pd.Index(self.predictions.var_names.astype(str), name="gene"))
        for name in GENE_NUMBERS:
            known = name in var.columns
            table[name] = pd.to_numeric(var[name].to_numpy(), errors="coerce").astype(float) if known else np.nan
        verdicts = var["trusted"].tolist() if "trusted" in var.columns else [None] * len(table)
        table["trusted"] = pd.Series([_verdict(one) for one in verdicts], index=table.index, dtype=object)
        rank = pd.DataFrame(
            {"trust": [one is True for one in table["trusted"]], "pcc": table["pcc"].fillna(-2.0).to_numpy()}
        )
        rank["gene"] = table.index
        order = rank.sort_values(["trust", "pcc", "gene"], ascending=[False, False, True]).index
        return table.iloc[order]

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """Correlation of predicted with measured over each section's spots, (section, gene); NaN where it is not defined.

        Empty where nothing was measured. Unlike the gene table, which tells how the model fared on tissue held out of its
        fit, this is of the spots of this run.
        """
        measured, predicted = self.values("measured"), self.predicted()
        genes = pd.Index(self.predictions.var_names.astype(str), name="gene")
        if measured is None:
            return pd.DataFrame(columns=genes, dtype=float)
        found = np.full((len(self.sections), len(genes)), np.nan)
        known = np.isfinite(measured) & np.isfinite(predicted)
        for position, section in enumerate(self.sections):
            rows = self.spots_of(section)
            for gene in range(len(genes)):
                both = rows[known[rows, gene]]
                if len(both) > 2:
                    found[position, gene] = pearson(measured[both, gene][:, None], predicted[both, gene][:, None])[0, 0]
        return pd.DataFrame(found, index=list(self.sections), columns=genes)

    @property
    def correlation_here(self) -> pd.Series:
        """Mean over sections of :attr:`correlations`, by gene; NaN where it is in no section defined, or nothing measured."""
        return self.correlations.mean(axis=0)

    def values(self, layer: str, *, genes: list[str] | None = None) -> np.ndarray | None:
        """Return ``"predicted"``, ``"measured"``, ``"lower"`` or ``"upper"`` as float64 (spot, gene), None where absent."""
        return layer_values(self.predictions, layer, genes=genes)

    def predicted(self, *, genes: list[str] | None = None) -> np.ndarray:
        """Return the predictions, float64 (spot, gene); :func:`read_run` makes sure that there are some."""
        found = self.values("predicted", genes=genes)
        if found is None:
            raise DataError("the run holds no predictions")
        return found

    def spots_of(self, section: str) -> np.ndarray:
        """Return the row numbers of the spots of one section, integer (spot,).

        Raises
        ------
        DataError
            There is no such section.
        """
        check_choice(section, self.sections, name="section")
        return np.flatnonzero(self.section_of_spot == section)


def section_names(tissue: anndata.AnnData) -> np.ndarray:
    """Return the section name of every row, object (row,)."""
    if keys.SECTION not in tissue.obs.columns:
        return np.full(tissue.n_obs, "tissue", dtype=object)
    return tissue.obs[keys.SECTION].astype(str).to_numpy().astype(object)


def layer_values(tissue: anndata.AnnData, layer: str, *, genes: list[str] | None = None) -> np.ndarray | None:
    """Return one layer of predictions or of a dense map as float64 (row, gene); None where it is absent."""
    check_choice(layer, LAYERS, name="layer")
    held = tissue.X if layer == "predicted" else tissue.layers.get(layer)
    if held is None:
        return None
    if genes is not None:
        held = held[:, tissue.var_names.get_indexer(genes)]
    dense = held.toarray() if hasattr(held, "toarray") else held
    return np.asarray(dense, dtype=np.float64)


def read_run(folder: str | Path) -> Run:
    """Read a run folder.

    Parameters
    ----------
    folder
        A folder that holds at least ``predictions.h5ad``.

    Raises
    ------
    DataError
        The folder or its ``predictions.h5ad`` is missing, or that file lacks coordinates, spots or genes.
    FormatError
        A file is truncated or corrupt.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}",
            fix="Give the folder that `expressor demo -o` or `expressor predict -o` wrote.",
        )
    path = folder / "predictions.h5ad"
    if not path.is_file():
        raise DataError(
            f"{folder} holds no predictions.h5ad", fix="Give the folder that `expressor demo` or write_run made."
        )
    predictions = _check_tissue(_read_h5ad(path), path)
    grid_path = folder / "grid.h5ad"
    grid = _check_tissue(_read_h5ad(grid_path), grid_path) if grid_path.is_file() else None
    if grid is not None and set(grid.var_names) != set(predictions.var_names):
        raise DataError(f"{grid_path} and {path} hold different genes", fix="Make both with the same model.")
    return Run(
        folder=folder,
        predictions=predictions,
        grid=grid,
        evaluation=_read_table(folder / "evaluation.csv"),
        history=_read_table(folder / "history.csv", folder / "model" / "history.csv"),
        methods=_read_text(folder / "methods.txt"),
        environment=_read_object(folder / "environment.json", folder / "model" / "environment.json"),
        config=_read_object(folder / "model" / "config.json"),
    )


def _read_h5ad(path: Path) -> anndata.AnnData:
    files.check_hdf5(path)
    with files.reading(path, "AnnData in HDF5 (h5ad)"):
        tissue = anndata.read_h5ad(path)
    for name, matrix in [("X", tissue.X), *((f"layers[{key!r}]", one) for key, one in tissue.layers.items())]:
        check_sparse(matrix, where=f"{name} of {path}")
    return tissue


def _check_tissue(tissue: anndata.AnnData, path: Path) -> anndata.AnnData:
    if tissue.n_obs == 0 or tissue.n_vars == 0 or tissue.X is None:
        raise DataError(
            f"{path} is empty", expected="spots, genes and X", got=f"{tissue.n_obs} spots, {tissue.n_vars} genes"
        )
    if not tissue.var_names.is_unique:
        raise DataError(
            f"{path} names a gene twice", got=", ".join(map(repr, tissue.var_names[tissue.var_names.duplicated()][:3]))
        )
    places = tissue.obsm.get(keys.SPATIAL)
    if places is None or np.ndim(places) != 2 or np.shape(places)[1] < 2:
        raise DataError(
            f'{path} has no obsm["spatial"] (spot, 2)', fix="Write the spots' pixel coordinates (x, y) there."
        )
    if not np.isfinite(np.asarray(places, dtype=float)[:, :2]).all():
        raise DataError(f'obsm["spatial"] of {path} holds values that are not finite')
    return tissue


def _read_table(*paths: Path) -> pd.DataFrame:
    for path in paths:
        if path.is_file():
            try:
                return pd.read_csv(path)
            except pd.errors.EmptyDataError:
                return pd.DataFrame()
            except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
                raise FormatError(f"{path} cannot be read as CSV ({type(error).__name__}: {error})") from error
    return pd.DataFrame()


def _read_text(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text") from error


def _read_object(*paths: Path) -> Mapping[str, Any]:
    for path in paths:
        if path.is_file():
            held = read_json(path)
            if not isinstance(held, dict):
                raise FormatError(f"{path} holds no JSON object", got=type(held).__name__)
            return held
    return {}


def _verdict(value: object) -> bool | None:
    """Read a verdict that may have travelled as a bool, a number, or text."""
    text = str(value).strip().lower()
    return True if text in ("true", "1", "1.0", "yes") else False if text in ("false", "0", "0.0", "no") else None
