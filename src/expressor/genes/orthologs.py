"""Orthologs: which genes of two species descend from one, as a bipartite graph with multiplicity, confidence and source kept.

A table (:class:`Orthologs`) is of two species. :meth:`Orthologs.connect` lines it up with the genes of a model and of data,
whatever they are named by, and gives a :class:`Bridge`: a sparse matrix in the order of both, with a report of what was matched,
split, merged and lost.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, GeneError
from expressor.genes.ids import classify, strip_version
from expressor.genes.matching import GeneTable
from expressor.genes.vocab import GeneVocab

KINDS = ("one2one", "one2many", "many2one", "many2many")
"""Multiplicity of a pair: ``one2many`` is one gene of the first species with several of the second, none of which has another."""
FATES = ("matched", "split", "merged", "tangled", "lost")
"""What becomes of a gene of the first species: one partner that is nobody else's; several of its own; one that it shares; several,
some of them shared; none."""

_PREFIXES = {
    "ENSG": "human", "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish", "ENSMMUG": "macaque", "ENSSSCG": "pig",
    "ENSBTAG": "cow", "ENSGALG": "chicken", "ENSCAFG": "dog", "ENSPTRG": "chimpanzee", "ENSCJAG": "marmoset",
}  # fmt: skip
_SWAPPED = 2.0  # by how much more names must be of the other species before a direction is called swapped
_COLUMNS = ("first", "second", "first_id", "second_id", "confidence", "source")


@dataclass(frozen=True)
class Orthologs:
    """Pairs of orthologous genes of two species.

    Attributes
    ----------
    species
        Names of the first and the second species.
    pairs
        One row a pair: ``first``, ``second`` (symbols), ``first_id``, ``second_id`` (Ensembl ids without version; empty where
        unknown), ``confidence`` in (0, 1], ``source`` (who says so).
    aliases
        For a species, by name: its table of identifiers, by which genes are found that the pairs name otherwise.
    """

    species: tuple[str, str]
    pairs: pd.DataFrame
    aliases: Mapping[str, GeneTable] = field(default_factory=dict, repr=False)

    @classmethod
    def from_pairs(
        cls,
        first: Iterable[str],
        second: Iterable[str],
        *,
        species: tuple[str, str],
        confidence: Iterable[float] | None = None,
        source: str | Iterable[str] = "",
        ids: tuple[Iterable[str], Iterable[str]] | None = None,
        aliases: Mapping[str, GeneTable] | None = None,
    ) -> "Orthologs":
        """Make a table from two columns; versions of identifiers are dropped, of repeated pairs the surest is kept.

        Parameters
        ----------
        first, second
            Gene names, row by row: symbols or any identifiers. Rows that lack one of the two are left out.
        species
            Names of the two species.
        confidence
            Of each pair, in (0, 1]; 1 where not given.
        source
            Who says so, for all pairs or for each.
        ids
            Further identifiers of the same genes, empty where there are none.
        aliases
            See the attribute.

        Raises
        ------
        DataError
            The columns differ in length, no pair is left, the two species are one, or a confidence is outside (0, 1].
        """
        if len(species) != 2 or species[0] == species[1]:
            raise DataError("orthologs are between two species", expected="two different names", got=repr(species))
        columns: dict[str, Any] = {"first": _names(first), "second": _names(second)}
        n = len(columns["first"])
        columns |= dict(zip(("first_id", "second_id"), map(_names, ids or ([""] * n, [""] * n))))
        columns["confidence"] = np.ones(n) if confidence is None else np.asarray(list(confidence), dtype=np.float64)
        columns["source"] = [source] * n if isinstance(source, str) else [str(one) for one in source]
        if len({len(one) for one in columns.values()}) > 1:
            raise DataError(
                "the columns of the pairs differ in length", got=str([len(one) for one in columns.values()])
            )
        table = pd.DataFrame(columns, columns=list(_COLUMNS))
        for side in ("first", "second"):
            table[side] = table[side].where(table[side] != "", table[f"{side}_id"])
        table = table[(table["first"] != "") & (table["second"] != "")]
        if table.empty:
            raise DataError("the table of orthologs has no pair", got=f"{n} rows that lack a gene on one side")
        off = ~((table["confidence"] > 0) & (table["confidence"] <= 1))
        if off.any():
            raise DataError(
                f"{int(off.sum())} of {len(table)} pairs have no proper confidence", expected="numbers in (0, 1]",
                got=repr(float(table["confidence"][off].iloc[0])), fix="Divide a count or percentage by its largest value.",
            )  # fmt: skip
        key = ["first", "second", "first_id", "second_id"]
        table = table.sort_values("confidence", ascending=False, kind="stable").drop_duplicates(key).sort_index()
        return cls((str(species[0]), str(species[1])), table.reset_index(drop=True), dict(aliases or {}))

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        counts = self.kinds.value_counts()
        shown = ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if kind in counts)
        return f"Orthologs({' and '.join(self.species)}: {len(self):,} pairs; {shown})"

    @cached_property
    def kinds(self) -> pd.Series:
        """Multiplicity of each pair, one of :data:`KINDS`, counted in this table."""
        first, second = _nodes(self.pairs, "first"), _nodes(self.pairs, "second")
        shares_first = first.map(first.value_counts()) > 1
        shares_second = second.map(second.value_counts()) > 1
        # Within a family joined by further genes too: one gene with partners that are all its own is one2many.
        heads = shares_second.groupby(first).transform("any")
        tails = shares_first.groupby(second).transform("any")
        kind = np.select(
            [~shares_first & ~shares_second, shares_first & ~heads, shares_second & ~tails],
            ["one2one", "one2many", "many2one"],
            "many2many",
        )
        return pd.Series(kind, index=self.pairs.index, name="kind")

    def flip(self) -> "Orthologs":
        """Return the same pairs with the species exchanged."""
        names = {"first": "second", "second": "first", "first_id": "second_id", "second_id": "first_id"}
        table = self.pairs.rename(columns=names)[list(_COLUMNS)]
        return replace(self, species=self.species[::-1], pairs=table)

    def from_to(self, first: str, second: str) -> "Orthologs":
        """Return the table with ``first`` as its first species.

        Raises
        ------
        DataError
            The table is of other species.
        """
        if (first, second) == self.species:
            return self
        if (second, first) == self.species:
            return self.flip()
        raise DataError(
            f"the table of orthologs does not join {first} and {second}", expected=" and ".join(self.species),
            got=f"{first} and {second}", fix="Give a table of these species; expressor.genes.read_orthologs reads one.",
        )  # fmt: skip

    def keep(self, rows: np.ndarray) -> "Orthologs":
        """Return the table of the pairs in ``rows`` (bool mask or positions)."""
        return replace(self, pairs=self.pairs[rows] if rows.dtype == bool else self.pairs.iloc[rows])

    def one_to_one(self) -> "Orthologs":
        """Return the pairs whose genes have no other ortholog."""
        return self.keep((self.kinds == "one2one").to_numpy())

    def confident(self, at_least: float) -> "Orthologs":
        """Return the pairs of a confidence of ``at_least``."""
        return self.keep((self.pairs["confidence"] >= at_least).to_numpy())

    def connect(self, first: GeneVocab, second: GeneVocab) -> "Bridge":
        """Line the table up with the genes of both species.

        Parameters
        ----------
        first, second
            Genes of the first and of the second species, named by symbols or by Ensembl ids with or without version; through the
            tables in ``aliases`` also by Entrez ids and by aliases that one gene alone has.

        Raises
        ------
        DataError
            The genes are of another species, the two are swapped, or no ortholog is in both; with the counts.
        GeneError
            Two names are one gene in two versions.
        """
        for vocab, name in zip((first, second), self.species):
            _check_versions(vocab, where=f"the {name} genes")
        found = [side.find(vocab) for side, vocab in zip(self._sides, (first, second))]
        self._check_direction((first, second), [len(one) for one in found])
        weights: dict[tuple[int, int], float] = {}
        confidence = self.pairs["confidence"].to_numpy()
        owner: dict[int, list[int]] = defaultdict(list)
        for gene, rows in found[1].items():
            for row in rows:
                owner[row].append(gene)
        for gene, rows in found[0].items():
            for row in rows:
                for other in owner.get(row, ()):
                    weights[gene, other] = max(weights.get((gene, other), 0.0), float(confidence[row]))
        if not weights:
            raise DataError(
                f"no ortholog of {self.species[0]} and {self.species[1]} is in both lists of genes",
                expected=f"pairs among {len(first):,} and {len(second):,} genes",
                got=f"{len(found[0]):,} and {len(found[1]):,} genes that the table of {len(self):,} pairs knows, and none a pair",
                fix="Check that the table is of these species and names genes as the data do.",
            )
        where = np.array(sorted(weights), dtype=np.int64)
        values = np.array([weights[i, j] for i, j in where.tolist()], dtype=np.float32)
        matrix = sparse.csr_matrix((values, (where[:, 0], where[:, 1])), shape=(len(first), len(second)))
        return Bridge(self.species, first, second, matrix, (len(found[0]), len(found[1])))

    @cached_property
    def _sides(self) -> list["_Side"]:
        sides = zip(("first", "second"), self.species)
        return [_Side(self.pairs, side, self.aliases.get(name)) for side, name in sides]

    def _check_direction(self, genes: tuple[GeneVocab, GeneVocab], own: list[int]) -> None:
        """Refuse genes that are those of the other species, or of a third."""
        sides = self._sides
        other = [len(sides[1].find(genes[0])), len(sides[0].find(genes[1]))]
        strange = [other[i] >= max(1.0, _SWAPPED * own[i]) for i in (0, 1)]
        one, two = self.species
        if all(strange):
            raise DataError(
                f"the direction is swapped: the genes given as {one} are of {two}, and those given as {two} of {one}",
                expected=f"{one} genes first",
                got=f"{own[0]:,} of {len(genes[0]):,} known as {one} and {other[0]:,} as {two}; "
                f"{own[1]:,} of {len(genes[1]):,} known as {two} and {other[1]:,} as {one}",
                fix="Exchange the two, or flip() the table.",
            )
        for i in (0, 1):
            if strange[i] or not own[i]:
                guess = guess_species(genes[i])
                # Capitals alone look human; none of them being known says that they are not.
                looks = self.species[1 - i] if strange[i] else guess if guess != self.species[i] else ""
                looks = looks or "unknown to the table"
                raise DataError(
                    f"wrong species: the genes given as {self.species[i]} are {looks}",
                    expected=f"names of {self.species[i]} such as {', '.join(sides[i].examples)}",
                    got=f"{own[i]:,} of {len(genes[i]):,} known as {self.species[i]} and {other[i]:,} as {self.species[1 - i]}, "
                    f"such as {', '.join(genes[i][:3])}",
                    fix="Name the species as they are, or give the table of orthologs of these species.",
                )


@dataclass(frozen=True)
class Bridge:
    """Orthologs in the order of the genes of two species; made by :meth:`Orthologs.connect`.

    Attributes
    ----------
    species
        Names of the first and the second species.
    first, second
        Their genes.
    matrix
        Confidence of each pair, float32 (gene of the first, gene of the second), CSR.
    known
        How many genes of each the table knows, with a partner or without.
    """

    species: tuple[str, str]
    first: GeneVocab
    second: GeneVocab
    matrix: sparse.csr_matrix
    known: tuple[int, int]

    @property
    def n_edges(self) -> int:
        """Number of pairs."""
        return int(self.matrix.nnz)

    def fates(self, side: int = 0) -> pd.Series:
        """Return what becomes of each gene of a side (0: the first), one of :data:`FATES`."""
        matrix = self.matrix if side == 0 else self.matrix.T.tocsr()
        ones = sparse.csr_matrix((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
        degree = np.diff(matrix.indptr)
        shared = ones @ (np.asarray(ones.sum(axis=0)).ravel() > 1)
        names = np.select(
            [degree == 0, (degree == 1) & (shared == 0), (degree > 1) & (shared == 0), (degree == 1) & (shared > 0)],
            ["lost", "matched", "split", "merged"],
            "tangled",
        )
        return pd.Series(names, index=list(self.first if side == 0 else self.second), name="fate")

    def one_to_one(self) -> "Bridge":
        """Return the pairs whose genes have no other partner here."""
        degree = np.diff(self.matrix.indptr)
        partners = np.bincount(self.matrix.indices, minlength=self.matrix.shape[1])
        table = self.matrix.tocoo()
        kept = (degree[table.row] == 1) & (partners[table.col] == 1)
        matrix = sparse.csr_matrix((table.data[kept], (table.row[kept], table.col[kept])), shape=self.matrix.shape)
        return replace(self, matrix=matrix)

    def edges(self) -> pd.DataFrame:
        """Return one row a pair: the two genes under the names of their species, ``confidence``."""
        table = self.matrix.tocoo()
        return pd.DataFrame(
            {self.species[0]: np.array(self.first.names, dtype=object)[table.row],
             self.species[1]: np.array(self.second.names, dtype=object)[table.col], "confidence": table.data}
        )  # fmt: skip

    def report(self) -> str:
        """Say in some sentences how many genes of both species were matched, split, merged and lost."""
        text = f"{self.n_edges:,} pairs of orthologs"
        for side, genes in enumerate((self.first, self.second)):
            counts = self.fates(side).value_counts()
            shown = ", ".join(f"{counts[one]:,} {one}" for one in FATES if one in counts)
            unknown = len(genes) - self.known[side]
            text += f"; of {len(genes):,} {self.species[side]} genes {shown} ({unknown:,} not in the table)"
        return text + "."


class _Side:
    """One species of a table: which rows a name means."""

    def __init__(self, pairs: pd.DataFrame, side: str, aliases: GeneTable | None) -> None:
        self.rows: dict[str, list[int]] = defaultdict(list)
        names, ids = pairs[side].tolist(), pairs[f"{side}_id"].tolist()
        for row, both in enumerate(zip(names, ids)):
            for name in {one for one in both if one}:
                self.rows[name].append(row)
        self.aliases, self.examples = aliases, tuple(dict.fromkeys(names))[:3]

    def find(self, genes: GeneVocab) -> dict[int, list[int]]:
        """Return the rows of each gene that is known; a gene known by an older name gives way to one known by its own."""
        found: dict[int, list[int]] = {}
        taken: set[int] = set()
        rest = []
        for i, name in enumerate(genes):
            rows = self.rows.get(strip_version(name))
            if rows:
                found[i] = rows
                taken.update(rows)
            else:
                rest.append((i, name))
        if self.aliases is None:
            return found
        by_alias: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, name in rest:
            row, _ = self.aliases.find(name)
            names = self.aliases.rows[row][:2] if row >= 0 else ()
            rows = next((self.rows[one] for one in names if one in self.rows), [])
            if rows and not taken.intersection(rows):
                by_alias[tuple(rows)].append(i)
        # Two older names for one gene: which of the two columns is meant cannot be told.
        return found | {owners[0]: list(rows) for rows, owners in by_alias.items() if len(owners) == 1}


def guess_species(names: Iterable[str]) -> str:
    """Return the species that most names look like, by Ensembl prefix or the case of symbols; empty where they do not tell."""
    votes: dict[str, int] = defaultdict(int)
    total = 0
    for name in names:
        total += 1
        if classify(name) == "ensembl":
            votes[_PREFIXES.get(name[: name.index("G", 3) + 1], "")] += 1
        elif len(name) > 1 and name[0].isupper() and any(one.isalpha() for one in name[1:]):
            votes["human" if name.isupper() else "mouse or rat" if name[1:].islower() else ""] += 1
    best = max(votes, key=lambda one: votes[one], default="")
    return best if best and votes[best] > total / 2 else ""


def _names(column: Iterable[str]) -> list[str]:
    return [strip_version(str(one).strip()) if isinstance(one, str) or one == one else "" for one in column]


def _nodes(pairs: pd.DataFrame, side: str) -> pd.Series:
    ids = pairs[f"{side}_id"]
    return ids.where(ids != "", pairs[side])


def _check_versions(names: Iterable[str], *, where: str) -> None:
    """Refuse names of which two are the same gene but for the version of their identifier."""
    seen: dict[str, str] = {}
    for name in names:
        bare = strip_version(name)
        if seen.setdefault(bare, name) != name:
            raise GeneError(
                f"{seen[bare]!r} and {name!r} in {where} are one gene in two versions",
                fix="Sum or drop one of the two.",
            )
