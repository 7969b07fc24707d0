"""Expression in text tables (CSV, TSV): separator, missing values, and whether genes are columns or rows, are told and said."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.core.errors import DataError, FormatError
from expressor.core.log import logger
from expressor.data import files, keys
from expressor.data.readers.tables import read_text
from expressor.genes.ids import classify, strip_version
from expressor.genes.matching import human_genes

SUFFIXES = (".csv", ".tsv", ".txt", ".tab")
"""Suffixes that are read as tables, also with ``.gz`` behind."""

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "#N/A", "#DIV/0!", "-", ".", "missing")
"""What stands for a value that was not measured."""

ANNOTATIONS = (keys.PATIENT, keys.CANCER_TYPE, keys.COHORT, keys.PIPELINE, keys.TIME, keys.EVENT, keys.SECTION)
"""Columns that go to ``obs`` though they hold numbers; columns that hold words go there in any case."""

_SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon"}
_KNOWN = 0.2  # share of an axis's names that are genes, above which it can be the gene axis
_TRIED = 2000


def is_table(path: Path) -> bool:
    """Whether the suffix is one of a text table."""
    suffixes = [one.lower() for one in path.suffixes[-2:]]
    return bool(suffixes) and (
        suffixes[-1] in SUFFIXES or (suffixes[-1] == ".gz" and len(suffixes) > 1 and suffixes[-2] in SUFFIXES)
    )


def read_table(path: str | os.PathLike[str], *, genes_in: str | None = None) -> AnnData:
    """Read a text table of expression, plain or gzipped.

    The first column holds names. Which axis holds the genes is told from how many of its names are identifiers or known human
    genes; what was decided is logged. Columns that hold words, and those called as in :data:`ANNOTATIONS`, go to ``obs``
    (with genes in rows: columns of words go to ``var``).

    Parameters
    ----------
    path
        A file whose suffix is one of :data:`SUFFIXES`, or that with ``.gz``. Commas, tabs and semicolons separate; with
        semicolons a decimal comma is understood.
    genes_in
        ``"columns"`` or ``"rows"``; told by the names when not given.

    Returns
    -------
    AnnData
        ``X`` float32 (sample, gene), NaN for whatever stands in :data:`MISSING`.

    Raises
    ------
    DataError
        There is no such file; genes cannot be told from samples; a row is named twice.
    FormatError
        The file is no table: rows of different length, a number that is none, no columns.
    """
    path = files.find(path, what="table")
    if genes_in not in (None, "columns", "rows"):
        raise DataError(f"unknown genes_in {genes_in!r}", expected="'columns' or 'rows'")
    raw = read_text(path)
    text = _decode(raw)
    separator = _separator(text, path)
    frame = _parse(text, separator, path)
    axis = genes_in or _gene_axis(frame, path)
    logger.info("%s: %s-separated, genes in %s", path, _SEPARATORS[separator], axis)
    return _samples_in_rows(frame, path) if axis == "columns" else _genes_in_rows(frame, path)


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # every byte has a meaning there; old exports of spreadsheets are in it


def _separator(text: str, path: Path) -> str:
    head = text[: 1 << 20].splitlines()[:2]
    if len(head) < 2:
        raise FormatError(
            f"{path} is no table", expected="a line of names and lines of values", got=f"{len(head)} lines"
        )
    counts = {one: min(line.count(one) for line in head) for one in _SEPARATORS}
    best = max(counts, key=lambda one: counts[one])
    if not counts[best]:
        raise FormatError(
            f"{path} has one column", expected="columns separated by tab, comma or semicolon", got=repr(head[0][:60])
        )
    return best


def _parse(text: str, separator: str, path: Path) -> pd.DataFrame:
    with files.reading(path, f"a {_SEPARATORS[separator]}-separated table"):
        frame = pd.read_csv(
            io.StringIO(text), sep=separator, index_col=0, na_values=list(MISSING), keep_default_na=False,
            decimal="," if separator == ";" and not _has_points(text) else ".", low_memory=False, dtype={0: str},
        )  # fmt: skip
    if frame.empty:
        raise FormatError(f"{path} holds no values", got=f"{frame.shape[0]} rows and {frame.shape[1]} columns")
    nameless_rows = int(np.asarray(frame.index.isna()).sum())
    if nameless_rows:
        raise FormatError(f"{nameless_rows} rows of {path} have no name in the first column")
    # A last column without a name comes from separators at the ends of lines.
    nameless = [one for one in frame.columns if str(one).startswith("Unnamed:") and frame[one].isna().all()]
    frame = frame.drop(columns=nameless)
    frame.index = frame.index.astype(str).str.strip()
    doubled = _doubled(text, separator)
    if doubled:
        raise DataError(
            f"{len(doubled)} column names of {path} stand more than once, such as {doubled[0]!r}",
            expected="every name once", fix="Sum or drop the repeated columns.",
        )  # fmt: skip
    frame.columns = [str(one).strip() for one in frame.columns]
    return frame


def _has_points(text: str) -> bool:
    return any("." in line for line in text[: 1 << 16].splitlines()[1:20])


def _doubled(text: str, separator: str) -> list[str]:
    # pandas numbers repeated columns silently, so the line of names is looked at.
    names = [one.strip().strip('"') for one in text.split("\n", 1)[0].rstrip("\r").split(separator)][1:]
    seen: set[str] = set()
    return [one for one in names if one and (one in seen or seen.add(one))]  # type: ignore[func-returns-value]


def _gene_axis(frame: pd.DataFrame, path: Path) -> str:
    columns = [one for one in frame.columns if one not in ANNOTATIONS]
    shares = {"columns": _share_of_genes(columns), "rows": _share_of_genes(list(frame.index))}
    best = max(shares, key=lambda one: shares[one])
    if shares[best] < _KNOWN or shares["rows"] == shares["columns"]:
        raise DataError(
            f"it cannot be told whether the genes of {path} are in rows or in columns",
            expected="names of genes on one side",
            got=f"rows such as {frame.index[0]!r}, columns such as {columns[0] if columns else '?'!r}",
            fix="Say so: expressor.data.read_table(path, genes_in='columns'), or --genes-in columns on the command line.",
        )
    return best


def _share_of_genes(names: Sequence[str]) -> float:
    step = max(1, len(names) // _TRIED)
    tried = names[::step]
    if not tried:
        return 0.0
    if list(tried) == [str(i * step) for i in range(len(tried))]:  # numbered rows are no Entrez ids
        return 0.0
    table = human_genes()
    kinds = [classify(one) for one in tried]
    found = [
        kind in ("ensembl", "ensembl_transcript", "refseq") or table.find(strip_version(name))[0] >= 0
        for name, kind in zip(tried, kinds)
    ]
    return sum(found) / len(tried)


def _samples_in_rows(frame: pd.DataFrame, path: Path) -> AnnData:
    words = [one for one in frame.columns if one in ANNOTATIONS or not _is_number(frame[one])]
    _check_words(frame, words, path)
    values = frame.drop(columns=words)
    obs = frame[words].copy()
    return _build(values.to_numpy(dtype=np.float32, na_value=np.nan), obs, pd.DataFrame(index=values.columns), path)


def _genes_in_rows(frame: pd.DataFrame, path: Path) -> AnnData:
    words = [one for one in frame.columns if not _is_number(frame[one])]
    _check_words(frame, words, path)
    values = frame.drop(columns=words)
    obs = pd.DataFrame(index=values.columns)
    return _build(values.to_numpy(dtype=np.float32, na_value=np.nan).T, obs, frame[words].copy(), path)


def _is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column)) or bool(column.isna().all())


def _check_words(frame: pd.DataFrame, words: list[str], path: Path) -> None:
    """Refuse a column of numbers with a few words in it: that is damage, not an annotation."""
    for name in words:
        column = frame[name]
        if name in ANNOTATIONS or pd.api.types.is_bool_dtype(column):
            continue
        numbers = pd.to_numeric(column, errors="coerce")
        wrong = column.notna() & numbers.isna()
        if wrong.sum() <= 0.5 * column.notna().sum():
            raise FormatError(
                f"column {name!r} of {path} has {int(wrong.sum())} values that are no numbers, "
                f"such as {str(column[wrong].iloc[0])!r} in row {frame.index[int(np.argmax(wrong))]!r}",
                expected="numbers, or for what was not measured an empty cell or NA",
            )


def _build(values: np.ndarray, obs: pd.DataFrame, var: pd.DataFrame, path: Path) -> AnnData:
    if not values.shape[1] or not values.shape[0]:
        raise FormatError(f"{path} holds no expression", got=f"{values.shape[0]} samples and {values.shape[1]} genes")
    for index, what in ((obs.index, "samples"), (var.index, "genes")):
        if not index.is_unique:
            repeated = index[index.duplicated()].unique()
            raise DataError(
                f"{len(repeated)} {what} of {path} stand more than once, such as {repeated[0]!r}",
                expected="every name once", fix="Sum, average or drop the repeated ones.",
            )  # fmt: skip
    obs.index, var.index = obs.index.astype(str), var.index.astype(str)
    for frame in (obs, var):
        frame.index.name = None
        for name in frame.columns:
            if frame[name].dtype == object and not pd.api.types.is_bool_dtype(frame[name]):
                frame[name] = pd.Categorical(frame[name].astype("string").astype(object))
    return AnnData(np.ascontiguousarray(values), obs=obs, var=var)
