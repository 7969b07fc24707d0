"""A gene on the tissue: measured, predicted, width of the interval, error; and the four beside each other."""

from typing import Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from expressor.core.errors import DataError, GeneError, check_choice, nearest_names
from expressor.report import colours
from expressor.report.figures.sheet import SIZE, dress, new_axes, say_nothing_to_show
from expressor.report.pictures import Picture, drawn_diameter, picture
from expressor.report.run import Run

Kind = Literal["tissue", "measured", "predicted", "width", "error"]
TITLES = {
    "tissue": "H&E",
    "measured": "Measured",
    "predicted": "Predicted",
    "width": "Interval width",
    "error": "Error (predicted \N{MINUS SIGN} measured)",
}


def gene_map(
    run: Run,
    gene: str,
    section: str,
    *,
    kind: Kind = "predicted",
    ax: Axes | None = None,
    opacity: float = 1.0,
    own_scale: bool = False,
) -> Axes:
    """Draw one gene on one section's tissue.

    Parameters
    ----------
    run
        The run.
    gene, section
        Names of a target gene and of a section.
    kind
        ``"measured"``, ``"predicted"`` (both on one common scale over all sections), ``"width"`` (upper minus lower bound),
        ``"error"`` (predicted minus measured), or ``"tissue"`` (the picture alone).
    ax
        Axes to draw on; new ones by default.
    opacity
        Of the spots, 0 to 1. The tissue beneath them is softened, so that colours can be read.
    own_scale
        Draw ``"predicted"`` on its own scale: shows the pattern of a prediction that varies less than what was measured.

    Raises
    ------
    GeneError, DataError
        There is no such gene, section or kind.
    """
    check_choice(kind, get_args(Kind), name="kind")
    if gene not in run.predictions.var_names:
        raise GeneError(
            f"{gene!r} is not among the predicted genes", nearest=nearest_names(gene, run.predictions.var_names)
        )
    rows = run.spots_of(section)
    shown = picture(run.predictions, section)
    ax = new_axes(ax, width=4.0, height=4.2)
    _draw_ground(ax, shown, soften=kind != "tissue")
    dress(ax, title=TITLES[kind])
    if kind == "tissue":
        _draw_scale_bar(ax, shown)
        return ax
    values = gene_values(run, gene, kind)
    if values is None:
        return say_nothing_to_show(ax, f"{TITLES[kind]}: not in this run")
    low, high = colours.value_range(values) if own_scale and kind == "predicted" else _limits(run, gene, kind, values)
    cmap = {"width": colours.WIDTH_MAP, "error": colours.ERROR_MAP}.get(kind, colours.VALUE_MAP)
    places = np.asarray(run.predictions.obsm["spatial"], dtype=float)[rows, :2]
    size = np.full(len(rows), drawn_diameter(shown.spot_diameter, places))
    spots = EllipseCollection(
        size, size, np.zeros(len(rows)), units="xy", offsets=places, transOffset=ax.transData,
        cmap=colours.colormap(cmap), norm=Normalize(low, high), alpha=opacity, linewidths=0,
    )  # fmt: skip
    spots.set_array(np.ma.masked_invalid(values[rows]))
    if kind == "width" and colours.is_constant(values):
        ax.set_title(f"{TITLES[kind]}, constant", color=colours.INKS["ink"], fontsize=SIZE + 1, loc="left")
    spots.set_rasterized(len(rows) > 5000)
    ax.add_collection(spots)
    _draw_scale_bar(ax, shown)
    scale = ax.figure.colorbar(spots, ax=ax, orientation="horizontal", fraction=0.046, pad=0.02, aspect=32)
    scale.outline.set_visible(False)  # type: ignore[operator]
    scale.ax.tick_params(labelsize=SIZE - 1, colors=colours.INKS["muted"], length=2)
    scale.solids.set_alpha(1.0)  # type: ignore[union-attr]
    scale.set_label(run.unit, fontsize=SIZE - 1, color=colours.INKS["muted"], parse_math=False)
    return ax


def overview(run: Run, gene: str | None = None, section: str | None = None) -> np.ndarray:
    """Draw one section four times beside each other: H&E, measured, predicted, width of the interval.

    Parameters
    ----------
    run
        The run.
    gene
        The gene; by default the first of the gene table, the trusted one with the best correlation on held-out tissue. (Not the one
        that looks best here: that would be choosing on what is shown.)
    section
        The section; by default the first.

    Returns
    -------
    Array of the axes drawn on (object, 1-d); what the run does not hold is left out.
    """
    gene = gene if gene is not None else str(run.gene_table.index[0])
    section = section if section is not None else run.sections[0]
    have_interval = run.values("lower") is not None and run.values("upper") is not None
    kinds: list[Kind] = ["tissue"]
    kinds += ["measured"] if run.values("measured") is not None else []
    kinds += ["predicted"]
    kinds += ["width"] if have_interval else []
    shown = picture(run.predictions, section)
    aspect = (shown.box[3] - shown.box[1]) / max(shown.box[2] - shown.box[0], 1e-9)
    figure = Figure(figsize=(3.0 * len(kinds), 3.0 * min(max(aspect, 0.4), 2.0) + 1.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(kinds)))
    for ax, kind in zip(axes, kinds):
        gene_map(run, gene, section, kind=kind, ax=ax).set_anchor("N")
    figure.suptitle(
        f"{gene} in section {section}",
        x=0.006,
        ha="left",
        fontsize=SIZE + 3,
        color=colours.INKS["ink"],
        parse_math=False,
    )
    return axes


def gene_values(run: Run, gene: str, kind: str) -> np.ndarray | None:
    """Return what a map of ``kind`` shows of a gene, float64 (spot,) over all sections; None where the run does not hold it."""

    def column(layer: str) -> np.ndarray | None:
        found = run.values(layer, genes=[gene])
        return None if found is None else found[:, 0]

    if kind in ("measured", "predicted"):
        return column(kind)
    first, second = (column("upper"), column("lower")) if kind == "width" else (column("predicted"), column("measured"))
    return None if first is None or second is None else first - second


def _limits(run: Run, gene: str, kind: Kind, values: np.ndarray) -> tuple[float, float]:
    if kind == "error":
        return colours.error_range(values)
    if kind == "width":
        return colours.width_range(values)
    return colours.value_range(gene_values(run, gene, "measured"), gene_values(run, gene, "predicted"))


def _draw_ground(ax: Axes, shown: Picture, *, soften: bool) -> None:
    left, top, right, bottom = shown.box
    if shown.pixels is not None:
        # Mixed with white, not drawn transparent, so that the ground is the same on any page.
        pixels = (255 - (255 - shown.pixels.astype(np.uint16)) * 5 // 9).astype(np.uint8) if soften else shown.pixels
        ax.imshow(pixels, extent=(left, right, bottom, top), interpolation="antialiased")
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_scale_bar(ax: Axes, shown: Picture) -> None:
    for side in ax.spines.values():
        side.set_visible(False)
    if shown.um_per_px is None:
        return
    left, top, right, bottom = shown.box
    length_um = nice_length((right - left) * shown.um_per_px / 4)
    length = length_um / shown.um_per_px
    x, y = left + 0.03 * (right - left), bottom - 0.035 * (bottom - top)
    ax.plot([x, x + length], [y, y], color=colours.INKS["ink"], linewidth=1.6, solid_capstyle="butt")
    words = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} \N{MICRO SIGN}m"
    ax.text(
        x,
        y - 0.012 * (bottom - top),
        words,
        fontsize=SIZE - 2,
        color=colours.INKS["ink"],
        va="bottom",
        parse_math=False,
    )


def nice_length(most: float) -> float:
    """Return the greatest of 1, 2 and 5 times a power of ten that is at most ``most`` (positive)."""
    if not most > 0:
        raise DataError("a length is not positive", got=most)
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9)))
