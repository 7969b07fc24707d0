"""Survival by predicted risk: Kaplan-Meier curves with numbers at risk, and predicted against observed survival at one time."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from expressor.metrics.survival import kaplan_meier, log_rank, number_at_risk
from expressor.metrics.survival_calibration import calibration_curve
from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, new_axes, say_nothing_to_show

GROUPS = {2: ("low", "high"), 3: ("low", "middle", "high"), 4: ("lowest", "low", "high", "highest")}
YEAR = 365.25
_STYLES = ((INKS["accent"], "-"), (INKS["muted"], (0, (5, 2))), (INKS["eosin"], "-"), (INKS["ink"], (0, (2, 1))))


def risk_groups(risk: np.ndarray, groups: int = 3) -> np.ndarray:
    """Return the number of the group of each patient, 0 the lowest risk; equal risks are in one group.

    Parameters
    ----------
    risk
        (patient,) predicted risks.
    groups
        Number of groups of about equal size.
    """
    edges = np.quantile(risk, np.arange(1, groups) / groups)
    return np.searchsorted(edges, risk, side="left")


def kaplan_meier_by_risk(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, *, groups: int = 3, ax: Axes | None = None
) -> Axes:
    """Draw the survival of patients of low to high predicted risk, with how many are at risk below.

    Parameters
    ----------
    time, event
        (patient,) outcomes, days.
    risk
        (patient,) predicted risk.
    groups
        2, 3 or 4 groups of about equal size, by quantiles of the risk.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=5.2, height=4.4)
    group = risk_groups(np.asarray(risk, dtype=np.float64), groups)
    there = [one for one in range(groups) if (group == one).any()]
    if len(there) < 2:
        return say_nothing_to_show(ax, "All patients have one predicted risk")
    years, end = _time_axis(time)
    for one in there:
        own = group == one
        curve = kaplan_meier(time[own], event[own])
        steps = np.concatenate([[0.0], curve.time]) / YEAR
        colour, style = _STYLES[one] if groups > 2 else _STYLES[2 * one]
        ax.step(steps, np.concatenate([[1.0], curve.survival]), where="post", color=colour, linestyle=style, linewidth=1.8,
                label=f"{GROUPS[groups][one]} risk")  # fmt: skip
        ax.fill_between(steps, np.concatenate([[1.0], curve.low]), np.concatenate([[1.0], curve.high]), step="post",
                        color=colour, alpha=0.12, linewidth=0)  # fmt: skip
        left = ~event[own].astype(bool)
        ax.plot(time[own][left] / YEAR, curve.at(time[own][left]), "|", color=colour, markersize=4, markeredgewidth=0.7)
    ax.set_xlim(0, end)
    ax.set_ylim(0, 1.02)
    ax.set_xticks(years)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    dress(ax, x="Years", y="Surviving", grid="y")
    statistic, p = log_rank(time, event, group)
    words = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    ax.text(0.03, 0.05, f"log-rank {words}", transform=ax.transAxes, color=INKS["muted"], fontsize=SIZE)
    ax.legend(frameon=False, fontsize=SIZE, labelcolor=INKS["ink"], loc="upper right")
    _numbers_at_risk(ax, time, group, there, years, groups)
    return ax


def _time_axis(time: np.ndarray) -> tuple[np.ndarray, float]:
    end = float(np.quantile(time, 0.98)) / YEAR
    step = next((one for one in (0.25, 0.5, 1, 2, 5, 10) if end / one <= 6), 20)
    years = np.arange(0, end + 1e-9, step)
    return years, max(end, float(years[-1]) if len(years) > 1 else step)


def _numbers_at_risk(
    ax: Axes, time: np.ndarray, group: np.ndarray, there: list[int], years: np.ndarray, groups: int
) -> None:
    """A table under the axis, one line a group, at the ticks."""
    first, step = -0.245, 0.062
    style: Any = {"fontsize": SIZE - 0.5, "annotation_clip": False, "va": "center"}
    ax.annotate("at risk", (0, first + step), xycoords="axes fraction", xytext=(-8, 0), textcoords="offset points", ha="right",
                color=INKS["muted"], **style)  # fmt: skip
    for line, one in enumerate(there):
        colour = _STYLES[one][0] if groups > 2 else _STYLES[2 * one][0]
        y = first - line * step
        ax.annotate(GROUPS[groups][one], (0, y), xycoords="axes fraction", xytext=(-8, 0), textcoords="offset points", ha="right",
                    color=colour, **style)  # fmt: skip
        for year, n in zip(years, number_at_risk(time[group == one], years * YEAR)):
            ax.annotate(f"{n}", (year, y), xycoords=("data", "axes fraction"), ha="center", color=INKS["ink"], **style)


def survival_calibration(
    time: np.ndarray,
    event: np.ndarray,
    survival: np.ndarray,
    *,
    horizon: float,
    groups: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Draw, for groups of rising prediction, the predicted survival at one time against what Kaplan-Meier finds.

    Parameters
    ----------
    time, event
        (patient,) outcomes, days.
    survival
        (patient,) predicted probability of surviving beyond ``horizon``.
    horizon
        Days.
    groups
        Number of groups of equal size.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=3.8, height=3.7)
    predicted, observed, low, high = calibration_curve(time, event, survival, horizon=horizon, groups=groups)
    known = np.isfinite(observed)
    if not known.any():
        return say_nothing_to_show(ax, "Nobody is followed that far")
    ax.plot([0, 1], [0, 1], color=INKS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
    ax.vlines(predicted[known], low[known], high[known], color=INKS["soft"], linewidth=2.2)
    ax.plot(predicted[known], observed[known], "o-", color=INKS["accent"], linewidth=1.4, markersize=5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    years = horizon / YEAR
    dress(ax, x=f"Predicted to survive {years:.3g} years", y="Found by Kaplan-Meier")
    return ax
