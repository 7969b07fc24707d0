"""Golden values of abagen for the preparation of the Allen Human Brain Atlas.

abagen 0.1.3 runs in an environment of its own, never in this package's::

    python3.11 -m venv abagen-env
    abagen-env/bin/pip install "abagen==0.1.3" "pandas==1.5.3" "numpy==1.26.4" "scipy<1.12" "nibabel<5" "setuptools<81"
    python -c "import expressor as ex; ex.datasets.simulate_ahba_folder('folder/microarray', n_donors=2, noise=1.0)"
    abagen-env/bin/python scripts/abagen_golden.py folder tests/data/abagen_golden.csv tests/data/abagen_parcels_golden.csv

Each row of the first table is a choice of options, a sample (the first of its copies) and three genes; each row of the second a
choice of options, a parcel, its number of samples in both donors and three genes.
"""

import sys
import warnings

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
PARCEL_CASES = {
    "default": {},
    "no_tolerance": {"tolerance": 0},
    "centroids": {"missing": "centroids"},
    "interpolate": {"missing": "interpolate"},
    "samples_median": {"region_agg": "samples", "agg_metric": "median", "sample_norm": None, "gene_norm": None},
    "mirrored": {"lr_mirror": "bidirectional", "gene_norm": "zscore"},
    "anywhere": {"tolerance": 4},
}


def parcellation() -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return labels (x, y, z) of boxes around the simulated structures, the affine, and the table of parcels.

    Some boxes miss part of the samples, some lie side by side, some are of another part than their samples, some hold none.
    """
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = (-80, -90, -60)
    volume = np.zeros((80, 80, 60), dtype=np.int32)
    boxes = [
        ("cortex", (-60, -40, 30)), ("subcortex/brainstem", (-26, -22, -15)), ("subcortex/brainstem", (-18, 10, 4)),
        ("subcortex/brainstem", (-10, -18, 8)), ("cerebellum", (-24, -62, -34)), ("cortex", (-7, -26, -32)),
        ("white matter", (-20, -10, 28)), ("cortex", (-40, 50, 30)),
    ]  # fmt: skip
    rows = []
    for part, (x, y, z) in boxes:
        for side, sign in (("L", 1), ("R", -1)):
            for pair in range(3):
                number = len(rows) + 1
                lows = np.array([min(sign * x - 4, sign * x + 4), y - 3 + 7 * pair, z - 3 + pair])
                highs = lows + np.array([8, 6, 5])
                low, high = (np.floor((one - affine[:3, 3]) / 2).astype(int) for one in (lows, highs))
                volume[tuple(slice(a, b) for a, b in zip(low, high))] = number
                rows.append((number, f"box{number}", side, part))
    return volume, affine, pd.DataFrame(rows, columns=["id", "label", "hemisphere", "structure"])


def main(folder: str, samples: str, parcels: str) -> None:
    """Write the golden values of all cases."""
    import abagen
    import nibabel

    warnings.simplefilter("ignore")
    same = {"data_dir": folder, "donors": ["9861", "10021"], "corrected_mni": False, "reannotated": False, "verbose": 0}
    affine = np.diag([10.0, 10, 10, 1])
    affine[:3, 3] = -120
    everywhere = nibabel.Nifti1Image(np.ones((24, 24, 24), dtype=np.int16), affine)
    tables = []
    for case, options in CASES.items():
        expression = abagen.get_expression_data(everywhere, region_agg=None, norm_matched=False, **same, **options)
        table = expression.droplevel("label")[GENES].rename_axis("well_id").reset_index()
        table.insert(0, "case", case)
        tables.append(table.groupby(["case", "well_id"]).head(1).iloc[::7])
    pd.concat(tables).round(6).to_csv(samples, index=False)
    volume, affine, info = parcellation()
    boxes = nibabel.Nifti1Image(volume, affine)
    tables = []
    for case, options in PARCEL_CASES.items():
        atlas_info = None if case == "anywhere" else info
        expression, counts = abagen.get_expression_data(boxes, atlas_info, return_counts=True, **same, **options)
        table = (
            expression[GENES]
            .join(counts.set_axis([f"n_{one}" for one in counts], axis=1))
            .rename_axis("parcel")
            .reset_index()
        )
        table.insert(0, "case", case)
        tables.append(table)
    pd.concat(tables).round(6).to_csv(parcels, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
