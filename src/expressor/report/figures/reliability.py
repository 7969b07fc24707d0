"""Do the numbers mean what they say: predicted deviations against measured ones, and how often the interval holds the truth."""

import numpy as np
from matplotlib.axes import Axes

from expressor.metrics.coverage import interval_coverage
from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, label_ticks, new_axes, say_nothing_to_show
from expressor.report.run import Run

BINS = 10


def calibration(run: Run, *, ax: Axes | None = None) -> Axes:
    """Draw measured against predicted deviation from the gene's mean in its section, in tenths of the predictions.

    On the diagonal a prediction of "half a unit above this gene's average here" is right on average. Deviations are used because
    pooled raw values look calibrated for the mere reason that genes differ in their means.

    Parameters
    ----------
    run
        A run with measured values.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=3.4, height=3.2)
    curves = calibration_curves(run)
    if not curves:
        return say_nothing_to_show(ax, "Nothing was measured in these sections")
    reach = max(float(np.abs(curve).max()) for curve in curves.values()) * 1.08 or 1.0
    ax.plot([-reach, reach], [-reach, reach], color=INKS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
    for section, curve in curves.items():
        if section:
            ax.plot(curve[0], curve[1], color=INKS["soft"], linewidth=1.0)
    ax.plot(curves[""][0], curves[""][1], "o-", color=INKS["accent"], linewidth=1.6, markersize=4)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-reach, reach)
    ax.set_aspect("equal")
    dress(ax, x="Predicted deviation from the gene's mean", y="Measured deviation")
    return ax


def calibration_curves(run: Run) -> dict[str, np.ndarray]:
    """Return section -> float64 (2, bin): mean predicted and mean measured deviation by tenths; ``""`` holds all sections.

    Empty where nothing was measured.
    """
    predicted, measured = run.values("predicted"), run.values("measured")
    if measured is None or predicted is None:
        return {}
    both = np.isfinite(predicted) & np.isfinite(measured)
    pairs: dict[str, np.ndarray] = {}
    for section in run.sections:
        rows = run.spots_of(section)
        known = both[rows]
        first, second = (_deviations(values[rows], known) for values in (predicted, measured))
        pairs[section] = np.stack([first[known], second[known]])
    pairs[""] = np.concatenate(list(pairs.values()), axis=1)
    return {name: _binned(pair) for name, pair in pairs.items() if pair.shape[1] >= 2 * BINS}


def coverage(run: Run, *, ax: Axes | None = None) -> Axes:
    """Draw, gene by gene and by section, how often the interval holds the measured value, beside what it aims at.

    Parameters
    ----------
    run
        A run with intervals and measured values.
    ax
        Axes to draw on; new ones by default.
    """
    found = coverage_by_gene(run)
    ax = new_axes(ax, width=4.4, height=1.1 + 0.34 * max(len(found), 2))
    if not found:
        return say_nothing_to_show(ax, "No intervals, or nothing measured")
    for row, values in enumerate(found.values()):
        known = np.sort(values[np.isfinite(values)])
        # Genes of nearly equal coverage are spread across the row, in a fixed pattern, so that each can be seen.
        spread = 0.26 * (((np.arange(len(known)) * 0.618) % 1.0) - 0.5) * 2
        ax.plot(known, row + spread, "o", color=INKS["soft"], markersize=2.6, linestyle="none", alpha=0.9)
        ax.plot([known.mean()], [row], "|", color=INKS["accent"], markersize=15, markeredgewidth=2.2)
        ax.annotate(
            f"{100 * known.mean():.0f} %", (1.0, row), xytext=(6, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", color=INKS["accent"], fontsize=SIZE, annotation_clip=False,
        )  # fmt: skip
    if run.coverage is not None:
        ax.axvline(run.coverage, color=INKS["eosin"], linewidth=1.0, linestyle=(0, (4, 3)))
        ax.annotate(
            f"aim {100 * run.coverage:g} %", (run.coverage, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", color=INKS["eosin"], fontsize=SIZE - 1,
        )  # fmt: skip
    label_ticks(ax, list(found))
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_xlim(min(0.5, *(np.nanmin(values) for values in found.values())) - 0.02, 1.02)
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    dress(ax, x="Spots whose measured value lies in the interval; one dot a gene", grid="x")
    ax.tick_params(axis="y", length=0)
    return ax


def coverage_by_gene(run: Run) -> dict[str, np.ndarray]:
    """Return section -> share of spots inside the interval, float64 (gene,), NaN where a gene has no measured spot.

    Empty where there are no intervals or nothing was measured; sections without a single measured value are left out.
    """
    measured, lower, upper = run.values("measured"), run.values("lower"), run.values("upper")
    if measured is None or lower is None or upper is None:
        return {}
    known = np.isfinite(measured) & np.isfinite(lower) & np.isfinite(upper)
    found = {}
    for section in run.sections:
        rows = run.spots_of(section)
        if known[rows].any():
            found[section] = np.array(
                [_coverage(measured, lower, upper, rows[known[rows, gene]], gene) for gene in range(known.shape[1])]
            )
    return found


def _coverage(measured: np.ndarray, lower: np.ndarray, upper: np.ndarray, rows: np.ndarray, gene: int) -> float:
    if not len(rows):
        return float("nan")
    columns = (one[rows, gene][:, None] for one in (measured, lower, upper))
    return float(interval_coverage(*columns)[0, 0])


def _deviations(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    count = np.maximum(known.sum(axis=0), 1)
    return values - np.where(known, values, 0.0).sum(axis=0) / count


def _binned(pair: np.ndarray) -> np.ndarray:
    order = np.argsort(pair[0], kind="stable")
    return np.stack([[part.mean() for part in np.array_split(row[order], BINS)] for row in pair])
