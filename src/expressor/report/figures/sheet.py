"""The sheet a figure is drawn on: new axes without pyplot, one quiet dress for all, and writing as PNG, SVG or inline SVG."""

import io
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expressor.core.errors import DataError
from expressor.report.colours import INKS

FONT = ["Source Sans 3", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"]
SIZE = 9.0
FORMATS = ("png", "svg", "pdf")


def new_axes(ax: Axes | None, *, width: float, height: float) -> Axes:
    """Return ``ax``, or axes on a new figure of that size in inches; either without what earlier drawing set up."""
    if ax is None:
        ax = Figure(figsize=(width, height), layout="constrained").subplots()
    return ax


def dress(ax: Axes, *, x: str = "", y: str = "", title: str = "", grid: str = "") -> None:
    """Give axes the house's look: hairline axes at left and bottom, muted labels, an optional grid along ``"x"`` or ``"y"``.

    Text is never read as mathematics, so a gene or method may be called anything.
    """
    ax.patch.set_visible(False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(INKS["rule"])
        ax.spines[side].set_linewidth(0.8)
    ax.tick_params(colors=INKS["muted"], labelsize=SIZE - 1, length=3, width=0.8)
    if x:
        ax.set_xlabel(x, color=INKS["muted"], fontsize=SIZE, parse_math=False)
    if y:
        ax.set_ylabel(y, color=INKS["muted"], fontsize=SIZE, parse_math=False)
    if title:
        ax.set_title(title, color=INKS["ink"], fontsize=SIZE + 1, loc="left", parse_math=False)
    if grid:
        ax.grid(axis=grid, color=INKS["rule"], linewidth=0.6)  # type: ignore[arg-type]
        ax.set_axisbelow(True)


def label_ticks(ax: Axes, names: list[str], *, axis: str = "y") -> None:
    """Put ``names`` at 0, 1, 2, ... of an axis as plain text."""
    set_ticks = ax.set_yticks if axis == "y" else ax.set_xticks
    set_ticks(range(len(names)))
    (ax.set_yticklabels if axis == "y" else ax.set_xticklabels)(names)
    for label in ax.get_yticklabels() if axis == "y" else ax.get_xticklabels():
        label.set_parse_math(False)
        label.set_color(INKS["ink"])


def say_nothing_to_show(ax: Axes, why: str) -> Axes:
    """Write why a figure is empty into its middle, instead of drawing axes without data."""
    ax.set_axis_off()
    ax.text(
        0.5,
        0.5,
        why,
        ha="center",
        va="center",
        transform=ax.transAxes,
        color=INKS["muted"],
        fontsize=SIZE,
        parse_math=False,
    )
    return ax


def write(ax: Axes | np.ndarray, path: str | Path, *, dpi: int = 200) -> Path:
    """Write the figure that ``ax`` belongs to as PNG, SVG or PDF, by the ending of ``path``; whole or not at all.

    Parameters
    ----------
    ax
        Axes, or an array of axes of one figure.
    path
        The file; its folder is made where it is missing.
    dpi
        Dots per inch of a PNG.

    Raises
    ------
    DataError
        The ending is not known, or the file cannot be written (disk full, folder read-only).
    """
    path = Path(path)
    if path.suffix.lstrip(".") not in FORMATS:
        raise DataError(f"unknown picture format {path.suffix!r}", expected=f"one of {FORMATS}")
    held = _render(_figure_of(ax), path.suffix.lstrip("."), salt=path.stem, dpi=dpi)
    return write_whole(path, held)


def inline_svg(ax: Axes | np.ndarray, *, name: str, label: str) -> str:
    """Return the figure as SVG to stand inside a page, with the page's own fonts and inks.

    Parameters
    ----------
    ax
        Axes, or an array of axes of one figure.
    name
        Prefix of the ids inside; unique in the page; letters, digits and hyphens.
    label
        What the figure shows, for readers who do not see it.
    """
    text = _render(_figure_of(ax), "svg", salt=name, dpi=110).decode("utf-8")
    text = text[text.index("<svg") :]
    # Ids are shared by the whole page, so each figure's get its name in front, together with what points to them.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for ink, colour in INKS.items():
        text = re.sub(rf"(fill|stroke): {colour}", rf"\1: var(--{ink})", text)
    text = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?)px [^;\"]*", r"font-size: \1px", text)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    head = (
        f'<svg class="plot" role="img" aria-label="{_attribute(label)}" viewBox="0 0 {width} {height}" '
        f'style="max-width: {float(width) / 72 * 96:.0f}px" xmlns="http://www.w3.org/2000/svg">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name and rename it, so that an earlier one survives a full disk.

    Raises
    ------
    DataError
        The file cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error})",
            fix="Free space or choose another folder; what stood there is unharmed.",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def _figure_of(ax: Axes | np.ndarray) -> Figure:
    one: Any = np.ravel(ax)[0] if isinstance(ax, np.ndarray) else ax
    return one.figure


def _render(figure: Figure, kind: str, *, salt: str, dpi: int) -> bytes:
    held = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}[kind]
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.sans-serif": FONT}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A name may hold characters that no installed font has; the picture then shows a box, which is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(held, format=kind, dpi=dpi, metadata=metadata, facecolor="white" if kind == "png" else "none")
    return held.getvalue()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
