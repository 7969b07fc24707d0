"""What reports without scripts share: one template, and figures inside the page and as files beside it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from expressor.report import figures
from expressor.report.figures.sheet import inline_svg, write_whole
from expressor.report.html import asset, templates
from expressor.report.methods import parts_of, reference
from expressor.report.tables import flatten

Drawing = tuple[str, str, Axes | np.ndarray]
"""Name, caption, axes."""


def inline(drawings: Iterable[Drawing]) -> list[tuple[str, str, Markup]]:
    """Return name, caption and SVG of each drawing, to stand inside a page."""
    return [
        (name, caption, Markup(inline_svg(ax, name=name.replace("_", "-"), label=caption)))
        for name, caption, ax in drawings
    ]


def write_page(
    path: Path,
    template: str,
    *,
    methods: str,
    environment: Mapping[str, Any],
    parameters: Mapping[str, Any],
    **words: Any,
) -> Path:
    """Write a page without scripts, whole or not at all.

    Parameters
    ----------
    path
        The HTML file.
    template
        File name of a template that extends ``drawn.html.j2``.
    methods
        What ``describe()`` of the model returned.
    environment, parameters
        Of the fit.
    **words
        What the template asks for: ``title``, ``heading``, ``opening``, ``facts``, ``evaluation``, ``resampled`` and its own.
    """
    paragraphs, listed = parts_of(methods)
    page = (
        templates()
        .get_template(template)
        .render(
            style=Markup(asset("report.css")),
            policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
            paragraphs=paragraphs,
            references=[reference(one) for one in listed],
            environment=flatten(environment),
            parameters=flatten(parameters),
            **words,
        )
    )
    return write_whole(path, page.encode("utf-8"))


def write_drawings(drawings: Iterable[Drawing], folder: Path) -> None:
    """Write each drawing as PNG and SVG into a folder."""
    for name, _, ax in drawings:
        for kind in ("png", "svg"):
            figures.write(ax, folder / f"{name}.{kind}")
