"""Mutants that treat the same data otherwise elsewhere, or change what is the user's."""

from typing import Any

import pandas as pd

from .record import Patch, around, breaks, predictions


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
