"""Gene identifiers: which namespace a name is from, and whether a list of names can serve as an axis.

A name is judged by its form alone, no table of genes is consulted. What does not look like an identifier of a database is
taken for a symbol, so clone-based names such as ``FO538757.1`` are symbols too.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from expressor.core.errors import GeneError
from expressor.core.log import logger

NAMESPACES = ("symbol", "ensembl", "ensembl_transcript", "ensembl_protein", "entrez", "refseq", "date")
"""What :func:`classify` can answer for one name; :func:`detect_namespace` adds ``"mixed"``, ``"position"`` and ``"none"``."""

MIXED_ABOVE = 0.05
"""Share of names from a second namespace above which a list of names counts as mixed."""

_ENSEMBL = re.compile(r"ENS(?:[A-Z]{3,4}|MUS|)(?P<kind>[GTP])\d{11}(?:\.\d+)?(?:_PAR_Y)?")
_REFSEQ = re.compile(r"[NX][MRP]_\d{6,9}(?:\.\d+)?")
_VERSION = re.compile(r"(ENS[A-Z]{0,4}[GTP]\d{11}|[NX][MRP]_\d{6,9})\.\d+(_PAR_Y)?")
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
# What spreadsheets make of MARCH1, SEPT2 and DEC1. Real symbols (MARC1, DEC1) carry no hyphen and are not touched.
_DATE = re.compile(rf"(?:\d{{1,2}}-{_MONTH}|{_MONTH}-\d{{1,2}}|\d{{4}}-\d\d-\d\d(?: 00:00:00)?)", re.IGNORECASE)
_KINDS = {"G": "ensembl", "T": "ensembl_transcript", "P": "ensembl_protein"}


@lru_cache(maxsize=1 << 17)  # the same genes are asked about whenever data are read
def classify(name: str) -> str:
    """Return the namespace that one name looks like: one of :data:`NAMESPACES`.

    ``"date"`` is a symbol that a spreadsheet has turned into a date (``1-Mar`` for MARCHF1 or MTARC1).
    """
    match = _ENSEMBL.fullmatch(name)
    if match:
        return _KINDS[match["kind"]]
    if name.isascii() and name.isdigit():
        return "entrez"
    if _REFSEQ.fullmatch(name):
        return "refseq"
    if _DATE.fullmatch(name):
        return "date"
    return "symbol"


def detect_namespace(names: Iterable[str]) -> str:
    """Return the namespace that the names share.

    Parameters
    ----------
    names
        Gene names in any order.

    Returns
    -------
    str
        One of :data:`NAMESPACES` when at most 5 % of the names look like something else; ``"mixed"`` above that;
        ``"position"`` when the names are the numbers 0 to n-1 (a table whose genes were never named); ``"none"`` for an
        empty list.
    """
    names = [str(name) for name in names]
    if not names:
        return "none"
    if _are_positions(names):
        return "position"
    counts = Counter(map(classify, names))
    winner, most = counts.most_common(1)[0]
    return winner if len(names) - most <= MIXED_ABOVE * len(names) else "mixed"


def _are_positions(names: Sequence[str]) -> bool:
    return names[0] == "0" and all(name == str(i) for i, name in enumerate(names))


def strip_version(name: str) -> str:
    """Drop the version of an Ensembl or RefSeq identifier: ``ENSG00000141510.18`` becomes ``ENSG00000141510``.

    Other names are returned unchanged, because the last part of ``FO538757.1`` or ``AC012345.2`` belongs to the name. The
    suffix ``_PAR_Y`` of the second copy of a pseudoautosomal gene is kept.
    """
    return _VERSION.sub(r"\1\2", name) if _VERSION.fullmatch(name) else name


def check_names(names: Iterable[str], *, where: str) -> None:
    """Refuse names that are empty, no text, or repeated; their namespace does not matter.

    Parameters
    ----------
    names
        Gene names, one a gene.
    where
        What the names are of, for the message (``"AnnData.var_names"``, a path).

    Raises
    ------
    GeneError
        The message counts the offenders, shows some, and says what to do.
    """
    names = list(names)
    bad = [i for i, name in enumerate(names) if not isinstance(name, str) or not name.strip()]
    if bad:
        raise GeneError(
            f"{len(bad)} of {len(names)} gene names in {where} are empty or no text (first at position {bad[0]})",
            expected="a non-empty text for every gene",
            got=repr(names[bad[0]])[:80],
            fix="Name these genes or drop them.",
        )
    counts = Counter(names)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        shown = ", ".join(f"{name!r} ({counts[name]} times)" for name in repeated[:3])
        raise GeneError(
            f"{len(repeated)} gene names in {where} stand more than once, such as {shown}",
            expected="every name once",
            fix="Sum or drop the repeated columns, or name the genes by their database identifiers; "
            "var_names_make_unique() only hides them.",
        )


def check_gene_names(names: Iterable[str], *, where: str, ids: Iterable[str] | None = None) -> None:
    """Refuse names that cannot serve as a gene axis: empty, repeated, never named, or from several namespaces.

    Parameters
    ----------
    names
        Gene names, one a gene.
    where
        What the names are of, for the message (``"AnnData.var_names"``, a path).
    ids
        Database identifiers of the same genes, where they are known. A name that equals its own identifier stands for a
        gene without a symbol, as in 10x references, and is not counted as a second namespace.

    Raises
    ------
    GeneError
        The message counts the offenders, shows some, and says what to do.
    """
    names = list(names)
    check_names(names, where=where)
    if len(names) > 1 and _are_positions(names):
        raise GeneError(
            f"the genes of {where} have no names, only the positions 0 to {len(names) - 1}",
            fix="Set the names (var_names of an AnnData, columns of a DataFrame, genes= for an array).",
        )
    if ids is not None:
        own = [name for name, one in zip(names, ids) if name != one]
        names = own or names
    if detect_namespace(names) == "mixed":
        raise GeneError(
            f"gene names in {where} are from several namespaces",
            expected="one namespace",
            got=_count_namespaces(names),
            fix="Translate them to one namespace. Where an identifier stands for a gene that has no symbol, "
            "say so by giving the identifiers of all genes in var['gene_ids'].",
        )
    dates = [name for name in names if classify(name) == "date"]
    if dates:
        logger.warning(
            "%d gene names in %s look like dates made by a spreadsheet (%s); they match no gene",
            len(dates), where, ", ".join(dates[:3]),
        )  # fmt: skip


def _count_namespaces(names: Sequence[str]) -> str:
    kinds = [classify(name) for name in names]
    example = dict(zip(reversed(kinds), reversed(names)))
    return ", ".join(f"{count} {kind} (such as {example[kind]!r})" for kind, count in Counter(kinds).most_common())
