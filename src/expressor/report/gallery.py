"""Draws every figure that a run holds something for: as files, and inside the page."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from expressor.report import evaluation as reading
from expressor.report import figures
from expressor.report.figures.sheet import inline_svg
from expressor.report.figures.training import search_of_k
from expressor.report.run import Run, read_run


def write_figures(run: Run | str | Path, folder: str | Path | None = None) -> list[Path]:
    """Write a run's static figures, each as PNG and SVG; those for which the run holds nothing are left out.

    Parameters
    ----------
    run
        A run or its folder.
    folder
        Where to write; by default ``figures`` in the run's folder.

    Returns
    -------
    The files written.
    """
    run = run if isinstance(run, Run) else read_run(run)
    folder = Path(folder) if folder is not None else run.folder / "figures"
    table = reading.tidy(run.evaluation)
    drawn: dict[str, Axes | np.ndarray] = {"overview": figures.overview(run)}
    if np.isfinite(run.gene_table["pcc"]).any():
        drawn["genes"] = figures.gene_bars(run)
    if run.values("measured") is not None:
        drawn["error"] = figures.gene_map(run, str(run.gene_table.index[0]), run.sections[0], kind="error")
        drawn["calibration"] = figures.calibration(run)
        drawn["predicted_against_measured"] = figures.predicted_against_measured(run)
        if run.values("lower") is not None:
            drawn["coverage"] = figures.coverage(run)
    if search_of_k(run.history).nunique() > 1:
        drawn["k"] = figures.k_path(run.history, kept=auxiliaries_kept(run))
    if holds(run, "val_pcc"):
        drawn["learning"] = figures.learning(run.history)
    if len(table):
        drawn["methods"] = figures.method_comparison(run.evaluation)
        if (table["reference"] != "").any():
            drawn["paired_differences"] = figures.paired_differences(run.evaluation)
    return [figures.write(ax, folder / f"{name}.{kind}") for name, ax in drawn.items() for kind in ("png", "svg")]


def drawings(run: Run) -> list[tuple[str, str, str]]:
    """Return the page's drawn figures as (name, caption, SVG)."""
    found: list[tuple[str, Axes, str]] = []
    if search_of_k(run.history).nunique() > 1:
        found.append(
            (
                "k",
                figures.k_path(run.history, kept=auxiliaries_kept(run)),
                "How many auxiliary genes were kept, while their number was learnt.",
            )
        )
    if holds(run, "val_pcc"):
        found.append(("learning", figures.learning(run.history), "Mean correlation on spots kept apart from training."))
    if run.values("measured") is not None:
        found.append(
            ("calibration", figures.calibration(run),
             "When a spot is predicted above its gene's mean in the section, is it measured above it by as much? "
             "On the dashed line it is. All genes together, in tenths of the predictions; pale lines are single sections.")
        )  # fmt: skip
        if run.values("lower") is not None and run.values("upper") is not None:
            found.append(
                ("coverage", figures.coverage(run),
                 "How often the interval holds what was measured. One dot a gene; the bar is their mean.")
            )  # fmt: skip
    return [(name, caption, inline_svg(ax, name=name, label=caption)) for name, ax, caption in found]


def holds(run: Run, column: str) -> bool:
    """Return whether the history has a column with at least one value."""
    return column in run.history.columns and bool(run.history[column].notna().any())


def auxiliaries_kept(run: Run) -> int | None:
    """Return the fitted model's ``k``; the last of the search where the model's file does not say; None where nothing does."""
    fitted = run.config.get("fitted", {})
    k = fitted.get("k_", fitted.get("k")) if isinstance(fitted, Mapping) else None
    if isinstance(k, int):
        return k
    searched = search_of_k(run.history)
    return None if searched.empty else int(searched.iloc[-1])
