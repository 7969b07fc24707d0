import re

import pytest

from expressor.core.errors import DataError
from expressor.report import model_card, read_run, write_model_card
from expressor.report.modelcard import plain


def test_says_what_it_is_how_good_and_where_not_to_use_it(make_run):
    folder = make_run()
    text = model_card(read_run(folder))
    assert text.startswith("---\nlibrary_name: expressor\ntags: [gene-expression, agl]\n---\n\n# AGL\n")
    for heading in ("## Accuracy", "## Genes to believe", "## Limits", "## Use", "## Methods", "### References"):
        assert heading in text
    assert "| encoder \\+ ridge | control | 0.35 [0.30, 0.40] | 0.63 [0.58, 0.68] |" in text
    assert "| gene mean | control | \N{EN DASH} (40 undefined) |" in text
    assert "Not a diagnostic device" in text
    assert write_model_card(folder).read_text(encoding="utf-8") == text


def test_only_trusted_genes_are_listed(make_run):
    run = read_run(make_run())
    listed = model_card(run).split("## Genes to believe")[1].split("##")[0]
    for gene, trusted in run.gene_table["trusted"].items():
        assert (f" {gene} (" in listed) == (trusted is True)


def test_a_bare_run_has_a_card_without_claims(make_run):
    text = model_card(read_run(make_run(measured=False, gene_table=False, beside=False)))
    assert "## Accuracy" not in text
    assert "## Genes" not in text
    assert "# Model" in text


def test_names_from_users_stay_words(make_run, hostile):
    names = [*hostile, "GENE1"]
    run = read_run(make_run(names=names, side=5))
    run.gene_table["trusted"] = [True] * len(names)
    text = model_card(run)
    assert re.search(r"(?<!\\)[<$]", text) is None
    assert plain("a|b\nc*<d>") == "a\\|b c\\*\\<d\\>"


def test_a_folder_that_cannot_be_written(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_model_card(make_run(side=4), tmp_path / "file" / "card.md")
