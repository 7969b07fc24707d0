"""Text tables and JSON of the assays' folders, plain or gzipped, read within bounds and checked column by column."""

import io
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.core.errors import FormatError, nearest_names
from expressor.core.serial import read_json
from expressor.data import files

MAX_TEXT_BYTES = 2 * 2**30
"""Largest text, unpacked, that is taken into memory."""
MAX_COLUMNS = 1000
_STEP = 1 << 20


def read_text(path: str | os.PathLike[str], *, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Return the bytes of a text file, unpacked where it is gzip (told from its first bytes).

    Raises
    ------
    FormatError
        It cannot be read, is truncated, or unpacks to more than ``limit`` bytes.
    """
    path = Path(path)
    with files.reading(path, "text"):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            # Not limit + 1 in any case: a buffer of the asked size is made first.
            raw = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        text = _unpack(raw, limit, path) if packed else raw
    if len(text) > limit:
        raise FormatError(f"{path} is too large for a table", expected=f"at most {limit:,} bytes of text")
    if b"\0" in text[:_STEP]:
        raise FormatError(f"{path} is no text", got="zero bytes")
    return text


def _unpack(raw: bytes, limit: int, path: Path) -> bytes:
    """Unpack gzip, which may be several members in a row, and stop above ``limit`` bytes."""
    parts: list[bytes] = []
    total = 0
    while raw:
        engine = zlib.decompressobj(wbits=31)
        while not engine.eof and total <= limit:
            if not raw:
                raise FormatError(f"{path} is truncated", expected="a whole gzip file",
                                  fix="Get the file again from its source.")  # fmt: skip
            parts.append(engine.decompress(raw, _STEP))
            total += len(parts[-1])
            raw = engine.unconsumed_tail if not engine.eof else engine.unused_data
        if total > limit:
            break
        raw = raw.lstrip(b"\0")
    return b"".join(parts)


def read_columns(
    path: str | os.PathLike[str], *, sep: str, names: Sequence[str] | None = None, limit: int = MAX_TEXT_BYTES
) -> pd.DataFrame:
    """Read a table as text cells.

    Parameters
    ----------
    path
        The file.
    sep
        Separator of the cells.
    names
        Names of the columns of a file without a header; by default the first line names them.

    Raises
    ------
    FormatError
        It is no table, or a column name stands twice.
    """
    text = read_text(path, limit=limit)
    return parse_columns(text, path=path, sep=sep, names=names)


def parse_columns(
    text: bytes, *, path: str | os.PathLike[str], sep: str, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Parse a table that is in memory as text cells; see :func:`read_columns`."""
    skip = 0
    if names is None:
        with files.reading(path, "a table"):
            names = [
                one.strip().strip('"') for one in text.split(b"\n", 1)[0].decode("utf-8-sig").rstrip("\r").split(sep)
            ]
        skip = 1
        if len(names) > MAX_COLUMNS:
            raise FormatError(
                f"{os.fspath(path)} has too many columns", expected=f"at most {MAX_COLUMNS}", got=len(names)
            )
        if len(set(names)) < len(names):
            raise FormatError(f"{os.fspath(path)} has two columns of one name", got=", ".join(names)[:200])
    with files.reading(path, "a table"):
        return pd.read_csv(
            io.BytesIO(text),
            sep=sep,
            header=None,
            names=list(names),
            skiprows=skip,
            dtype=str,
            na_filter=False,
            index_col=False,
        )


def need_columns(table: pd.DataFrame, wanted: Sequence[str], *, path: str | os.PathLike[str]) -> None:
    """Raise :class:`~expressor.core.errors.FormatError` unless the table has all the ``wanted`` columns."""
    for name in wanted:
        if name not in table:
            raise FormatError(
                f"{os.fspath(path)} has no column {name!r}",
                expected="the columns " + ", ".join(wanted), got=", ".join(map(str, table.columns[:12]))[:200],
                nearest=nearest_names(name, map(str, table.columns)),
            )  # fmt: skip


def numbers(table: pd.DataFrame, column: str, *, path: str | os.PathLike[str], whole: bool = False) -> np.ndarray:
    """Return a column as finite float64, or as int64 where ``whole``.

    Raises
    ------
    FormatError
        A cell is no (whole) number; the message gives the first.
    """
    cells = table[column]
    values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(values)
    if whole:
        bad |= (np.abs(values) > 2**53) | (values != np.round(values))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FormatError(
            f"{int(bad.sum())} cells of column {column!r} in {os.fspath(path)} are no {'whole ' if whole else ''}numbers",
            got=f"{str(cells.iloc[row])[:40]!r} in row {row + 1}",
        )
    return values.astype(np.int64) if whole else values


def read_factors(path: Path) -> dict[str, float]:
    """Return the numbers of a scale-factor JSON; other entries are left out.

    Raises
    ------
    FormatError
        It is no JSON object, or a number is not finite or not above 0.
    """
    content: Any = read_json(path)
    if not isinstance(content, Mapping):
        raise FormatError(f"{path} holds no scale factors", expected="a JSON object", got=type(content).__name__)
    factors = {
        str(key): float(one) for key, one in content.items() if isinstance(one, int | float) and abs(one) < 1e300
    }
    for key, one in factors.items():
        if not (one > 0 and np.isfinite(one)):
            raise FormatError(f"{key!r} in {path} is no scale", expected="a number above 0", got=one)
    return factors
