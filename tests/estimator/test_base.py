"""The protocol of every system, on the outside one: what the suite of promises does not already say."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.exceptions
from anndata import AnnData
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

import expressor as ex
from expressor.core.errors import DataError, FormatError
from expressor.datasets.examples import example
from expressor.estimator import Estimator, NotFittedError, roles
from expressor.estimator.base import with_features


@pytest.fixture
def data() -> AnnData:
    return example("histology")


def test_presets_take_changes_and_unknown_ones_list_what_there_is(ridge: Any) -> None:
    model = ridge.preset("tiny", penalty=7.0)
    assert (model.penalty, model.plan.epochs) == (7.0, 8)
    with pytest.raises(DataError) as caught:
        ridge.preset("tini")
    assert str(caught.value) == (
        "unknown preset of GeneRidge 'tini'; expected one of 'paper', 'tiny', 'array'; nearest: 'tiny'"
    )


def test_positional_parameters_are_refused(ridge: Any) -> None:
    with pytest.raises(TypeError):
        ridge("X_simulated")


def test_parameters_are_checked_in_fit_and_not_before(ridge: Any, data: AnnData) -> None:
    model = ridge(penalty=-1.0)
    with pytest.raises(DataError, match="penalty is out of range; expected a number in \\[0, inf\\], got -1.0"):
        model.fit(data)
    with pytest.raises(DataError, match="plan.lr is out of range"):
        ridge(plan=ex.TrainPlan(lr=0)).fit(data)


def test_an_unfitted_model_says_so_everywhere(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    model = ridge()
    for call in (model.predict, model.evaluate, model.score, model.annotate, lambda _: model.save(tmp_path / "x")):
        with pytest.raises(NotFittedError) as caught:
            call(data)
        assert str(caught.value) == "this GeneRidge is not fitted. Call fit first, or load a saved model."
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(model)
    check_is_fitted(ridge.preset("tiny").fit(data))
    assert not list(tmp_path.iterdir())


def test_a_failed_fit_leaves_the_model_unfitted(ridge: Any, data: AnnData) -> None:
    model = ridge(features="X_none")
    with pytest.raises(DataError, match="there is no obsm\\['X_none'\\]"):
        model.fit(data)
    with pytest.raises(NotFittedError):
        model.predict(data)


def test_grid_search_tools_reach_nested_settings(ridge: Any) -> None:
    model = clone(ridge.preset("tiny")).set_params(plan__lr=0.5, penalty=3.0)
    assert (model.plan.lr, model.penalty) == (0.5, 3.0)
    assert model.get_params()["plan__lr"] == 0.5


def test_score_is_the_first_row_of_evaluate(ridge: Any, data: AnnData) -> None:
    model = ridge.preset("tiny").fit(data)
    table = model.evaluate(data)
    assert {"metric", "unit", "value", "low", "high", "n", "n_undefined"} <= set(table.columns)
    assert model.score(data) == table["value"].iloc[0]


# Annotating ---------------------------------------------------------------------------------------------------------------


def test_annotating_writes_results_and_where_they_came_from(ridge: Any, data: AnnData) -> None:
    model = ridge.preset("tiny").fit(data)
    model.annotate(data)
    pd.testing.assert_frame_equal(data.obsm["gene_ridge"], model.predict(data), check_like=False)
    record = data.uns["gene_ridge"]
    assert record["system"] == "gene_ridge"
    assert record["paper"] == "10.1080/00401706.1970.10488634"
    assert record["version"] == ex.__version__
    assert record["data_fingerprint"] == model.data_fingerprint_
    assert record["genes_hash"] == model.genes_in_.hash
    assert record["n_genes"] == 40
    assert json.loads(record["parameters"])["plan"]["epochs"] == 8


@pytest.mark.parametrize("where", ["obsm", "uns"])
def test_entries_of_others_are_not_replaced_unless_asked(ridge: Any, data: AnnData, where: str) -> None:
    model = ridge.preset("tiny").fit(data)
    mine: Any = np.ones((data.n_obs, 2)) if where == "obsm" else "mine"
    getattr(data, where)["mine"] = mine
    with pytest.raises(DataError) as caught:
        model.annotate(data, key="mine")
    assert str(caught.value) == (
        f"the data already hold {where}['mine']. Give another key=, or overwrite=True; nothing was changed."
    )
    assert np.array_equal(getattr(data, where)["mine"], mine)
    assert ("mine" in data.uns) == (where == "uns")
    model.annotate(data, key="mine", overwrite=True)
    assert isinstance(data.obsm["mine"], pd.DataFrame)


# Arrays -------------------------------------------------------------------------------------------------------------------


def test_arrays_of_features_and_targets_are_one_anndata(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    X, Y = data.obsm["X_simulated"], data.X.toarray()
    genes = list(data.var_names)
    by_array = ridge.preset("tiny", features="X_features").fit(X, Y, genes=genes)
    by_frame = ridge.preset("tiny", features="X_features").fit(X, pd.DataFrame(Y, columns=genes))
    by_data = ridge.preset("tiny").fit(data)
    expected = by_data.predict(data).to_numpy()
    assert np.array_equal(by_array.predict(X).to_numpy(), expected)
    assert np.array_equal(by_frame.predict(X).to_numpy(), expected)
    assert (by_data.n_features_in_, by_array.n_features_in_) == (40, 16)
    assert ex.load(by_array.save(tmp_path / "model")).n_features_in_ == 16


def test_targets_without_names_are_numbered() -> None:
    adata = with_features(np.ones((3, 2)), np.arange(6).reshape(3, 2))
    assert list(adata.var_names) == ["y0", "y1"]
    assert adata.obsm["X_features"].dtype == np.float32
    assert list(with_features(np.ones((3, 2)), np.arange(3)).var_names) == ["y0"]


@pytest.mark.parametrize(
    ("features", "y", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 1)), "features and targets differ in length; expected 3 rows of y, got 4"),
        (np.array([[np.nan, 1]]), np.ones((1, 1)), "NaN"),
        (np.array([[np.inf, 1]]), np.ones((1, 1)), "infinity"),
        (np.ones(3), np.ones((3, 1)), "Expected 2D array"),
        (np.ones((0, 2)), np.ones((0, 1)), "0 sample"),
        (np.ones((2, 2)), np.array([["a"], ["b"]]), "could not convert string to float"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(features: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_features(features, y)


# Saving -------------------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_plain_files(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    folder = ridge.preset("tiny").fit(data).save(tmp_path / "model")
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "genes.tsv", "state.npz", "history.csv", "environment.json", "README.md",
    }  # fmt: skip
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "whoever may read one file may read all"
    config = json.loads((folder / "config.json").read_text())
    assert (config["schema"], config["system"], config["class"]) == (1, "gene_ridge", "GeneRidge")
    assert config["roles"] == ["Predicts"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: expressor\ntags: [gene-expression, histology, gene_ridge]\n---\n")
    assert "It exists to show how a system is added" in card
    assert 'ex.load("path/to/this/folder")' in card
    history = pd.read_csv(folder / "history.csv")
    pd.testing.assert_frame_equal(history, ex.load(folder).history_, check_exact=False)


def test_saving_twice_gives_the_same_bytes(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    model = ridge.preset("tiny").fit(data)
    one, two = model.save(tmp_path / "one"), model.save(tmp_path / "two")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_a_loaded_model_is_fitted_and_saves_the_same(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    model = ridge.preset("tiny").fit(data)
    again = ex.load(model.save(tmp_path / "one"))
    assert again.data_fingerprint_ == model.data_fingerprint_
    assert again.environment_ == model.environment_
    assert again.genes_in_ == model.genes_in_
    assert again.n_features_in_ == model.n_features_in_ == 40
    two = again.save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_a_callable_parameter_is_saved_by_name_and_not_run_on_loading(
    ridge: Any, data: AnnData, tmp_path: Path
) -> None:
    model = ridge.preset("tiny").fit(data)
    model.features = len
    again = ex.load(model.save(tmp_path / "model"))
    assert again.features == "<callable len>"


# Resuming -----------------------------------------------------------------------------------------------------------------


def short(ridge: Any, **changes: Any) -> Any:
    model = ridge.preset("tiny", **changes)
    model.plan.set_params(max_steps=3)
    return model


def test_a_resume_folder_knows_whose_it_is(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    short(ridge).fit(data, resume=tmp_path)
    note = json.loads((tmp_path / "run.json").read_text())
    assert note["system"] == "gene_ridge"
    assert "max_steps" not in note["parameters"]["plan"]
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "train.safetensors"}


@pytest.mark.parametrize("what", ["parameters", "data", "val"])
def test_checkpoints_of_another_fit_are_refused(ridge: Any, data: AnnData, tmp_path: Path, what: str) -> None:
    short(ridge).fit(data, resume=tmp_path)
    before = (tmp_path / "train.safetensors").read_bytes()
    model = short(ridge, penalty=9.0) if what == "parameters" else short(ridge)
    other = example("histology", seed=1)
    with pytest.raises(DataError) as caught:
        model.fit(other if what == "data" else data, val=other if what == "val" else None, resume=tmp_path)
    assert f"{tmp_path} holds checkpoints of another fit (its {what} differ)" in str(caught.value)
    assert "Give an empty resume folder" in str(caught.value)
    assert (tmp_path / "train.safetensors").read_bytes() == before


def test_a_longer_plan_goes_on_in_the_same_folder(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    short(ridge).fit(data, resume=tmp_path)
    longer = ridge.preset("tiny")
    longer.plan.set_params(epochs=9)
    whole = clone(longer).fit(data)
    assert np.array_equal(longer.fit(data, resume=tmp_path).predict(data), whole.predict(data))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff"])
def test_a_damaged_note_in_the_resume_folder_is_told(ridge: Any, data: AnnData, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises((DataError, FormatError), match="run.json|another fit"):
        short(ridge).fit(data, resume=tmp_path)


def test_a_file_in_the_place_of_the_resume_folder_is_told(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(DataError, match="the resume folder .* cannot be written .*Choose another folder"):
        short(ridge).fit(data, resume=tmp_path / "x")


def test_a_damaged_checkpoint_is_told(ridge: Any, data: AnnData, tmp_path: Path) -> None:
    short(ridge).fit(data, resume=tmp_path)
    path = tmp_path / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match="is not a readable checkpoint .*Delete it to start that phase anew"):
        short(ridge).fit(data, resume=tmp_path)


# Roles --------------------------------------------------------------------------------------------------------------------


def test_roles_are_abstract_and_a_card_names_them_all() -> None:
    from expressor.core.card import ROLES

    found = {name for name, one in vars(roles).items() if inspect.isclass(one) and one.__module__ == roles.__name__}
    assert found == set(ROLES)
    for name in ROLES:
        with pytest.raises(TypeError, match="abstract"):
            getattr(roles, name)()


def test_the_estimator_cannot_be_used_without_a_system() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Estimator()  # type: ignore[abstract]


def test_an_uninstalled_system_is_told(
    ridge: Any, data: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expressor.core import registry

    folder = ridge.preset("tiny").fit(data).save(tmp_path / "model")
    known = {name: card for name, card in registry.systems().items() if name != "gene_ridge"}
    monkeypatch.setattr(registry, "systems", lambda: known)
    with pytest.raises(FormatError, match="was saved by a system that is not installed .'gene_ridge'."):
        ex.load(folder)
    shutil.rmtree(folder)
