"""Lines up a user's table with a model's genes across the usual kinds of identifier, and reports how each was found.

:meth:`GeneVocab.align` matches letter by letter. Here a gene that is not found so is looked for without its version, then by a
table of identifiers, then by an alias that belongs to one gene only. Nothing is guessed: what could be two genes is no match,
and every gene that was found in another way than letter by letter is counted in the report.
"""

import gzip
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from expressor.core.errors import FormatError, GeneError, nearest_names
from expressor.genes.ids import check_names, detect_namespace, strip_version
from expressor.genes.vocab import GeneVocab

COLUMNS = ("symbol", "ensembl", "entrez", "aliases")
WAYS = ("name", "version", "table", "alias")
"""How a gene was found: letter by letter; without the identifier's version; by the table; by an alias in the table."""

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class GeneTable:
    """Identifiers of genes in several namespaces.

    Attributes
    ----------
    rows
        For each gene its symbol, Ensembl id (without version), Entrez id, and aliases; empty where there is none.
    """

    rows: tuple[tuple[str, str, str, tuple[str, ...]], ...]

    @cached_property
    def _own(self) -> dict[str, int]:
        """Every identifier and approved symbol -> its gene."""
        return {name: i for i, row in enumerate(self.rows) for name in row[:3] if name}

    @cached_property
    def _alias(self) -> dict[str, int]:
        """Every alias that one gene alone has and that is nobody's symbol -> that gene."""
        owners: dict[str, set[int]] = defaultdict(set)
        for i, row in enumerate(self.rows):
            for name in row[3]:
                owners[name].add(i)
        return {name: min(genes) for name, genes in owners.items() if len(genes) == 1 and name not in self._own}

    def find(self, name: str) -> tuple[int, str]:
        """Return the gene's row and how it was found (``"table"`` or ``"alias"``); -1 and an empty text where it is not."""
        bare = strip_version(name)
        if bare in self._own:
            return self._own[bare], "table"
        if bare in self._alias:
            return self._alias[bare], "alias"
        return -1, ""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "GeneTable":
        """Read a tab-separated table (plain or gzipped) with a column ``symbol`` and any of ``ensembl``, ``entrez``, ``aliases``.

        Aliases are separated by ``|``. Repeated identifiers are refused, since they could mean two genes.

        Raises
        ------
        FormatError
            The file cannot be read, has no such columns, or an identifier stands in two lines.
        """
        path = Path(path)
        lines = _read_lines(path)
        head = [one.strip().lower() for one in lines[0].split("\t")]
        if "symbol" not in head or not set(head) & {"ensembl", "entrez"}:
            raise FormatError(
                f"{path} is no table of gene identifiers",
                expected="tab-separated columns symbol and ensembl or entrez", got=", ".join(head[:6]),
            )  # fmt: skip
        place = {name: head.index(name) for name in COLUMNS if name in head}
        rows, owner = [], dict[str, int]()
        for number, line in enumerate(lines[1:], 2):
            cells = line.split("\t")
            if len(cells) != len(head):
                raise FormatError(f"line {number} of {path} is damaged", expected=f"{len(head)} cells", got=len(cells))
            symbol, ensembl, entrez = (
                cells[place[name]].strip() if name in place else "" for name in ("symbol", "ensembl", "entrez")
            )
            ensembl = strip_version(ensembl)
            for name in (symbol, ensembl, entrez):
                if name and owner.setdefault(name, number) != number:
                    raise FormatError(
                        f"{name!r} stands in lines {owner[name]} and {number} of {path}", expected="one line a gene"
                    )
            names = cells[place["aliases"]].split("|") if "aliases" in place else []
            rows.append((symbol, ensembl, entrez, tuple(one.strip() for one in names if one.strip())))
        return cls(tuple(rows))


@cache
def human_genes() -> GeneTable:
    """Return the shipped table of human genes: 32,000 symbols with Ensembl and Entrez ids and aliases."""
    return GeneTable.read(Path(__file__).with_name("tables") / "human.tsv.gz")


@dataclass(frozen=True)
class Match:
    """How a table's genes were lined up with a vocabulary; made by :func:`match_genes`.

    Attributes
    ----------
    index
        int64 (gene of the vocabulary,): the gene's position in the table, -1 where it is absent.
    how
        (gene of the vocabulary,), one of :data:`WAYS`, empty where it is absent.
    missing
        Names of the vocabulary that were not found.
    unused
        Names of the table that no gene of the vocabulary took.
    ambiguous
        Names of the table that mean a gene which another name, found in a surer way, already stands for.
    namespaces
        Namespace of the vocabulary and of the table.
    """

    index: np.ndarray
    how: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    ambiguous: tuple[str, ...]
    namespaces: tuple[str, str]

    @property
    def n_found(self) -> int:
        """Number of genes found."""
        return int((self.index >= 0).sum())

    def report(self) -> str:
        """Say in some sentences how many genes were found, in which ways, and what was left."""
        counts = Counter(one for one in self.how if one)
        text = f"{self.n_found:,} of {len(self.index):,} genes found"
        words = {"name": "by name", "version": "without the version", "table": "by the table of identifiers",
                 "alias": "by an alias"}  # fmt: skip
        if set(counts) - {"name"}:
            text += " (" + ", ".join(f"{counts[way]:,} {words[way]}" for way in WAYS if counts[way]) + ")"
        if self.namespaces[0] != self.namespaces[1]:
            text += f"; the model's names are {self.namespaces[0]}, the table's {self.namespaces[1]}"
        if self.missing:
            text += f"; {len(self.missing):,} missing ({_show(self.missing)})"
        if self.unused:
            text += f"; {len(self.unused):,} names not used"
        if self.ambiguous:
            text += (
                f", {len(self.ambiguous)} of them because another name stands for the gene ({_show(self.ambiguous)})"
            )
        return text + "."


def match_genes(names: Iterable[str], vocab: GeneVocab, *, table: GeneTable | None = None) -> Match:
    """Find each gene of ``vocab`` among ``names``, across symbols, Ensembl ids with or without version, and Entrez ids.

    Parameters
    ----------
    names
        The table's gene names, each once, in any one or several namespaces.
    vocab
        The model's genes.
    table
        Identifiers; the shipped human table by default.

    Returns
    -------
    Match
        Each name of the table is used for one gene at most, the surest way first.

    Raises
    ------
    GeneError
        A name is empty or repeated, or not one gene is found: the message says what the names look like on both sides.
    """
    names = tuple(names)
    check_names(names, where="the table to match")
    index = np.full(len(vocab), -1, dtype=np.int64)
    how = [""] * len(vocab)
    position = {name: i for i, name in enumerate(names)}
    for gene, name in enumerate(vocab):
        if name in position:
            index[gene], how[gene] = position[name], "name"
    used = set(index[index >= 0].tolist())
    ambiguous: list[str] = []
    for way, keys, own in _rounds(vocab, names, table):
        owners: dict[object, list[int]] = defaultdict(list)
        for gene, key in own.items():
            if index[gene] < 0:
                owners[key].append(gene)
        taken = {key: gene for key, genes in owners.items() if len(genes) == 1 for gene in genes}
        by_key: dict[object, list[int]] = defaultdict(list)
        for place, key in keys.items():
            if place not in used:
                by_key[key].append(place)
        settled = {key for gene, key in own.items() if index[gene] >= 0}
        for key, places in by_key.items():
            if key in settled:
                ambiguous += [names[place] for place in places]
            elif key in taken:
                # Two names for one gene: which of the two columns is meant cannot be told.
                if len(places) > 1:
                    ambiguous += [names[place] for place in places]
                    continue
                index[taken[key]], how[taken[key]] = places[0], way
                used.add(places[0])
    found = Match(
        index,
        tuple(how),
        tuple(name for name, place in zip(vocab, index) if place < 0),
        tuple(name for i, name in enumerate(names) if i not in used),
        tuple(dict.fromkeys(one for one in ambiguous if position[one] not in used)),
        (vocab.namespace, detect_namespace(names)),
    )
    if len(vocab) and not found.n_found:
        raise GeneError(
            "none of the model's genes is in the data",
            expected=f"{vocab.namespace} names such as {_show(tuple(vocab)[:3])}",
            got=f"{found.namespaces[1]} names such as {_show(names[:3])}",
            nearest=nearest_names(vocab[0], names),
            fix="Check that rows and columns are not swapped and that the species is the same, or give a table of "
            "identifiers that has these names.",
        )
    return found


def _rounds(
    vocab: GeneVocab, names: tuple[str, ...], table: GeneTable | None
) -> list[tuple[str, dict[int, object], dict[int, object]]]:
    """The ways beyond names: for each the key of every name of the table, and of every gene of the vocabulary."""
    rounds: list[tuple[str, dict[int, object], dict[int, object]]] = [
        (
            "version",
            {i: strip_version(one) for i, one in enumerate(names)},
            {i: strip_version(one) for i, one in enumerate(vocab)},
        )
    ]
    table = human_genes() if table is None else table
    there = [table.find(one) for one in names]
    here = [table.find(one) for one in vocab]
    for ways in (("table",), ("table", "alias")):
        rounds.append(
            (
                ways[-1],
                {i: row for i, (row, way) in enumerate(there) if way in ways},
                {i: row for i, (row, way) in enumerate(here) if way in ways},
            )
        )
    return rounds


def _show(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read_lines(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(path) as stream:
                raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise FormatError(f"{path} is too large", expected=f"at most {MAX_BYTES} bytes")
        lines = raw.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if not lines:
        raise FormatError(f"{path} is empty", expected="a line of column names")
    return lines
