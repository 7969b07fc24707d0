"""Reads tables of orthologs: exports of BioMart, downloads of HCOP, any table with a column a species; and the shipped one."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError, nearest_names
from expressor.genes.matching import GeneTable, human_genes
from expressor.genes.orthologs import Orthologs

_TABLES = Path(__file__).with_name("tables")
LOW_CONFIDENCE = 0.5
"""What a confidence of 0 is read as, where a table says 0 and 1, as Ensembl does: a pair without confidence is still a pair."""


@cache
def mouse_genes() -> GeneTable:
    """Return the shipped table of mouse genes: 23,000 symbols with Ensembl and Entrez ids and aliases."""
    return GeneTable.read(_TABLES / "mouse.tsv.gz")


@cache
def human_mouse() -> Orthologs:
    """Return the shipped table of human and mouse orthologs: 25,454 pairs of Ensembl with their confidence."""
    return read_orthologs(
        _TABLES / "human_mouse.tsv.gz", species=("human", "mouse"), source="Ensembl BioMart", aliases=known_aliases()
    )


def known_aliases() -> dict[str, GeneTable]:
    """Return the shipped tables of identifiers by species."""
    return {"human": human_genes(), "mouse": mouse_genes()}


def read_orthologs(
    path: str | os.PathLike[str],
    *,
    species: tuple[str, str],
    columns: tuple[str, str] | None = None,
    confidence: str | None = None,
    source: str = "",
    aliases: Mapping[str, GeneTable] | None = None,
) -> Orthologs:
    """Read a table of orthologs: tab- or comma-separated with a line of column names (plain or gzipped), or parquet.

    Parameters
    ----------
    path
        The file.
    species
        Names of the species in the two columns.
    columns
        Names of the two columns of genes. Without it: columns named by the species (``human``, ``human_symbol``); BioMart's ``Gene
        name`` and ``<species> gene name`` (or their stable ids); else the only two columns.
    confidence
        Name of a column of numbers; counts and percentages are divided by their largest. Without it the columns ``confidence``,
        BioMart's ``... orthology confidence [0 low, 1 high]``, HCOP's ``n_support``, or the number of sources in ``support``. A
        column of 0 and 1 is read as 0.5 and 1.
    source
        Who says so; the file's name where it is empty. A column ``support`` or ``source`` goes first.
    aliases
        Tables of identifiers by species; the shipped ones where not given.

    Raises
    ------
    FormatError
        The file cannot be read.
    DataError
        The columns are not told, or hold no pair.
    """
    path = Path(path)
    table = _read(path)
    one, two = columns or _find_columns(table, species, path)
    for name in (one, two, *([confidence] if confidence else [])):
        if name not in table:
            raise DataError(
                f"{path.name} has no column {name!r}", expected="one of " + ", ".join(map(repr, table.columns)),
                nearest=nearest_names(name, table.columns),
            )  # fmt: skip
    score = None if (found := confidence or _find_confidence(table)) is None else _scale(table, found, path)
    if score is None and "support" in table:
        votes = np.array([len(one.split(",")) for one in table["support"]])
        score = votes / votes.max()
    who = next((table[name].tolist() for name in ("support", "source") if name in table), source or path.name)
    ids = tuple(_find_ids(table, name, column) for name, column in zip(species, (one, two)))
    return Orthologs.from_pairs(
        table[one], table[two], species=species, confidence=score, source=who, ids=(ids[0], ids[1]),
        aliases=known_aliases() if aliases is None else aliases,
    )  # fmt: skip


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            separator = "," if ".csv" in path.suffixes else "\t"
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError, ImportError) as error:
        raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    table.columns = table.columns.astype(str).str.strip()
    text = {name: table[name].astype(object).where(table[name].notna(), "").astype(str) for name in table}
    return pd.DataFrame(text)


def _find_columns(table: pd.DataFrame, species: tuple[str, str], path: Path) -> tuple[str, str]:
    lowered = {name.lower(): name for name in table.columns}
    one, two = (name.lower() for name in species)
    for form in ("{}", "{}_symbol", "{}_name", "{}_gene", "{}_ensembl_gene", "{}_id"):
        if form.format(one) in lowered and form.format(two) in lowered:
            return lowered[form.format(one)], lowered[form.format(two)]
    for mine, theirs in (("gene name", "{} gene name"), ("gene stable id", "{} gene stable id")):
        # BioMart names the columns of the species that was asked about without it.
        for a, b in ((mine, theirs.format(two)), (theirs.format(one), mine)):
            if a in lowered and b in lowered:
                return lowered[a], lowered[b]
    if table.shape[1] == 2:
        return str(table.columns[0]), str(table.columns[1])
    raise DataError(
        f"which columns of {path.name} are genes of {species[0]} and {species[1]} cannot be told",
        got=", ".join(map(repr, table.columns[:8])), fix="Name them: columns=(first, second).",
    )  # fmt: skip


def _find_confidence(table: pd.DataFrame) -> str | None:
    for name in table.columns:
        if name.lower() in ("confidence", "n_support") or "orthology confidence" in name.lower():
            return str(name)
    return None


def _scale(table: pd.DataFrame, name: str, path: Path) -> np.ndarray:
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    # Rows without a partner have no number either.
    values = np.where(np.isnan(values), 0.0, values)
    if (values < 0).any() or not values.any():
        raise DataError(f"the column {name!r} of {path.name} is no confidence", expected="numbers from 0 on, not all 0")
    if set(np.unique(values)) <= {0.0, 1.0}:
        return np.where(values == 0.0, LOW_CONFIDENCE, values)
    values = values / max(1.0, values.max())
    return np.where(values == 0.0, values[values > 0].min(), values)


def _find_ids(table: pd.DataFrame, species: str, column: str) -> list[str]:
    lowered = {name.lower(): name for name in table.columns}
    forms = [f"{species}_id", f"{species}_ensembl_gene", f"{species} gene stable id"]
    if column.lower() == "gene name":
        forms.append("gene stable id")
    name = next((lowered[one.lower()] for one in forms if one.lower() in lowered), None)
    return [""] * len(table) if name is None or name == column else table[name].tolist()
