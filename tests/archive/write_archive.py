"""Write the saved models that later versions must still read: ``python tests/archive/write_archive.py``, once a schema.

A folder that is here is never written again. ``input.npz`` and ``expected.npy`` stand outside the model's folder.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
OUTSIDE = HERE.parent / "conformance" / "outside"


def main() -> None:
    """Fit the outside system on drawn arrays and save it under the schema's number."""
    with tempfile.TemporaryDirectory() as site:
        shutil.copytree(OUTSIDE / "gene_ridge", Path(site) / "gene_ridge")
        metadata = Path(site) / "gene_ridge-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gene-ridge\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[expressor.systems]\ngene_ridge = gene_ridge\n")
        sys.path.insert(0, site)

        import expressor as ex
        from expressor.estimator import storage

        target = HERE / f"schema-{storage.SCHEMA}"
        if target.exists():
            raise SystemExit(f"{target} exists and is not written again")
        generator = np.random.default_rng(1)
        X = generator.normal(size=(30, 4)).astype(np.float32)
        Y = generator.poisson(np.exp(1 + X @ generator.normal(0, 0.3, (4, 3))))
        model = ex.GeneRidge.preset("array", penalty=0.5).fit(X, Y, genes=["ERBB2", "GNAS", "MKI67"])
        model.environment_["platform"] = "Linux"
        model.save(target / "gene_ridge")
        np.save(target / "input.npy", X)
        np.save(target / "expected.npy", model.predict(X).to_numpy())


if __name__ == "__main__":
    main()
