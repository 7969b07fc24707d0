"""The demo on cells: files that can be used again, scores, and a folder of something else that is left alone."""

from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

import expressor as ex
from expressor.cli import cells_demo, main


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_CELLS": 160, "_GENES": 60, "_LACKING": 10, "_EPOCHS": 2}.items():
        monkeypatch.setattr(cells_demo, name, value)


def test_the_demo_on_cells(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--system", "bmfm", "-o", str(tmp_path / "demo")]) == 0
    told = capsys.readouterr().out
    scores = pd.read_csv(tmp_path / "demo" / "scores.csv")
    assert scores["method"].tolist() == ["whole-cell decoding", "untrained network", "50 principal components"]
    assert f"{scores['accuracy'][2]:.3f}" in told
    cells = ad.read_h5ad(tmp_path / "demo" / "cells.h5ad")
    assert cells.shape == (80, 50)
    again = ex.load(tmp_path / "demo" / "model").predict(cells)["cell_type"]
    assert (again.to_numpy() == cells.obs["bmfm_cell_type"].astype(str).to_numpy()).all()


def test_a_folder_of_something_else_is_left_alone(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["demo", "--system", "bmfm", "-o", str(tmp_path)]) != 0
    assert "is no such run" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"
