"""What is known of a sample besides its expression: time to an event, and labels; checked before anything is fitted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.core.errors import DataError, nearest_names
from expressor.core.log import logger
from expressor.data import keys

_YES = frozenset({"1", "true", "yes", "dead", "deceased", "event", "died", "1:deceased", "1:dead"})
_NO = frozenset({"0", "false", "no", "alive", "living", "censored", "0:living", "0:alive"})


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Times to an event, right-censored.

    Attributes
    ----------
    time
        float64 (sample,), days, more than 0.
    event
        bool (sample,): the event ended the time; else it was censored.
    strata
        Labels (sample,), or None: risk sets are formed within a stratum.
    """

    time: np.ndarray
    event: np.ndarray
    strata: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray) -> "Outcomes":
        """Return those of the ``rows`` (positions or bool mask)."""
        return Outcomes(self.time[rows], self.event[rows], None if self.strata is None else self.strata[rows])


def read_outcomes(
    adata: AnnData,
    *,
    time: str = keys.TIME,
    event: str = keys.EVENT,
    strata: str | None = None,
    require_event: bool = True,
) -> Outcomes:
    """Read times, events and strata from ``obs``, with every check.

    Parameters
    ----------
    adata
        Samples with outcomes.
    time
        Column with the time to event or censoring, in days.
    event
        Column that says whether the event happened: bool, 0/1, 1/2 (2 is the event), or words (alive, dead, ...).
    strata
        Column whose values have risk sets of their own, such as the cohort.
    require_event
        Refuse data without any event: nothing can be learnt from them.

    Raises
    ------
    DataError
        A column is absent; a time is missing, negative, zero, infinite or no number; an event is missing or of unknown
        coding; there is no event; a stratum is missing.
    """
    times = _times(_column(adata, time, what="time"), time)
    events = _events(_column(adata, event, what="event"), event)
    groups = None
    if strata is not None:
        column = _column(adata, strata, what="strata")
        if column.isna().any():
            raise DataError(f"{int(column.isna().sum())} of {len(column)} samples have no stratum (obs[{strata!r}])",
                            fix="Give them one, or leave them out.")  # fmt: skip
        groups = column.astype(str).to_numpy()
    if require_event and not events.any():
        raise DataError(
            f"there is no event among {len(events)} samples (obs[{event!r}])",
            expected="at least one",
            fix="Check the coding (1 is an event), or join these samples with others.",
        )
    return Outcomes(times, events, groups)


def has_outcome(adata: AnnData, *, time: str = keys.TIME, event: str = keys.EVENT) -> np.ndarray:
    """Return bool (sample,): a time above 0 and an event status are known. Select by it before :func:`read_outcomes`."""
    times = pd.to_numeric(_column(adata, time, what="time"), errors="coerce").to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.isfinite(times) & (times > 0) & _column(adata, event, what="event").notna().to_numpy()


def read_labels(adata: AnnData, label: str = keys.CANCER_TYPE, *, at_least: int = 1) -> np.ndarray:
    """Read the label of every sample.

    Parameters
    ----------
    adata
        Samples with labels.
    label
        Column of ``obs``.
    at_least
        Samples that every label must have.

    Returns
    -------
    numpy.ndarray
        object (sample,), texts.

    Raises
    ------
    DataError
        The column is absent or has gaps, there are fewer than two labels, or one has too few samples.
    """
    column = _column(adata, label, what="label")
    if column.isna().any():
        raise DataError(
            f"{int(column.isna().sum())} of {len(column)} samples have no label (obs[{label!r}])",
            fix="Label them, or leave them out: adata[adata.obs[...].notna()].",
        )
    values = column.astype(str).to_numpy(dtype=object)
    counts = pd.Series(values).value_counts()
    if len(counts) < 2:
        raise DataError(f"all samples have one label (obs[{label!r}])", expected="two labels or more",
                        got=repr(values[0]) if len(values) else "no samples")  # fmt: skip
    if counts.min() < at_least:
        rare = str(counts.index[-1])
        raise DataError(
            f"label {rare!r} of obs[{label!r}] is too rare", expected=f"at least {at_least} samples a label",
            got=int(counts.min()), fix="Join it with another label, or leave it out.",
        )  # fmt: skip
    return values


def check_times(times: Any) -> np.ndarray:
    """Return times at which survival is asked for, float64 (time,).

    Raises
    ------
    DataError
        One is negative or not finite.
    """
    at = np.asarray(times, dtype=np.float64).ravel()
    if not np.isfinite(at).all() or (at < 0).any():
        raise DataError("times are negative or not finite", expected="times >= 0", got=str(at[:5].tolist()))
    return at


def _column(adata: AnnData, name: str, *, what: str) -> pd.Series:
    if name not in adata.obs:
        columns = [str(one) for one in adata.obs.columns]
        raise DataError(
            f"obs has no column {name!r} for the {what}",
            nearest=nearest_names(name, columns),
            fix=f"Name the column with {what}=; there are: " + (", ".join(columns) or "none") + ".",
        )
    return adata.obs[name]


def _times(column: pd.Series, name: str) -> np.ndarray:
    try:
        values = pd.to_numeric(column.astype(object)).to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"obs[{name!r}] holds times that are no numbers ({error})", expected="days") from error
    known = "expressor.data.has_outcome(adata) tells which samples can be kept."
    for wrong, what in (
        (np.isnan(values), "missing times"),
        (np.isinf(values), "infinite times"),
        (values < 0, "negative times"),
        (values == 0, "times of 0, which tell nothing of survival"),
    ):
        if wrong.any():
            first = column.index[int(np.argmax(wrong))]
            raise DataError(
                f"obs[{name!r}] has {int(wrong.sum())} {what}, such as that of {first!r}",
                expected="days, more than 0, for every sample",
                fix=known,
            )
    return values


def _events(column: pd.Series, name: str) -> np.ndarray:
    if column.isna().any():
        raise DataError(
            f"obs[{name!r}] misses the event of {int(column.isna().sum())} samples, such as "
            f"{column.index[int(np.argmax(column.isna()))]!r}",
            expected="whether the event happened, for every sample",
            fix="expressor.data.has_outcome(adata) tells which samples can be kept.",
        )
    if column.dtype == bool:
        return column.to_numpy(dtype=bool)
    values = {_word(one) for one in column.unique()}
    if values <= _YES | _NO:
        return np.array([_word(one) in _YES for one in column], dtype=bool)
    if values == {"1", "2"} or values == {"2"}:
        logger.warning("obs[%r] is coded 1 and 2; 2 is taken for the event, 1 for censoring", name)
        return np.array([_word(one) == "2" for one in column], dtype=bool)
    raise DataError(
        f"the coding of obs[{name!r}] is not known",
        expected="bool, 0 and 1, 1 and 2 (2 is the event), or words such as alive and dead",
        got=", ".join(sorted(values)[:5]),
        fix="Give a column of bool: True where the event happened.",
    )


def _word(value: Any) -> str:
    """One spelling a value: 1.0 is 1, and letter case and blanks do not matter."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip().lower()
