"""What papers say about their methods, kept apart from what was measured here.

A system's folder may hold ``claims.csv`` with the columns ``method``, ``data``, ``metric``, ``value``, ``spread``, ``source``. The
numbers are of other data, splits and code: they are shown beside a table, never in it.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from expressor.core import registry
from expressor.core.errors import FormatError

COLUMNS = ("method", "data", "metric", "value", "spread", "source")


@dataclass(frozen=True)
class Claim:
    """One number of a paper.

    Attributes
    ----------
    system
        The system whose folder holds it.
    method, data, metric
        As the paper calls them.
    value, spread
        The number and what stands behind its plus-minus; NaN where there is none.
    source
        Where exactly it is printed.
    """

    system: str
    method: str
    data: str
    metric: str
    value: float
    spread: float
    source: str


def claims(systems: Iterable[str]) -> list[Claim]:
    """Return the claims that the folders of ``systems`` hold, in their order.

    Raises
    ------
    FormatError
        A file lacks a column, or a value is not a number.
    """
    found = []
    for name in systems:
        spec = find_spec(registry.card(name).package)
        path = Path(spec.origin).parent / "claims.csv" if spec is not None and spec.origin else None
        if path is not None and path.is_file():
            found += _read(name, path)
    return found


def _read(system: str, path: Path) -> list[Claim]:
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        missing = set(COLUMNS) - set(table.fieldnames or ())
        if missing:
            raise FormatError(f"{path} lacks columns", expected=", ".join(COLUMNS), got=str(table.fieldnames))
        try:
            return [
                Claim(
                    system, row["method"], row["data"], row["metric"], float(row["value"]),
                    float(row["spread"]) if row["spread"] else math.nan, row["source"],
                )
                for row in table
            ]  # fmt: skip
        except (ValueError, TypeError) as error:
            raise FormatError(f"{path} holds a value that is not a number ({error})") from error
