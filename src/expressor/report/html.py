"""The report: one HTML file that holds everything it shows and asks the network for nothing.

A content security policy in the page forbids any request and any script but the page's own, which is named by its hash; names of
genes, sections and methods come from users and are escaped wherever they stand.
"""

import base64
import hashlib
import importlib.resources
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expressor.core.errors import FormatError
from expressor.core.optional import need
from expressor.report import colours, payload, summary
from expressor.report import evaluation as reading
from expressor.report.methods import methods_text, references
from expressor.report.pictures import as_jpeg_uri, drawn_diameter, picture, spot_pitch
from expressor.report.run import Run, layer_values, read_run, section_names

SCRIPTS = ("codec.js", "tissue.js", "chooser.js", "table.js", "main.js")
VALUE_BUDGET = 4_500_000
GRID_BUDGET = 1_500_000
PICTURE_BUDGET = 2_400_000
PANELS = {
    "tissue": "Tissue",
    "measured": "Measured",
    "predicted": "Predicted",
    "width": "Interval width",
    "error": "Error",
}


def write_report(run_folder: str | Path, out: str | Path | None = None, *, figures: bool = True) -> Path:
    """Write a run's report as one HTML file, and its static figures beside it.

    Parameters
    ----------
    run_folder
        A folder as :mod:`expressor.report.run` describes.
    out
        The HTML file; by default ``report.html`` in the run's folder.
    figures
        Write PNG and SVG figures into the folder ``figures`` beside the HTML file, too.

    Returns
    -------
    Path of the HTML file.

    Raises
    ------
    DataError
        The run holds no predictions, or the file cannot be written.
    FormatError
        A file of the run is corrupt.
    MissingExtra
        jinja2 or matplotlib is not installed.
    """
    need("jinja2", extra="report", purpose="write a report")
    need("matplotlib", extra="report", purpose="write a report")
    from expressor.report.figures.sheet import write_whole

    run = read_run(run_folder)
    path = Path(out) if out is not None else run.folder / "report.html"
    write_whole(path, render(run).encode("utf-8"))
    if figures:
        write_figures(run, path.parent / "figures")
    return path


def write_figures(run: Run | str | Path, folder: str | Path | None = None) -> list[Path]:
    """Write a run's static figures, each as PNG and SVG; those for which the run holds nothing are left out.

    Parameters
    ----------
    run
        A run or its folder.
    folder
        Where to write; by default ``figures`` in the run's folder.
    """
    from expressor.report import figures

    run = run if isinstance(run, Run) else read_run(run)
    folder = Path(folder) if folder is not None else run.folder / "figures"
    table = reading.tidy(run.evaluation)
    drawn: dict[str, Any] = {"overview": figures.overview(run)}
    if np.isfinite(run.gene_table["pcc"]).any():
        drawn["genes"] = figures.gene_bars(run)
    if run.values("measured") is not None:
        drawn["error"] = figures.gene_map(run, str(run.gene_table.index[0]), run.sections[0], kind="error")
        drawn["calibration"] = figures.calibration(run)
        drawn["predicted_against_measured"] = figures.predicted_against_measured(run)
        if run.values("lower") is not None:
            drawn["coverage"] = figures.coverage(run)
    if _holds(run, "k"):
        drawn["k"] = figures.k_path(run.history)
    if _holds(run, "val_pcc"):
        drawn["learning"] = figures.learning(run.history)
    if len(table):
        drawn["methods"] = figures.method_comparison(run.evaluation)
        if (table["reference"] != "").any():
            drawn["paired_differences"] = figures.paired_differences(run.evaluation)
    return [figures.write(ax, folder / f"{name}.{kind}") for name, ax in drawn.items() for kind in ("png", "svg")]


def render(run: Run) -> str:
    """Return the report of a run as HTML text."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("expressor.report", "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        number=summary.number,
        count=summary.count,
        value=lambda one: summary.number(math.nan if one is None else one),
        chance=lambda one: summary.probability(math.nan if one is None else one),
        scale=reading.scale_words,
        axis=_gene_axis(run),
    )
    script = '(() => {\n"use strict";\n' + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    data = _data(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        style=Markup(_asset("report.css")),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        data=Markup(json_for_script(data)),
        panels={kind: PANELS[kind] for kind in data["kinds"]},
        section_names=[one["name"] for one in data["sections"]],
        embedded=sum(one["packed"] is not None for one in data["genes"]),
        has_grid="densePacking" in data,
        has_pictures=any(one["image"] for one in data["sections"]),
        enlarged=max(one["drawn"] / one["diameter"] for one in data["sections"]),
        genes=data["genes"],
        sentences=summary.sentences(run),
        facts=_facts(run),
        headline=_headline(run),
        plots=_plots(run),
        paragraphs=methods_text(run),
        references=references(run),
        environment=flatten(run.environment),
        parameters=flatten(run.config.get("parameters", {})),
    )


def json_for_script(value: object) -> str:
    """Return JSON that may stand inside a script element: nothing in it can end the element or start another.

    Raises
    ------
    FormatError
        A number is not finite.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise FormatError(f"the page's data cannot be written as JSON ({error})") from error
    for one in "<>&\u2028\u2029":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text


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


def _asset(name: str) -> str:
    return (importlib.resources.files("expressor.report") / "assets" / name).read_text(encoding="utf-8")


def _holds(run: Run, column: str) -> bool:
    return column in run.history.columns and bool(run.history[column].notna().any())


def _data(run: Run) -> dict[str, Any]:
    """Return everything that the page's script reads."""
    order = run.gene_table.index.tolist()
    layers = {"predicted": run.values("predicted", genes=order)}
    measured = run.values("measured", genes=order)
    if measured is not None:
        layers["measured"] = measured
    bounds = payload.intervals(layers["predicted"], run.values("lower", genes=order), run.values("upper", genes=order))
    rows = np.concatenate([run.spots_of(section) for section in run.sections])
    packed = payload.pack({name: one[rows] for name, one in (layers | bounds).items()}, order, budget=VALUE_BUDGET)
    kinds = [*(["measured"] if measured is not None else ["tissue"]), "predicted", *(["width"] if bounds else [])]
    data: dict[str, Any] = {
        "unit": run.unit,
        "kinds": [*kinds, *(["error"] if measured is not None else [])],
        "stops": {
            "measured": colours.stops(colours.VALUE_MAP),
            "predicted": colours.stops(colours.VALUE_MAP),
            "width": colours.stops(colours.WIDTH_MAP),
            "error": colours.stops(colours.ERROR_MAP),
        },
        "packing": {"bits": packed.bits, "layers": packed.layers},
        "spots": len(rows),
        "sections": _sections(run),
        "genes": [
            {"name": gene, "index": position, **{name: _plain(row[name]) for name in run.gene_table.columns},
             "packed": packed.genes.get(gene), "dense": None}
            for position, (gene, row) in enumerate(run.gene_table.iterrows())
        ],
    }  # fmt: skip
    if run.grid is not None:
        _add_grid(run, data, [gene for gene in order if gene in packed.genes])
    return data


def _sections(run: Run) -> list[dict[str, Any]]:
    longest = 1600
    shown = {section: picture(run.predictions, section) for section in run.sections}
    pictured = sum(one.pixels is not None for one in shown.values())
    # About a fifth of a byte a pixel: many sections get smaller pictures, so that the file stays one that can be mailed.
    longest = int(min(longest, max(360, math.sqrt(PICTURE_BUDGET / max(pictured, 1) / 0.3))))
    places = np.asarray(run.predictions.obsm["spatial"], dtype=float)
    sections, first = [], 0
    for section, one in shown.items():
        rows = run.spots_of(section)
        mine = places[rows, :2]
        sections.append(
            {
                "name": section, "first": first, "box": one.box, "umPerPx": one.um_per_px, "diameter": one.spot_diameter,
                "drawn": drawn_diameter(one.spot_diameter, mine), "pitch": max(spot_pitch(mine), one.spot_diameter),
                "image": None if one.pixels is None else as_jpeg_uri(one.pixels, longest=longest),
                "x": payload.pack_floats(mine[:, 0]), "y": payload.pack_floats(mine[:, 1]), "grid": None,
                "ids": [str(name) for name in run.predictions.obs_names[rows]],
            }
        )  # fmt: skip
        first += len(rows)
    return sections


def _add_grid(run: Run, data: dict[str, Any], genes: list[str]) -> None:
    """Add the dense map to ``data``, in the order of the page's sections."""
    assert run.grid is not None
    names = section_names(run.grid)
    places = np.asarray(run.grid.obsm["spatial"], dtype=float)
    rows_of = [np.flatnonzero(names == section["name"]) for section in data["sections"]]
    rows = np.concatenate(rows_of)
    if rows.size == 0:
        return
    predicted = layer_values(run.grid, "predicted", genes=genes)
    assert predicted is not None
    bounds = payload.intervals(
        predicted, layer_values(run.grid, "lower", genes=genes), layer_values(run.grid, "upper", genes=genes)
    )
    layers = {name: one[rows] for name, one in ({"predicted": predicted} | bounds).items()}
    packed = payload.pack(layers, genes, budget=GRID_BUDGET)
    data["densePacking"] = {"bits": packed.bits, "layers": packed.layers}
    data["points"] = len(rows)
    first = 0
    for section, mine in zip(data["sections"], rows_of):
        if len(mine):
            x, y = places[mine, 0], places[mine, 1]
            section["grid"] = {
                "x": payload.pack_floats(x), "y": payload.pack_floats(y), "first": first, "spacing": spot_pitch(places[mine, :2]),
            }  # fmt: skip
        first += len(mine)
    for gene in data["genes"]:
        gene["dense"] = packed.genes.get(gene["name"])


def _plain(value: object) -> object:
    """Return a number or verdict as JSON can hold it, numbers to six significant digits."""
    if value is None or isinstance(value, bool):
        return value
    number = float(value)  # type: ignore[arg-type]
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _gene_axis(run: Run) -> Callable[[float], float]:
    """Return a map from a correlation to its place in the gene table's drawings, in per cent of their width."""
    known = run.gene_table[["pcc", "pcc_low", "pcc_high"]].to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    low, high = min(0.0, known.min(initial=0.0)), known.max(initial=0.1)
    return lambda one: round(100.0 * (one - low) / (high - low), 2)


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return what was predicted from what, as (term, description)."""
    places = run.predictions
    facts = [("Genes", f"{places.n_vars:,} predicted, as {run.unit}")]
    sections = run.sections
    listed = ", ".join(sections) if len(sections) <= 6 else f"{sections[0]} to {sections[-1]}"
    facts.append(
        ("Tissue", f"{summary.count(places.n_obs, 'spot')} of {summary.count(len(sections), 'section')} ({listed})")
    )
    if "patient" in places.obs.columns:
        patients = sorted(set(places.obs["patient"].astype(str)))
        if 0 < len(patients) <= 6:
            facts.append(("Patient" if len(patients) == 1 else "Patients", ", ".join(patients)))
    technologies = sorted(
        {
            str(one.get("metadata", {}).get("technology", "")) for one in places.uns.get("spatial", {}).values() if hasattr(one, "get")
        } - {""}
    )  # fmt: skip
    if technologies:
        facts.append(("Assay", ", ".join(technologies)))
    parameters = run.config.get("parameters", {})
    for key, term in (("encoder", "Image encoder"), ("auxiliaries", "Auxiliary genes")):
        if isinstance(parameters, Mapping) and parameters.get(key) is not None:
            facts.append((term, str(parameters[key])))
    if _holds(run, "k"):
        facts.append(("Auxiliaries kept", f"{int(run.history['k'].dropna().iloc[-1]):,}"))
    facts.append(
        ("Measured too", "yes" if run.values("measured") is not None else "no: a prediction from the image alone")
    )
    return facts


def _headline(run: Run) -> dict[str, Any] | None:
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
    claims = reading.scores(table, metric, source="claimed")

    def mark(score: reading.Score) -> dict[str, Any]:
        at = [
            round(100 * (v - low) / span, 2) if math.isfinite(v) else None for v in (score.low, score.value, score.high)
        ]
        return {"score": score, "low": at[0], "at": at[1], "high": at[2]}

    return {
        "metric": metric,
        "zero": round(100 * (0 - low) / span, 2),
        "scales": [(one, reading.scale_words(one)) for one in scales],
        "rows": [
            {"method": method, "kind": kinds[method], "cells": [mark(by[one]) if one in by else None for one in scales]}
            for method, by in scores.items()
        ],
        "claims": [
            (method, reading.scale_words(scale) if scale else "", score)
            for method, by in claims.items() for scale, score in by.items()
        ],
        "differences": list(reading.differences(table, metric).itertuples(index=False)),
        "sections": [
            (reading.scale_words(one), reading.per_section(table, metric, one)) for one in scales
            if not reading.per_section(table, metric, one).empty
        ],
        "others": [
            (other, reading.scores(table, other)) for other in dict.fromkeys(table["metric"]) if other != metric
        ],
    }  # fmt: skip


def _plots(run: Run) -> list[tuple[str, str, Any]]:
    """Return the page's drawn figures as (name, caption, SVG)."""
    from markupsafe import Markup

    from expressor.report import figures
    from expressor.report.figures.sheet import inline_svg

    found: list[tuple[str, Any, str]] = []
    if _holds(run, "k"):
        found.append(("k", figures.k_path(run.history), "How many auxiliary genes were kept, epoch by epoch."))
    if _holds(run, "val_pcc"):
        found.append(
            ("learning", figures.learning(run.history), "Mean correlation on the spots kept apart for selection.")
        )
    if run.values("measured") is not None:
        found.append(
            ("calibration", figures.calibration(run),
             "When a spot is predicted above its gene's mean in the section, is it measured above it by as much? On the dashed line it is. "
             "All genes together, in tenths of the predictions; pale lines are single sections.")
        )  # fmt: skip
        if run.values("lower") is not None and run.values("upper") is not None:
            found.append(
                ("coverage", figures.coverage(run),
                 "How often the interval holds what was measured. One dot a gene; the bar is their mean.")
            )  # fmt: skip
    return [(name, caption, Markup(inline_svg(ax, name=name, label=caption))) for name, ax, caption in found]
