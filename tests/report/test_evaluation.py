import numpy as np
import pandas as pd
import pytest

from expressor.core.errors import FormatError
from expressor.report import evaluation as reading
from expressor.report import read_run, summary


def table(*rows):
    return reading.tidy(pd.DataFrame([{"metric": "pearson", "section": "all", **row} for row in rows]))


def test_missing_columns_are_named():
    with pytest.raises(FormatError, match=r"evaluation.csv lacks the columns \['metric', 'value'\]"):
        reading.tidy(pd.DataFrame({"method": ["a"]}))


def test_no_evaluation_is_no_headline():
    empty = reading.tidy(pd.DataFrame())
    assert reading.headline_metric(empty) is None


def test_overall_rows_win_over_the_mean_of_sections():
    found = reading.scores(
        table({"method": "a", "value": 0.9, "section": "C2"}, {"method": "a", "value": 0.3, "low": 0.2, "high": 0.4}),
        "pearson",
    )
    assert found["a"][""].value == 0.3
    assert found["a"][""].is_bounded
    without = reading.scores(
        table({"method": "a", "value": 0.9, "section": "C2"}, {"method": "a", "value": 0.3, "section": "C3"}), "pearson"
    )
    assert without["a"][""].value == pytest.approx(0.6)
    assert not without["a"][""].is_bounded


def test_of_several_intervals_the_first_with_bounds_is_shown_and_named():
    rows = [
        {"method": "a", "value": 0.3, "level": "sections"},
        {"method": "a", "value": 0.3, "level": "spots", "low": 0.1, "high": 0.5},
    ]
    score = reading.scores(table(*rows), "pearson")["a"][""]
    assert (score.low, score.high, score.level) == (0.1, 0.5, "spots")


def test_claims_and_differences_never_enter_the_measured_scores():
    mixed = table(
        {"method": "a", "value": 0.3},
        {"method": "a", "value": 0.55, "source": "claimed"},
        {"method": "a", "value": -0.01, "low": -0.02, "high": 0.01, "reference": "ridge"},
    )
    assert reading.scores(mixed, "pearson")["a"][""].value == 0.3
    assert reading.scores(mixed, "pearson", source="claimed")["a"][""].value == 0.55
    assert reading.differences(mixed, "pearson")["value"].tolist() == [-0.01]


def test_kinds_are_read_else_guessed():
    found = reading.kinds(
        table(
            {"method": "AGL (DkGSB)", "value": 1},
            {"method": "encoder + ridge", "value": 1},
            {"method": "gene mean", "value": 1},
            {"method": "all genes", "value": 1},
            {"method": "mine", "value": 1, "kind": "model"},
        )
    )
    assert list(found.values()) == ["model", "control", "control", "rival", "model"]


def test_models_come_first_and_controls_last():
    found = reading.scores(
        table({"method": "gene mean", "value": 1}, {"method": "PGL", "value": 1}, {"method": "DkGSB", "value": 1}),
        "pearson",
    )
    assert list(found) == ["DkGSB", "PGL", "gene mean"]


def test_normalised_counts_come_first():
    both = table(
        {"method": "a", "value": 1, "scale": "log1p_counts"}, {"method": "a", "value": 1, "scale": "log1p_cp10k"}
    )
    assert reading.scales(both) == ("log1p_cp10k", "log1p_counts")


def test_per_section_has_a_hole_where_there_is_no_row():
    wide = reading.per_section(
        table(
            {"method": "a", "value": 0.1, "section": "C2"},
            {"method": "a", "value": 0.2, "section": "C3"},
            {"method": "b", "value": 0.3, "section": "C3"},
        ),
        "pearson",
        "",
    )
    assert wide.loc["a"].tolist() == [0.1, 0.2]
    assert np.isnan(wide.loc["b", "C2"])


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.02, 0.04, "cannot be told apart"),
        (0.01, 0.04, "It is better than ridge"),
        (-0.04, -0.01, "It is worse than ridge"),
    ],
)
def test_the_paired_interval_decides_the_sentence(low, high, words):
    rows = pd.DataFrame(
        [
            {"method": "DkGSB", "metric": "pearson", "value": 0.36, "section": "all"},
            {"method": "ridge", "metric": "pearson", "value": 0.35, "section": "all"},
            {"method": "DkGSB", "metric": "pearson", "value": 0.01, "low": low, "high": high, "reference": "ridge"},
        ]
    )
    said = summary._on_accuracy(rows)
    assert said[0] == "DkGSB reaches a mean correlation of 0.36 on targets as measured."
    assert words in said[1]


def test_without_a_paired_interval_nothing_is_called_better():
    rows = pd.DataFrame(
        [{"method": "DkGSB", "metric": "pearson", "value": 0.9}, {"method": "ridge", "metric": "pearson", "value": 0.1}]
    )
    assert summary._on_accuracy(rows) == ["DkGSB reaches a mean correlation of 0.90 on targets as measured."]
    assert "The strongest control, ridge, reaches 0.10; without a paired" in summary._on_controls(rows)[0]


def test_a_lower_error_is_the_better_one():
    rows = pd.DataFrame(
        [
            {"method": "DkGSB", "metric": "rmse", "value": 0.5},
            {"method": "ridge", "metric": "rmse", "value": 0.6},
            {"method": "gene mean", "metric": "rmse", "value": 0.9},
            {"method": "DkGSB", "metric": "rmse", "value": -0.1, "low": -0.2, "high": -0.05, "reference": "ridge"},
        ]
    )
    assert "It is better than ridge" in summary._on_accuracy(rows)[1]


def test_the_library_size_is_spoken_of_where_it_explains_as_much(make_run):
    said = " ".join(summary.paragraphs(read_run(make_run())))
    assert "On raw counts the size of a spot's library alone reaches 0.74, no less than AGL (DkGSB) (0.60)" in said
    assert "On normalised counts the size" not in said


def test_sentences_on_trust(make_run):
    run = read_run(make_run())
    good = sum(one is True for one in run.gene_table["trusted"])
    assert 0 < good < 40
    said = " ".join(summary.paragraphs(run))
    assert f"{good} of 40 genes passed the test for trust" in said
    assert f"All {good} trusted genes correlate above zero" in said
    assert "No verdict" in " ".join(summary.paragraphs(read_run(make_run(gene_table=False))))
    assert "Nothing was measured" in summary.paragraphs(read_run(make_run(measured=False)))[-1]


def test_numbers_in_words():
    assert summary.number(-0.25) == "\N{MINUS SIGN}0.25"
    assert summary.number(-0.001) == "0.00"
    assert summary.number(float("nan")) == "\N{EN DASH}"
    assert summary.probability(0.0004) == "< 0.001"
    assert summary.probability(0.0123) == "0.012"
    assert summary.count(1, "gene") == "1 gene"
    assert summary.count(1250, "gene") == "1,250 genes"


def test_rows_of_the_benchmark_are_understood():
    rows = pd.DataFrame(
        [
            {"method": "dkgsb", "title": "AGL: DkGSB", "kind": "model", "metric": "pearson", "value": 0.3,
             "level": "sections", "design": "none", "section": "all", "protocol": "p", "version": 2, "hash": "abc"},
            {"method": "dkgsb", "title": "AGL: DkGSB", "kind": "model", "metric": "pearson", "value": 0.3, "low": 0.29,
             "high": 0.31, "level": "folds", "design": "sd over folds", "section": "all"},
            {"method": "ridge", "title": "encoder + ridge", "kind": "control", "metric": "pearson", "value": 0.28},
            {"method": "dkgsb", "title": "AGL: DkGSB", "kind": "model", "metric": "pearson", "value": 0.02,
             "level": "sections", "reference": "ridge", "section": "all"},
            {"method": "dkgsb", "title": "AGL: DkGSB", "kind": "model", "metric": "pearson", "value": 0.02, "low": 0.01,
             "high": 0.03, "level": "spots", "reference": "ridge", "section": "all"},
            {"method": "amal", "title": "AMAL", "kind": "rival", "metric": "pearson", "status": "refused",
             "message": "no GPU", "value": np.nan},
            {"method": "library", "title": "log library size", "kind": "control", "metric": "pearson", "value": 0.1,
             "needs": "the library size of the test spots"},
            {"method": "ridge", "title": "encoder + ridge", "kind": "control", "metric": "fitted:seconds", "value": 3.0},
        ]
    )  # fmt: skip
    found = reading.tidy(rows)
    scores = reading.scores(found, "pearson")
    assert list(scores) == ["AGL: DkGSB", "encoder + ridge", "log library size"], "titles; a refusal is no score"
    assert not scores["AGL: DkGSB"][""].is_bounded, "the spread over folds is no interval"
    paired = reading.differences(found, "pearson")
    assert paired[["method", "reference", "low", "level"]].values.tolist() == [
        ["AGL: DkGSB", "encoder + ridge", 0.01, "spots"]
    ]
    assert set(found["metric"]) == {"pearson"}
    said = " ".join(reading.remarks(found))
    assert "Protocol p, version 2, hash abc." in said
    assert "log library size uses the library size of the test spots, which nobody has" in said
    assert "AMAL (targets as measured) has no number: no GPU" in said


def test_a_real_benchmark_can_be_reported(make_run):
    from expressor import bench
    from expressor.report.html import render

    results = bench.run("histology", protocol="simulated", methods=[])
    folder = make_run(side=4)
    results.to_csv(folder / "evaluation.csv", index=False)
    run = read_run(folder)
    scores = reading.scores(reading.tidy(run.evaluation), "pearson")
    assert {"gene mean", "encoder + ridge", "log library size"} <= set(scores)
    assert set(scores["encoder + ridge"]) == {"log1p_cp10k", "log1p_counts"}
    assert scores["encoder + ridge"]["log1p_cp10k"].is_bounded
    assert "encoder + ridge" in render(run)


def test_the_strongest_fair_control_is_named_and_every_pair_of_the_model_told():
    common = {"metric": "pearson", "section": "all"}
    model = {"method": "dkgsb", "title": "DkGSB", "kind": "model"}
    rows = pd.DataFrame(
        [
            {**common, **model, "value": 0.30},
            {**common, "method": "ridge", "title": "encoder + ridge", "kind": "control", "value": 0.32},
            {**common, "method": "colour", "title": "colour + ridge", "kind": "control", "value": 0.36},
            {
                **common,
                "method": "library",
                "title": "library size",
                "kind": "control",
                "value": 0.39,
                "needs": "counts",
            },
            {**common, "method": "pgl", "title": "PGL", "kind": "rival", "value": 0.31},
            {
                **common,
                **model,
                "value": -0.02,
                "low": -0.04,
                "high": 0.01,
                "reference": "ridge",
                "reference_of": "ridge",
            },
            {
                **common,
                **model,
                "value": -0.01,
                "low": -0.03,
                "high": -0.005,
                "reference": "pgl",
                "reference_of": "pgl, ridge",
            },
        ]
    )
    said = summary._on_accuracy(rows)
    assert said[1].startswith("It cannot be told apart from encoder + ridge (paired difference")
    assert said[2].startswith("It is worse than PGL, the best of its kind (paired difference")
    (control,) = summary._on_controls(rows)
    assert control.startswith("The strongest control, colour + ridge, reaches 0.36"), "not the one that saw the counts"
