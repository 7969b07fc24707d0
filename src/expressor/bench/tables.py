"""Markdown from tidy results: every method on every scale, with intervals, and what must be said beside the numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from expressor.bench.claims import Claim
from expressor.bench.claims import claims as read_claims
from expressor.bench.tables_cohorts import HEADLINES, cohort_table
from expressor.core import registry
from expressor.metrics import METRICS

SCALES = {"log1p_cp10k": "normalised to 10,000, log1p", "log1p_counts": "raw counts, log1p"}
DETAIL = (
    "spearman", "mae", "rmse", "variance_ratio", "gene_correlation_error", "moran_concordance", "moran_bias", "significant_genes",
    "coverage", "width",
)  # fmt: skip
ARROWS = {"higher": "↑", "lower": "↓", "one": "→1"}
NOMINAL = {"moran_bias": "→0", "coverage": "→0.9"}
HIDDEN = ("fitted:n_features_in_",)
LEVELS = {
    "sections": "over sections",
    "patients": "over patients",
    "spots": "blocks of spots, these sections only",
    "folds": "sd over folds",
}
DESIGNS = {
    "t": "Student t on {n} cluster means (too few for a bootstrap)",
    "bootstrap": "cluster bootstrap over {n} clusters, widened percentiles",
    "spots": "bootstrap of whole blocks of spots inside {n} section(s); it says nothing about other sections",
    "sd over folds": "mean minus and plus the standard deviation over {n} folds of the same spots, which is no confidence interval",
    "none": "no interval: {n} cluster(s)",
}


def table(results: pd.DataFrame, *, claims: Sequence[Claim] | None = None) -> str:
    """Return results as Markdown.

    Parameters
    ----------
    results
        What :func:`expressor.bench.run` returned, or its ``results.csv`` read by pandas.
    claims
        What papers say, shown under a heading of its own; by default what the folders of the systems in ``results`` hold.

    Returns
    -------
    str
        Correlation on every scale; the other metrics of each scale; paired differences; what was chosen in fitting; refusals;
        claims; how intervals were made.
    """
    results = results.fillna(
        {"reference": "", "reference_of": "", "needs": "", "message": "", "level": "", "system": ""}
    )
    if set(HEADLINES) & set(results["metric"]):
        protocol: Any = results.attrs.get("protocol")
        return cohort_table(results, protocol.notes if protocol is not None else ())
    first = results.iloc[0]
    overall = results[(results["section"] == "all") & (results["status"] == "measured")]
    parts = [
        f"## {first['task']}: {first['protocol']} (version {first['version']}, hash {first['hash']})",
        _headline(results, overall),
        *[_detail(overall, scale) for scale in dict.fromkeys(results["scale"])],
        _paired(overall),
        _fitted(overall),
        _refusals(results),
        _claims(_claims_of(results) if claims is None else claims),
        _remarks(results, overall),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(results: pd.DataFrame, overall: pd.DataFrame) -> str:
    scales = list(dict.fromkeys(results["scale"]))
    plain = overall[(overall["metric"] == "pearson") & (overall["reference"] == "")]
    levels = [level for level in LEVELS if (plain["level"] == level).any()]
    shown = [level for level in levels if plain.loc[plain["level"] == level, "low"].notna().any()]
    head = ["method", "kind", *[f"Pearson r ↑, {SCALES.get(scale, scale)}" for scale in scales], "undefined"]
    lines = []
    for method in dict.fromkeys(results["method"]):
        own = plain[plain["method"] == method]
        about = results[results["method"] == method].iloc[0]
        cells = [_with_intervals(own[own["scale"] == scale], shown) for scale in scales]
        counted = own.drop_duplicates("scale")
        undefined = f"{int(counted['n_undefined'].sum())} of {int(counted['n'].sum())}" if len(counted) else ""
        lines.append([f"{about['title']}{' *' if about['needs'] else ''}", str(about["kind"]), *cells, undefined])
    brackets = "; ".join(LEVELS[level] for level in shown)
    caption = (
        f"Mean over genes of each section, then over sections. In brackets, in this order: {brackets}." if shown else ""
    )
    return _grid(head, lines) + (f"\n\n{caption}" if caption else "")


def _with_intervals(rows: pd.DataFrame, levels: Sequence[str]) -> str:
    if not len(rows) or math.isnan(rows["value"].iloc[0]):
        return "refused" if not len(rows) else "undefined"
    found = {row["level"]: f"[{_number(row['low'])}, {_number(row['high'])}]" for _, row in rows.iterrows()}
    return " ".join([_number(rows["value"].iloc[0]), *[found.get(level, "") for level in levels]])


def _detail(overall: pd.DataFrame, scale: str) -> str:
    own = overall[(overall["scale"] == scale) & (overall["reference"] == "")]
    metrics = [name for name in DETAIL if (own["metric"] == name).any()]
    if not metrics:
        return ""
    head = [
        "method",
        *[f"{METRICS[one].title} {NOMINAL.get(one) or ARROWS[METRICS[one].direction]}" for one in metrics],
    ]
    lines = []
    for title, rows in own.groupby("title", sort=False):
        firsts = rows.drop_duplicates("metric").set_index("metric")["value"]
        lines.append([str(title), *[_number(firsts.get(name, math.nan)) for name in metrics]])
    return f"### {SCALES.get(scale, scale)}\n\n{_grid(head, lines)}"


def _paired(overall: pd.DataFrame) -> str:
    paired = overall[overall["reference"] != ""]
    if not len(paired):
        return ""
    titles = overall.drop_duplicates("method").set_index("method")["title"]
    lines = []
    levels = [one for one in LEVELS if paired.loc[paired["level"] == one, "low"].notna().any()]
    for (group, scale, reference, title), rows in paired.groupby(
        ["reference_of", "scale", "reference", "title"], sort=False
    ):
        best = f"{titles[str(reference)]} (best of {group})" if "," in str(group) else str(titles[str(reference)])
        found = {row["level"]: f"[{_number(row['low'])}, {_number(row['high'])}]" for _, row in rows.iterrows()}
        lines.append([str(title), best, SCALES.get(str(scale), str(scale)), _number(rows["value"].iloc[0], sign=True),
                      *[found.get(level, "") for level in levels]])  # fmt: skip
    head = ["method", "minus", "scale", "difference of r", *[LEVELS[level] for level in levels]]
    return f"### Paired differences of the mean correlation\n\n{_grid(head, lines)}"


def _fitted(overall: pd.DataFrame) -> str:
    rows = overall[overall["metric"].str.startswith("fitted:") & (overall["kind"] != "control")]
    names = [str(name) for name in dict.fromkeys(rows["metric"]) if name not in HIDDEN]
    if not names:
        return ""
    lines = []
    for (title, scale), own in rows.groupby(["title", "scale"], sort=False):
        found = own.set_index("metric")
        cells = [
            "{:.4g} ({:.4g} to {:.4g})".format(*found.loc[name, ["value", "low", "high"]])
            if name in found.index
            else "–"
            for name in names
        ]
        lines.append([str(title), SCALES.get(str(scale), str(scale)), *cells])
    head = ["method", "scale", *[str(name).removeprefix("fitted:").rstrip("_").replace("_", " ") for name in names]]
    return f"### Fitting: mean (range) over folds and seeds\n\n{_grid(head, lines)}"


def _claims_of(results: pd.DataFrame) -> list[Claim]:
    there = registry.systems()
    return read_claims(name for name in dict.fromkeys(results["system"]) if name in there)


def _refusals(results: pd.DataFrame) -> str:
    refused = results[results["status"] == "refused"].drop_duplicates(["method", "scale"])
    lines = [
        f"- {row['title']} ({SCALES.get(row['scale'], row['scale'])}): {row['message']}"
        for _, row in refused.iterrows()
    ]
    return "### Refused\n\n" + "\n".join(lines) if lines else ""


def _claims(claims: Sequence[Claim]) -> str:
    if not claims:
        return ""
    head = ["claimed by the paper", "data", "metric", "value", "source"]
    lines = [
        [one.method, one.data, one.metric, _number(one.value) + ("" if math.isnan(one.spread) else f" ± {_number(one.spread)}"),
         one.source]
        for one in claims
    ]  # fmt: skip
    return "### Claimed elsewhere\n\nOther data, splits and code: not comparable with the tables above.\n\n" + _grid(
        head, lines
    )


def _remarks(results: pd.DataFrame, overall: pd.DataFrame) -> str:
    lines = []
    for title, needs in results[results["needs"] != ""].drop_duplicates("title")[["title", "needs"]].to_numpy():
        lines.append(f"- \\* {title}: uses {needs}, which no one has for an image alone.")
    rows = overall[(overall["metric"] == "pearson") & (overall["n"] > overall["n_undefined"])]
    rows = rows[rows["n_clusters"] > 0].drop_duplicates(["level", "design"])
    for _, row in rows.iterrows():
        if row["level"] in LEVELS:
            made = DESIGNS.get(row["design"], row["design"]).format(n=int(row["n_clusters"]))
            lines.append(f"- Interval {LEVELS[row['level']]}: {made}.")
    undefined = overall[overall["n_undefined"] > 0]
    if len(undefined):
        lines.append(
            "- Undefined: the gene is constant in the section, as measured or as predicted; such values are in no mean."
        )
    protocol: Any = results.attrs.get("protocol")
    lines += [f"- {note}" for note in (protocol.notes if protocol is not None else ())]
    return "### Remarks\n\n" + "\n".join(lines) if lines else ""


def _number(value: Any, *, sign: bool = False) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    digits = 3 if abs(value) < 100 else 0
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in rows)
