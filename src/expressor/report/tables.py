"""The page's tables, worked out before they are laid out: what was predicted from what, methods compared, parameters."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from expressor.bench.claims import claims
from expressor.core import registry
from expressor.data import keys
from expressor.metrics.catalogue import ALL
from expressor.metrics.records import METRICS
from expressor.report import evaluation as reading
from expressor.report import summary
from expressor.report.gallery import auxiliaries_kept
from expressor.report.run import Run


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what was predicted from what, as (term, description)."""
    tissue, sections = run.predictions, run.sections
    listed = ", ".join(sections) if len(sections) <= 6 else f"{sections[0]} to {sections[-1]}"
    found = [
        ("Genes", f"{tissue.n_vars:,} predicted, as {run.unit}"),
        ("Tissue", f"{summary.count(tissue.n_obs, 'spot')} of {summary.count(len(sections), 'section')} ({listed})"),
    ]
    if keys.PATIENT in tissue.obs.columns:
        patients = sorted(set(tissue.obs[keys.PATIENT].astype(str)))
        if len(patients) <= 6:
            found.append(("Patient" if len(patients) == 1 else "Patients", ", ".join(patients)))
    entries = [one for one in tissue.uns.get(keys.SPATIAL, {}).values() if isinstance(one, Mapping)]
    technologies = {str(one.get(keys.METADATA, {}).get(keys.TECHNOLOGY, "")) for one in entries} - {""}
    if technologies:
        found.append(("Assay", ", ".join(sorted(technologies))))
    parameters = run.config.get("parameters", {})
    for key, term in (("encoder", "Image encoder"), ("auxiliaries", "Auxiliary genes")):
        if isinstance(parameters, Mapping) and parameters.get(key) is not None:
            value = parameters[key]
            found.append((term, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    kept = auxiliaries_kept(run)
    if kept is not None:
        found.append(("Auxiliaries kept", f"{kept:,}"))
    found.append(
        ("Measured", "in the same spots" if run.values("measured") is not None else "nothing: the image alone")
    )
    return found


def headline(run: Run) -> dict[str, Any] | None:
    """Return what the table of methods shows, positions of its marks in per cent included."""
    table = reading.tidy(run.evaluation)
    metric = reading.headline_metric(table)
    if metric is None:
        return None
    scores, kinds = reading.scores(table, metric), reading.kinds(table)
    scales = [one for one in reading.scales(table) if any(one in by_scale for by_scale in scores.values())]
    numbers = [
        v
        for by_scale in scores.values()
        for s in by_scale.values()
        for v in (s.value, s.low, s.high)
        if math.isfinite(v)
    ]
    low, high = min([0.0, *numbers]), max([*numbers, 0.1])
    span = (high - low) or 1.0

    def mark(score: reading.Score) -> dict[str, Any]:
        at = [
            round(100 * (v - low) / span, 2) if math.isfinite(v) else None for v in (score.low, score.value, score.high)
        ]
        return {"score": score, "low": at[0], "at": at[1], "high": at[2]}

    return {
        "metric": reading.metric_words(metric),
        "is_correlation": metric in reading.HEADLINES,
        "level": reading.LEVELS.get(
            next((one.level for by in scores.values() for one in by.values() if one.is_bounded), ""), ""
        ),
        "zero": round(100 * (0 - low) / span, 2),
        "scales": [(one, reading.scale_words(one)) for one in scales],
        "rows": [
            {"method": method, "kind": kinds[method], "cells": [mark(by[one]) if one in by else None for one in scales]}
            for method, by in scores.items()
        ],
        "claims": _claims(run, table, metric),
        "remarks": reading.remarks(table),
        "differences": _differences(table, metric, scales, [name for name in scores if kinds[name] == "model"]),
        "sections": [
            (reading.scale_words(one), reading.per_section(table, metric, one)) for one in scales
            if not reading.per_section(table, metric, one).empty
        ],
        "others": _others(table, metric, scales),
    }  # fmt: skip


def _differences(table: pd.DataFrame, metric: str, scales: list[str], models: list[str]) -> list[dict[str, Any]]:
    """Return paired differences, those of the model first: whether it is one, the two methods, and a score or None a scale."""
    found = reading.differences(table, metric)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found.to_dict("records"):
        several = ", " in one["reference_of"]
        other = f"best of {one['reference_of']}" if several else one["reference"]
        row = rows.setdefault(
            (one["method"], other),
            {
                "is_model": one["method"] in models,
                "method": one["method"],
                "other": other,
                "cells": [None] * len(scales),
            },
        )
        score = reading.Score(float(one["value"]), float(one["low"]), float(one["high"]), 0, str(one["level"]))
        if one["scale"] in scales:
            row["cells"][scales.index(one["scale"])] = {"score": score, "other": one["reference"] if several else ""}
    return sorted(rows.values(), key=lambda row: not row["is_model"])


def _others(table: pd.DataFrame, headline: str, scales: list[str]) -> list[dict[str, Any]]:
    """Return one table a scale: its words, the other metrics (title, arrow, meaning), and (method, scores) a row."""
    arrows = {
        "higher": "\N{UPWARDS ARROW}",
        "lower": "\N{DOWNWARDS ARROW}",
        "one": "best at 1",
        "nominal": "best at nominal",
    }
    metrics = [one for one in dict.fromkeys(table["metric"]) if one != headline]
    scores = {metric: reading.scores(table, metric) for metric in metrics}
    found = []
    for scale in scales:
        shown = [metric for metric in metrics if any(scale in by_scale for by_scale in scores[metric].values())]
        if not shown:
            continue
        methods = dict.fromkeys(method for metric in shown for method in scores[metric])
        records = [METRICS.get(metric) for metric in shown]
        heads = [
            (reading.metric_words(metric), arrows[record.direction] if record else "", record.meaning if record else "")
            for metric, record in zip(shown, records)
        ]
        rows = [(method, [scores[metric].get(method, {}).get(scale) for metric in shown]) for method in methods]
        found.append({"scale": reading.scale_words(scale), "heads": heads, "rows": rows})
    return found


def _claims(run: Run, table: pd.DataFrame, metric: str) -> list[tuple[str, str, str]]:
    """Return what is claimed elsewhere as (what, number, where): of the evaluation, and of the folder of the run's system."""
    found = [
        (method, summary.number(one.value, 3), reading.scale_words(scale) if scale else "")
        for method, by_scale in reading.scores(table, metric, source="claimed").items() for scale, one in by_scale.items()
    ]  # fmt: skip
    system = run.config.get("system")
    if system in registry.systems():
        for claim in claims([str(system)]):
            spread = f" \N{PLUS-MINUS SIGN} {summary.number(claim.spread, 3)}" if math.isfinite(claim.spread) else ""
            found.append((f"{claim.method}, {claim.data}", f"{summary.number(claim.value, 3)}{spread}", claim.source))
    return found


def gene_axis(run: Run) -> Callable[[float], float]:
    """Return a map from a correlation to its place in the gene table's drawings, in per cent of their width."""
    known = run.gene_table[["pcc", "pcc_low", "pcc_high"]].to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    low, high = min(0.0, known.min(initial=0.0)), known.max(initial=0.1)
    return lambda one: round(100.0 * (one - low) / (high - low), 2)


def flatten(value: Mapping[str, Any], *, before: str = "") -> list[tuple[str, str]]:
    """Return nested tables as rows (dotted name, text), lists joined by commas."""
    rows: list[tuple[str, str]] = []
    for key, one in value.items():
        name = f"{before}{key}"
        if isinstance(one, Mapping):
            rows += flatten(one, before=f"{name}.")
        else:
            rows.append((name, ", ".join(map(str, one)) if isinstance(one, list | tuple) else str(one)))
    return rows


def metric_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of an evaluation for a page: title and meaning of the metric, value and interval."""
    rows = []
    for _, row in table.iterrows():
        known = ALL.get(str(row["metric"]))
        rows.append({
            "title": known.title if known else str(row["metric"]), "meaning": known.meaning if known else "",
            **{name: float(row.get(name, math.nan)) for name in ("value", "low", "high")},
        })  # fmt: skip
    return rows
