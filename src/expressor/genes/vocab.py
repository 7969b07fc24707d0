"""An ordered, frozen list of genes: what a model was fitted on, and how another table lines up with it."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from expressor.core.errors import DataError, FormatError, GeneError, check_choice, nearest_names
from expressor.genes.ids import NAMESPACES, check_gene_names, check_names, detect_namespace, strip_version

TITLE = "# expressor genes, format 1"
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Alignment:
    """How a table's genes line up with a vocabulary; made by :meth:`GeneVocab.align`.

    Attributes
    ----------
    index
        int64 (gene of the vocabulary,): the gene's position in the table, -1 where it is absent.
    matched, missing, extra
        Names found in both, in the vocabulary only, in the table only; each in its own list's order.
    hint
        Why little matches, where the names tell; empty otherwise.
    """

    index: np.ndarray
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    hint: str = ""

    def report(self) -> str:
        """Say in one or two sentences how many genes match, which are missing, and why where the names tell."""
        text = f"{len(self.matched)} of {len(self.index)} genes found"
        if self.missing:
            text += f"; {len(self.missing)} missing ({_show(self.missing)})"
        if self.extra:
            text += f"; {len(self.extra)} others not used"
        return f"{text}. {self.hint}" if self.hint else f"{text}."

    def require_all(self, *, where: str) -> None:
        """Raise :class:`~expressor.core.errors.GeneError` when a gene of the vocabulary is absent from ``where``."""
        if self.missing:
            raise GeneError(
                f"{len(self.missing)} of {len(self.index)} needed genes are missing from {where} ({_show(self.missing)})",
                nearest=nearest_names(self.missing[0], self.extra),
                fix=self.hint or "Give data in which these genes were measured.",
            )


def _show(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


class GeneVocab:
    """A frozen, ordered list of unique gene names.

    Parameters
    ----------
    names
        Gene names, in the order of the axis that they name.
    namespace
        One of :data:`expressor.genes.ids.NAMESPACES`, or ``"mixed"``; detected when not given. Giving it accepts names that
        look like several namespaces.

    Raises
    ------
    GeneError
        A name is empty, repeated, or holds a control character; or, with no namespace given, the names are from several.
    """

    def __init__(self, names: Iterable[str], namespace: str | None = None) -> None:
        names = tuple(names)
        if namespace is None:
            check_gene_names(names, where="the vocabulary")
            namespace = detect_namespace(names)
        else:
            check_choice(namespace, (*NAMESPACES, "mixed", "position", "none"), name="namespace")
            check_names(names, where="the vocabulary")
        for name in names:
            if not name.isprintable():
                raise GeneError(f"the gene name {name!r} holds a control character", fix="Remove tabs and line breaks.")
        self._names = names
        self._namespace = namespace

    @property
    def names(self) -> tuple[str, ...]:
        """The gene names, in order."""
        return self._names

    @property
    def namespace(self) -> str:
        """Namespace of the names."""
        return self._namespace

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the names in their order."""
        return hashlib.sha256("\n".join(self._names).encode()).hexdigest()

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._names)}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._position

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> tuple[str, ...]: ...
    def __getitem__(self, item: int | slice) -> str | tuple[str, ...]:
        return self._names[item]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneVocab) and self._names == other._names

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return f"GeneVocab({len(self)} genes, {self._namespace}: {_show(self._names)})"

    def index_of(self, names: Iterable[str]) -> np.ndarray:
        """Return int64 (name,), the positions of ``names`` in the vocabulary.

        Raises
        ------
        GeneError
            A name is not in the vocabulary; the message gives the nearest ones.
        """
        names = list(names)
        absent = [name for name in names if name not in self._position]
        if absent:
            raise GeneError(
                f"{len(absent)} of {len(names)} genes are unknown, such as {absent[0]!r}",
                nearest=nearest_names(str(absent[0]), self._names),
                fix="Check spelling and namespace (the known names are " + self._namespace + ").",
            )
        return np.fromiter((self._position[name] for name in names), dtype=np.int64, count=len(names))

    def align(self, names: Iterable[str]) -> Alignment:
        """Find each gene of the vocabulary among a table's gene names.

        Names match letter by letter. Versions, case and namespaces are never translated silently: where that would match
        more, the alignment's ``hint`` says so.

        Parameters
        ----------
        names
            The table's gene names.

        Raises
        ------
        GeneError
            A name of the table is empty or repeated.
        """
        names = tuple(names)
        check_names(names, where="the table to align")
        position = {name: i for i, name in enumerate(names)}
        index = np.fromiter((position.get(name, -1) for name in self._names), dtype=np.int64, count=len(self))
        matched = tuple(name for name in self._names if name in position)
        missing = tuple(name for name in self._names if name not in position)
        extra = tuple(name for name in names if name not in self._position)
        hint = self._explain(missing, extra, namespace=detect_namespace(names)) if missing else ""
        return Alignment(index=index, matched=matched, missing=missing, extra=extra, hint=hint)

    def _explain(self, missing: tuple[str, ...], extra: tuple[str, ...], *, namespace: str) -> str:
        """Say what keeps names from matching; a cause counts when it would recover a tenth of the missing genes."""
        enough = max(1, len(missing) // 10)
        if len(set(map(strip_version, missing)) & set(map(strip_version, extra))) >= enough:
            return "The identifiers differ in their versions; apply expressor.genes.strip_version to both."
        if len({name.upper() for name in missing} & {name.upper() for name in extra}) >= enough:
            return "The names differ in upper and lower case, as human and mouse symbols do; translate orthologs."
        if namespace != self._namespace and "none" not in (namespace, self._namespace):
            return f"The vocabulary's names are {self._namespace}, the table's {namespace}; translate one to the other."
        return ""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the names as a tab-separated table with one column ``gene`` under comment lines with namespace and hash."""
        lines = [TITLE, f"# namespace: {self._namespace}", f"# genes: {len(self)}", f"# sha256: {self.hash}", "gene"]
        Path(path).write_text("\n".join([*lines, *self._names]) + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "GeneVocab":
        """Read what :meth:`write` wrote.

        Raises
        ------
        FormatError
            The file is missing, larger than 64 MiB, of another format, or its names do not give the hash that it states.
        """
        path = Path(path)
        lines = _read_lines(path)
        if len(lines) < 5 or lines[0] != TITLE or lines[4] != "gene":
            raise FormatError(
                f"{path} is no gene list of this package", expected=f"a first line {TITLE!r}", got=repr(lines[0][:60])
            )
        head = {}
        for line, key in zip(lines[1:4], ("namespace", "genes", "sha256")):
            label, _, value = line.partition(": ")
            if label != f"# {key}":
                raise FormatError(f"{path} has a damaged head", expected=f"'# {key}: ...'", got=repr(line[:60]))
            head[key] = value
        names = lines[5:]
        if head["genes"] != str(len(names)):
            raise FormatError(f"{path} is incomplete", expected=f"{head['genes'][:20]} genes", got=len(names))
        try:
            vocab = cls(names, namespace=head["namespace"])
        except (GeneError, DataError) as error:
            raise FormatError(f"{path} holds no valid gene list ({error})") from error
        if vocab.hash != head["sha256"]:
            raise FormatError(
                f"the names in {path} were changed after they were written",
                expected=f"sha256 {head['sha256'][:64]}", got=vocab.hash,
                fix="Restore the original file; a model needs the genes that it was fitted on, in their order.",
            )  # fmt: skip
        return vocab


def _read_lines(path: Path) -> list[str]:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FormatError(f"{path} is too large", expected=f"at most {MAX_BYTES} bytes", got=f"{size} bytes")
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if not text.endswith("\n"):
        raise FormatError(f"{path} is truncated", expected="a line break at its end")
    return text[:-1].split("\n")
