"""Reports of cohorts: what stands in the run folder, what the page says, and that nothing flatters silently."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import expressor as ex
from expressor.core.errors import DataError, FormatError, GeneError
from expressor.data import read_outcomes
from expressor.datasets import example, simulate_bulk
from expressor.metrics.survival import concordance, kaplan_meier, number_at_risk
from expressor.report import figures, read_cohort_run, write_cohort_report, write_cohort_run
from expressor.report.cohort import hide_and_restore, panel_sizes, patients_at_risk
from expressor.report.cohort_page import opening
from expressor.report.figures.survival import risk_groups


@pytest.fixture(scope="module")
def gaussian():
    return ex.ConditionalGaussian.preset("tiny").fit(simulate_bulk(n_patients=120))


@pytest.fixture(scope="module")
def cox():
    return ex.PenalisedCox.preset("tiny").fit(simulate_bulk(n_patients=120))


@pytest.fixture(scope="module")
def gappy():
    adata = simulate_bulk(n_patients=50, seed=1, missing=0.05)
    return adata[:, :30].copy()


@pytest.fixture(scope="module")
def restored(gaussian, gappy, tmp_path_factory):
    return write_cohort_run(gaussian, gappy, tmp_path_factory.mktemp("restored") / "run")


@pytest.fixture(scope="module")
def at_risk(cox, tmp_path_factory):
    return write_cohort_run(cox, simulate_bulk(n_patients=90, seed=2), tmp_path_factory.mktemp("risk") / "run")


def test_restored_values_keep_what_was_measured(restored, gaussian, gappy):
    run = read_cohort_run(restored)
    assert run.restored.var_names.tolist() == list(gaussian.genes_in_)
    assert np.isfinite(run.restored.X).all()
    measured = run.restored.layers["measured"]
    known = ~np.isnan(measured)
    np.testing.assert_array_equal(run.restored.X[known], measured[known])
    assert known.sum() == np.isfinite(gappy.X).sum()
    assert (run.restored.layers["lower"] <= run.restored.X).all()
    assert (run.restored.X <= run.restored.layers["upper"]).all()


def test_check_hides_measured_values_only(restored, gappy):
    run = read_cohort_run(restored)
    judged = np.isfinite(run.check.layers["measured"])
    assert 0.15 < judged.sum() / np.isfinite(gappy.X).sum() < 0.25
    names = run.check.var_names.get_indexer(gappy.var_names)
    np.testing.assert_array_equal(run.check.layers["measured"][:, names][judged[:, names]], gappy.X[judged[:, names]])
    assert (run.check.X[judged] != run.check.layers["measured"][judged]).mean() > 0.99
    table = run.gene_table()
    assert table["r"].median() > 0.4
    assert (table["r"].dropna().diff().dropna() <= 0).all()


def test_more_genes_restore_better(restored):
    sizes = read_cohort_run(restored).panel_sizes.groupby("size")["rmse"].mean()
    assert sizes.index.tolist() == [8, 16]
    assert sizes[16] < sizes[8] < 1.0


def test_panel_sizes_are_those_of_a_loop(gaussian):
    adata = simulate_bulk(n_patients=12, seed=5)
    table = panel_sizes(gaussian, adata)
    spread = adata.X.std(axis=0, dtype=np.float64)
    from expressor.core.rng import stream

    panel = stream(0, "panel", 8, 1).choice(np.flatnonzero(spread > 0), 8, replace=False)
    holed = adata.copy()
    hidden = np.ones(40, dtype=bool)
    hidden[panel] = False
    holed.X[:, hidden] = np.nan
    error = ((gaussian.impute(holed) - adata.X) / spread)[:, hidden]
    assert table.query("size == 8 and draw == 1")["rmse"].item() == pytest.approx(
        np.sqrt(np.median((error**2).mean(axis=0))), rel=1e-4
    )


def test_nothing_measured_is_no_check(gaussian):
    adata = simulate_bulk(n_patients=4)[:, :1].copy()
    assert hide_and_restore(gaussian, adata, coverage=0.9) is None
    assert not len(panel_sizes(gaussian, adata))


def test_patients_table(cox, at_risk):
    new = simulate_bulk(n_patients=90, seed=2)
    run = read_cohort_run(at_risk)
    np.testing.assert_allclose(run.patients["risk"], cox.risk(new), rtol=1e-5)
    np.testing.assert_array_equal(run.patients["time"], new.obs["time"])
    horizon = run.about["horizon_days"]
    assert horizon / 365.25 * 2 == round(horizon / 365.25 * 2)
    table, _ = patients_at_risk(cox, new[:, ::-1].copy())
    np.testing.assert_allclose(table["survival"], run.patients["survival"], rtol=1e-4)
    outcomes = read_outcomes(new)
    c = concordance(outcomes.time, outcomes.event, cox.risk(new))
    assert f"In {100 * c:.0f} % of the pairs" in " ".join(opening(run))


def test_pages(restored, at_risk):
    page = (restored / "report.html").read_text()
    assert "How well it restores" in page
    assert "10 genes of the model were in no column of the data" in page
    assert "Who is at risk" not in page
    page = (at_risk / "report.html").read_text()
    assert "Who is at risk" in page
    assert "log-rank p" in page
    assert "How well it restores" not in page
    for folder in (restored, at_risk):
        text = (folder / "report.html").read_text()
        assert "<script" not in text
        assert not re.search(r'(src|href)="(?!https://doi|https://arxiv|data:|#)', text)
        assert {one.suffix for one in (folder / "figures").iterdir()} == {".png", ".svg"}
    assert (
        write_cohort_report(restored, restored / "again.html", files=False).read_text()
        == (restored / "report.html").read_text()
    )


def test_data_of_the_fit_are_said(gaussian, tmp_path):
    own = write_cohort_run(gaussian, simulate_bulk(n_patients=120), tmp_path / "own")
    assert "The model was fitted on these very samples" in (own / "report.html").read_text()


def test_patients_without_outcomes(cox, tmp_path):
    adata = example("bulk", seed=3)
    del adata.obs["time"]
    page = (write_cohort_run(cox, adata, tmp_path / "run") / "report.html").read_text()
    assert "No outcome of these patients is known, so the predicted risks are not judged." in page
    adata = example("bulk", seed=3)
    adata.obs.loc[adata.obs_names[:55], "event"] = False
    few = (write_cohort_run(cox, adata, tmp_path / "few") / "report.html").read_text()
    assert "With fewer than 20 events nothing is certain." in few


def test_names_of_genes_are_matched_and_escaped(gaussian, tmp_path):
    adata = simulate_bulk(n_patients=8, seed=4)
    adata.var_names = ["<b>x</b>", *adata.var_names[1:]]
    text = (write_cohort_run(gaussian, adata, tmp_path / "run") / "report.html").read_text()
    assert "39 of 40 genes found; 1 missing (GENE01)" in text
    assert "<b>x" not in text
    adata.var_names = [f"probe{i}" for i in range(40)]
    with pytest.raises(GeneError, match="none of the model's genes is in the data"):
        write_cohort_run(gaussian, adata, tmp_path / "none")


def test_folders_are_guarded(gaussian, restored, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DataError):
        write_cohort_run(gaussian, example("bulk"), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    with pytest.raises(DataError, match="holds no cohort.json"):
        read_cohort_run(tmp_path)
    (tmp_path / "cohort.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(FormatError, match="is of another format"):
        read_cohort_run(tmp_path)
    with pytest.raises(DataError, match="neither restores expression nor predicts survival"):
        write_cohort_run(object(), example("bulk"), tmp_path / "new")


def test_risk_groups():
    risk = np.random.default_rng(0).normal(size=99)
    group = risk_groups(risk)
    assert np.bincount(group).tolist() == [33, 33, 33]
    assert risk[group == 0].max() < risk[group == 1].min()
    assert len(set(risk_groups(np.ones(9)))) == 1


def test_kaplan_meier_figure_shows_what_was_estimated():
    adata = simulate_bulk(n_patients=90)
    time, event, risk = adata.obs["time"].to_numpy(), adata.obs["event"].to_numpy(), adata.obsm["factors"][:, 0]
    ax = figures.kaplan_meier_by_risk(time, event, risk)
    lines = {one.get_label(): one for one in ax.get_lines() if not one.get_label().startswith("_")}
    assert list(lines) == ["low risk", "middle risk", "high risk"]
    high = risk_groups(risk) == 2
    curve = kaplan_meier(time[high], event[high])
    np.testing.assert_allclose(lines["high risk"].get_ydata(), [1.0, *curve.survival])
    np.testing.assert_allclose(lines["high risk"].get_xdata()[1:] * 365.25, curve.time)
    shown = [one.get_text() for one in ax.texts]
    ticks = ax.get_xticks()
    wanted = [str(one) for one in number_at_risk(time[high], ticks * 365.25)]
    assert shown[shown.index("high") + 1 : shown.index("high") + 1 + len(ticks)] == wanted
    assert any("log-rank p < 0.001" in one for one in shown)


def test_figures_without_anything_say_so():
    time, event = np.array([100.0, 200.0]), np.array([False, False])
    assert "one predicted risk" in figures.kaplan_meier_by_risk(time, event, np.zeros(2)).texts[0].get_text()
    calibration = figures.survival_calibration(time, event, np.array([0.4, 0.6]), horizon=1e5, groups=2)
    assert "Nobody is followed that far" in calibration.texts[0].get_text()
    assert "Too few genes" in figures.panel_size_curve(pd.DataFrame()).texts[0].get_text()
    assert "No gene" in figures.gene_correlations(np.array([np.nan])).texts[0].get_text()
