import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import FormatError, GeneError
from expressor.genes import GeneVocab

NAMES = st.lists(
    st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=8), unique=True, min_size=1, max_size=20
)


def test_it_is_ordered_frozen_and_hashed_by_content():
    vocab = GeneVocab(["B", "A"])
    assert vocab.names == ("B", "A")
    assert vocab.namespace == "symbol"
    assert vocab.hash == hashlib.sha256(b"B\nA").hexdigest()
    assert vocab != GeneVocab(["A", "B"])
    assert vocab == GeneVocab(["B", "A"])
    assert "A" in vocab
    assert "C" not in vocab
    assert len(vocab) == 2
    assert list(vocab) == ["B", "A"]
    with pytest.raises(AttributeError):
        vocab.names = ("A",)


@given(NAMES, NAMES)
def test_alignment_equals_a_naive_search(own, other):
    alignment = GeneVocab(own, namespace="mixed").align(other)
    assert alignment.index.dtype == np.int64
    assert alignment.index.tolist() == [other.index(name) if name in other else -1 for name in own]
    assert alignment.matched == tuple(name for name in own if name in other)
    assert alignment.missing == tuple(name for name in own if name not in other)
    assert alignment.extra == tuple(name for name in other if name not in own)


def test_the_report_counts_and_explains():
    vocab = GeneVocab([f"ENSG{i:011d}.2" for i in range(8)])
    assert "0 of 8 genes found; 8 missing" in (text := vocab.align([f"ENSG{i:011d}.3" for i in range(8)]).report())
    assert "differ in their versions" in text
    assert "names are ensembl, the table's symbol" in vocab.align(["TP53", "ERBB2"]).report()
    human = GeneVocab(["GAPDH", "ACTB"])
    assert "upper and lower case" in human.align(["Gapdh", "Actb"]).report()
    assert human.align(["ACTB", "GAPDH", "X"]).report() == "2 of 2 genes found; 1 others not used."


def test_missing_genes_can_be_refused():
    vocab = GeneVocab(["GAPDH", "ACTB"])
    vocab.align(["ACTB", "GAPDH"]).require_all(where="new data")
    with pytest.raises(GeneError, match=r"1 of 2 needed genes are missing from new data \(GAPDH\); nearest: 'GAPDHS'"):
        vocab.align(["ACTB", "GAPDHS"]).require_all(where="new data")


def test_unknown_names_get_their_nearest():
    vocab = GeneVocab(["GAPDH", "ACTB", "ERBB2"])
    assert vocab.index_of(["ERBB2", "GAPDH"]).tolist() == [2, 0]
    with pytest.raises(GeneError, match="1 of 1 genes are unknown, such as 'ERBB3'; nearest: 'ERBB2'"):
        vocab.index_of(["ERBB3"])


@pytest.mark.parametrize("names", [["A", "A"], ["A", ""], ["A\tB"], ["A\nB"], ["A\u2028"]])
def test_names_that_cannot_be_kept_are_refused(names):
    with pytest.raises(GeneError):
        GeneVocab(names)


@given(NAMES)
def test_writing_and_reading_gives_the_same(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("vocab") / "genes.tsv"
    vocab = GeneVocab(names, namespace="mixed")
    vocab.write(path)
    back = GeneVocab.read(path)
    assert back == vocab
    assert back.namespace == "mixed"


def test_it_opens_as_a_plain_table(tmp_path):
    import pandas as pd

    GeneVocab(["TP53", "NA", "1e5"]).write(tmp_path / "genes.tsv")
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t", comment="#", dtype=str, keep_default_na=False)
    assert table["gene"].tolist() == ["TP53", "NA", "1e5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("ACTB", "ACTG"), "changed after they were written"),
        (lambda text: text.replace("GAPDH\nACTB", "ACTB\nGAPDH"), "changed after they were written"),
        (lambda text: text[:-1], "truncated"),
        (lambda text: text[: text.rindex("ACTB")], "incomplete; expected 3 genes, got 2"),
        (lambda text: text.replace("format 1", "format 2"), "no gene list of this package"),
        (lambda text: text.replace("# genes:", "# gen:"), "damaged head"),
        (lambda text: text.replace("ACTB", "GAPDH"), "holds no valid gene list"),
        (lambda text: text.replace("symbol", "klingon"), "unknown namespace 'klingon'"),
        (lambda text: "", "truncated"),
        (lambda text: "\n", "no gene list"),
    ],
)
def test_damage_is_told(tmp_path, change, message):
    path = tmp_path / "genes.tsv"
    GeneVocab(["TP53", "GAPDH", "ACTB"]).write(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(FormatError, match=message):
        GeneVocab.read(path)


def test_missing_binary_and_huge_files_are_told(tmp_path):
    path = tmp_path / "genes.tsv"
    with pytest.raises(FormatError, match="cannot be read"):
        GeneVocab.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="cannot be read"):
        GeneVocab.read(path)
    with path.open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(FormatError, match="too large"):
        GeneVocab.read(path)
