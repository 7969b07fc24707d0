"""Mutants that misbehave on the command line, on wrong data, or in what they say of themselves."""

import contextlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np

from expressor.cli import main
from expressor.core.errors import DataError

from .record import Patch, around, breaks


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
