"""Orthologs: multiplicity, lining up with two vocabularies, files of several makers, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import DataError, FormatError, GeneError
from expressor.genes import GeneTable, GeneVocab, Orthologs, guess_species, human_mouse, mouse_genes, read_orthologs

# One to one; one to many; many to one; a tangle of three pairs.
PAIRS = [("A", "a"), ("B", "b1"), ("B", "b2"), ("C1", "c"), ("C2", "c"), ("D1", "d1"), ("D1", "d2"), ("D2", "d2")]


def make(pairs=PAIRS, **options):
    return Orthologs.from_pairs(*zip(*pairs), species=("up", "low"), **options)


def vocab(text):
    return GeneVocab(text.split(), namespace="symbol")


def test_multiplicity():
    table = make()
    assert table.kinds.tolist() == ["one2one", *["one2many"] * 2, *["many2one"] * 2, *["many2many"] * 3]
    assert table.flip().kinds.tolist() == ["one2one", *["many2one"] * 2, *["one2many"] * 2, *["many2many"] * 3]
    assert table.one_to_one().pairs["first"].tolist() == ["A"]
    assert repr(table) == "Orthologs(up and low: 8 pairs; 1 one2one, 2 one2many, 2 many2one, 3 many2many)"


def test_matrix_in_the_order_of_both():
    bridge = make().connect(vocab("C2 B A X"), vocab("z b2 a c b1"))
    wanted = [[0, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert bridge.matrix.toarray().tolist() == wanted
    assert bridge.matrix.dtype == np.float32
    assert bridge.fates(0).to_dict() == {"C2": "matched", "B": "split", "A": "matched", "X": "lost"}
    assert bridge.fates(1).to_dict() == {"z": "lost", "b2": "merged", "a": "matched", "c": "matched", "b1": "merged"}
    assert bridge.one_to_one().edges()[["up", "low"]].to_numpy().tolist() == [["C2", "c"], ["A", "a"]]
    assert bridge.report() == (
        "4 pairs of orthologs; of 4 up genes 2 matched, 1 split, 1 lost (1 not in the table); "
        "of 5 low genes 2 matched, 2 merged, 1 lost (1 not in the table)."
    )


def test_tangled():
    fates = make().connect(vocab("C1 C2 D1 D2"), vocab("c d1 d2")).fates(0)
    assert fates.tolist() == ["merged", "merged", "tangled", "merged"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=15), st.randoms())
def test_matrix_is_the_set_of_pairs(pairs, random):
    table = make([(f"A{i}", f"b{j}") for i, j in pairs])
    first, second = [f"A{i}" for i in range(6)], [f"b{j}" for j in range(6)]
    random.shuffle(first)
    random.shuffle(second)
    bridge = table.connect(GeneVocab(first), GeneVocab(second))
    assert set(map(tuple, bridge.edges()[["up", "low"]].to_numpy())) == {(f"A{i}", f"b{j}") for i, j in pairs}
    back = table.flip().connect(GeneVocab(second), GeneVocab(first))
    np.testing.assert_array_equal(back.matrix.toarray(), bridge.matrix.toarray().T)


def test_the_surest_of_repeated_pairs_is_kept():
    table = make([("A", "a"), ("A", "a"), ("B", "b")], confidence=[0.25, 0.5, 1.0], source=["x", "y", "z"])
    assert table.pairs[["confidence", "source"]].to_numpy().tolist() == [[0.5, "y"], [1.0, "z"]]
    assert len(table.confident(0.6)) == 1
    assert table.connect(vocab("A B"), vocab("a b")).matrix.diagonal().tolist() == [0.5, 1.0]


def test_versions_identifiers_aliases():
    aliases = {"up": GeneTable((("A", "", "11", ("OLD",)), ("B", "", "12", ("OLD2", "OLDER2"))))}
    table = make(
        [("A", "a"), ("B", "b")], aliases=aliases,
        ids=(["ENSG00000000001.4", "ENSG00000000002"], ["", "ENSMUSG00000000002"]),
    )  # fmt: skip
    for first, second, edges in (
        ("ENSG00000000001.7 ENSG00000000002.1", "a ENSMUSG00000000002.3", [[1, 0], [0, 1]]),
        ("OLD 12", "a b", [[1, 0], [0, 1]]),
        ("OLD A", "a b", [[0, 0], [1, 0]]),  # by its own name before an older one
        ("OLD2 OLDER2 A", "a b", [[0, 0], [0, 0], [1, 0]]),  # two older names: neither
    ):
        first = GeneVocab(first.split(), namespace="mixed")
        bridge = table.connect(first, GeneVocab(second.split(), namespace="mixed"))
        assert bridge.matrix.toarray().tolist() == edges
    with pytest.raises(GeneError, match=r"'ENSG00000000001\.1' and 'ENSG00000000001\.2' in the up genes are one gene"):
        table.connect(GeneVocab(["ENSG00000000001.1", "ENSG00000000001.2"]), vocab("a b"))


def test_shipped_table():
    table = human_mouse()
    assert len(table) == 25_454
    assert (table.kinds == "one2one").sum() > 15_000
    human, mouse = GeneVocab(["INS", "HER2", "CYP2D6", "no"]), GeneVocab(["Ins2", "Ins1", "Erbb2", "Nkx2.2"])
    bridge = table.connect(human, mouse)
    assert set(map(tuple, bridge.edges()[["human", "mouse"]].to_numpy())) == {
        ("INS", "Ins1"),
        ("INS", "Ins2"),
        ("HER2", "Erbb2"),
    }
    assert bridge.known == (3, 4)
    assert mouse_genes().rows[mouse_genes().find("Nkx2.2")[0]][0] == "Nkx2-2"


def test_wrong_species_swapped_and_nothing_in_common():
    human, mouse = vocab("INS GCG SST PPY"), vocab("Ins1 Gcg Sst Ppy Ins2")
    table = human_mouse()
    with pytest.raises(DataError, match=r"the direction is swapped: .* 0 of 5 known as human and 5 as mouse; 0 of 4"):
        table.connect(mouse, human)
    with pytest.raises(
        DataError, match=r"wrong species: the genes given as mouse are human; .* 0 of 4 known as mouse and 4 as human"
    ):
        table.connect(human, human)
    with pytest.raises(DataError, match=r"given as human are rat; .* 0 of 2 known as human"):
        table.connect(GeneVocab(["ENSRNOG00000000001", "ENSRNOG00000000002"]), mouse)
    with pytest.raises(
        DataError, match=r"no ortholog of human and mouse is in both .* got 1 and 4 genes that the table"
    ):
        table.connect(vocab("INS foo"), vocab("Gcg Sst Ppy Ghrl"))
    with pytest.raises(DataError, match="does not join rat and human; expected human and mouse"):
        table.from_to("rat", "human")
    assert table.from_to("mouse", "human").connect(mouse, human).n_edges == 5


def test_species_with_the_same_symbols():
    same = Orthologs.from_pairs(["Ins1", "Gcg"], ["Ins1", "Gcg"], species=("mouse", "rat"))
    assert same.connect(vocab("Ins1 Gcg"), vocab("Gcg Ins1")).n_edges == 2


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("ENSMUSG00000000001 ENSMUSG00000000002", "mouse"),
        ("INS GCG C1orf112", "human"),
        ("Ins1 Gcg", "mouse or rat"),
        ("1 2", ""),
    ],
)
def test_guess(names, wanted):
    assert guess_species(names.split()) == wanted


def test_bad_pairs():
    with pytest.raises(DataError, match=r"the table of orthologs has no pair; got 1 rows that lack"):
        make([("A", "")])
    with pytest.raises(
        DataError, match=r"1 of 2 pairs have no proper confidence; expected numbers in \(0, 1\], got 3.0"
    ):
        make([("A", "a"), ("B", "b")], confidence=[1, 3])
    with pytest.raises(DataError, match="orthologs are between two species"):
        Orthologs.from_pairs(["A"], ["A"], species=("up", "up"))
    with pytest.raises(DataError, match="the columns of the pairs differ in length"):
        Orthologs.from_pairs(["A", "B"], ["a"], species=("up", "low"))


FILES = {
    "biomart.tsv": "Gene stable ID version\tGene stable ID\tGene name\tMouse gene stable ID\tMouse gene name\t"
    "Mouse orthology confidence [0 low, 1 high]\nENSG00000000001.2\tENSG00000000001\tINS\tENSMUSG00000000001\tIns2\t1\n"
    "ENSG00000000001.2\tENSG00000000001\tINS\tENSMUSG00000000002\tIns1\t0\nENSG00000000009.1\tENSG00000000009\tNO\t\t\t\n",
    "hcop.txt": "human_entrez_gene\thuman_ensembl_gene\thuman_symbol\tmouse_symbol\tmouse_ensembl_gene\tsupport\n"
    "3630\tENSG00000000001\tINS\tIns2\tENSMUSG00000000001\tEnsembl,OMA\n"
    "3630\tENSG00000000001\tINS\tIns1\tENSMUSG00000000002\tOMA\n",
    "two.csv": "left,right\nINS,Ins2\nINS,Ins1\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "confidence"), [("biomart.tsv", [1, 0.5]), ("hcop.txt", [1, 0.5]), ("two.csv", [1, 1])]
)
def test_files(tmp_path, name, confidence):
    (tmp_path / name).write_text(FILES[name])
    table = read_orthologs(tmp_path / name, species=("human", "mouse"))
    assert table.pairs[["first", "second"]].to_numpy().tolist() == [["INS", "Ins2"], ["INS", "Ins1"]]
    assert table.pairs["confidence"].tolist() == confidence
    if name != "two.csv":
        assert table.pairs["second_id"].tolist() == ["ENSMUSG00000000001", "ENSMUSG00000000002"]
    if name == "hcop.txt":
        assert table.pairs["source"].tolist() == ["Ensembl,OMA", "OMA"]


def test_parquet_and_the_other_direction(tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame({"mouse": ["Ins1"], "human": ["INS"], "n_support": [4], "x": [1]}).to_parquet(tmp_path / "t.parquet")
    table = read_orthologs(tmp_path / "t.parquet", species=("human", "mouse"))
    assert table.pairs[["first", "second", "confidence"]].to_numpy().tolist() == [["INS", "Ins1", 1.0]]


def test_bad_files(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\tc\n1\t2\t3\n")
    with pytest.raises(DataError, match=r"which columns of t\.tsv are genes of human and mouse cannot be told"):
        read_orthologs(path, species=("human", "mouse"))
    with pytest.raises(DataError, match=r"t\.tsv has no column 'd'; expected one of 'a', 'b', 'c'"):
        read_orthologs(path, species=("human", "mouse"), columns=("a", "d"))
    path.write_text("a\tb\tc\n1\t2\t-3\n")
    with pytest.raises(DataError, match=r"the column 'c' of t\.tsv is no confidence"):
        read_orthologs(path, species=("human", "mouse"), columns=("a", "b"), confidence="c")
    with pytest.raises(FormatError, match="cannot be read"):
        read_orthologs(tmp_path / "none.tsv", species=("human", "mouse"))
