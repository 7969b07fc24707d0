"""Finished parts of a benchmark on disk: one file a cell, so that an interrupted run goes on where it was."""

import contextlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.core.errors import DataError
from expressor.core.log import logger
from expressor.core.serial import to_plain


@dataclass(frozen=True)
class Key:
    """Which cell: a method on a fold, for one variant of the targets and one seed; and the hash of all that decides its numbers."""

    method: str
    fold: str
    variant: str
    seed: int
    hash: str

    @property
    def file(self) -> str:
        """The cell's file name."""
        words = (self.method, self.fold, self.variant, str(self.seed), self.hash)
        return "--".join("".join(c if c.isalnum() or c in "._" else "-" for c in word) for word in words) + ".npz"


@dataclass(eq=False)
class Cell:
    """What came of one method on one fold.

    Attributes
    ----------
    key
        Which cell.
    status
        ``"measured"``, or ``"refused"`` where the method raised an error of this package on purpose.
    message
        The refusal.
    tables
        ``"predicted"`` and the tables of scores.
    fitted
        Numbers that the fitted method shows, such as the penalty it chose; seconds of fitting and predicting.
    """

    key: Key
    status: str = "measured"
    message: str = ""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    fitted: dict[str, Any] = field(default_factory=dict)


def write_cell(folder: Path, cell: Cell) -> None:
    """Write a cell; the file is complete or absent, whatever happens.

    Raises
    ------
    DataError
        The folder cannot be written; finished cells stay as they are.
    """
    arrays: dict[str, np.ndarray] = {
        "about": np.array(
            json.dumps(
                {
                    "key": to_plain(cell.key), "status": cell.status, "message": cell.message,
                    "fitted": to_plain(cell.fitted), "tables": list(cell.tables),
                }
            )
        )
    }  # fmt: skip
    for name, table in cell.tables.items():
        arrays |= _pack(name, table)
    target = folder / cell.key.file
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"{target} cannot be written ({error})",
            fix="Finished parts are kept; free the disk or choose another folder.",
        ) from error


def read_cell(folder: Path, key: Key) -> Cell | None:
    """Return the finished cell, or None if there is none; a damaged file is reported and counts as none."""
    path = folder / key.file
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["key"] != to_plain(key):
                raise ValueError("it belongs to another cell")
            tables = {name: _unpack(name, stored) for name in about["tables"]}
        return Cell(key, about["status"], about["message"], tables, about["fitted"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged and computed again (%s)", path, error)
        return None


def _pack(name: str, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return arrays without objects: one matrix where all columns are numbers of one kind, else one array a column."""
    kinds = {str(kind) for kind in table.dtypes}
    index = np.asarray(table.index.astype(str), dtype=np.str_)
    columns = np.asarray([str(one) for one in table.columns], dtype=np.str_)
    packed = {f"{name}/index": index, f"{name}/columns": columns}
    if len(kinds) == 1 and next(iter(kinds)).startswith("float"):
        return packed | {f"{name}/matrix": table.to_numpy()}
    for i, column in enumerate(table.columns):
        values = table[column].to_numpy()
        packed[f"{name}/{i}"] = values.astype(np.str_) if values.dtype == object else values
    return packed


def _unpack(name: str, stored: Mapping[str, np.ndarray]) -> pd.DataFrame:
    index, columns = stored[f"{name}/index"], [str(one) for one in stored[f"{name}/columns"]]
    if f"{name}/matrix" in stored:
        return pd.DataFrame(stored[f"{name}/matrix"], index=pd.Index(index.astype(object)), columns=columns)
    values = {column: stored[f"{name}/{i}"] for i, column in enumerate(columns)}
    plain = {column: one.astype(object) if one.dtype.kind == "U" else one for column, one in values.items()}
    return pd.DataFrame(plain, index=pd.Index(index.astype(object)), columns=columns)
