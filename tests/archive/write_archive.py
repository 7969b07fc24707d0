"""Write the saved models that later versions must still read: ``python tests/archive/write_archive.py``, once a schema.

A folder that is here is never written again. What the models are given and what they said stands beside their folders.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
OUTSIDE = HERE.parent / "conformance" / "outside"


def main() -> None:
    """Write the models of this schema that are not here yet."""
    with tempfile.TemporaryDirectory() as site:
        shutil.copytree(OUTSIDE / "gene_ridge", Path(site) / "gene_ridge")
        metadata = Path(site) / "gene_ridge-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gene-ridge\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[expressor.systems]\ngene_ridge = gene_ridge\n")
        sys.path.insert(0, site)

        from expressor.estimator import storage

        target = HERE / f"schema-{storage.SCHEMA}"
        write_once(target / "agl", write_tissue_model)
        write_once(target / "gene_ridge", write_array_model)


def write_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a model that is not here yet."""
    if folder.exists():
        print(f"{folder} exists and is not written again")
    else:
        write(folder)


def write_array_model(folder: Path) -> None:
    """Fit the outside system on drawn arrays and save it."""
    import expressor as ex

    generator = np.random.default_rng(1)
    X = generator.normal(size=(30, 4)).astype(np.float32)
    Y = generator.poisson(np.exp(1 + X @ generator.normal(0, 0.3, (4, 3))))
    model = ex.GeneRidge.preset("array", penalty=0.5).fit(X, Y, genes=["ERBB2", "GNAS", "MKI67"])
    model.environment_["platform"] = "Linux"
    model.save(folder)
    np.save(folder.parent / "input.npy", X)
    np.save(folder.parent / "expected.npy", model.predict(X).to_numpy())


def write_tissue_model(folder: Path) -> None:
    """Fit AGL on the tiny tissue and save it."""
    import expressor as ex

    tissue = ex.datasets.example("histology", n=12)
    model = ex.AGL.preset("tiny", members=2).fit(tissue)
    model.environment_["platform"] = "Linux"
    model.save(folder)
    np.save(folder.parent / "agl-input.npy", tissue.obsm["X_simulated"])
    np.save(folder.parent / "agl-expected.npy", model.predict(tissue).to_numpy())


if __name__ == "__main__":
    main()
