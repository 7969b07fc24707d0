"""Maps of 100 genes over the whole brain at 2 mm: time and memory of the fields, against the map of nearest samples.

3,702 simulated samples of six donors, 100 genes, 235,375 voxels. Every field is fitted and asked in a process of its own, because
peak memory is that of a process; what counts is the time of the map, and the peak of fit and map. Times are CPU seconds of one
thread. The networks are trained for one epoch: how long a map takes does not depend on what was learnt. The map of nearest samples
is abagen's dense map (ten samples and mirror images, weighed by inverse distance); scikit-learn makes the same. The paper's network
answers one gene at a time: it is asked for one gene on every 50th voxel, and the time is multiplied.

    python benchmarks/brain.py            # about two minutes
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

FIELDS = ("idw", "sklearn", "fourier", "gp", "siren")
WORDS = {
    "idw": 'BrainINR(field="idw"), coordinates alone', "sklearn": "scikit-learn's KNeighborsRegressor",
    "fourier": "BrainINR, default",
    "gp": 'BrainINR(field="gp")', "siren": "the paper's network (preset paper), by one gene on every 50th voxel",
}  # fmt: skip
GENES, SHARE = 100, 50


def peak() -> float:
    """Return the process's peak memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(field: str) -> dict[str, float]:
    """Return CPU seconds of the map and the peak memory, MiB."""
    import torch

    import expressor as ex

    torch.set_num_threads(1)
    adata = ex.datasets.simulate_brain(n_samples=3702, n_genes=GENES, n_donors=6)
    places, times = ex.data.brain_grid(resolution=2).points(), 1.0
    model = fitted(field, adata)
    genes: list[str] | None = None
    if field == "siren":
        places, genes, times = places[::SHARE], ["GENE001"], float(SHARE * GENES)
    start = time.process_time()
    found = model.at(places, genes)
    seconds = (time.process_time() - start) * times
    return {"seconds": seconds, "memory": peak(), "values": float(found.size)}


def fitted(field: str, adata: Any) -> Any:
    """Return a field that was fitted, with a method ``at``."""
    import dataclasses

    import numpy as np

    import expressor as ex

    if field == "sklearn":
        from sklearn.neighbors import KNeighborsRegressor

        places = np.concatenate([adata.obsm["mni"], adata.obsm["mni"] * [-1, 1, 1]])
        knn = KNeighborsRegressor(10, weights="distance").fit(places, np.concatenate([adata.X, adata.X]))
        return type("Nearest", (), {"at": lambda self, points, genes: knn.predict(points)})()
    if field == "siren":
        preset = ex.BrainINR.preset("paper")
        plan = dataclasses.replace(preset.plan, epochs=1, batch_size=256)
        return preset.set_params(steps=1, plan=plan, donor="pooled").fit(adata)
    if field == "fourier":
        model = ex.BrainINR()
        return model.set_params(plan=dataclasses.replace(model.plan, epochs=1)).fit(adata)
    return ex.BrainINR(field=field, conditions=(), symmetry="mirror", folds=0).fit(adata)


def main() -> None:
    """Measure every field in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", nargs="+", default=list(FIELDS), choices=FIELDS)
    parser.add_argument("--one", choices=FIELDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    base = 0.0
    for field in given.fields:
        command = [sys.executable, __file__, "--one", field]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(out.splitlines()[-1])
        base = base or found["seconds"]
        print(
            f"{WORDS[field]:70} {found['seconds']:9.1f} s  {found['seconds'] / base:8.2f} x  peak {found['memory']:6.0f} MiB"
        )


if __name__ == "__main__":
    main()
