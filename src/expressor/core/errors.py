"""The package's exceptions and the one grammar of their messages.

A message says what was wrong and where; what was expected and what was found; what to do; and, for a misspelt name, the
nearest names that exist. ``NotFittedError`` lives in :mod:`expressor.estimator`, because its standard twin is scikit-learn's.
"""

import difflib
from collections.abc import Iterable


class ExpressorError(Exception):
    """Base of every error that the package raises on purpose.

    Parameters
    ----------
    problem
        What was wrong and where.
    expected, got
        What should have been there and what was. Either may be left out.
    fix
        What the user can do about it.
    nearest
        Existing names close to a misspelt one (see :func:`nearest_names`).
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object = None,
        got: object = None,
        fix: str | None = None,
        nearest: Iterable[str] = (),
    ) -> None:
        parts = [problem.rstrip(".")]
        if expected is not None and got is not None:
            parts.append(f"expected {expected}, got {got}")
        elif expected is not None:
            parts.append(f"expected {expected}")
        elif got is not None:
            parts.append(f"got {got}")
        nearest = tuple(nearest)
        if nearest:
            parts.append("nearest: " + ", ".join(repr(name) for name in nearest))
        text = "; ".join(parts)
        self.message = f"{text}. {fix}" if fix else text
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class DataError(ExpressorError, ValueError):
    """Observations, images or parameters are not what the method needs."""


class GeneError(ExpressorError, KeyError):
    """A gene is unknown, duplicated, or named in another namespace."""


class FormatError(ExpressorError, ValueError):
    """A file is truncated, corrupt, or of another format than its name says."""


class MissingExtra(ExpressorError, ImportError):
    """An optional dependency is needed and not installed."""


def nearest_names(name: str, known: Iterable[str], *, limit: int = 3) -> tuple[str, ...]:
    """Return up to ``limit`` of the ``known`` names that look like ``name``, best first."""
    known = [str(one) for one in known]
    lowered = {one.lower(): one for one in known}
    matches = difflib.get_close_matches(str(name).lower(), list(lowered), n=limit, cutoff=0.6)
    return tuple(lowered[match] for match in matches)


def check_choice(value: object, choices: Iterable[str], *, name: str) -> None:
    """Raise :class:`DataError` unless ``value`` is one of ``choices``; ``name`` is the parameter's name."""
    choices = tuple(choices)
    if value not in choices:
        raise DataError(
            f"unknown {name} {value!r}",
            expected="one of " + ", ".join(repr(choice) for choice in choices),
            nearest=nearest_names(str(value), choices),
        )


def check_range(
    value: object,
    *,
    name: str,
    low: float | None = None,
    high: float | None = None,
    integer: bool = False,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise :class:`DataError` unless the number ``value`` lies in the stated interval (closed unless ``open_*``)."""
    left, right = ("(" if open_low else "["), (")" if open_high else "]")
    interval = f"{left}{'-inf' if low is None else low}, {'inf' if high is None else high}{right}"
    kind = "an integer" if integer else "a number"
    allowed = (int,) if integer else (int, float)
    number = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    if isinstance(number, bool) or not isinstance(number, allowed) or number != number:
        raise DataError(f"{name} is not {kind}", expected=f"{kind} in {interval}", got=repr(value))
    if (low is not None and (number <= low if open_low else number < low)) or (
        high is not None and (number >= high if open_high else number > high)
    ):
        raise DataError(f"{name} is out of range", expected=f"{kind} in {interval}", got=repr(value))
