"""An ontology of labels: which leaves lie below a node, for hierarchical cross-entropy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expressor.core.errors import DataError, FormatError

_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class Ontology:
    """A directed acyclic graph of labels, cut down to what a corpus can have.

    Attributes
    ----------
    nodes
        Names of all nodes that are kept, in alphabetical order.
    leaves
        Names of the classes: nodes without children.
    below
        bool (node, class): the leaves that lie below a node, itself included.
    """

    nodes: tuple[str, ...]
    leaves: tuple[str, ...]
    below: np.ndarray

    def codes(self, labels: Iterable[object]) -> np.ndarray:
        """Return int64 (cell,): the node of each label; -1 for none (NaN, an empty word, a label outside the ontology)."""
        position = {name: i for i, name in enumerate(self.nodes)}
        return np.array([position.get(str(one), -1) for one in labels], dtype=np.int64)


def read_edges(path: str | Path) -> list[tuple[str, str]]:
    """Read the edges of an ontology.

    Parameters
    ----------
    path
        An OBO file (``id:`` and ``is_a:`` of its terms), or a table of two tab-separated columns, child and parent, with a head.

    Returns
    -------
    Pairs (child, parent).

    Raises
    ------
    FormatError
        The file cannot be read, or holds no edge.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path} is too large for an ontology", expected=f"at most {_MAX_BYTES} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    edges = _from_obo(lines) if "[Term]" in lines else _from_table(lines, path)
    if not edges:
        raise FormatError(f"{path} holds no edge", expected="[Term] blocks with is_a:, or the columns child and parent")
    return edges


def _from_obo(lines: Sequence[str]) -> list[tuple[str, str]]:
    edges, node, inside = [], "", False
    for line in lines:
        if line.startswith("["):
            inside, node = line.strip() == "[Term]", ""
        elif inside and line.startswith("id:"):
            node = line[3:].strip()
        elif inside and node and line.startswith("is_a:"):
            edges.append((node, line[5:].split("!")[0].split("{")[0].strip()))
    return edges


def _from_table(lines: Sequence[str], path: Path) -> list[tuple[str, str]]:
    edges = []
    for number, line in enumerate(lines[1:], 2):
        parts = [one.strip() for one in line.split("\t")]
        if len(parts) < 2 or not all(parts[:2]):
            raise FormatError(f"line {number} of {path} is no edge", expected="child, tab, parent", got=repr(line[:60]))
        edges.append((parts[0], parts[1]))
    return edges


def prune(edges: Iterable[tuple[str, str]], labels: Iterable[str]) -> Ontology:
    """Cut an ontology down to the labels of a corpus and what lies above them.

    A leaf is a label of the corpus with no other label of the corpus below it.

    Parameters
    ----------
    edges
        Pairs (child, parent).
    labels
        Labels that occur.

    Raises
    ------
    DataError
        The edges run in a circle through a label, or no label is in the ontology.
    """
    parents: dict[str, set[str]] = {}
    names: set[str] = set()
    for child, parent in edges:
        parents.setdefault(str(child), set()).add(str(parent))
        names |= {str(child), str(parent)}
    present = {str(one) for one in labels} & names
    if not present:
        raise DataError("no label of the data is in the ontology", got=", ".join(sorted(set(map(str, labels)))[:5]),
                        expected=f"names such as {sorted(names)[0]!r}" if names else "edges",
                        fix="Labels and ontology must use the same identifiers.")  # fmt: skip
    above = {label: _ancestors(label, parents) for label in present}
    inner = set().union(*above.values())
    leaves = tuple(sorted(present - inner))
    nodes = tuple(sorted(present | inner))
    below = np.array([[node == leaf or node in above[leaf] for leaf in leaves] for node in nodes], dtype=bool)
    return Ontology(nodes, leaves, below)


def _ancestors(label: str, parents: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(parents.get(label, ()))
    while waiting:
        node = waiting.pop()
        if node == label:
            raise DataError(f"the ontology runs in a circle through {label!r}", expected="edges from child to parent")
        if node not in found:
            found.add(node)
            waiting += parents.get(node, ())
    return found
