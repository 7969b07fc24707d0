"""The estimator: where cells come from, what it is trained for, restored genes, species, starts, bad inputs."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import expressor as ex
from expressor.core.errors import DataError, FormatError, GeneError
from expressor.estimator.errors import NotFittedError
from expressor.genes.orthologs import Orthologs
from expressor.systems.bmfm.estimator import BMFM
from expressor.systems.bmfm.objectives import Objective
from expressor.systems.bmfm.tests.small import cells, tiny
from expressor.train.plan import TrainPlan


def test_the_whole_cell_is_restored_better_than_gene_means(learnt: BMFM) -> None:
    found = learnt.history_.dropna(subset=["val_r2"])
    assert found["val_r2"].max() > 0.1
    table = learnt.set_params(label=None).evaluate(cells(7))
    learnt.set_params(label="cell_type")
    assert table["metric"].tolist() == ["r2_above_mean"]
    assert table["low"][0] > 0.0


def test_several_files_are_one_corpus_and_a_gene_one_lacks_is_not_zero(tmp_path: Path) -> None:
    whole = cells()
    first, second = whole[:40].copy(), whole[40:, 7:].copy()
    first.write_h5ad(tmp_path / "a.h5ad")
    second.write_h5ad(tmp_path / "b.h5ad")
    by_list = tiny().fit([first, second])
    by_folder = tiny().fit(tmp_path)
    assert np.array_equal(by_list.transform(first), by_folder.transform(first))
    assert by_list.data_fingerprint_ == by_folder.data_fingerprint_
    assert "7 missing" in by_folder.gene_report_
    # Zeros are no gaps: where the second file holds its genes as zeros, their mean is lower.
    zeros = second.copy()
    filled = ad.concat([zeros, ad.AnnData(sparse.csr_matrix((40, 7)), obs=zeros.obs, var=whole.var[:7])], axis=1)
    other = tiny().fit([first, filled[:, whole.var_names].copy()])
    lacking = list(whole.var_names[:7])
    assert (by_list.gene_table_.loc[lacking, "mean"] > other.gene_table_.loc[lacking, "mean"]).all()


def test_fingerprint_of_a_layer_and_of_a_file_are_those_of_the_content(tmp_path: Path) -> None:
    data = cells()
    data.write_h5ad(tmp_path / "a.h5ad")
    moved = data.copy()
    moved.layers["counts"] = moved.X.copy()
    moved.X = np.log1p(moved.X.toarray())
    plain = tiny().fit(data)
    assert plain.data_fingerprint_ == tiny().fit(str(tmp_path / "a.h5ad")).data_fingerprint_
    by_layer = tiny(layer="counts").fit(moved)
    assert by_layer.data_fingerprint_ == plain.data_fingerprint_
    assert np.array_equal(by_layer.transform(moved), plain.transform(data))


def test_own_vocabulary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = (*cells().var_names[:10], "OTHER1", "OTHER2", *[f"MORE{i}" for i in range(10)])
    (tmp_path / "genes.txt").write_text("\n".join(names) + "\n")
    with caplog.at_level(logging.WARNING):
        by_file = tiny(vocabulary=str(tmp_path / "genes.txt")).fit(cells())
    assert tuple(by_file.genes_in_) == names
    assert "10 of 22 genes found; 12 missing (OTHER1, OTHER2, MORE0" in caplog.text
    assert np.array_equal(by_file.transform(cells(1)), tiny(vocabulary=names).fit(cells()).transform(cells(1)))
    table = by_file.match_genes(cells())
    assert table["data"].sum() == 10
    assert "10 of 22 genes found" in table.attrs["report"]
    with pytest.raises(GeneError, match="no gene of the vocabulary"):
        tiny(vocabulary=("A", "B")).fit(cells())


def test_mouse_through_orthologs(fitted: BMFM) -> None:
    data = cells(1)
    human = list(data.var_names)
    pairs = [(f"m{name}", name) for name in human[:40]] + [("mtwin", human[0])]
    table = Orthologs.from_pairs(*zip(*pairs), species=("mouse", "human"))
    twin = data.X[:, [0]].toarray() + 1
    mouse = ad.AnnData(
        np.hstack([data.X.toarray(), twin]),
        obs=data.obs,
        var=pd.DataFrame(index=[*[f"m{name}" for name in human], "mtwin"]),
    )
    found = fitted.translate(mouse, table, species="mouse")
    assert list(found.cells.var_names) == human[1:40]
    assert np.array_equal(fitted.transform(found.cells), fitted.transform(data[:, human[1:40]].copy()))
    assert "39 of the model's 50 genes are measured" in found.report
    assert found.bridge.fates().value_counts().to_dict() == {"matched": 39, "lost": 10, "merged": 2}
    merged = fitted.translate(mouse, table, species="mouse", merge=True)
    assert np.array_equal(merged.cells[:, human[0]].X.toarray(), data.X[:, [0]].toarray() + twin)
    with pytest.raises(DataError, match="does not join rat"):
        fitted.translate(mouse, table, species="rat")


# What it is trained for ------------------------------------------------------------------------------------------------------


OBJECTIVES = ("wced", "wced-v1", "wced-expected", "mlm", "mlm-zeros", "nb", "zinb", "wced+mlm-zeros")


@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_every_objective_trains_and_restores_genes_that_were_not_measured(objectives: str) -> None:
    zeros: Any = "random" if "zeros" in objectives else "none"
    model = tiny(objectives=objectives, zeros=zeros, max_length=48).fit(cells())
    data = cells(1)
    part = data[:, 10:].copy()
    full = model.impute(part)
    assert np.array_equal(full[:, 10:], part.X.toarray())
    absent = full[:, :10]
    assert np.isfinite(absent).all()
    assert (absent >= 0).all()
    assert absent.std() > 0
    # Mean counts of genes that were never shown come out about right.
    true = data.X.toarray()[:, :10].mean(axis=0)
    if objectives != "mlm-zeros":  # a head that says what is zero needs more than a few steps
        assert np.corrcoef(np.log1p(absent.mean(axis=0)), np.log1p(true))[0, 1] > 0.7


def test_nothing_is_pretrained_where_no_objective_is_given() -> None:
    model = tiny(objectives="").fit(cells())
    assert model.history_["stage"].tolist() == ["probe"]
    assert "Its weights stayed random" in model.describe()
    assert not np.array_equal(model.transform(cells(1)), tiny().fit(cells()).transform(cells(1)))
    with pytest.raises(NotFittedError, match="without an objective that restores"):
        model.impute(cells(1))


@pytest.mark.parametrize("encoder", ["waves", "doubling_waves", "bins"])
def test_value_encoders(encoder: Any) -> None:
    model = tiny(value_encoder=encoder, style="bert", n_bins=8, decoder="query", read_depth="rda").fit(cells())
    found = model.transform(cells(1))
    assert np.isfinite(found).all()
    assert model._fitted.tokeniser.target_depth == cells().X.sum(axis=1)[model_rows(model)].max()


@pytest.mark.parametrize(
    "options",
    [
        {"order": "sorted", "pooling": "cell+mean"},
        {"zeros": "batch", "interleave": 0.9, "expressed_only": 0.2, "cell_tokens": 2, "pooling": "1"},
        {"balance": "batch", "checkpointing": True, "decoder": "vectors", "dropout": 0.1},
    ],
)
def test_ways_to_show_cells(options: dict[str, Any]) -> None:
    found = tiny(**options).fit(cells()).transform(cells(1))
    assert found.shape == (80, 32 if "+" in options.get("pooling", "") else 16)
    assert (found.std(axis=0) > 0).all()


def model_rows(model: BMFM) -> np.ndarray:
    from expressor.systems.bmfm.corpus import Split

    return Split.of(80, model.validation, seed=model.random_state).train


def test_adaptive_masking_weighs_genes_by_their_error() -> None:
    from expressor.systems.bmfm.training import Masking

    model = tiny(objectives="mlm", masking=Masking(adaptive=True)).fit(cells())
    weight = model._fitted.learner.gene_weight
    assert 0 < float(weight.min()) < float(weight.max()) < 1


@pytest.mark.slow
@pytest.mark.parametrize("objectives", ["wced+mlm-zeros", "zinb"])
def test_two_processes_learn_what_one_does_with_twice_the_batch(objectives: str, tmp_path: Path) -> None:
    """Cells differ in how many places are compared, and places are masked at random."""
    program = tmp_path / "fit.py"
    program.write_text(
        "import os, sys\nimport expressor as ex\n"
        f"model = ex.BMFM.preset('tiny', objectives={objectives!r}, finetune='full')\n"
        "model.plan.set_params(device='cpu', batch_size=8)\n"
        "model.tuning.set_params(device='cpu', batch_size=8, epochs=1)\n"
        "model.fit(ex.datasets.example('cells')).history_.to_csv(sys.argv[1] + os.environ['RANK'])\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        str(program),
        str(tmp_path / "history"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (pd.read_csv(tmp_path / f"history{rank}") for rank in (0, 1))
    assert first["val_loss"].equals(second["val_loss"])
    model = tiny(objectives=objectives, finetune="full")
    model.plan.set_params(batch_size=16)
    model.tuning.set_params(batch_size=16, epochs=1)
    alone = model.fit(cells()).history_
    numbers = [name for name in alone.select_dtypes("number") if name != "seconds"]
    assert np.allclose(first[numbers], alone[numbers], rtol=1e-4, atol=1e-5, equal_nan=True)


# Labels ------------------------------------------------------------------------------------------------------------------


def test_val_judges_instead_of_a_part() -> None:
    model = tiny(finetune="full", tuning=TrainPlan(lr=1e-3, batch_size=16, epochs=1)).fit(cells(), val=cells(1))
    assert model._fitted.counts == {"cells": 80, "train": 80, "held_out": 80, "labelled": 80}


# Starts ------------------------------------------------------------------------------------------------------------------


def test_going_on_from_a_saved_model(fitted: BMFM, learnt: BMFM, tmp_path: Path) -> None:
    path = str(fitted.save(tmp_path / "first"))
    same = tiny(start_from=path, objectives="").fit(cells(3))
    assert np.array_equal(same.transform(cells(1)), fitted.transform(cells(1)))
    assert np.isfinite(same.impute(cells(1)[:, 10:].copy())).all()
    more = tiny(start_from=str(learnt.save(tmp_path / "learnt")), dim=32).fit(cells(3))
    assert more.transform(cells(1)).shape == (80, 16)
    assert more.history_["val_r2"].iloc[0] > 0.1 > tiny().fit(cells(3)).history_["val_r2"].iloc[0]
    names = (*fitted.genes_in_[:30], "NEW")
    wide = cells(3)
    wide.var_names = [*wide.var_names[:30], "NEW", *[f"X{i}" for i in range(19)]]
    other = tiny(start_from=path, objectives="", vocabulary=names).fit(wide)
    table = other._fitted.network.gene.weight
    assert torch.equal(table[:30], fitted._fitted.network.gene.weight[:30])
    assert torch.allclose(table[30], fitted._fitted.network.gene.weight.mean(0))
    again = ex.load(other.save(tmp_path / "other"))
    assert np.array_equal(again.transform(wide), other.transform(wide))


def test_a_start_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="model to start from"):
        tiny(start_from=str(tmp_path / "nothing")).fit(cells())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatError, match="is no saved model"):
        tiny(start_from=str(tmp_path)).fit(cells())
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    with pytest.raises(FormatError, match="got a checkpoint of the type 'bert', without the fields"):
        tiny(start_from=str(tmp_path)).fit(cells())


# Bad inputs --------------------------------------------------------------------------------------------------------------


def test_bad_data_are_refused_early(fitted: BMFM) -> None:
    data = cells()
    logged = data.copy()
    logged.X = np.log1p(data.X.toarray())
    logged.layers["counts"] = data.X.copy()
    for call in (tiny().fit, fitted.transform):
        with pytest.raises(DataError, match="layer='counts'"):
            call(logged)
    empty = data.copy()
    empty.X = empty.X.toarray()
    empty.X[3] = 0
    for call in (tiny().fit, fitted.transform):
        with pytest.raises(
            DataError, match=rf"1 of the [0-9]+ cells .* no counts .* such as '{data.obs_names[3]}' .row 3.*min_counts"
        ):
            call(empty)
    strange = empty.copy()
    strange.var_names = [name if i < 9 else f"Gene{i + 1:02d}" for i, name in enumerate(data.var_names)]
    with pytest.raises(
        DataError, match=r"Of the model's 50 genes 9 are in the data.*another species go through translate"
    ):
        fitted.predict(strange)
    other = data.copy()
    other.var_names = [f"Gene{i + 1:02d}" for i in range(50)]
    with pytest.raises(GeneError, match="no gene of the vocabulary"):
        fitted.predict(other)
    with pytest.raises(DataError, match="there is no column 'celltype'"):
        tiny(label="celltype").fit(data)
    with pytest.raises(DataError, match="too few cells"):
        tiny().fit(data[:3].copy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": "wcde"}, "unknown objective 'wcde'"),
        ({"objectives": (Objective(source="label", loss="hierarchical", column="a"),)}, "needs its ontology"),
        ({"objectives": (Objective(source="profile", loss="mse", cell_token=2),)}, "cell token that is not there"),
        ({"objectives": (Objective(source="values", loss="token_value"),)}, "needs binned values"),
        ({"finetune": "none"}, "no objective tells the label"),
        ({"dim": 15}, "dim is not a multiple of heads"),
        ({"validation": 0.0}, "validation is out of range"),
        ({"max_length": 0}, "max_length is out of range"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tiny(**changes).fit(cells())
