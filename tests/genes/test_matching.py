"""Genes are found across identifiers, nothing is guessed, and the report says how."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import FormatError, GeneError
from expressor.genes import GeneTable, GeneVocab, human_genes, match_genes

TABLE = GeneTable(
    (
        ("ERBB2", "ENSG00000141736", "2064", ("HER2", "NEU")),
        ("ESR1", "ENSG00000091831", "2099", ("ER", "NR3A1")),
        ("ESR2", "ENSG00000140009", "2100", ("ER", "ERB")),
        ("NEU1", "ENSG00000204386", "4758", ("NEU",)),
        ("ERB", "ENSG00000000001", "9", ()),
    )
)


def test_shipped_table():
    table = human_genes()
    assert len(table) > 30_000
    for name in ("TP53", "ENSG00000141510", "ENSG00000141510.18", "7157"):
        row, way = table.find(name)
        assert table.rows[row][:3] == ("TP53", "ENSG00000141510", "7157")
        assert way == "table"
    assert table.rows[table.find("HER2")[0]][0] == "ERBB2"
    assert table.find("no such gene") == (-1, "")


@pytest.mark.parametrize(
    ("names", "wanted", "how"),
    [
        (["ESR1", "ERBB2"], [1, 0], "name"),
        (["2099", "2064"], [1, 0], "table"),
        (["ENSG00000141736.14", "X"], [0, -1], "table"),
        (["HER2", "NR3A1"], [0, 1], "alias"),
    ],
)
def test_ways(names, wanted, how):
    found = match_genes(names, GeneVocab(["ERBB2", "ESR1"]), table=TABLE)
    assert found.index.tolist() == wanted
    assert {one for one in found.how if one} == {how}


def test_versions():
    vocab = GeneVocab(["ENSG00000141736.14", "ENSG00000091831.25"])
    found = match_genes(["ENSG00000091831", "ENSG00000141736.2"], vocab, table=TABLE)
    assert found.index.tolist() == [1, 0]
    assert found.how == ("version", "version")
    assert "2 of 2 genes found (2 without the version)" in found.report()


def test_an_alias_of_two_genes_is_no_match():
    found = match_genes(["ER", "NEU", "ERBB2"], GeneVocab(["ERBB2", "ESR1", "ESR2", "NEU1"]), table=TABLE)
    assert found.index.tolist() == [2, -1, -1, -1]
    assert found.missing == ("ESR1", "ESR2", "NEU1")


def test_a_symbol_is_itself_and_not_the_alias_of_another():
    found = match_genes(["ERB", "ERBB2"], GeneVocab(["ERBB2", "ESR2"]), table=TABLE)
    assert found.index.tolist() == [1, -1]


def test_the_surest_name_wins_and_the_other_is_reported():
    found = match_genes(["HER2", "ERBB2", "2099"], GeneVocab(["ERBB2", "ESR1"]), table=TABLE)
    assert found.index.tolist() == [1, 2]
    assert found.ambiguous == ("HER2",)
    assert "1 of them because another name stands for the gene (HER2)" in found.report()


def test_two_names_for_one_gene_are_not_chosen_between():
    found = match_genes(["2064", "ENSG00000141736", "ESR1"], GeneVocab(["ERBB2", "ESR1"]), table=TABLE)
    assert found.index.tolist() == [-1, 2]
    assert found.ambiguous == ("2064", "ENSG00000141736")


def test_report():
    found = match_genes(["2064", "999"], GeneVocab(["ERBB2", "ESR1"]), table=TABLE)
    assert found.report() == (
        "1 of 2 genes found (1 by the table of identifiers); the model's names are symbol, the table's entrez; "
        "1 missing (ESR1); 1 names not used."
    )


def test_nothing_found_is_refused():
    with pytest.raises(
        GeneError, match="none of the model's genes is in the data; expected symbol names such as ERBB2.*got symb"
    ):
        match_genes(["P1", "P2"], GeneVocab(["ERBB2", "ESR1"]), table=TABLE)
    with pytest.raises(GeneError, match="stand more than once"):
        match_genes(["ERBB2", "ERBB2"], GeneVocab(["ERBB2"]), table=TABLE)


NAMES = [
    "ERBB2",
    "ESR1",
    "ESR2",
    "NEU1",
    "ERB",
    "HER2",
    "NEU",
    "ER",
    "2064",
    "2099",
    "ENSG00000141736",
    "ENSG00000141736.3",
    "Q",
]


@given(
    st.lists(st.sampled_from(NAMES), unique=True, min_size=1), st.lists(st.sampled_from(NAMES), unique=True, min_size=1)
)
def test_no_name_serves_twice_and_order_does_not_matter(names, genes):
    vocab = GeneVocab(genes, namespace="mixed")
    try:
        found = match_genes(names, vocab, table=TABLE)
    except GeneError:
        return
    taken = found.index[found.index >= 0]
    assert len(set(taken.tolist())) == len(taken)
    turned = match_genes(names[::-1], vocab, table=TABLE)
    assert [names[i] if i >= 0 else None for i in found.index] == [
        names[::-1][i] if i >= 0 else None for i in turned.index
    ]
    assert all((i >= 0) == bool(way) for i, way in zip(found.index, found.how))
    for gene, name in enumerate(genes):
        if name in names:
            assert names[found.index[gene]] == name


def test_tables_are_read(tmp_path):
    text = "Symbol\tEnsembl\nERBB2\tENSG00000141736.14\nESR1\tENSG00000091831\n"
    (tmp_path / "a.tsv").write_text(text)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.tsv", "a.tsv.gz"):
        table = GeneTable.read(tmp_path / name)
        assert table.rows[0] == ("ERBB2", "ENSG00000141736", "", ())
        np.testing.assert_array_equal(match_genes(["ENSG00000091831"], GeneVocab(["ESR1"]), table=table).index, [0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (
            "gene\tid\nA\tB\n",
            "is no table of gene identifiers; expected tab-separated columns symbol and ensembl or entrez",
        ),
        ("symbol\tentrez\nA\t1\tx\n", "line 2 of .* is damaged; expected 2 cells, got 3"),
        ("symbol\tentrez\nA\t1\nB\t1\n", "'1' stands in lines 2 and 3"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(FormatError, match=message):
        GeneTable.read(tmp_path / "a.tsv")
    (tmp_path / "b.tsv.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(FormatError, match="cannot be read"):
        GeneTable.read(tmp_path / "b.tsv.gz")
