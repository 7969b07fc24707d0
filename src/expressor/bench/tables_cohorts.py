"""Markdown from the tidy results of tasks on bulk profiles: one table a metric, settings in columns, intervals over patients."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from expressor.bench.cohorts import SEEDS
from expressor.metrics.catalogue import record

HEADLINES = ("restoration_rmse", "balanced_accuracy", "concordance", "ari", "integration", "map_r2")
INTERVALS = {"annotation": ("accuracy", "macro_f1"), "integration": ("integration", "avg_bio", "avg_batch")}
"""What is shown with intervals, where it is not the headline metric alone; by task."""
UNITS = {"annotation": "cells", "clustering": "cells", "integration": "cells", "transfer": "cells", "brain": "groups"}
"""What is resampled, where it is not patients; by task."""
CLUSTERS = ("donors",)
"""Levels of rows that say of whole clusters what the others say of what is inside them."""
ARROWS = {"higher": "↑", "lower": "↓", "one": "→1"}
NOMINAL = {
    "restoration_coverage": "→0.9",
    "map_coverage": "→0.9",
    "map_coverage50": "→0.5",
    "map_moran": "→0",
    "d_calibration": "",
}


def cohort_table(results: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """Return the results of a task on bulk profiles as Markdown.

    Parameters
    ----------
    results
        Tidy results of :func:`expressor.bench.run`.
    notes
        Sentences for the end, such as those of the protocol.

    Returns
    -------
    str
        The headline metric with intervals, the other metrics, paired differences, seconds, refusals, and how intervals were made.
    """
    whole, first = results, results.iloc[0]
    results = whole[~whole["level"].isin((*CLUSTERS, SEEDS))]
    measured = results[results["status"] == "measured"]
    plain = measured[(measured["reference"] == "") & ~measured["metric"].str.startswith("fitted:")]
    names = list(dict.fromkeys(plain["metric"]))
    parts = [f"## {first['task']}: {first['protocol']} (version {first['version']}, hash {first['hash']})"]
    task = str(first["task"])
    headline = [name for name in names if name in INTERVALS.get(task, HEADLINES)]
    # The headline stands right below the title, where the documentation looks for it.
    for name in headline[:1]:
        parts.append(f"{_title(name)}: {record(name).meaning}")
        parts.append(_metric(results, plain, name, intervals=True, heading=False))
    parts += [_metric(results, plain, name, intervals=True) for name in headline[1:] if task in INTERVALS]
    rest = [name for name in names if name not in headline]
    settings = list(dict.fromkeys(plain.loc[plain["metric"].isin(rest), "section"]))
    if len(settings) == 1:
        parts.append(_beside(plain, rest))
    else:
        parts += [_metric(results, plain, name, intervals=False) for name in rest]
    parts.append(_paired(measured, UNITS.get(task, "patients")))
    parts += [_clusters(whole[whole["level"] == one], one) for one in CLUSTERS]
    parts += [_spread(whole[whole["level"] == SEEDS]), _seconds(measured), _refused(results),
              _remarks(results, plain, notes, UNITS.get(task, "patients"))]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(name: str) -> str:
    known = record(name)
    return f"{known.title} {NOMINAL.get(name, ARROWS.get(known.direction, ''))}".strip()


def _metric(results: pd.DataFrame, plain: pd.DataFrame, name: str, *, intervals: bool, heading: bool = True) -> str:
    own = plain[plain["metric"] == name]
    settings = [str(one) for one in dict.fromkeys(own["section"])]
    heads = [_title(name)] if settings == ["all"] else settings
    lines = []
    for method in dict.fromkeys(results["method"]):
        about = results[results["method"] == method].iloc[0]
        rows = own[own["method"] == method].set_index("section")
        if not intervals and not len(rows):
            continue
        cells = [_cell(rows.loc[one], intervals) if one in rows.index else "refused" for one in settings]
        lines.append([f"{about['title']}{' *' if about['needs'] else ''}", str(about["kind"]), *cells])
    above = f"### {_title(name)}\n\n{record(name).meaning}\n\n" if heading else ""
    return above + _grid(["method", "kind", *heads], lines)


def _cell(row: Any, intervals: bool, *, sign: bool = False) -> str:
    text = _number(row["value"], sign=sign)
    if intervals and np.isfinite(row["low"]):
        text += f" [{_number(row['low'], sign=sign)}, {_number(row['high'], sign=sign)}]"
    return text


def _beside(plain: pd.DataFrame, names: Sequence[str]) -> str:
    if not names:
        return ""
    lines = []
    for title, rows in plain.groupby("title", sort=False):
        by_metric = rows.drop_duplicates("metric").set_index("metric")
        lines.append(
            [str(title), *[_cell(by_metric.loc[one], True) if one in by_metric.index else "–" for one in names]]
        )
    return "### Other metrics\n\n" + _grid(["method", *[_title(one) for one in names]], lines)


def _paired(measured: pd.DataFrame, unit: str) -> str:
    paired = measured[measured["reference"] != ""]
    if not len(paired):
        return ""
    titles = measured.drop_duplicates("method").set_index("method")["title"]
    parts = []
    for (metric, reference), own in paired.groupby(["metric", "reference"], sort=False):
        settings = list(dict.fromkeys(own["section"]))
        lines = []
        for title, rows in own.groupby("title", sort=False):
            cells = rows.set_index("section")
            lines.append(
                [
                    str(title),
                    *[_cell(cells.loc[one], True, sign=True) if one in cells.index else "–" for one in settings],
                ]
            )
        heads = ["difference"] if settings == ["all"] else [str(one) for one in settings]
        parts.append(
            f"### {record(str(metric)).title}: difference from {titles.get(str(reference), reference)}, on the same "
            f"{unit}\n\n{_grid(['method', *heads], lines)}"
        )
    return "\n\n".join(parts)


def _clusters(rows: pd.DataFrame, level: str) -> str:
    """Return the means over clusters, and the differences from each reference."""
    if not len(rows):
        return ""
    titles, number = rows.drop_duplicates("method").set_index("method")["title"], int(rows["n_clusters"].max())
    parts = []
    for (metric, reference), own in rows.groupby(["metric", "reference"], sort=False):
        settings = list(dict.fromkeys(own["section"]))
        lines = []
        for title, mine in own.groupby("title", sort=False):
            cells = mine.set_index("section")
            signed = bool(reference)
            lines.append(
                [
                    str(title),
                    *[_cell(cells.loc[one], True, sign=signed) if one in cells.index else "–" for one in settings],
                ]
            )
        what = f": difference from {titles.get(str(reference), reference)}" if reference else ""
        parts.append(
            f"### {_title(str(metric))}, mean of {number} {level}{what}\n\n{_grid(['method', *settings], lines)}"
        )
    parts[0] += f"\n\nIn brackets: Student's t over {number} {level}, each a value of its own" + (
        "; with two of them the interval says next to nothing." if number == 2 else "."
    )
    return "\n\n".join(parts)


def _spread(rows: pd.DataFrame) -> str:
    """Return the means over seeds with the least and the largest."""
    parts = []
    for metric, own in rows.groupby("metric", sort=False):
        settings = list(dict.fromkeys(own["section"]))
        lines = []
        for title, mine in own.groupby("title", sort=False):
            by_setting = mine.set_index("section")
            lines.append([str(title), str(int(mine["n"].iloc[0])), *[_range(by_setting.loc[one]) for one in settings]])
        heads = ["mean (least to largest)"] if settings == ["all"] else settings
        parts.append(f"### {record(str(metric)).title}: seeds\n\n{_grid(['method', 'seeds', *heads], lines)}")
    return "\n\n".join(parts)


def _range(row: Any) -> str:
    return f"{_number(row['value'])} ({_number(row['low'])} to {_number(row['high'])})"


def _seconds(measured: pd.DataFrame) -> str:
    rows = measured[measured["metric"].isin(["fitted:fit_seconds", "fitted:predict_seconds"])]
    if not len(rows):
        return ""
    lines = []
    for title, own in rows.groupby("title", sort=False):
        values = own.set_index("metric")["value"]
        lines.append(
            [str(title), *[_number(values.get(f"fitted:{one}_seconds", math.nan)) for one in ("fit", "predict")]]
        )
    return "### Seconds a fold\n\n" + _grid(["method", "fit", "predict"], lines)


def _refused(results: pd.DataFrame) -> str:
    refused = results[results["status"] == "refused"].drop_duplicates("method")
    lines = [f"- {row['title']}: {row['message']}" for _, row in refused.iterrows()]
    return "### Refused\n\n" + "\n".join(lines) if lines else ""


def _remarks(results: pd.DataFrame, plain: pd.DataFrame, notes: Sequence[str], unit: str) -> str:
    lines = [
        f"- \\* {title}: uses {needs}."
        for title, needs in results[results["needs"] != ""].drop_duplicates("title")[["title", "needs"]].to_numpy()
    ]
    made = plain[plain["design"] == "patients"]
    if len(made) and made["level"].iloc[0] == "cells":
        lines.append("- In brackets: 95 % percentile interval of a bootstrap of the cells, whose clusters stay as they are; "
                     "differences are of the same resamples.")  # fmt: skip
    elif (plain["design"] == "halves").any():
        lines.append("- In brackets: 95 % of random halves of the cells around the value on all, places of the cells as they are; "
                     "differences are of the same halves. Another fit, tissue or laboratory adds more.")  # fmt: skip
    elif len(made):
        lines.append(
            f"- In brackets: 95 % percentile interval of a bootstrap of {int(made['n_clusters'].max()):,} {unit}, on their "
            "predictions out of fold; differences are of the same resamples. It does not hold the spread that another draw of "
            "folds or another training set would add."
        )
    undefined = plain[plain["n_undefined"] > 0]
    for metric in dict.fromkeys(undefined["metric"]):
        worst = undefined[undefined["metric"] == metric]
        lines.append(f"- {record(str(metric)).title}: up to {int(worst['n_undefined'].max())} of {int(worst['n'].max())} values "
                     f"are undefined ({record(str(metric)).undefined}) and in no mean.")  # fmt: skip
    lines += [f"- {note}" for note in notes]
    return "### Remarks\n\n" + "\n".join(lines) if lines else ""


def _number(value: Any, *, sign: bool = False) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    digits = 3 if abs(value) < 100 else 0
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in rows)


def across_table(results: Sequence[pd.DataFrame], *, metric: str = "concordance", others: Sequence[str] = ()) -> str:
    """Return several protocols of one task side by side as Markdown: a line a protocol, a column a method.

    Parameters
    ----------
    results
        Tidy results of :func:`expressor.bench.run`, of one task with one setting each; the order is that of the lines.
    metric
        What is compared; larger must be better.
    others
        Further metrics, a table each.

    Returns
    -------
    str
        The metric with intervals; for each method its mean rank over the protocols in which all methods were measured, on how many
        protocols it is better or worse than the reference (the interval of the paired difference lies on one side of 0), and the
        p-value of Wilcoxon's signed-rank test on the protocols' differences, Holm-corrected over methods.
    """
    joined = pd.concat([one.fillna({"reference": "", "reference_of": ""}) for one in results], ignore_index=True)
    joined = joined[joined["level"] != SEEDS]
    measured = joined[joined["status"] == "measured"]
    plain = measured[measured["reference"] == ""]
    protocols = list(dict.fromkeys(joined["protocol"]))
    titles = dict(joined.drop_duplicates("method")[["method", "title"]].to_numpy())
    own = plain[plain["metric"] == metric]
    methods = [one for one in titles if (own["method"] == one).any()]
    values = own.pivot_table(index="protocol", columns="method", values="value").reindex(
        index=protocols, columns=methods
    )
    parts = [
        f"## {joined['task'].iloc[0]}: {len(protocols)} protocols side by side",
        f"{_title(metric)}: {record(metric).meaning}",
        _grid(["protocol", *[titles[one] for one in methods]], _across(own, protocols, methods)),
        _standing(values, measured, metric, titles),
    ]
    for other in others:
        cells = _across(plain[plain["metric"] == other], protocols, methods)
        parts.append(
            f"### {_title(other)}\n\n{record(other).meaning}\n\n{_grid(['protocol', *[titles[m] for m in methods]], cells)}"
        )
    hashes = ", ".join(
        f"{row['protocol']} {row['hash']}"
        for _, row in joined.drop_duplicates("protocol")[["protocol", "hash"]].iterrows()
    )
    parts.append(
        "### Remarks\n\n- In brackets: 95 % percentile interval of a bootstrap of patients, on their predictions out of fold.\n"
        f"- Versions and hashes: all version {joined['version'].iloc[0]}; {hashes}."
    )
    return "\n\n".join(parts) + "\n"


def _across(own: pd.DataFrame, protocols: Sequence[str], methods: Sequence[str]) -> list[list[str]]:
    lines = []
    for protocol in protocols:
        rows = own[own["protocol"] == protocol].set_index("method")
        lines.append([protocol, *[_cell(rows.loc[one], True) if one in rows.index else "–" for one in methods]])
    return lines


def _standing(values: pd.DataFrame, measured: pd.DataFrame, metric: str, titles: Any) -> str:
    """Mean ranks, wins and losses against the reference, and Wilcoxon's test over protocols."""
    paired = measured[(measured["reference"] != "") & (measured["metric"] == metric)]
    reference = paired["reference"].iloc[0]
    # A method that was refused somewhere has no rank that could be compared.
    everywhere = [one for one in values.columns if values[one].notna().all()]
    ranks = values[everywhere].rank(axis=1, ascending=False).mean()
    others = [one for one in values.columns if one != reference]
    raw = {}
    for one in others:
        difference = (values[one] - values[reference]).dropna()
        raw[one] = (
            float(stats.wilcoxon(difference).pvalue) if len(difference) >= 6 and (difference != 0).any() else math.nan
        )
    p = _holm(raw)
    lines = []
    for one in values.columns:
        rows = paired[paired["method"] == one]
        lines.append([
            titles[one], _number(ranks.get(one, math.nan)), str(int(values[one].notna().sum())),
            *(["reference", "", "", ""] if one == reference else [
                _number(float((values[one] - values[reference]).mean()), sign=True), str(int((rows["low"] > 0).sum())),
                str(int((rows["high"] < 0).sum())), _number(p[one]),
            ]),
        ])  # fmt: skip
    head = [
        "method",
        "mean rank",
        "protocols",
        f"mean difference from {titles[reference]}",
        "better",
        "worse",
        "p (Holm)",
    ]
    return f"### Standing\n\n{_grid(head, lines)}"


def _holm(raw: dict[str, float]) -> dict[str, float]:
    known = sorted((one for one in raw if np.isfinite(raw[one])), key=lambda one: raw[one])
    found, least = dict.fromkeys(raw, math.nan), 0.0
    for place, one in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * raw[one]))
        found[one] = least
    return found
