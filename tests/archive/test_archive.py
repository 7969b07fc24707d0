"""Models saved by earlier versions are read for ever: each schema ever released has a folder here."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import expressor as ex
from expressor.estimator import storage

HERE = Path(__file__).parent
SCHEMAS = sorted(int(path.name.removeprefix("schema-")) for path in HERE.glob("schema-*"))


def test_every_schema_is_kept() -> None:
    assert list(range(1, storage.SCHEMA + 1)) == SCHEMAS


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("schema", SCHEMAS)
def test_old_models_still_predict_what_they_did(schema: int, tmp_path: Path) -> None:
    folder = HERE / f"schema-{schema}"
    assert json.loads((folder / "gene_ridge/config.json").read_text())["schema"] == schema
    model = ex.load(folder / "gene_ridge")
    assert list(model.genes_in_) == ["ERBB2", "GNAS", "MKI67"]
    assert model.penalty == 0.5
    assert len(model.history_) == 20
    # Another machine may add in another order, so not to the bit.
    found = model.predict(np.load(folder / "input.npy"))
    np.testing.assert_allclose(found.to_numpy(), np.load(folder / "expected.npy"), rtol=1e-5, atol=1e-6)
    again = ex.load(model.save(tmp_path / "model"))
    assert np.array_equal(again.predict(np.load(folder / "input.npy")), found)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_old_model_of_tissue_still_predicts_what_it_did(schema: int, tmp_path: Path) -> None:
    folder = HERE / f"schema-{schema}"
    model = ex.load(folder / "agl")
    features = np.load(folder / "agl-input.npy")
    spots = anndata.AnnData(
        np.zeros((len(features), 1), dtype=np.float32), obsm={"X_simulated": features},
        obs=pd.DataFrame(index=[f"spot {i}" for i in range(len(features))]), var=pd.DataFrame(index=["ERBB2"]),
    )  # fmt: skip
    found = model.predict(spots)
    np.testing.assert_allclose(found.to_numpy(), np.load(folder / "agl-expected.npy"), rtol=1e-5, atol=1e-5)
    assert len(model.gene_table_) == len(model.target_genes_) == found.shape[1]
    again = ex.load(model.save(tmp_path / "model"))
    assert np.array_equal(again.predict(spots), found)


@pytest.mark.usefixtures("outside")
def test_the_layout_of_the_newest_schema_is_the_written_one(tmp_path: Path) -> None:
    """A change of what is saved asks for a new schema number: compare with what the specification names."""
    shutil.copytree(HERE / f"schema-{storage.SCHEMA}" / "gene_ridge", tmp_path / "old")
    new = ex.load(tmp_path / "old").save(tmp_path / "new")
    names = {path.name for path in new.iterdir()}
    assert names == {path.name for path in (tmp_path / "old").iterdir()}
    assert all(f"``{name}``" in (storage.__doc__ or "") for name in names)

    def keys(folder: Path) -> dict[str, object]:
        config = json.loads((folder / "config.json").read_text())
        return {
            key: sorted(value) if isinstance(value, dict) else type(value).__name__ for key, value in config.items()
        }

    assert keys(new) == keys(tmp_path / "old")
    with np.load(new / "state.npz") as one, np.load(tmp_path / "old/state.npz") as other:
        assert sorted(one.files) == sorted(other.files)
