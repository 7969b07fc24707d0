"""Each check of the conformance suite can fail: systems that break one promise are caught by the check of that promise."""

import contextlib
import dataclasses
import io
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from expressor.cli import main
from expressor.core import registry
from expressor.core.errors import DataError, GeneError
from expressor.estimator.conformance import CHECKS
from expressor.train import loop

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch, Any], None]
MUTANTS: dict[str, tuple[str, str, Mutant]] = {}


def breaks(check: str, message: str) -> Callable[[Mutant], Mutant]:
    """Record a mutant beside the check that must catch it and a part of what that check says."""

    def record(mutant: Mutant) -> Mutant:
        MUTANTS[mutant.__name__] = (f"check_{check}", message, mutant)
        return mutant

    return record


def around(patch: Patch, kind: Any, method: str, change: Callable[..., Any]) -> None:
    """Replace ``method`` by ``change(original, self, ...)``."""
    original = getattr(kind, method)
    patch.setattr(kind, method, lambda self, *a, **k: change(original, self, *a, **k))


def predictions(patch: Patch, kind: Any, change: Callable[[pd.DataFrame, Any], pd.DataFrame]) -> None:
    """Replace what ``predict`` returns by ``change(table, data)``."""
    around(patch, kind, "predict", lambda original, self, data: change(original(self, data), data))


def in_memory(data: Any) -> ad.AnnData:
    return data if isinstance(data, ad.AnnData) else ad.read_h5ad(data)


@breaks("construction_is_pure", "construction computes nothing")
def computes_at_construction(patch: Patch, kind: Any) -> None:
    around(patch, kind, "__init__", lambda original, self, **k: (original(self, **k), setattr(self, "seed_", 1))[0])


@breaks("construction_is_pure", "get_params gives every field")
def hides_a_parameter(patch: Patch, kind: Any) -> None:
    around(patch, kind, "get_params", lambda original, self, deep=True: {
        name: value for name, value in original(self, deep=deep).items() if name != "penalty"
    })  # fmt: skip


@breaks("parameters_round_trip", "clone keeps the parameters of preset 'tiny'")
def forgets_a_parameter_in_clones(patch: Patch, kind: Any) -> None:
    around(patch, kind, "get_params", lambda original, self, deep=True: original(self, deep=deep) | {"penalty": 1.0})


@breaks("fit_returns_self", "fit returns self")
def returns_nothing(patch: Patch, kind: Any) -> None:
    around(patch, kind, "fit", lambda original, self, *a, **k: (original(self, *a, **k), None)[1])


@breaks("fit_returns_self", "fit leaves the parameters alone")
def tunes_its_own_parameter(patch: Patch, kind: Any) -> None:
    around(
        patch, kind, "_fit", lambda original, self, *a, **k: (original(self, *a, **k), setattr(self, "penalty", 3.0))
    )


@breaks("fit_returns_self", "history_ is a table with rows")
def keeps_no_history(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self.history_ = self.history_[:0]

    around(patch, kind, "_fit", fit)


@breaks("same_seed_same_bits", "same seed, same bits")
def draws_without_its_seed(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self._beta = self._beta + 1e-6 * float(np.random.default_rng().random())

    around(patch, kind, "_fit", fit)


@breaks("same_seed_same_bits", "same seed, same bits")
def draws_from_random(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        self._beta = self._beta + 1e-3 * random.random()

    around(patch, kind, "_fit", fit)


@breaks("same_seed_same_bits", "same seed, same bits")
def reads_a_global_generator_and_puts_it_back(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, *a: Any, **k: Any) -> None:
        original(self, *a, **k)
        with torch.random.fork_rng():
            self._beta = self._beta + 1e-3 * torch.rand(1)

    around(patch, kind, "_fit", fit)


def _drawing(draw: Callable[[], object]) -> Mutant:
    def mutant(patch: Patch, kind: Any) -> None:
        around(patch, kind, "_fit", lambda original, self, *a, **k: (draw(), original(self, *a, **k))[0])

    return mutant


for library, draw in {
    "NumPy": lambda: np.random.random(),  # noqa: NPY002
    "torch": lambda: torch.rand(1),
}.items():
    MUTANTS[f"draws_from_{library}"] = (
        "check_global_generators_untouched", f"the global generator of {library} is untouched", _drawing(draw)
    )  # fmt: skip


@breaks("gene_order", "shuffled genes, same output")
def weights_genes_by_their_position(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, adata: Any, **k: Any) -> None:
        original(self, adata, **k)
        self._intercept = (
            self._intercept + torch.arange(len(self.genes_in_))[adata.var_names.get_indexer(self.genes_in_.names)]
        )

    around(patch, kind, "_fit", fit)


@breaks("gene_order", "same genes whatever their order")
def drops_the_first_gene(patch: Patch, kind: Any) -> None:
    around(patch, kind, "_fit", lambda original, self, adata, **k: original(self, adata[:, 1:].copy(), **k))


@breaks("observation_order", "shuffled observations, permuted output (predict)")
def sees_the_row_above(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table + 0.1 * table.shift(1, fill_value=0))


@breaks("extra_genes", "extra genes are ignored")
def counts_the_genes(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table * np.float32(in_memory(data).n_vars))


@breaks("missing_genes", "missing genes do not matter")
def needs_all_genes(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table * np.float32(min(in_memory(data).n_vars, 40)))


def _policy(patch: Patch, kind: Any, policy: str) -> None:
    card = dataclasses.replace(registry.card("gene_ridge"), missing_genes=policy)
    patch.setattr(kind, "card", classmethod(lambda cls: card))


@breaks("missing_genes", "missing genes are refused: nothing was raised")
def promises_to_refuse_and_does_not(patch: Patch, kind: Any) -> None:
    _policy(patch, kind, "refuse")


@breaks("missing_genes", "missing genes are imputed (predict)")
def promises_to_impute_and_does_not(patch: Patch, kind: Any) -> None:
    _policy(patch, kind, "impute")
    predictions(patch, kind, lambda table, data: table if data.n_vars == 40 else table * np.nan)


def imputes(patch: Patch, kind: Any, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Make an imputing system of it that fills gaps with 1 and then does ``change`` to (spot, gene)."""
    card = dataclasses.replace(registry.card("gene_ridge"), roles=("Predicts", "Imputes"))
    patch.setattr(kind, "card", classmethod(lambda cls: card))
    patch.setattr("expressor.estimator.conformance.Imputes", kind)

    def fit(original: Any, self: Any, data: ad.AnnData, **k: Any) -> Any:
        data = data.copy()
        data.X = np.nan_to_num(np.asarray(data.to_df()))
        return original(self, data, **k)

    around(patch, kind, "fit", fit)

    def impute(self: Any, data: ad.AnnData) -> np.ndarray:
        return change(data.to_df()[list(self.genes_in_)]).to_numpy()

    patch.setattr(kind, "impute", impute, raising=False)


@breaks("gaps_are_filled", "gaps are filled")
def leaves_gaps(patch: Patch, kind: Any) -> None:
    imputes(patch, kind, lambda table: table)


@breaks("gaps_are_filled", "measured values stay as they are")
def smooths_what_was_measured(patch: Patch, kind: Any) -> None:
    imputes(patch, kind, lambda table: table.fillna(1.0) + np.float32(1e-3))


@breaks("storage_layouts", "csc = csr")
def takes_stored_order_for_rows(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, adata: Any, **k: Any) -> None:
        original(self, adata, **k)
        stored = adata.X.data if hasattr(adata.X, "data") and hasattr(adata.X, "indices") else adata.X.ravel()
        self._beta = self._beta + 1e-3 * float(stored[:5].sum())

    around(patch, kind, "_fit", fit)


@breaks("storage_layouts", "view = csr")
def looks_behind_a_view(patch: Patch, kind: Any) -> None:
    around(patch, kind, "fit", lambda original, self, data, *a, **k: original(
        self, data._adata_ref if data.is_view else data, *a, **k
    ))  # fmt: skip


@breaks("disk_equals_memory", "h5ad = memory")
def treats_paths_otherwise(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, data: Any, *a: Any, **k: Any) -> Any:
        original(self, data, *a, **k)
        if isinstance(data, str) and data.endswith("h5ad"):
            self._beta = self._beta * 1.001
        return self

    around(patch, kind, "fit", fit)


@breaks("disk_equals_memory", "backed = memory")
def treats_backed_data_otherwise(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table * 1.5 if getattr(data, "isbacked", False) else table)


@breaks("disk_equals_memory", "zarr = memory")
def treats_zarr_otherwise(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table * 1.5 if str(data).endswith("zarr") else table)


@breaks("data_unchanged", "the user's object is unchanged")
def writes_notes_into_the_data(patch: Patch, kind: Any) -> None:
    around(
        patch,
        kind,
        "fit",
        lambda original, self, data, *a, **k: (data.uns.update(seen=1), original(self, data, *a, **k))[1],
    )


@breaks("data_unchanged", "the user's object is unchanged")
def scales_the_matrix_in_place(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, adata: Any, **k: Any) -> None:
        original(self, adata, **k)
        adata.X.data[:] += 1

    around(patch, kind, "_fit", fit)


@breaks("data_unchanged", "the user's object is unchanged")
def centres_the_features_in_place(patch: Patch, kind: Any) -> None:
    def predict(table: pd.DataFrame, data: Any) -> pd.DataFrame:
        data.obsm["X_simulated"] -= 1
        return table

    predictions(patch, kind, predict)


@breaks("data_unchanged", "annotate refuses to replace the user's entry: nothing was raised")
def replaces_the_users_entry(patch: Patch, kind: Any) -> None:
    around(patch, kind, "annotate", lambda original, self, adata, **k: original(self, adata, **k | {"overwrite": True}))


@breaks("data_unchanged", "a refused annotation changes nothing")
def annotates_before_it_refuses(patch: Patch, kind: Any) -> None:
    def annotate(original: Any, self: Any, adata: Any, **k: Any) -> None:
        adata.obsm["gene_ridge"] = self.predict(adata).to_numpy()
        original(self, adata, **k)

    around(patch, kind, "annotate", annotate)


@breaks("annotation", "provenance names the data")
def writes_another_provenance(patch: Patch, kind: Any) -> None:
    around(patch, kind, "_provenance", lambda original, self: original(self) | {"data_fingerprint": "?"})


@breaks("annotation", "provenance names the parameters")
def writes_default_parameters(patch: Patch, kind: Any) -> None:
    around(patch, kind, "_provenance", lambda original, self: original(self) | {"parameters": "{}"})


@breaks("outputs_are_finite", "float32 (predict)")
def predicts_doubles(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table.astype(np.float64))


@breaks("outputs_are_finite", "finite (predict)")
def predicts_an_infinity(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table.where(table < table.to_numpy().max(), np.float32(np.inf)))


@breaks("outputs_are_finite", "one row an observation (predict)")
def drops_a_row(patch: Patch, kind: Any) -> None:
    predictions(patch, kind, lambda table, data: table[1:])


@breaks("save_and_load", "save and load keep every bit")
def saves_in_half_precision(patch: Patch, kind: Any) -> None:
    def state(original: Any, self: Any) -> Any:
        found = original(self)
        return dataclasses.replace(found, tensors={"beta": found.tensors["beta"].half().float()})

    around(patch, kind, "_state", state)


@breaks("save_and_load", "save and load keep the parameters")
def loads_default_parameters(patch: Patch, kind: Any) -> None:
    around(
        patch, kind, "_restore", lambda original, self, state: (original(self, state), setattr(self, "penalty", 1.0))
    )


@breaks("save_and_load", "save and load keep the description")
def describes_what_is_not_saved(patch: Patch, kind: Any) -> None:
    around(
        patch, kind, "_fit", lambda original, self, *a, **k: (original(self, *a, **k), setattr(self, "n_spots_", 84))
    )
    around(patch, kind, "_methods", lambda original, self: f"{original(self)} {getattr(self, 'n_spots_', '?')} spots.")


@breaks("save_and_load", "nothing of the user's is lost")
def saves_over_anything(patch: Patch, kind: Any) -> None:
    def save(original: Any, self: Any, folder: Any) -> Path:
        for one in Path(folder).glob("*.txt"):
            one.write_text("gone")
        return original(self, folder)

    around(patch, kind, "save", save)


@breaks("save_and_load", "saving leaves nothing else behind")
def leaves_a_backup_behind(patch: Patch, kind: Any) -> None:
    around(
        patch,
        kind,
        "save",
        lambda original, self, folder: ((Path(folder).parent / "backup").touch(), original(self, folder))[1],
    )


@breaks("resume", "10 steps = 5 + resumed 5")
def resumes_with_a_fresh_optimiser(patch: Patch, kind: Any) -> None:
    def save(self: Any, path: Path) -> None:
        for one in self.optimizer.state.values():
            one["momentum_buffer"].zero_()
        original(self, path)

    original = loop._State.save
    patch.setattr(loop._State, "save", save)


@breaks("resume", "10 steps = 5 + resumed 5")
def starts_the_batches_anew(patch: Patch, kind: Any) -> None:
    original = loop._State._take_up

    def take_up(self: Any, saved: Any, device: Any) -> None:
        original(self, saved, device)
        self.step_in_epoch = 0

    patch.setattr(loop._State, "_take_up", take_up)


@breaks("resume", "the resume folder holds checkpoints")
def ignores_the_resume_folder(patch: Patch, kind: Any) -> None:
    around(patch, kind, "_fit", lambda original, self, adata, val, resume: original(self, adata, val=val, resume=None))


@breaks("resume", "checkpoints of another fit are refused: nothing was raised")
def takes_any_checkpoint(patch: Patch, kind: Any) -> None:
    patch.setattr(kind, "_open_resume", lambda self, folder, data: ((folder / "run.json").touch(), folder)[1])


def _run_here(words: list[str], **_: Any) -> SimpleNamespace:
    """Run the command in this process, where the mutant lives."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(words[3:])
    return SimpleNamespace(returncode=code, stderr=said.getvalue())


@breaks("command_line", "the command line gives what Python gives")
def writes_something_else(patch: Patch, kind: Any) -> None:
    patch.setattr("subprocess.run", _run_here)
    around(patch, kind, "_annotations", lambda original, self, adata, key: {"obsm": {key: self.predict(adata) + 0.01}})


@breaks("command_line", "succeeds: expressor: no ink")
def fails_on_the_command_line(patch: Patch, kind: Any) -> None:
    def save(original: Any, self: Any, folder: Path) -> None:
        raise DataError("no ink")

    patch.setattr("subprocess.run", _run_here)
    around(patch, kind, "save", save)


@breaks("wrong_data_refused", "an unfitted model refuses")
def predicts_without_a_fit(patch: Patch, kind: Any) -> None:
    patch.setattr(kind, "_check_fitted", lambda self: None)


@breaks("wrong_data_refused", "NaN is refused")
def takes_what_is_not_a_number(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, data: Any, **k: Any) -> Any:
        if isinstance(data, ad.AnnData) and isinstance(data.X, np.ndarray):
            data = data.copy()
            data.X = np.nan_to_num(data.X)
        return original(self, data, **k)

    around(patch, kind, "fit", fit)


@breaks("wrong_data_refused", "duplicated genes are refused")
def takes_doubled_genes(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, data: Any, **k: Any) -> Any:
        if isinstance(data, ad.AnnData) and not data.var_names.is_unique:
            data = data[:, ~data.var_names.duplicated()].copy()
        return original(self, data, **k)

    around(patch, kind, "fit", fit)


@breaks("wrong_data_refused", "an object of another kind is refused: raised AttributeError")
def fails_without_words(patch: Patch, kind: Any) -> None:
    around(patch, kind, "fit", lambda original, self, data, **k: (data.strip, original(self, data, **k))[1])


@breaks("wrong_data_refused", "a file of another format is refused: raised DataError")
def calls_a_damaged_file_wrong_data(patch: Patch, kind: Any) -> None:
    def fit(original: Any, self: Any, data: Any, **k: Any) -> Any:
        if isinstance(data, str) and Path(data).exists():
            raise DataError("the data are not to my taste")
        return original(self, data, **k)

    around(patch, kind, "fit", fit)


@breaks("description", "describe cites the paper")
def says_little(patch: Patch, kind: Any) -> None:
    patch.setattr(kind, "describe", lambda self: "A model was fitted.")


@breaks("equations_are_tagged", "every public function of equations.py is tagged")
def has_an_untagged_equation(patch: Patch, kind: Any) -> None:
    module = sys.modules[f"{kind.__module__.rpartition('.')[0]}.equations"]

    def shrink(x: float) -> float:
        return x

    shrink.__module__ = module.__name__
    patch.setattr(module, "shrink", shrink, raising=False)


@breaks("equations_are_tagged", "equations without a test that covers them: ['1', '2']")
def has_no_tests(patch: Patch, kind: Any) -> None:
    patch.setattr("expressor.estimator.conformance.covering_tests", lambda *_, **__: {})


def test_every_check_has_a_mutant() -> None:
    assert {check for check, _, _ in MUTANTS.values()} == set(CHECKS)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_system_that_breaks_one_promise_is_caught(ridge: Any, monkeypatch: Patch, name: str) -> None:
    check, message, mutant = MUTANTS[name]
    mutant(monkeypatch, ridge)
    with pytest.raises(AssertionError) as caught:
        CHECKS[check](ridge)
    assert f"promise broken: {message}" in str(caught.value) or message in str(caught.value)


def test_refusing_missing_genes_keeps_the_promise_of_a_card_that_says_so(ridge: Any, monkeypatch: Patch) -> None:
    _policy(monkeypatch, ridge, "refuse")

    def refuse(table: pd.DataFrame, data: Any) -> pd.DataFrame:
        if data.n_vars < 40:
            raise GeneError("20 genes are missing", fix="Measure them.")
        return table

    predictions(monkeypatch, ridge, refuse)
    CHECKS["check_missing_genes"](ridge)


def test_filled_gaps_keep_the_promise(ridge: Any, monkeypatch: Patch) -> None:
    imputes(monkeypatch, ridge, lambda table: table.fillna(1.0))
    CHECKS["check_gaps_are_filled"](ridge)


def test_imputing_missing_genes_keeps_the_promise_of_a_card_that_says_so(ridge: Any, monkeypatch: Patch) -> None:
    _policy(monkeypatch, ridge, "impute")
    CHECKS["check_missing_genes"](ridge)
