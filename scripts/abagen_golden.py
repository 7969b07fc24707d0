"""Golden values of abagen for the preparation of the Allen Human Brain Atlas.

abagen 0.1.3 runs in an environment of its own, never in this package's::

    python3.11 -m venv abagen-env
    abagen-env/bin/pip install "abagen==0.1.3" "pandas==1.5.3" "numpy==1.26.4" "scipy<1.12" "nibabel<5" "setuptools<81"
    python -c "import expressor as ex; ex.datasets.simulate_ahba_folder('folder/microarray', n_donors=2, noise=1.0)"
    abagen-env/bin/python scripts/abagen_golden.py folder tests/data/abagen_golden.csv

Each row of the table is a choice of options, a sample (the first of its copies) and three genes.
"""

import sys
import warnings

import abagen
import nibabel
import numpy as np
import pandas as pd

CASES = {
    "default": {},
    "mirrored": {"lr_mirror": "bidirectional"},
    "max_variance": {"probe_selection": "max_variance", "gene_norm": "zscore"},
    "pc_loading": {"probe_selection": "pc_loading", "sample_norm": None, "gene_norm": "center"},
    "corr_intensity": {"probe_selection": "corr_intensity", "gene_norm": "robust_sigmoid"},
    "average": {"probe_selection": "average", "sample_norm": "zscore", "gene_norm": "minmax"},
    "max_intensity": {"probe_selection": "max_intensity", "sample_norm": None, "gene_norm": None},
    "within_parts": {"norm_structures": True, "gene_norm": "sigmoid"},
}
GENES = ["GENE2", "GENE3", "GENE12"]


def main(folder: str, out: str) -> None:
    """Write the golden values of all cases."""
    warnings.simplefilter("ignore")
    affine = np.diag([10.0, 10, 10, 1])
    affine[:3, 3] = -120
    everywhere = nibabel.Nifti1Image(np.ones((24, 24, 24), dtype=np.int16), affine)
    tables = []
    for case, options in CASES.items():
        expression = abagen.get_expression_data(
            everywhere, data_dir=folder, donors=["9861", "10021"], corrected_mni=False, reannotated=False, region_agg=None,
            norm_matched=False, verbose=0, **options,
        )  # fmt: skip
        table = expression.droplevel("label")[GENES].rename_axis("well_id").reset_index()
        table.insert(0, "case", case)
        tables.append(table.groupby(["case", "well_id"]).head(1).iloc[::7])
    pd.concat(tables).round(6).to_csv(out, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
