"""Maps of the brain: slices, three views through it, three maps beside each other, and where samples were taken."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from expressor.core.errors import DataError, check_choice
from expressor.data.brainspace import Grid, brain_grid, template
from expressor.report import colours
from expressor.report.figures.sheet import SIZE

VIEWS = {"left": (1, 2), "front": (0, 2), "above": (0, 1)}
"""From where one looks -> the axes of MNI space to the right and upwards."""
MAPS = {"value": colours.VALUE_MAP, "uncertainty": colours.WIDTH_MAP, "distance": colours.WIDTH_MAP}
_ACROSS = {"left": 0, "front": 1, "above": 2}
_GROUND = 0.22  # how dark the template is under a map


def brain_slices(
    values: np.ndarray, grid: Grid, *, title: str = "", unit: str = "", kind: str = "value", cuts: Sequence[float] | None = None,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw a map in horizontal slices over the template.

    Parameters
    ----------
    values
        (voxel,) of the grid; NaN is left open.
    grid
        Voxels whose axes run along x, y and z, such as ``expressor.data.brain_grid(resolution=3)``.
    title, unit
        Words above the slices and beside the scale.
    kind
        ``"value"``, ``"uncertainty"`` or ``"distance"``: the colours.
    cuts
        Heights z of the slices in mm; eight by default.
    limits
        Ends of the scale; what lies between percentiles of the map by default.

    Returns
    -------
    numpy.ndarray
        The axes drawn on.
    """
    check_choice(kind, tuple(MAPS), name="kind of map")
    volume = _Volume(values, grid)
    heights = np.array([-45, -30, -15, -4, 10, 24, 40, 56.0] if cuts is None else list(cuts))
    norm = Normalize(*(limits or _limits(values, kind)))
    rows = 1 if len(heights) <= 4 else 2
    columns = -(-len(heights) // rows)
    figure = Figure(figsize=(1.75 * columns + 0.6, 2.1 * rows + 0.35), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax, z in zip(axes, heights):
        _draw_cut(ax, volume, "above", float(z), norm, MAPS[kind])
        ax.set_title(f"z {z:+.0f}", fontsize=SIZE - 1, color=colours.INKS["muted"], pad=1)
    for ax in axes[len(heights) :]:
        ax.set_axis_off()
    _draw_scale(figure, axes, norm, MAPS[kind], unit)
    _entitle(figure, title)
    return axes


def glass_brain(
    values: np.ndarray, grid: Grid, *, title: str = "", unit: str = "", kind: str = "value",
    limits: tuple[float, float] | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw a map as seen through the brain from the left, the front and above.

    Each line of sight shows the value on it that is furthest from the map's median, so that both high and low places are seen.
    Parameters as for :func:`brain_slices`.
    """
    check_choice(kind, tuple(MAPS), name="kind of map")
    volume = _Volume(values, grid)
    norm = Normalize(*(limits or _limits(values, kind)))
    figure, axes = _three_views()
    middle = float(np.nanmedian(values))
    for ax, view in zip(axes, VIEWS):
        away = np.nan_to_num(np.abs(volume.values - middle), nan=-1.0)
        furthest = np.expand_dims(away.argmax(axis=_ACROSS[view]), _ACROSS[view])
        seen = np.take_along_axis(volume.values, furthest, axis=_ACROSS[view]).squeeze(_ACROSS[view])
        _draw_outline(ax, view)
        _draw_plane(ax, seen, volume, view, norm, MAPS[kind])
        _finish(ax, view)
    _draw_scale(figure, axes, norm, MAPS[kind], unit)
    _entitle(figure, title)
    return axes


def brain_triple(
    maps: Mapping[str, np.ndarray], grid: Grid, *, title: str = "", unit: str = "", place: Sequence[float] = (-24.0, -14.0, 6.0),
    limits: tuple[float, float] | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw maps beside each other on one scale: a row a map, cut from the left, the front and above.

    Parameters
    ----------
    maps
        Name -> values (voxel,): such as the field, the field averaged per parcel, and a reference.
    grid, title, unit, limits
        As for :func:`brain_slices`; the scale is that of all maps together.
    place
        x, y, z in mm through which the cuts go.
    """
    if not maps:
        raise DataError("there is no map to draw")
    volumes = {name: _Volume(values, grid) for name, values in maps.items()}
    norm = Normalize(*(limits or colours.value_range(*(np.asarray(one, dtype=float) for one in maps.values()))))
    figure = Figure(figsize=(7.0, 2.05 * len(maps) + 0.35), layout="constrained")
    axes = figure.subplots(len(maps), 3, width_ratios=(1.18, 1.0, 0.93), squeeze=False)
    for row, (name, volume) in zip(axes, volumes.items()):
        for ax, view in zip(row, VIEWS):
            _draw_cut(ax, volume, view, float(place[_ACROSS[view]]), norm, colours.VALUE_MAP)
        row[0].text(-0.04, 0.5, name, rotation=90, ha="right", va="center", transform=row[0].transAxes, fontsize=SIZE,
                    color=colours.INKS["ink"], parse_math=False)  # fmt: skip
    for ax, view in zip(axes[0], VIEWS):
        ax.set_title(
            f"{'xyz'[_ACROSS[view]]} {place[_ACROSS[view]]:+.0f}", fontsize=SIZE - 1, color=colours.INKS["muted"], pad=1
        )
    _draw_scale(figure, axes.ravel(), norm, colours.VALUE_MAP, unit)
    _entitle(figure, title)
    return axes


def sample_markers(
    places: np.ndarray,
    values: np.ndarray,
    *,
    title: str = "",
    unit: str = "",
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Draw samples where they were taken, seen through the brain from the left, the front and above.

    Parameters
    ----------
    places
        (sample, 3) in mm of MNI152.
    values
        (sample,): what was measured there. Samples far from the median are drawn last.
    title, unit, limits
        As for :func:`brain_slices`.
    """
    places, values = np.asarray(places, dtype=float), np.asarray(values, dtype=float)
    if places.shape != (len(values), 3):
        raise DataError("places and values do not fit", expected=f"({len(values)}, 3)", got=str(places.shape))
    norm = Normalize(*(limits or colours.value_range(values)))
    figure, axes = _three_views()
    order = np.argsort(np.abs(values - np.nanmedian(values)))
    size = float(np.clip(9000 / max(len(values), 1), 5, 28))
    for ax, view in zip(axes, VIEWS):
        right, up = VIEWS[view]
        _draw_outline(ax, view)
        ax.scatter(places[order, right], places[order, up], c=values[order], s=size, cmap=colours.colormap(colours.VALUE_MAP),
                   norm=norm, linewidths=0.25, edgecolors="white", rasterized=len(values) > 500)  # fmt: skip
        _finish(ax, view)
    _draw_scale(figure, axes, norm, colours.VALUE_MAP, unit)
    _entitle(figure, title)
    return axes


class _Volume:
    """A map as an array whose axes rise along x, y, z, with the middles of its voxels in mm."""

    def __init__(self, values: np.ndarray, grid: Grid) -> None:
        step = np.diag(grid.affine)[:3]
        if not np.allclose(np.diag(step), grid.affine[:3, :3]):
            raise DataError("the grid's axes are turned", expected="axes along x, y and z")
        self.values = grid.fill(np.asarray(values, dtype=np.float32))[
            tuple(slice(None, None, int(np.sign(s))) for s in step)
        ]
        self.middles = [np.sort(grid.affine[i, 3] + step[i] * np.arange(grid.mask.shape[i])) for i in range(3)]
        self.step = np.abs(step)

    def extent(self, view: str) -> tuple[float, float, float, float]:
        """Left, right, bottom and top in mm."""
        right, up = VIEWS[view]
        return (
            self.middles[right][0] - self.step[right] / 2, self.middles[right][-1] + self.step[right] / 2,
            self.middles[up][0] - self.step[up] / 2, self.middles[up][-1] + self.step[up] / 2,
        )  # fmt: skip

    def cut(self, view: str, at: float) -> np.ndarray:
        """The plane nearest to ``at`` mm."""
        axis = _ACROSS[view]
        return np.take(self.values, int(np.abs(self.middles[axis] - at).argmin()), axis=axis)


@lru_cache(maxsize=2)
def _ground(what: str = "t1") -> _Volume:
    volume, affine = template(what, resolution=2)
    mask = brain_grid(resolution=2).mask
    return _Volume(volume[mask], Grid(mask, affine))


def _draw_cut(ax: Axes, volume: _Volume, view: str, at: float, norm: Normalize, colour_map: str) -> None:
    ground = _ground()
    shade = np.ma.masked_invalid(_GROUND * ground.cut(view, at).T / float(np.nanmax(ground.values)))
    ax.imshow(shade, cmap=colours.colormap("Greys"), vmin=0, vmax=1, origin="lower", extent=ground.extent(view))
    _draw_plane(ax, volume.cut(view, at), volume, view, norm, colour_map)
    white = np.nan_to_num(_ground("white").cut(view, at).T)
    if white.max() > 0.5:
        right, up = (ground.middles[one] for one in VIEWS[view])
        ax.contour(right, up, white, levels=[0.5], colors="white", linewidths=0.5, alpha=0.7).set_rasterized(True)
    _finish(ax, view)


def _draw_plane(ax: Axes, plane: np.ndarray, volume: _Volume, view: str, norm: Normalize, colour_map: str) -> None:
    ax.imshow(
        np.ma.masked_invalid(plane.T), origin="lower", extent=volume.extent(view), cmap=colours.colormap(colour_map), norm=norm,
        interpolation="nearest",
    )  # fmt: skip


def _draw_outline(ax: Axes, view: str) -> None:
    ground = _ground()
    right, up = VIEWS[view]
    shadow = np.isfinite(ground.values).any(axis=_ACROSS[view])
    ax.contour(ground.middles[right], ground.middles[up], shadow.T.astype(float), levels=[0.5], colors=[colours.INKS["muted"]],
               linewidths=0.9)  # fmt: skip


def _finish(ax: Axes, view: str) -> None:
    low, high = np.array([-76.0, -110, -76]), np.array([76.0, 78, 84])
    right, up = VIEWS[view]
    ax.set_xlim(low[right], high[right])
    ax.set_ylim(low[up], high[up])
    ax.set_aspect("equal")
    ax.set_axis_off()
    if view != "left":
        for x, side in ((0.02, "L"), (0.98, "R")):
            ax.text(x, 0.03, side, ha="left" if x < 0.5 else "right", va="bottom", transform=ax.transAxes, fontsize=SIZE - 2,
                    color=colours.INKS["muted"])  # fmt: skip


def _three_views() -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(7.0, 2.45), layout="constrained")
    return figure, figure.subplots(1, 3, width_ratios=(1.18, 1.0, 0.93))


def _draw_scale(figure: Figure, axes: np.ndarray, norm: Normalize, colour_map: str, unit: str) -> None:
    scale = figure.colorbar(
        ScalarMappable(norm, colours.colormap(colour_map)),
        ax=list(axes),
        fraction=0.02,
        pad=0.01,
        aspect=24,
        shrink=0.8,
    )
    scale.outline.set_visible(False)  # type: ignore[operator]
    scale.ax.tick_params(labelsize=SIZE - 1, colors=colours.INKS["muted"], length=2)
    scale.set_label(unit, fontsize=SIZE - 1, color=colours.INKS["muted"], parse_math=False)


def _entitle(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, x=0.006, ha="left", fontsize=SIZE + 2, color=colours.INKS["ink"], parse_math=False)


def _limits(values: np.ndarray, kind: str) -> tuple[float, float]:
    values = np.asarray(values, dtype=float)
    return colours.value_range(values) if kind == "value" else colours.width_range(values)
