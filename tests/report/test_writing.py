import numpy as np
import pytest

import expressor as ex
from expressor.core.errors import DataError
from expressor.data.fields import expression
from expressor.datasets import simulate_tissue
from expressor.report import read_run, write_run
from expressor.report.html import render


@pytest.fixture(scope="module")
def fitted():
    tissue = simulate_tissue(sections=3, spots=36)
    last = tissue.obs["section"] == tissue.obs["section"].cat.categories[-1]
    return ex.AGL.preset("tiny").fit(tissue[~last].copy()), tissue[last].copy()


def test_what_a_model_predicts_is_what_the_run_holds(fitted, tmp_path):
    model, tissue = fitted
    folder = write_run(
        model, tissue, tmp_path / "run", evaluation=model.evaluate(tissue).assign(method="AGL"), report=False
    )
    run = read_run(folder)
    predicted = model.predict(tissue)
    lower, upper = model.predict_interval(tissue, 0.9)
    genes = list(predicted.columns)
    assert np.array_equal(run.values("predicted", genes=genes), predicted.to_numpy(dtype=float))
    assert np.array_equal(run.values("lower", genes=genes), lower.to_numpy(dtype=float))
    assert np.array_equal(run.values("upper", genes=genes), upper.to_numpy(dtype=float))
    truth = expression(tissue, genes, scale=model.target_scale)
    assert np.array_equal(run.values("measured", genes=genes), truth.astype(float))
    assert run.coverage == 0.9
    assert run.unit == "log1p of counts per 10,000"
    assert np.allclose(run.gene_table.loc[genes, "pcc"], model.gene_table_.loc[genes, "pcc"], equal_nan=True)
    assert run.config["class"] == "AGL"
    text = render(run)
    assert "reaches a mean correlation" in text
    assert "Auxiliaries kept" in text


def test_tissue_without_counts_is_predicted_and_not_judged(fitted, tmp_path):
    model, tissue = fitted
    blind = tissue[:, :0].copy()
    run = read_run(write_run(model, blind, tmp_path / "run", report=False))
    assert run.values("measured") is None
    assert "Nothing was measured" in render(run)


def test_an_older_run_is_replaced_and_anything_else_is_refused(fitted, tmp_path):
    model, tissue = fitted
    folder = write_run(model, tissue, tmp_path / "run", report=False)
    (folder / "left.txt").write_text("from before")
    write_run(model, tissue, folder, report=False)
    assert not (folder / "left.txt").exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="not a saved result"):
        write_run(model, tissue, other, report=False)
    assert (other / "thesis.txt").read_text() == "precious"
