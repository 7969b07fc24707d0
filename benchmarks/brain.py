"""Maps of 100 genes over the whole brain at 2 mm: time and memory of the fields, against the map of nearest samples.

3,702 simulated samples of six donors, 100 genes, 235,375 voxels. Every field is fitted and asked in a process of its own, because
peak memory is that of a process; what counts is the time of the map, and the peak of fit and map. Times are CPU seconds of one
thread. The networks are trained for one epoch: how long a map takes does not depend on what was learnt. The map of nearest samples
is abagen's dense map (ten samples and mirror images, weighed by inverse distance); scikit-learn makes the same. The paper's
network answers one gene at a time: it is asked for one gene on every 50th voxel, and a step of its training is taken on 2,048 of
the 370,200 pairs of sample and gene, of which the paper takes all; both times are multiplied.

    python benchmarks/brain.py            # about two minutes
    python benchmarks/brain.py --choose   # how the default field was chosen: about four minutes; needs EXPRESSOR_DATA
    python benchmarks/brain.py --longer   # the paper's network as it is trained: about eight minutes; needs EXPRESSOR_DATA

With --choose the fields are judged inside the training samples of the first fold of a protocol of ``expressor bench brain``: a
quarter of the blocks, one donor, or a quarter of the nuclei is held out. Samples that the protocol judges in this fold are not
looked at; they are trained on in its other folds.

With --longer the paper's network is judged on the first fold of ``blocks`` while it is trained: shortened, whole on batches of
pairs of sample and gene, and whole with all pairs of a donor in each step, as its authors have it (four targets of the donor with
the fewest samples). R2 is 1 - MSE / variance, both means over the targets; the loss is the mean since the number before.
"""

import argparse
import dataclasses
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
GENES, SHARE, PAIRS = 100, 50, 2048
PROTOCOLS = ("blocks", "donors", "embryo")


def peak() -> float:
    """Return the process's peak memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(field: str) -> dict[str, float]:
    """Return CPU seconds of the map, of a training step where the field is the paper's, and the peak memory, MiB."""
    import torch

    import expressor as ex

    torch.set_num_threads(1)
    adata = ex.datasets.simulate_brain(n_samples=3702, n_genes=GENES, n_donors=6)
    places, times = ex.data.brain_grid(resolution=2).points(), 1.0
    model, step = fitted(field, adata)
    genes: list[str] | None = None
    if field == "siren":
        places, genes, times = places[::SHARE], ["GENE001"], float(SHARE * GENES)
    start = time.process_time()
    found = model.at(places, genes)
    seconds = (time.process_time() - start) * times
    return {"seconds": seconds, "memory": peak(), "step": step, "values": float(found.size)}


def fitted(field: str, adata: Any) -> tuple[Any, float]:
    """Return a field that was fitted, with a method ``at``; and CPU seconds of a training step of the paper's network, else 0."""
    import numpy as np

    import expressor as ex

    if field == "sklearn":
        from sklearn.neighbors import KNeighborsRegressor

        places = np.concatenate([adata.obsm["mni"], adata.obsm["mni"] * [-1, 1, 1]])
        knn = KNeighborsRegressor(10, weights="distance").fit(places, np.concatenate([adata.X, adata.X]))
        return type("Nearest", (), {"at": lambda self, points, genes: knn.predict(points)})(), 0.0
    if field == "siren":
        preset = ex.BrainINR.preset("paper").set_params(steps=1, donor="pooled")
        spent = []
        for epochs in (1, 1, 5):  # the first loads modules; of the others one takes four steps more, and nothing else
            plan = dataclasses.replace(preset.plan, epochs=epochs, batch_size=PAIRS)
            start = time.process_time()
            model = preset.set_params(plan=plan).fit(adata)
            spent.append(time.process_time() - start)
        return model, (spent[2] - spent[1]) / 4 * adata.n_obs * GENES / PAIRS
    if field == "fourier":
        model = ex.BrainINR()
        return model.set_params(plan=dataclasses.replace(model.plan, epochs=1)).fit(adata), 0.0
    return ex.BrainINR(field=field, conditions=(), symmetry="mirror", folds=0).fit(adata), 0.0


def choose() -> None:
    """Print R2 of the fields on samples that were held out of training samples."""
    import numpy as np
    import torch

    import expressor as ex
    from expressor.bench import find_task
    from expressor.bench.maps import places_of
    from expressor.core.rng import stream
    from expressor.datasets.dataset import take

    torch.set_num_threads(1)
    task = find_task("brain")
    print("R2 inside the training samples | place alone, place and slab")
    for name in PROTOCOLS:
        protocol = task.protocol(name)
        train = task.folds(protocol, task.load(protocol))[0].train
        names, place = np.unique(train.obs["group"].astype(str), return_inverse=True)
        if name == "blocks":
            test = (stream(7, "inner").permutation(len(names)) % 4 == 0)[place]
        else:
            test = place == 0 if name == "donors" else stream(7, "inner").permutation(len(place)) < len(place) // 4
        inner, judged = take(train, ~test), take(train, test)
        given = [None, judged.obs[["slab"]].astype(str)] if "slab" in judged.obs else [None]

        def r2(maps: list[Any], judged: Any = judged) -> str:
            truth = np.asarray(judged.X, dtype=np.float64)
            spread = np.square(truth - truth.mean(axis=0)).sum(axis=0)
            return ", ".join(f"{(1 - np.square(truth - one).sum(axis=0) / spread).mean():.3f}" for one in maps)

        def maps(asked: Any, judged: Any = judged, given: list[Any] = given) -> list[Any]:
            order = [list(asked.genes_in_).index(one) for one in judged.var_names]
            return [asked.at(places_of(judged), given=one)[:, order] for one in given]

        fits = {
            "Gaussian process": {"field": "gp"}, "networks of the folds": {"teacher": "none"},
            "mean of both": {"field": "ensemble"}, "a network taught by that mean (default)": {},
        }  # fmt: skip
        for words, own in fits.items():
            model = ex.BrainINR(**dict(protocol.parameters) | own)
            start = time.process_time()
            model.fit(inner)
            print(f"{name} | {words}: {r2(maps(model))} ({time.process_time() - start:.0f} s to fit)", flush=True)


def longer() -> None:
    """Print loss and held-out R2 of the paper's network while it is trained."""
    import numpy as np
    import torch

    import expressor as ex
    from expressor.bench import find_task
    from expressor.bench.tasks.brain import SIREN, WHOLE
    from expressor.datasets.dataset import take

    torch.set_num_threads(1)
    task = find_task("brain")
    protocol = task.protocol("blocks")
    fold = task.folds(protocol, task.load(protocol))[0]
    sizes = fold.train.obs["donor"].astype(str).value_counts()
    fewest = sorted(sizes.index, key=lambda one: (sizes[one], one))[0]
    alone = [take(one, (one.obs["donor"].astype(str) == fewest).to_numpy()) for one in (fold.train, fold.test)]
    whole, four = (fold.train, fold.test), tuple(one[:, :4].copy() for one in alone)
    for words, own, (train, test), pairs, steps, epochs in (
        ("128 x 3, 1,024 pairs a step", SIREN, whole, 1024, 200, 15),
        ("512 x 12, 256 pairs a step", WHOLE, whole, 256, 200, 5),
        ("512 x 12, 2,048 pairs a step", WHOLE, whole, 2048, 50, 7),
        (f"512 x 12, all pairs of four targets of donor {fewest} in each step", WHOLE, four, 10**6, 25, 10),
    ):
        plan = dataclasses.replace(own["plan"], epochs=epochs, batch_size=pairs)
        history = ex.BrainINR(**own | {"steps": steps, "plan": plan}).fit(train, val=test).history_
        spread = float(np.var(np.asarray(test.X, dtype=np.float64), axis=0).mean())
        print(f"{words} ({train.n_obs * train.n_vars * 2} pairs with mirror images; {test.n_obs} samples held out)")
        print("  steps ", ", ".join(f"{steps * epoch:5d}" for epoch in history["epoch"]))
        print("  loss  ", ", ".join(f"{one:5.2f}" for one in history["loss"]))
        print("  R2    ", ", ".join(f"{1 - one / spread:5.2f}" for one in history["held_out_mse"]), flush=True)


def main() -> None:
    """Measure every field in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", nargs="+", default=list(FIELDS), choices=FIELDS)
    parser.add_argument("--choose", action="store_true", help="how the default field was chosen, instead")
    parser.add_argument("--longer", action="store_true", help="the paper's network as it is trained, instead")
    parser.add_argument("--one", choices=FIELDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.choose or given.longer:
        (choose if given.choose else longer)()
        return
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
            f"{WORDS[field]:70} {found['seconds']:9.1f} s  {found['seconds'] / base:8.2f} x  peak {found['memory']:6.0f} MiB",
            flush=True,
        )
        if found["step"]:
            print(f"{'a step of its training on all pairs':70} {found['step']:9.1f} s")


if __name__ == "__main__":
    main()
