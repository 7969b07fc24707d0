"""The report of a cohort: one HTML file without scripts, its figures inside and as files beside it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.metrics.survival import concordance
from expressor.report import figures, summary
from expressor.report.cohort import HIDDEN, YEAR, CohortRun, read_cohort_run
from expressor.report.drawn_page import Drawing, inline, write_drawings, write_page
from expressor.report.tables import metric_rows

SHOWN = 8
"""Genes whose scatter is drawn: the best, the middle and the worst."""
FEW_EVENTS = 20
LISTED = 20


def write_cohort_report(folder: str | Path, out: str | Path | None = None, *, files: bool = True) -> Path:
    """Write the report of a cohort's run folder as one HTML file, and its static figures beside it.

    Parameters
    ----------
    folder
        A folder that :func:`expressor.report.write_cohort_run` wrote.
    out
        The HTML file; ``report.html`` in the folder by default.
    files
        Write PNG and SVG figures into the folder ``figures`` beside the HTML file, too.

    Returns
    -------
    Path of the HTML file.
    """
    run = read_cohort_run(folder)
    path = Path(out) if out is not None else run.folder / "report.html"
    drawn = {"restoration": _restoration_drawings(run), "survival": _survival_drawings(run)}
    _write(path, run, drawn)
    if files:
        write_drawings([*drawn["restoration"], *drawn["survival"]], path.parent / "figures")
    return path


def _write(path: Path, run: CohortRun, drawn: dict[str, list[Drawing]]) -> None:
    genes = run.gene_table()
    write_page(
        path, "cohort.html.j2", title=f"{run.about['samples']:,} samples, {run.about['system']}",
        heading=f"{summary.count(run.about['samples'], 'sample')} seen by {run.about['system']}",
        opening=opening(run), facts=_facts(run),
        plots={part: inline(one) for part, one in drawn.items()},
        best=_rows(genes.head(LISTED)),
        worst=_rows(genes.iloc[LISTED:].tail(LISTED)) if len(genes) > LISTED else [],
        evaluation=metric_rows(run.evaluation), resampled="patients",
        methods=run.methods, environment=run.environment, parameters=run.about.get("parameters", {}),
    )  # fmt: skip


def opening(run: CohortRun) -> list[str]:
    """Return what a reader should know first, in sentences: how well it restores, how well it orders patients, and doubts."""
    said = []
    if run.about["in_sample"]:
        said.append(
            "The model was fitted on these very samples. Every number and curve below flatters it: look at others."
        )
    genes = run.gene_table()
    known = genes["r"].dropna()
    if len(known):
        said.append(
            f"Of what was measured {100 * HIDDEN:.0f} % was hidden and restored: the median correlation over "
            f"{summary.count(len(known), 'gene')} is {summary.number(float(known.median()))}, and "
            f"{100 * (known < 0.3).mean():.0f} % of the genes stay below 0.30. Trust a restored gene as far as its own r goes."
        )
    if len(run.patients):
        said.append(_on_survival(run))
    missing = int(run.about["genes"]) - int(run.about["found"])
    if missing and run.restored is not None:
        said.append(
            f"{summary.count(missing, 'gene')} of the model were in no column of the data and are restored throughout."
        )
    return said


def _on_survival(run: CohortRun) -> str:
    known = _known(run)
    if not len(known):
        return "No outcome of these patients is known, so the predicted risks are not judged."
    events = int(known["event"].sum())
    text = f"{summary.count(len(known), 'patient')} with a known outcome, {events} of them with the event."
    if events:
        c = concordance(known["time"], known["event"], known["risk"])
        text += f" In {100 * c:.0f} % of the pairs the one of higher predicted risk had the event first (Harrell's C)."
    if events < FEW_EVENTS:
        text += f" With fewer than {FEW_EVENTS} events nothing is certain."
    return text


def _known(run: CohortRun) -> pd.DataFrame:
    """Outcomes of the patients; of several samples of one the mean risk, because they are no independent witnesses."""
    table = run.patients
    if "time" not in table or "event" not in table:
        return pd.DataFrame(columns=["time", "event", "risk", "survival"])
    table = table[table["time"].notna() & table["event"].notna()]
    events = table["event"].astype(str).str.lower().isin(["true", "1", "1.0"])
    table = table.assign(
        event=events, patient=table["patient"].astype(str) if "patient" in table else table.index.astype(str)
    )
    return table.groupby("patient").agg({"time": "first", "event": "first", "risk": "mean", "survival": "mean"})


def _facts(run: CohortRun) -> list[tuple[str, str]]:
    about = run.about
    return [
        ("Model", f"{about['system']}: {about['title']}"),
        ("Samples", f"{about['samples']:,}"),
        ("Genes", about["match"]),
        ("Unit", str(about["unit"])),
        ("Same data as the fit", "yes" if about["in_sample"] else "no"),
    ]


def _restoration_drawings(run: CohortRun) -> list[Drawing]:
    if run.check is None:
        return []
    genes = run.gene_table()
    found: list[Drawing] = []
    chosen = _spread(list(genes.index[genes["r"].notna()]))
    if chosen:
        place = run.check.var_names.get_indexer(chosen)
        layers = {
            name: np.asarray(run.check.layers[name])[:, place]
            for name in ("lower", "upper")
            if name in run.check.layers
        }
        found.append((
            "restored_against_measured",
            "Restored against measured, in samples in which the gene was hidden: genes from the best to the worst. On the dashed "
            "line they agree" + (f"; pale lines are {100 * float(run.about['coverage']):g} % intervals." if layers else "."),
            figures.restored_against_measured(
                np.asarray(run.check.layers["measured"])[:, place], np.asarray(run.check.X)[:, place], chosen,
                correlations=list(genes.loc[chosen, "r"]), unit=str(run.about["unit"]), **layers,
            ),
        ))  # fmt: skip
        found.append((
            "gene_correlations", "Correlation of restored with measured values, every gene that was hidden at least three times.",
            figures.gene_correlations(genes["r"].to_numpy()),
        ))  # fmt: skip
    if len(run.panel_sizes):
        found.append((
            "panel_sizes",
            "Error of restoring all other genes from random panels of the measured ones, for the middle gene, with the best and "
            "the worst panel. 1 is the error of each gene's mean over these very samples.",
            figures.panel_size_curve(run.panel_sizes),
        ))  # fmt: skip
    return found


def _spread(genes: list[str]) -> list[str]:
    if len(genes) <= SHOWN:
        return genes
    return [genes[i] for i in np.linspace(0, len(genes) - 1, SHOWN).round().astype(int)]


def _survival_drawings(run: CohortRun) -> list[Drawing]:
    known = _known(run)
    if not len(known) or not known["event"].any():
        return []
    time, event = known["time"].to_numpy(dtype=float), known["event"].to_numpy(dtype=bool)
    horizon = float(run.about["horizon_days"])
    groups = 3 if len(known) >= 45 else 2
    return [
        ("kaplan_meier", "Survival of patients by predicted risk, in groups of about equal size, with 95 % bands; strokes are "
         "patients who were lost from view. Below, how many are still at risk.",
         figures.kaplan_meier_by_risk(time, event, known["risk"].to_numpy(dtype=float), groups=groups)),
        ("survival_calibration",
         f"Patients in groups of rising predicted survival beyond {horizon / YEAR:.3g} years, against what Kaplan-Meier finds, "
         "with 95 % intervals. On the dashed line the predictions mean what they say.",
         figures.survival_calibration(time, event, known["survival"].to_numpy(dtype=float), horizon=horizon,
                                      groups=min(5, max(2, len(known) // 20)))),
    ]  # fmt: skip


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"gene": str(gene), "r": float(row["r"]) if np.isfinite(row["r"]) else math.nan, "hidden": int(row["hidden"])}
        for gene, row in table.iterrows()
    ]
