"""Tables say what a reader must know; claims stay apart from measurements; synthetic cells give known results."""

import math

import numpy as np
import pandas as pd
import pytest

from expressor.bench.claims import Claim, _read
from expressor.bench.controls import GeneMean
from expressor.bench.store import Cell, Key
from expressor.bench.summary import summarise_sections
from expressor.bench.tables import table
from expressor.bench.task import Method
from expressor.core.errors import FormatError

METHODS = tuple(Method(name, name.upper(), "rival", GeneMean) for name in ("one", "pgl", "all"))


def cell(method, fold, values, *, seed=0, undefined=()):
    """A cell of one section whose genes have the given correlations."""
    values = np.array(values, dtype=float)
    values[list(undefined)] = np.nan
    scores = pd.DataFrame(
        {"section": fold, "patient": fold[0], "gene": [f"G{i}" for i in range(len(values))], "metric": "pearson",
         "value": values}
    )  # fmt: skip
    draws = pd.DataFrame({fold: np.nanmean(values) + np.linspace(-0.1, 0.1, 41)})
    p = pd.DataFrame({"p": [0.001, 0.001, 0.9, np.nan][: len(values)]})
    key = Key(method, f"section {fold}", "log1p_cp10k", seed, "h")
    return Cell(key, tables={"scores": scores, "draws": draws, "pvalues": p}, fitted={"k_": 10 * (seed + 1)})


@pytest.fixture
def results():
    cells = [
        cell("one", "A1", [0.5, 0.3, 0.2, 0.4], undefined=[3]), cell("one", "B1", [0.6, 0.4, 0.3, 0.5]),
        cell("pgl", "A1", [0.4, 0.2, 0.2, 0.0]), cell("pgl", "B1", [0.4, 0.4, 0.2, 0.2]),
        cell("all", "A1", [0.3, 0.1, 0.2, 0.0], seed=0), cell("all", "A1", [0.5, 0.1, 0.2, 0.0], seed=1),
        cell("all", "B1", [0.1, 0.1, 0.1, 0.1], seed=0), cell("all", "B1", [0.1, 0.1, 0.1, 0.1], seed=1),
    ]  # fmt: skip
    found = summarise_sections(cells, METHODS, references=(("pgl", "all"),))
    front = pd.DataFrame({"task": "t", "protocol": "p", "version": 1, "hash": "h"}, index=found.index)
    return pd.concat([front, found], axis=1)


def row(results, **wanted):
    kept = results
    for name, value in wanted.items():
        kept = kept[kept[name] == value]
    assert len(kept) == 1
    return kept.iloc[0]


def test_means_are_over_genes_then_seeds_then_sections(results):
    one = row(results, method="one", metric="pearson", level="sections", reference="")
    assert one["value"] == pytest.approx(((0.5 + 0.3 + 0.2) / 3 + 0.45) / 2)
    assert (one["n"], one["n_undefined"], one["n_clusters"]) == (8, 1, 2)
    several = row(results, method="all", metric="pearson", level="sections", reference="")
    assert several["value"] == pytest.approx(((0.15 + 0.2) / 2 + 0.1) / 2)
    assert several["n_clusters"] == 2  # sections, not seeds


def test_the_reference_is_the_best_of_its_group_and_only_shared_genes_count(results):
    paired = results[(results.reference != "") & (results.level == "sections")]
    assert list(zip(paired["method"], paired["reference"])) == [("one", "pgl")]
    assert paired["reference_of"].iloc[0] == "pgl, all"
    assert paired["value"].iloc[0] == pytest.approx(np.mean([(0.1 + 0.1 + 0.0) / 3, (0.2 + 0.0 + 0.1 + 0.3) / 4]))
    assert paired["n_undefined"].iloc[0] == 1
    spots = results[(results.reference != "") & (results.level == "spots")].iloc[0]
    assert spots["value"] == pytest.approx(paired["value"].iloc[0])


def test_the_share_of_significant_genes_leaves_undefined_tests_out(results):
    share = row(results, method="one", metric="significant_genes")
    assert share["value"] == pytest.approx(2 / 3)
    assert (share["n"], share["n_undefined"]) == (8, 2)


def test_fitted_numbers_are_shown_with_their_range(results):
    k = row(results, method="all", metric="fitted:k_")
    assert (k["value"], k["low"], k["high"], k["design"]) == (15, 10, 20, "range")


def test_the_table_shows_intervals_counts_and_the_paired_differences(results):
    text = table(results)
    assert "## t: p (version 1, hash h)" in text
    assert "| ONE | rival | 0.392 [" in text
    assert "1 of 8" in text
    assert "Student t on 2 cluster means (too few for a bootstrap)" in text
    assert "PGL (best of pgl, all)" in text
    assert "such values are in no mean" in text
    assert "Claimed" not in text


def test_claims_have_their_own_heading_and_never_a_measured_row(results):
    claim = Claim("agl", "AGL + DkGSB", "BOWEL A", "mean PCC", 0.551, 0.008, "Table 1")
    measured, _, claimed = table(results, claims=[claim]).partition("### Claimed elsewhere")
    assert "0.551" not in measured
    assert "| AGL + DkGSB | BOWEL A | mean PCC | 0.551 ± 0.008 | Table 1 |" in claimed
    assert "not comparable" in claimed


def test_claims_are_read_from_a_systems_folder(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text("method,data,metric,value,spread,source\nA,B,PCC,0.5,,Table 2\n")
    (claim,) = _read("agl", path)
    assert claim.value == 0.5
    assert math.isnan(claim.spread)
    path.write_text("method,data\nA,B\n")
    with pytest.raises(FormatError, match="lacks columns"):
        _read("agl", path)
    path.write_text("method,data,metric,value,spread,source\nA,B,PCC,high,,Table 2\n")
    with pytest.raises(FormatError, match="a value that is not a number"):
        _read("agl", path)
