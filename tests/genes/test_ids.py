import logging

import pytest

from expressor.core.errors import GeneError
from expressor.genes import check_gene_names, classify, detect_namespace, strip_version


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("TP53", "symbol"), ("Hba-a1", "symbol"), ("HLA-DRB1", "symbol"), ("FO538757.1", "symbol"), ("7SK", "symbol"),
        ("MARC1", "symbol"), ("DEC1", "symbol"), ("ENSA", "symbol"), ("ENSG00000141510", "ensembl"),
        ("ENSG00000182378.15_PAR_Y", "ensembl"), ("ENSMUSG00000064339.1", "ensembl"), ("ENSDARG00000000001", "ensembl"),
        ("ENST00000269305.9", "ensembl_transcript"), ("ENSP00000269305", "ensembl_protein"), ("7157", "entrez"),
        ("NM_000546.6", "refseq"), ("XR_001737428", "refseq"), ("1-Mar", "date"), ("Sep-02", "date"), ("2023-03-01", "date"),
        ("²", "symbol"),
    ],
)  # fmt: skip
def test_one_name_is_classified_by_its_form(name, namespace):
    assert classify(name) == namespace


def test_a_few_strangers_do_not_change_the_namespace():
    symbols = [f"GENE{i}" for i in range(95)]
    assert detect_namespace([*symbols, *(f"ENSG{i:011d}" for i in range(5))]) == "symbol"
    assert detect_namespace([*symbols, *(f"ENSG{i:011d}" for i in range(6))]) == "mixed"
    assert detect_namespace([]) == "none"


def test_positions_are_no_entrez_ids():
    assert detect_namespace(["0", "1", "2"]) == "position"
    assert detect_namespace(["7157", "672"]) == "entrez"


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("ENSG00000141510.18", "ENSG00000141510"),
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378_PAR_Y"),
        ("ENSMUSG00000064339.1", "ENSMUSG00000064339"),
        ("NM_000546.6", "NM_000546"),
        ("FO538757.1", "FO538757.1"),
        ("ENSG00000141510", "ENSG00000141510"),
    ],
)
def test_versions_are_dropped_from_database_identifiers_alone(name, stripped):
    assert strip_version(name) == stripped


def test_duplicates_are_counted_and_shown():
    with pytest.raises(
        GeneError, match=r"2 gene names in table.tsv stand more than once, such as 'A' \(3 times\).*Sum or drop"
    ):
        check_gene_names(["A", "B", "A", "C", "B", "A"], where="table.tsv")


@pytest.mark.parametrize("bad", ["", "  ", None, 3.0, float("nan")])
def test_empty_names_are_refused_with_their_position(bad):
    with pytest.raises(GeneError, match=r"1 of 3 gene names in X are empty or no text \(first at position 1\)"):
        check_gene_names(["A", bad, "B"], where="X")


def test_genes_that_were_never_named_are_refused():
    with pytest.raises(GeneError, match="have no names, only the positions 0 to 2"):
        check_gene_names(["0", "1", "2"], where="X")


def test_mixed_namespaces_are_refused_with_counts_and_examples():
    names = [f"GENE{i}" for i in range(10)] + [f"ENSG{i:011d}" for i in range(4)]
    with pytest.raises(
        GeneError,
        match=r"several namespaces; expected one namespace, got 10 symbol \(such as 'GENE0'\), 4 ensembl .*Translate",
    ):
        check_gene_names(names, where="X")


def test_identifiers_that_stand_for_genes_without_symbol_are_accepted():
    ids = [f"ENSG{i:011d}" for i in range(14)]
    names = [f"GENE{i}" for i in range(10)] + ids[10:]
    check_gene_names(names, where="X", ids=ids)
    check_gene_names(ids, where="X", ids=ids)
    with pytest.raises(GeneError, match="several namespaces"):
        check_gene_names(names, where="X", ids=ids[::-1])


def test_spreadsheet_dates_are_reported(caplog):
    with caplog.at_level(logging.WARNING, logger="expressor"):
        check_gene_names(["1-Mar", *(f"G{i}" for i in range(50))], where="X")
    assert "1 gene names in X look like dates made by a spreadsheet (1-Mar)" in caplog.text
