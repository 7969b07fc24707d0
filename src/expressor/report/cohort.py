"""Run folders and reports of bulk profiles: what a fitted model restores of a cohort, and whom it expects to die earlier.

``write_cohort_run`` asks a fitted model for what its roles give, judges it on the cohort as far as the cohort allows, and writes:

- ``cohort.json``: model, data, unit, how the genes were matched, whether the cohort is that of the fit
- ``restored.h5ad``: complete expression of the model's genes; layers ``lower``, ``upper``, and ``measured`` with its gaps
- ``check.h5ad``: a part of the measured values, hidden and restored; layers ``measured`` (NaN where nothing was hidden), ``lower``,
  ``upper``
- ``panel_sizes.csv``: error of restoring all other genes from random panels of the measured ones
- ``patients.csv``: predicted risk and survival at a horizon beside time and event
- ``evaluation.csv``: the model's own ``evaluate`` on the cohort
- ``methods.txt``, ``environment.json``, ``figures/`` and ``report.html``
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError
from expressor.core.log import logger
from expressor.core.rng import stream
from expressor.core.serial import read_json, to_plain, write_json
from expressor.data import files, keys
from expressor.data.checks import check_sparse
from expressor.data.cohorts import match_to
from expressor.data.fields import fingerprint, read
from expressor.data.guard import DAMAGED
from expressor.data.outcomes import has_outcome, read_outcomes
from expressor.data.profiles import profiles
from expressor.data.units import unit_of
from expressor.data.writing import write_h5ad
from expressor.estimator.roles import Imputes, Survives
from expressor.estimator.storage import write_folder
from expressor.genes.matching import GeneTable
from expressor.metrics.restoration import gene_correlation

MARK = "cohort.json"
FORMAT = "expressor cohort, format 1"
HIDDEN = 0.2
"""Share of the measured values that are hidden for the check."""
MAX_SAMPLES = 200
"""Samples that are looked at for the check and the panel sizes; of more, some evenly spread ones."""
PANEL_DRAWS = 3
YEAR = 365.25


@dataclass(frozen=True, eq=False)
class CohortRun:
    """What the run folder of a cohort holds; see the module's notes.

    Attributes
    ----------
    folder
        Where it was read from.
    about
        Contents of ``cohort.json``.
    restored, check
        Restored expression, and the check of it; None where the model restores nothing.
    panel_sizes, patients, evaluation
        Tables; empty where there is no such file.
    methods
        Text of ``methods.txt``.
    environment
        Contents of ``environment.json``.
    """

    folder: Path
    about: Mapping[str, Any]
    restored: anndata.AnnData | None = None
    check: anndata.AnnData | None = None
    panel_sizes: pd.DataFrame = field(default_factory=pd.DataFrame)
    patients: pd.DataFrame = field(default_factory=pd.DataFrame)
    evaluation: pd.DataFrame = field(default_factory=pd.DataFrame)
    methods: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    def gene_table(self) -> pd.DataFrame:
        """Return for each gene that was hidden at least thrice its correlation ``r`` and ``hidden``, how often; best first."""
        if self.check is None:
            return pd.DataFrame(columns=["r", "hidden"])
        judged = np.isfinite(np.asarray(self.check.layers["measured"]))
        r = gene_correlation(np.nan_to_num(self.check.layers["measured"]), np.asarray(self.check.X), judged)
        table = pd.DataFrame({"r": r, "hidden": judged.sum(axis=0)}, index=self.check.var_names.astype(str))
        table = table[table["hidden"] >= 3]
        return table.iloc[np.lexsort((table.index.to_numpy(), -table["r"].fillna(-2.0).to_numpy()))]


def write_cohort_run(
    model: Any,
    data: Any,
    folder: str | Path,
    *,
    coverage: float = 0.9,
    ids: GeneTable | None = None,
    seed: int = 0,
    report: bool = True,
) -> Path:
    """Ask a fitted model of bulk profiles about a cohort, judge what can be judged, and write a run folder with its report.

    Parameters
    ----------
    model
        A fitted system that restores (``Imputes``), predicts survival (``Survives``), or both.
    data
        The cohort: AnnData, path of an h5ad, zarr, CSV or TSV, or DataFrame; genes named in any usual way.
    folder
        Where to write. An older run of a cohort there is replaced when the new one is complete; anything else is refused.
    coverage
        Of the intervals, in (0, 1).
    ids
        Identifiers to match genes by; the shipped human table by default.
    seed
        Of what is hidden for the check.
    report
        Write the HTML report and the figures, too.

    Returns
    -------
    The folder.

    Raises
    ------
    DataError
        The model does neither, or the folder holds something else or cannot be written.
    GeneError
        None of the model's genes is in the data.
    """
    restores, survives = isinstance(model, Imputes), isinstance(model, Survives) and model.survives_
    if not restores and not survives:
        raise DataError(
            f"{type(model).__name__} neither restores expression nor predicts survival",
            expected="a model with one of these roles",
        )
    adata = read(data)
    unit = unit_of(adata)
    in_sample = fingerprint(adata) == model.data_fingerprint_
    matched, found = match_to(adata, model.genes_in_, table=ids)
    matched.uns[keys.UNIT] = unit
    if in_sample:
        logger.warning("the model was fitted on these very data; what is found on them flatters it")
    about: dict[str, Any] = {
        "format": FORMAT, "system": type(model).__name__, "title": model.card().title, "unit": unit,
        "samples": adata.n_obs, "genes": len(model.genes_in_), "found": found.n_found, "match": found.report(),
        "in_sample": in_sample, "coverage": coverage, "parameters": model._parameters(),
    }  # fmt: skip

    def write(temporary: Path) -> None:
        if restores:
            write_h5ad(restore(model, matched, coverage=coverage), temporary / "restored.h5ad")
            check = hide_and_restore(model, matched, coverage=coverage, seed=seed)
            if check is not None:
                write_h5ad(check, temporary / "check.h5ad")
            panel_sizes(model, matched, seed=seed).to_csv(temporary / "panel_sizes.csv", index=False)
        if survives:
            table, horizon = patients_at_risk(model, matched)
            table.to_csv(temporary / "patients.csv")
            about["horizon_days"] = horizon
        evaluation = _evaluate(model, matched)
        if evaluation is not None:
            evaluation.to_csv(temporary / "evaluation.csv", index=False)
        (temporary / "methods.txt").write_text(model.describe(), encoding="utf-8")
        write_json(temporary / "environment.json", model.environment_)
        write_json(temporary / MARK, to_plain(about))
        if report:
            from expressor.report.cohort_page import write_cohort_report

            write_cohort_report(temporary)

    return write_folder(Path(folder), write, mark=MARK)


def restore(model: Any, data: anndata.AnnData, *, coverage: float | None = 0.9) -> anndata.AnnData:
    """Return complete expression of the model's genes.

    Parameters
    ----------
    model
        A fitted system that restores.
    data
        Samples whose genes are named as the model's.
    coverage
        Of the intervals; None for none.

    Returns
    -------
    AnnData
        ``X`` complete; layers ``measured`` (NaN where it was not), and ``lower``, ``upper`` where the model gives intervals;
        float32 (sample, gene) on the scale ``uns["unit"]``.
    """
    genes = list(model.genes_in_)
    restored = anndata.AnnData(
        np.asarray(model.impute(data), dtype=np.float32), obs=data.obs.copy(), var=pd.DataFrame(index=genes)
    )
    restored.layers["measured"] = profiles(data, genes, allow_gaps=True)
    if coverage is not None and hasattr(model, "impute_interval"):
        restored.layers["lower"], restored.layers["upper"] = (
            np.asarray(one, dtype=np.float32) for one in model.impute_interval(data, coverage=coverage)
        )
    restored.uns[keys.UNIT] = data.uns[keys.UNIT] if keys.UNIT in data.uns else unit_of(data)
    return restored


def hide_and_restore(
    model: Any, data: anndata.AnnData, *, coverage: float, seed: int = 0, share: float = HIDDEN
) -> anndata.AnnData | None:
    """Hide a share of what was measured, restore it, and return both; None where a sample would be left with nothing.

    The values are those of this cohort, so this tells how the model does on these samples, platform and panel; it needs no truth.
    """
    part = _some(data)
    genes = list(model.genes_in_)
    values = profiles(part, genes, allow_gaps=True)
    hidden = ~np.isnan(values) & (stream(seed, "check").random(values.shape) < share)
    keep = (~np.isnan(values) & ~hidden).any(axis=1)
    if not (hidden & keep[:, None]).any():
        return None
    hidden &= keep[:, None]
    holed = _with(part, np.where(hidden, np.float32(np.nan), values), genes)
    check = restore(model, holed, coverage=coverage)
    check.layers["measured"] = np.where(hidden, values, np.nan).astype(np.float32)
    return check


def panel_sizes(model: Any, data: anndata.AnnData, *, seed: int = 0) -> pd.DataFrame:
    """Return the error of restoring every other measured gene from random panels of 8, 16, 32, ... measured genes.

    A row a panel: ``size``, ``draw``, and ``rmse``, the error of the middle gene in standard deviations over these samples, in
    which 1 is the error of the gene's own mean. (Of all genes together a few that hardly vary here would decide.) Genes measured
    in half of the samples or more take part; their gaps stay gaps. Empty with fewer than 16 such genes, or fewer than 5 samples.
    """
    part = _some(data)
    genes = list(model.genes_in_)
    values = profiles(part, genes, allow_gaps=True).astype(np.float64)
    known = ~np.isnan(values)
    n = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / n
    spread = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / n)
    usable = np.flatnonzero((known.mean(axis=0) >= 0.5) & (spread > 0))
    rows = []
    sizes = [2**power for power in range(3, 14) if 2**power <= 0.8 * len(usable)]
    for size in sizes if part.n_obs >= 5 and len(usable) >= 16 else []:
        for draw in range(PANEL_DRAWS):
            panel = stream(seed, "panel", size, draw).choice(usable, size, replace=False)
            others = np.setdiff1d(usable, panel)
            shown = np.full(values.shape, np.nan, dtype=np.float32)
            shown[:, panel] = values[:, panel]
            # A sample of which the panel shows nothing says nothing of the panel.
            told = np.flatnonzero((~np.isnan(shown)).any(axis=1))
            restored = np.asarray(model.impute(_with(part[told], shown[told], genes)), dtype=np.float64)
            error = np.where(known[told], (restored - values[told]) / np.where(spread > 0, spread, 1.0), np.nan)[
                :, others
            ]
            judged = error[:, ~np.isnan(error).all(axis=0)]
            middle = np.sqrt(np.median(np.nanmean(judged**2, axis=0)))
            rows.append({"size": size, "draw": draw, "rmse": float(middle)})
    return pd.DataFrame(rows, columns=["size", "draw", "rmse"])


def patients_at_risk(model: Any, data: anndata.AnnData) -> tuple[pd.DataFrame, float]:
    """Return a row a sample (risk, survival beyond a horizon, and time, event, patient where known), and the horizon in days.

    The horizon is the median time of the samples with an outcome, rounded to half years (at least one), or two years.
    """
    table = pd.DataFrame({"risk": np.asarray(model.risk(data), dtype=np.float64)}, index=data.obs_names)
    table.index.name = "sample"
    horizon = 2 * YEAR
    time, event = getattr(model, "time", keys.TIME), getattr(model, "event", keys.EVENT)
    if keys.PATIENT in data.obs:
        table[keys.PATIENT] = data.obs[keys.PATIENT].astype(str).to_numpy()
    if time in data.obs and event in data.obs:
        known = has_outcome(data, time=time, event=event)
        if known.any():
            outcomes = read_outcomes(data[known], time=time, event=event, require_event=False)
            table[keys.TIME], table[keys.EVENT] = np.nan, pd.array([pd.NA] * len(table), dtype="boolean")
            table.loc[known, keys.TIME] = outcomes.time
            table.loc[known, keys.EVENT] = outcomes.event
            horizon = max(round(2 * float(np.median(outcomes.time)) / YEAR), 1) / 2 * YEAR
    curves = model.survival_function(data, times=np.array([horizon]))
    table["survival"] = np.asarray(curves, dtype=np.float64)[:, 0]
    return table, horizon


def _some(data: anndata.AnnData) -> anndata.AnnData:
    if data.n_obs <= MAX_SAMPLES:
        return data
    return data[np.linspace(0, data.n_obs - 1, MAX_SAMPLES).round().astype(int)].copy()


def _with(data: anndata.AnnData, values: np.ndarray, genes: list[str]) -> anndata.AnnData:
    unit = {keys.UNIT: data.uns[keys.UNIT]} if keys.UNIT in data.uns else {}
    return anndata.AnnData(values, obs=data.obs.copy(), var=pd.DataFrame(index=genes), uns=unit)


def _evaluate(model: Any, data: anndata.AnnData) -> pd.DataFrame | None:
    if isinstance(model, Survives) and not isinstance(model, Imputes):
        time, event = getattr(model, "time", keys.TIME), getattr(model, "event", keys.EVENT)
        if time not in data.obs or event not in data.obs:
            return None
        known = has_outcome(data, time=time, event=event)
        data = data[known].copy()
        if not known.any() or not read_outcomes(data, time=time, event=event, require_event=False).event.any():
            return None
    return model.evaluate(data)


def read_cohort_run(folder: str | Path) -> CohortRun:
    """Read the run folder of a cohort.

    Raises
    ------
    DataError
        The folder is missing or holds no ``cohort.json``.
    FormatError
        A file is damaged.
    """
    folder = Path(folder)
    if not (folder / MARK).is_file():
        raise DataError(
            f"{folder} holds no {MARK}",
            fix="Give a folder that `expressor impute --report` or `expressor report --data` wrote.",
        )
    about = read_json(folder / MARK)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FormatError(f"{folder / MARK} is of another format", expected=FORMAT)
    methods = folder / "methods.txt"
    environment = folder / "environment.json"
    return CohortRun(
        folder, about, _read_h5ad(folder / "restored.h5ad"), _read_h5ad(folder / "check.h5ad"),
        _read_table(folder / "panel_sizes.csv"), _read_table(folder / "patients.csv", index="sample"),
        _read_table(folder / "evaluation.csv"), methods.read_text(encoding="utf-8") if methods.is_file() else "",
        read_json(environment) if environment.is_file() else {},
    )  # fmt: skip


def _read_h5ad(path: Path) -> anndata.AnnData | None:
    if not path.is_file():
        return None
    files.check_hdf5(path)
    with files.reading(path, "AnnData in HDF5 (h5ad)"):
        held = anndata.read_h5ad(path)
    check_sparse(held.X, where=f"X of {path}")
    if "measured" not in held.layers:
        raise FormatError(f"{path} has no layer 'measured'", fix=DAMAGED)
    return held


def _read_table(path: Path, *, index: str | None = None) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame()
    with files.reading(path, "CSV"):
        table = pd.read_csv(path)
        return table.set_index(index) if index else table
