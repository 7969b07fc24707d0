"""The colours of every figure and of the page: one ink per meaning, colour maps that survive colour-blindness and print.

Values take viridis, brighter is more; interval widths take magma turned round, darker is less certain (both perceptually
uniform, so they still read in grey); errors take a blue-white-red diverging map whose ends differ under every common
colour-vision deficiency.
"""

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, to_hex

VALUE_MAP, WIDTH_MAP, ERROR_MAP = "viridis", "magma_r", "RdBu_r"

# The light page's inks; in an inline figure each becomes the CSS variable of that name, so that it follows the page into dark mode.
# Haematoxylin stains nuclei violet-blue and eosin stains the rest pink: the two accents.
INKS = {
    "ink": "#221d30",
    "muted": "#6b6480",
    "rule": "#dcd7e6",
    "accent": "#4a3a99",
    "eosin": "#b8295f",
    "soft": "#b5add6",
    "paper": "#fdfcfe",
}

CATEGORIES = ("#4a3a99", "#d1861a", "#2a9d8f", "#b8295f", "#6aa84f", "#3d85c6", "#8d6e63", "#c27ba0", "#9a9a2e")
"""Groups of cells, in the order of their size; a map names its groups too, since nine colours are more than all eyes tell apart."""


def colormap(name: str) -> Colormap:
    """Return a colour map, with missing values drawn as nothing."""
    return matplotlib.colormaps[name].with_extremes(bad=(0.0, 0.0, 0.0, 0.0))


def stops(name: str, *, count: int = 64) -> list[str]:
    """Return ``count`` evenly spaced colours of a map as ``#rrggbb``, low end first."""
    return [to_hex(colour) for colour in matplotlib.colormaps[name](np.linspace(0.0, 1.0, count))]


def value_range(*arrays: np.ndarray | None, percent: float = 99.0) -> tuple[float, float]:
    """Return a common colour range of the arrays: what lies between two percentiles, never empty.

    One outlying spot must not turn all others the same colour, hence ``percent`` and its complement instead of the extremes.
    """
    known = [array[np.isfinite(array)] for array in arrays if array is not None]
    together = np.concatenate(known) if known else np.zeros(0)
    if together.size == 0:
        return 0.0, 1.0
    low, high = (float(one) for one in np.percentile(together, [100.0 - percent, percent]))
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def width_range(width: np.ndarray | None, *, percent: float = 99.5) -> tuple[float, float]:
    """Return a colour range of interval widths: from zero to a quarter above the greatest.

    Zero means certainty, so it is in the range; the room above keeps a width that is the same in every spot from taking the
    extreme colour.
    """
    known = width[np.isfinite(width)] if width is not None else np.zeros(0)
    top = 1.25 * float(np.percentile(known, percent)) if known.size else 1.0
    return 0.0, top if top > 0 else 1.0


def is_constant(width: np.ndarray) -> bool:
    """Return whether all finite widths differ by less than a hundredth."""
    known = width[np.isfinite(width)]
    return bool(known.size and np.ptp(known) < 0.01 * known.max())


def error_range(error: np.ndarray | None, *, percent: float = 99.0) -> tuple[float, float]:
    """Return a colour range of errors that is symmetric about zero."""
    known = np.abs(error[np.isfinite(error)]) if error is not None else np.zeros(0)
    top = float(np.percentile(known, percent)) if known.size else 1.0
    top = top if top > 0 else 1.0
    return -top, top
