"""Ontologies cut down to a corpus, against paths counted one by one, and the hierarchical loss on them."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from expressor.core.errors import DataError, FormatError
from expressor.systems.bmfm.equations import hierarchical_loss
from expressor.systems.bmfm.ontology import prune, read_edges

# A diamond: d lies below b and below c.
EDGES = [("b", "a"), ("c", "a"), ("d", "b"), ("d", "c"), ("e", "c"), ("f", "e"), ("x", "y")]


def reaches(node: str, wanted: str, edges: list[tuple[str, str]]) -> bool:
    """Whether a path leads up from ``node`` to ``wanted``, by trying all."""
    return node == wanted or any(reaches(parent, wanted, edges) for child, parent in edges if child == node)


def test_a_diamond_cut_to_the_labels() -> None:
    ontology = prune(EDGES, ["d", "e", "c", "not a cell"])
    assert ontology.nodes == ("a", "b", "c", "d", "e"), "f, x and y say nothing of these labels"
    assert ontology.leaves == ("d", "e"), "e has no label below it here; c has two"
    below = {node: "".join(np.array(ontology.leaves)[row]) for node, row in zip(ontology.nodes, ontology.below)}
    assert below == {"a": "de", "b": "d", "c": "de", "d": "d", "e": "e"}
    assert ontology.codes(["e", "c", "f", "", math.nan, None]).tolist() == [4, 2, -1, -1, -1, -1]


@pytest.mark.parametrize("number", range(8))
def test_random_graphs_and_the_loss_on_them(number: int) -> None:
    draw = random.Random(number)
    names = [f"n{i:02d}" for i in range(14)]
    edges = [
        (names[i], names[j]) for i in range(1, 14) for j in draw.sample(range(i), min(i, draw.choice([0, 1, 1, 2])))
    ]
    known = sorted({one for edge in edges for one in edge})
    labels = draw.sample(known, 6)
    ontology = prune(edges, labels)
    leaves = [a for a in sorted(labels) if not any(b != a and reaches(b, a, edges) for b in labels)]
    assert list(ontology.leaves) == leaves
    assert list(ontology.nodes) == [node for node in known if any(reaches(one, node, edges) for one in labels)]

    torch.manual_seed(number)
    logits = torch.randn(len(labels), len(leaves), dtype=torch.float64)
    by_hand = []
    for row, label in zip(torch.softmax(logits, 1).tolist(), labels):
        by_hand.append(-math.log(sum(p for p, leaf in zip(row, leaves) if reaches(leaf, label, edges))))
    codes = torch.from_numpy(ontology.codes(labels))
    found = hierarchical_loss(logits, codes, torch.from_numpy(ontology.below))
    assert found.item() == pytest.approx(sum(by_hand) / len(by_hand))


def test_what_cannot_be_cut() -> None:
    with pytest.raises(DataError, match=r"no label of the data is in the ontology.*'a'.*T cell.*same identifiers"):
        prune(EDGES, ["T cell"])
    with pytest.raises(DataError, match="the ontology runs in a circle through 'b'"):
        prune([*EDGES, ("a", "d")], ["b"])


def test_files(tmp_path: Path) -> None:
    obo = tmp_path / "cells.obo"
    obo.write_text(
        "format-version: 1.2\n\n[Term]\nid: CL:1\nname: cell\n\n[Term]\nid: CL:2\nis_a: CL:1 ! cell\n"
        'is_a: CL:3 {source="x"} ! other\n\n[Typedef]\nid: part_of\nis_a: overlaps\n'
    )
    assert read_edges(obo) == [("CL:2", "CL:1"), ("CL:2", "CL:3")]
    table = tmp_path / "cells.tsv"
    table.write_text("child\tparent\nT cell\tlymphocyte\nB cell\tlymphocyte\n")
    assert read_edges(table) == [("T cell", "lymphocyte"), ("B cell", "lymphocyte")]
    table.write_text("child\tparent\nT cell\tlymphocyte\nB cell\n")
    with pytest.raises(
        FormatError, match=r"line 3 of .*cells.tsv is no edge; expected child, tab, parent, got 'B cell'"
    ):
        read_edges(table)
    table.write_text("child\tparent\n")
    with pytest.raises(FormatError, match="cells.tsv holds no edge"):
        read_edges(table)
    with pytest.raises(FormatError, match=r"nothing.obo cannot be read \(FileNotFoundError"):
        read_edges(tmp_path / "nothing.obo")
