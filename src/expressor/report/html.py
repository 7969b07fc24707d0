"""The report: one HTML file that holds everything it shows and asks the network for nothing.

A content security policy in the page forbids any request and any script but the page's own, which is named by its hash; names of
genes, sections and methods come from users and are escaped wherever they stand.
"""

import base64
import hashlib
import importlib.resources
import json
import math
from pathlib import Path

import jinja2
from markupsafe import Markup

from expressor.core.errors import FormatError
from expressor.report import evaluation as reading
from expressor.report import summary
from expressor.report.figures.sheet import write_whole
from expressor.report.gallery import drawings, write_figures
from expressor.report.methods import methods_text, references
from expressor.report.page import page_data
from expressor.report.run import Run, read_run
from expressor.report.tables import facts, flatten, gene_axis, headline

SCRIPTS = ("codec.js", "tissue.js", "scatter.js", "chooser.js", "table.js", "main.js")
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
    run = read_run(run_folder)
    path = Path(out) if out is not None else run.folder / "report.html"
    write_whole(path, render(run).encode("utf-8"))
    if figures:
        write_figures(run, path.parent / "figures")
    return path


def render(run: Run) -> str:
    """Return the report of a run as HTML text."""
    environment = templates()
    environment.filters.update(
        value=lambda one: summary.number(math.nan if one is None else one),
        chance=lambda one: summary.probability(math.nan if one is None else one),
        scale=reading.scale_words,
        axis=gene_axis(run),
    )
    script = '(() => {\n"use strict";\n' + "\n".join(asset(name) for name in SCRIPTS) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    data = page_data(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        style=Markup(asset("report.css")),
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
        opening=summary.paragraphs(run),
        facts=facts(run),
        headline=headline(run),
        plots=[(name, caption, Markup(drawing)) for name, caption, drawing in drawings(run)],
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


def templates() -> jinja2.Environment:
    """Return the environment of the folder ``templates``, with filters for numbers and counted nouns."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("expressor.report", "templates"),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(number=summary.number, count=summary.count)
    return made


def asset(name: str) -> str:
    """Return the text of a file of the folder ``assets``."""
    return (importlib.resources.files("expressor.report") / "assets" / name).read_text(encoding="utf-8")
