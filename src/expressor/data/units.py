"""The scale that bulk expression is on: raw counts, TPM, a logarithm of them, z-scores; told from the values, with reasons.

A file seldom says it. What it is decides what may be done with it, so the scale is detected, compared with what
``uns["unit"]`` claims, and refused where a method cannot use it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, check_choice
from expressor.core.log import logger
from expressor.data.checks import check_numeric, is_counts
from expressor.data.keys import UNIT

COUNTS, TPM, LOG2, LOG1P, ZSCORE, LOG_RATIO = (
    "counts", "TPM", "log2(TPM+1)", "log1p_cp10k", "z-score", "log ratio",
)  # fmt: skip
BULK_SCALES = (COUNTS, TPM, LOG2, LOG1P, ZSCORE, LOG_RATIO)
"""What :func:`detect_scale` can answer. ``"TPM"`` stands for every linear normalised value (TPM, CPM, FPKM, RSEM, intensity),
``"log2(TPM+1)"`` for every log2 of one plus such a value, ``"log ratio"`` for logarithms that are centred or were taken
without adding 1, such as two-colour arrays and log2(TPM+0.001)."""

_LOGS = (LOG2, LOG1P, LOG_RATIO)
_MAX_LOG = 26.0  # log2 of the largest counts seen; linear values have outliers far above
_MAX_LOG1P = np.log1p(1e4)  # log1p of all of an observation's 10,000 counts
_CONSTANT = 0.02  # relative spread of library sizes that are the same by construction
_ROWS, _COLUMNS = 400, 20_000  # examined at most: enough to tell, quick for any file


@dataclass(frozen=True)
class Scale:
    """What a matrix of expression looks like.

    Attributes
    ----------
    name
        One of :data:`BULK_SCALES`.
    sure
        Whether another scale could look the same.
    reasons
        What in the values says so, a sentence each.
    """

    name: str
    sure: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}{'' if self.sure else ' (a guess)'}: {'; '.join(self.reasons)}"


def detect_scale(X: Any) -> Scale:
    """Tell on which scale expression is, from its values alone.

    Parameters
    ----------
    X
        (sample, gene), dense or sparse; NaN is not measured. Of a large matrix a part, evenly spread, is looked at.

    Raises
    ------
    DataError
        ``X`` is no matrix of numbers, holds infinite values, or nothing was measured.
    """
    check_numeric(X, where="X")
    values = _sample(X)
    seen = values[~np.isnan(values)]
    if np.isinf(seen).any():
        raise DataError("expression holds infinite values", got=f"{int(np.isinf(seen).sum())} of those examined",
                        fix="A logarithm of 0 does that: take it of the value plus 1.")  # fmt: skip
    if not len(seen):
        raise DataError("nothing was measured", got="NaN everywhere")
    low, high = float(seen.min()), float(seen.max())
    if low < 0:
        return _with_negatives(values, low)
    if is_counts(seen):
        return Scale(COUNTS, high > _MAX_LOG, (f"whole numbers from 0 to {high:,.0f}",))
    if high > _MAX_LOG:
        return _linear(values, high)
    return _logarithm(values, high)


def _sample(X: Any) -> np.ndarray:
    if not X.shape[0] or not X.shape[1]:
        raise DataError("nothing was measured", got=f"a matrix of shape {X.shape}")
    rows = np.unique(np.linspace(0, X.shape[0] - 1, min(_ROWS, X.shape[0])).astype(np.int64))
    part = X[rows]
    part = part.toarray() if sparse.issparse(part) else np.asarray(part)
    return part[:, :: max(1, -(-part.shape[1] // _COLUMNS))].astype(np.float64)


def _with_negatives(values: np.ndarray, low: float) -> Scale:
    with np.errstate(invalid="ignore"):
        measured = values[:, (~np.isnan(values)).sum(axis=0) >= 3]
    if not measured.shape[1]:
        return Scale(LOG_RATIO, False, (f"negative values down to {low:.3g}, too few to tell more",))
    centre = float(np.median(np.abs(np.nanmean(measured, axis=0))))
    spreads = np.nanstd(measured, axis=0)
    quarter, spread, most = (float(one) for one in np.quantile(spreads, (0.25, 0.5, 0.75)))
    if low < -_MAX_LOG:
        return Scale(TPM, False, (f"values down to {low:,.0f}, too low for a logarithm: background was subtracted",))
    moments = f"genes have mean {centre:.2f} (median of absolutes) and standard deviation {spread:.2f}"
    # The mean of n standard normal values strays by 1 / sqrt(n), their standard deviation by 1 / sqrt(2 n). Unlike those of
    # logarithms, standard deviations of z-scores are the same for all genes.
    near = 0.15 + 1 / np.sqrt(len(measured))
    if centre < near and 1 - near < spread < 1 + near and most - quarter < 2 * near:
        return Scale(ZSCORE, True, (f"negative values down to {low:.3g}", moments))
    floor = float(np.mean(measured == low))
    if floor > 0.01:
        pseudo = f"log2 of a value plus {2.0**low:.3g}"
        return Scale(
            LOG_RATIO, True, (f"{floor:.0%} of the values are the lowest, {low:.4g}, as in a {pseudo}", moments)
        )
    return Scale(LOG_RATIO, centre < 1, (f"negative values down to {low:.3g}", moments))


def _linear(values: np.ndarray, high: float) -> Scale:
    reasons = [f"values up to {high:,.0f} that are not whole"]
    size = _library(values)
    if size is not None:
        reasons.append(f"samples add up to about {size:,.0f}")
    return Scale(TPM, size is not None and 0.9e6 < size < 1.1e6, tuple(reasons))


def _logarithm(values: np.ndarray, high: float) -> Scale:
    for name, back in ((LOG2, np.exp2), (LOG1P, np.exp)):
        size = _library(back(values) - 1)
        wanted = 1e6 if name == LOG2 else 1e4
        if size is not None and 0.9 * wanted < size < 1.1 * wanted:
            return Scale(name, True, (f"taken back, samples add up to about {size:,.0f}",))
    if high > _MAX_LOG1P + 0.01:
        return Scale(LOG2, True, (f"values from 0 to {high:.3g}, more than log1p of 10,000",))
    return Scale(LOG2, False, (f"values from 0 to {high:.3g}, samples do not add up to the same when taken back",))


def _library(linear: np.ndarray) -> float | None:
    """The sum that all samples share, or None where they differ or something was not measured."""
    sums = linear.sum(axis=1)
    if len(sums) < 2 or np.isnan(sums).any() or not np.isfinite(sums).all() or sums.mean() <= 0:
        return None
    return float(sums.mean()) if np.ptp(sums) <= _CONSTANT * sums.mean() else None


def family(unit: str) -> str:
    """Return which of :data:`BULK_SCALES` a unit, as people write it, belongs to.

    ``"log2(RSEM+1)"`` is of the family ``"log2(TPM+1)"``, ``"raw counts"`` of ``"counts"``, ``"log2(TPM+0.001)"`` of
    ``"log ratio"``. A unit that is not known is refused with a :class:`~expressor.core.errors.DataError`.
    """
    text = unit.lower().replace(" ", "").replace("_", "").replace("-", "")
    if text.startswith(("zscore", "z(")) or "zscore" in text:
        return ZSCORE
    if "ratio" in text:
        return LOG_RATIO
    if text.startswith(("log1p", "ln(")):
        return LOG1P
    if text.startswith("log"):
        pseudo = text.rsplit("+", 1)[-1].split(")")[0] if "+" in text else ""
        return LOG2 if pseudo in ("1", "1.0") else LOG_RATIO
    if "count" in text:
        return COUNTS
    if text in ("tpm", "cpm", "fpkm", "rpkm", "rsem", "ntpm", "intensity", "linear"):
        return TPM
    check_choice(unit, BULK_SCALES, name="unit")
    return unit


def unit_of(adata: AnnData, *, layer: str | None = None) -> str:
    """Return the unit of the expression: what ``uns["unit"]`` says, checked, or what the values look like.

    Parameters
    ----------
    adata
        Bulk profiles.
    layer
        The layer looked at; ``X`` when not given. ``uns["unit"]`` speaks of ``X`` alone.

    Raises
    ------
    DataError
        ``uns["unit"]`` is unknown, or the values cannot be on the scale that it names.
    """
    X = adata.X if layer is None else adata.layers[layer]
    if X is None:
        raise DataError("the data hold no expression: X is empty", fix="Give measured values.")
    found = detect_scale(X)
    said = adata.uns.get(UNIT) if layer is None else None
    if said is None:
        if not found.sure:
            logger.warning("no unit is stated (uns['unit']); taken for %s", found)
        return found.name
    claimed = family(str(said))
    if claimed != found.name and not can_look_like(claimed, found):
        raise DataError(
            f"uns['unit'] says {said!r}, but the values are {found.name} ({'; '.join(found.reasons)})",
            fix="Correct uns['unit'], or put values of that unit into X.",
        )
    return str(said)


def can_look_like(claimed: str, found: Scale) -> bool:
    """Return whether values that look like ``found`` may be on the scale ``claimed``, one of :data:`BULK_SCALES`."""
    if not found.sure:
        return claimed not in (ZSCORE, LOG_RATIO) or found.name in (ZSCORE, LOG_RATIO)
    # Centred logarithms may happen to have standard deviation 1; scaled values of a part of the samples are centred no more.
    # Arrays give logarithms without negative values, and counts may have been rounded.
    alike = ({ZSCORE, LOG_RATIO}, {LOG_RATIO, LOG2}, {COUNTS, TPM})
    return any({claimed, found.name} <= pair for pair in alike)


def check_unit(adata: AnnData, accepts: Iterable[str], *, who: str) -> str:
    """Return the unit of ``adata``, refusing what ``who`` cannot use.

    Parameters
    ----------
    adata
        Bulk profiles.
    accepts
        Scales among :data:`BULK_SCALES`.
    who
        The method, for the message.

    Raises
    ------
    DataError
        The unit is of another scale; the message says how to get from one to the other.
    """
    wanted = tuple(accepts)
    for one in wanted:
        check_choice(one, BULK_SCALES, name="scale")
    unit = unit_of(adata)
    kind = family(unit)
    if kind not in wanted:
        if kind in (COUNTS, TPM) and set(wanted) & set(_LOGS):
            fix = "expressor.data.to_log2 takes the logarithm."
        elif kind == ZSCORE:
            fix = "z-scores cannot be turned back; start from the values that they were made of."
        else:
            fix = "Convert the values, and say so in uns['unit']."
        raise DataError(f"{who} cannot use {unit}", expected=" or ".join(wanted), got=unit, fix=fix)
    return unit


def check_same_unit(fitted: str, adata: AnnData) -> None:
    """Refuse data on another scale than the model was fitted on.

    Raises
    ------
    DataError
        The scales are of different families; within one family (log2 of TPM, of RSEM) there is a warning in the log.
    """
    unit = unit_of(adata)
    if family(unit) != family(fitted):
        fix = "Convert them (expressor.data.to_log2), or fit on data of this scale."
        if unit == ZSCORE:
            fix = "z-scores cannot be turned back: give the values that they were made of, or fit on z-scores."
        elif fitted == ZSCORE:
            fix = "Give z-scores, made within these data as those of the fit were, or fit on data of this scale."
        raise DataError(
            "the data are on another scale than those of the fit", expected=fitted, got=unit, fix=fix,
        )  # fmt: skip
    if unit != fitted:
        logger.warning(
            "the fit was on %s, these data are in %s; results may be shifted, by much between pipelines (z-scores within each of "
            "them can be compared)", fitted, unit,
        )  # fmt: skip


def to_log2(adata: AnnData) -> AnnData:
    """Return a copy with counts, TPM or log1p of counts per 10,000 turned into log2 of counts per million (or TPM) plus 1.

    Counts are divided by the sample's sum over all genes there, so all measured genes must be there. NaN stays NaN. A copy
    of data that are logarithms to base 2 already is returned unchanged.

    Raises
    ------
    DataError
        The values are z-scores or centred logarithms, which cannot be turned back; or a sample has no counts.
    """
    unit = unit_of(adata)
    kind = family(unit)
    copy = adata.copy()
    if kind == LOG2:
        return copy
    if kind in (ZSCORE, LOG_RATIO):
        raise DataError(f"{unit} cannot be turned into log2(TPM+1)", fix="Start from counts or TPM.")
    X = copy.X
    values = np.asarray(X.toarray() if sparse.issparse(X) else X, dtype=np.float64)
    if kind == LOG1P:
        values, new = np.expm1(values) * 100.0, "log2(CPM+1)"
    elif kind == COUNTS:
        size = np.nansum(values, axis=1)
        if (size == 0).any():
            raise DataError(f"{int((size == 0).sum())} samples have no counts, such as "
                            f"{adata.obs_names[int(np.argmax(size == 0))]!r}", fix="Leave them out.")  # fmt: skip
        values, new = values / size[:, None] * 1e6, "log2(CPM+1)"
    else:
        if np.nanmin(values) < 0:
            raise DataError(f"{unit} below 0 has no logarithm", got=f"{int((values < 0).sum())} negative values",
                            fix="Set them to 0 first, if they are background that was subtracted.")  # fmt: skip
        new = f"log2({unit}+1)"
    copy.X = np.log2(values + 1.0).astype(np.float32)
    copy.uns[UNIT] = new
    return copy
