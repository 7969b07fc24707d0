"""Figures of clusters show the cells that are there; the report of clusters says what they are worth."""

import re

import numpy as np
import pandas as pd
import pytest

import expressor as ex
from expressor.core.errors import DataError
from expressor.datasets import simulate_cells
from expressor.report import figures, write_cluster_report
from expressor.report.colours import CATEGORIES


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(n_cells=150, n_types=3, marker_fold=30.0, depth=3000.0)


@pytest.fixture(scope="module")
def model(cells):
    return ex.DIPHW(max_clusters=5).fit(cells)


def test_each_cell_stands_at_its_place_in_the_colour_of_its_group():
    places = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [5.0, 5.0]])
    ax = figures.cell_map(places, ["b", "b", "a", ""])
    drawn = {line.get_color(): np.column_stack(line.get_data()) for line in ax.lines if len(line.get_xdata())}
    np.testing.assert_array_equal(drawn[CATEGORIES[0]], places[:2])  # the larger group comes first
    np.testing.assert_array_equal(drawn[CATEGORIES[1]], places[2:3])
    assert {text.get_text(): text.get_position() for text in ax.texts}["a"] == (10.0, 0.0)
    assert {text.get_text() for text in ax.texts} == {"a", "b"}


def test_a_name_stands_on_a_cell_of_its_group_and_not_between_its_parts():
    places = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
    ax = figures.cell_map(places, ["a"] * 4)
    assert ax.texts[0].get_position() in {tuple(one) for one in places}


def test_agreement_is_of_the_cells_of_a_type():
    ax = figures.cluster_agreement(["x", "x", "x", "x", "y"], ["1", "1", "1", "0", "0"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["y", "x"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[1, 0], [0.25, 0.75]])
    assert {text.get_text() for text in ax.texts} == {"100", "25", "75"}


def test_figures_of_different_cells_are_refused():
    with pytest.raises(DataError, match="not of the same cells"):
        figures.cell_map(np.zeros((3, 2)), ["a"] * 2)
    with pytest.raises(DataError, match="not of the same cells"):
        figures.cluster_agreement(["a"] * 3, ["0"] * 2)


def test_numbers_of_clusters_that_were_not_judged_are_not_drawn():
    history = pd.DataFrame({"n_clusters": [2, 3, 4], "silhouette": [0.2, np.nan, 0.1]})
    line = figures.cluster_counts(history, 2).lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [2, 4])
    empty = figures.cluster_counts(history.assign(silhouette=np.nan), 2)
    assert "No numbers" in empty.texts[0].get_text()


def test_the_report_holds_clusters_types_genes_and_agreement(cells, model, tmp_path):
    text = write_cluster_report(model, cells, tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert f"150 cells in {model.labels_.max() + 1} clusters by DIPHW" in text
    best = model.modules_[model.modules_["cluster"] == 0].sort_values("lift", ascending=False)["gene"].iloc[0]
    assert f"{best} (" in text
    assert ">ARI<" in text
    assert "Same cells as the fit" in text
    assert {one.name for one in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("cells_by_cluster", "cells_by_type", "cluster_agreement", "cluster_counts")
        for kind in ("png", "svg")
    }  # fmt: skip
    sizes = [int(one.replace(",", "")) for one in re.findall(r'<tr><th scope="row">\d+</th><td>([\d,]+)</td>', text)]
    assert sizes == np.bincount(model.labels_).tolist()


def test_new_cells_without_types_are_drawn_without_them(cells, model, tmp_path):
    new = cells[:40].copy()
    del new.obs["cell_type"]
    text = write_cluster_report(model, new, tmp_path / "new.html", files=False).read_text()
    assert "not the cells of the fit" in text
    assert "Most frequent type" not in text
    assert ">ARI<" not in text
    assert not (tmp_path / "figures").exists()


def test_what_cannot_be_drawn_is_refused(cells, model, tmp_path):
    with pytest.raises(DataError, match="makes no clusters"):
        write_cluster_report(object(), cells, tmp_path / "x.html")
    with pytest.raises(DataError, match=r"no obs\['kind'\]"):
        write_cluster_report(model, cells, tmp_path / "x.html", label="kind")
    assert not (tmp_path / "x.html").exists()
