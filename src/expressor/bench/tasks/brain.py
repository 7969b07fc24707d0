"""Expression at places of the brain that were not sampled, in people who were not sampled, and of genes that were not measured."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor import datasets
from expressor.bench.cohorts import METRICS, Statistic, mean_statistic, summarise_patients
from expressor.bench.controls.mapping import VECTORS, GeneControl, PlaceControl
from expressor.bench.maps import (
    gene_parts,
    grouped,
    held_out,
    judge_genes,
    judge_regions,
    places_of,
    region_folds,
    regions_with_places,
    regions_with_vectors,
    standardised,
)
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol, Task
from expressor.core.errors import DataError
from expressor.data import keys
from expressor.data.fields import fingerprint
from expressor.data.splits import check_leak
from expressor.datasets.dataset import take
from expressor.metrics.maps import MapSums, moran_at, rank_correlation, variogram_ratio
from expressor.train.plan import TrainPlan

COVERAGES = {"covered": 0.9, "covered50": 0.5}
SYSTEM = "brain_inr"
TOLD = {"": "place", keys.SLAB: "place and slab"}
"""What is told of a place: its coordinates, or also its slab (cortex, cerebellum, brainstem)."""

JUDGING = {"draws": 1000}
_NOTES = (
    "Targets are ten summaries of real expression (means of 20 to 500 probes, and three components), standardised per donor with "
    "the judged samples among them; single genes are noisier.",
    "With 'place' a method is told coordinates and donor; with 'place and slab' also whether a sample is of cortex, cerebellum or "
    "brainstem, which a user knows of a place and a voxel does not say.",
)

PROTOCOLS = (
    Protocol(
        name="blocks",
        version=1,
        title="AHBA, ten targets: blocks of 20 mm are held out, five folds",
        data={"dataset": "ahba_samples"},
        split={"kind": "blocks", "side": 20.0, "folds": 5, "seed": 0},
        targets={"told": ["", keys.SLAB]},
        variants=("z-score",),
        parameters={"held_out": "blocks"},
        judging=JUDGING,
        notes=(*_NOTES, "Groups are the blocks; both sides of the brain share a block."),
    ),
    Protocol(
        name="donors",
        version=1,
        title="AHBA, ten targets: each of six donors is held out in turn",
        data={"dataset": "ahba_samples"},
        split={"kind": "donors"},
        targets={"told": ["", keys.SLAB]},
        variants=("z-score",),
        parameters={"held_out": "donors"},
        judging=JUDGING,
        notes=(*_NOTES, "Groups are the six donors: an interval of so few is rough."),
    ),
    Protocol(
        name="random",
        version=1,
        title="AHBA, ten targets: a tenth of the samples is held out at random, twice",
        data={"dataset": "ahba_samples"},
        split={"kind": "random", "share": 0.1, "repeats": 2, "seed": 0},
        targets={"told": ["", keys.SLAB]},
        variants=("z-score",),
        parameters={"held_out": "samples"},
        judging=JUDGING,
        notes=(*_NOTES, "Groups are blocks of 20 mm. A held-out sample lies among others of its donor: the easiest question."),
    ),
    Protocol(
        name="embryo",
        version=1,
        title="Fly embryo, 84 genes: a tenth of the nuclei is trained on, two draws",
        data={"dataset": "fly_embryo"},
        split={"kind": "random", "share": 0.9, "repeats": 2, "seed": 0},
        targets={"told": [""]},
        variants=("z-score",),
        parameters={"held_out": "samples", "symmetry": "none", "bandwidth": 0.7},
        judging=JUDGING,
        notes=("Groups are blocks of a ninth of the embryo's length. The bandwidth, not the default, was chosen on this data.",),
    ),
    Protocol(
        name="genes",
        version=1,
        title="82 regions, 100 genes: each gene is predicted without any measurement of it in the brain, five folds of genes",
        data={"dataset": "ahba_regions"},
        split={"kind": "genes", "folds": 5, "seed": 0},
        targets={"told": [""]},
        variants=("z-score",),
        parameters={"gene": f"varm:{VECTORS}", "conditions": (), "held_out": "blocks"},
        judging=JUDGING,
        notes=(
            "A gene's vector is its expression in seven types of tumours (20 principal components of the genes, TCGA).",
            "Groups are genes. R2 and r are over the 82 regions with a parcel in the Desikan-Killiany volume, of standard scores.",
            "r and MSE with background are what was published: over all 4,118,660 voxels of the volume, of which four fifths are 0 "
            "in both maps. The map of an unrelated gene shows what they are worth.",
        ),
    ),
    Protocol(
        name="regions",
        version=1,
        title="82 regions, 100 genes: a gene is hidden in a fifth of the regions, where the other genes are known",
        data={"dataset": "ahba_regions"},
        split={"kind": "regions", "folds": 5, "seed": 0},
        targets={"told": [""]},
        variants=("z-score",),
        parameters={"gene": f"varm:{VECTORS}", "conditions": (), "folds": 0},
        judging=JUDGING,
        notes=(
            "Five parts of the regions by five parts of the genes; both sides of a region are hidden together. What is known of a "
            "hidden gene is its expression in the other regions.",
            "BrainINR holds no region out to stop on: every region is known for the other genes.",
            "Groups are genes. R2 and r are over the 82 regions with a parcel in the Desikan-Killiany volume, of standard scores.",
        ),
    ),
    Protocol(
        name="simulated",
        version=1,
        title="Simulated samples of smooth maps: seconds, to try an installation",
        data={"dataset": "simulated", "n_samples": 160, "n_genes": 4, "n_donors": 3, "seed": 0},
        split={"kind": "donors"},
        targets={"told": ["", keys.SLAB]},
        variants=("z-score",),
        parameters={"held_out": "samples", "folds": 2, "steps": 1, "width": 16, "frequencies": 16, "conditions": ("slab",)},
        judging={"draws": 200},
        notes=("Made data: the numbers say that the machinery works, and nothing about brains.",),
    ),
)  # fmt: skip


class Brain(Task):
    """Map expression to places that were not sampled.

    A method is fitted on the training samples. Of the others it sees the place, the donor's name, and, in a second question that
    stands in its own column, the slab. In the protocol ``genes`` it sees vectors of genes whose maps are hidden whole, in
    ``regions`` what is known of a hidden gene in other regions.
    """

    name = "brain"
    role = "Maps"
    inputs = "brain"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "maps", "checks")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return the mean, shuffled values, nearest samples, and Gaussian processes; or what knows genes by their vectors."""
        if protocol.split["kind"] == "genes":
            return (
                Method("mean", "mean map of the other genes", "control", GeneControl, seeded=False),
                Method("unrelated", "map of an unrelated gene", "control", GeneControl, {"kind": "unrelated"}),
                Method("nearest", "mean of the 10 genes of nearest vectors", "control", GeneControl, {"kind": "nearest"},
                       seeded=False),
                Method("ridge", "ridge regression on vectors", "control", GeneControl, {"kind": "ridge"}, seeded=False),
            )  # fmt: skip
        if protocol.split["kind"] == "regions":
            return (
                _known("average", "the gene's mean over the other regions"),
                _known("mean", "mean of the other genes in the region"),
                _known("neighbours", "mean of the 5 nearest other regions", neighbours=5),
                _known("nearest", "mean of the 10 genes most alike in other regions"),
                _known("others", "ridge regression on the other genes, a region a row"),
                _known("ridge", "ridge regression on the other regions, a gene a row"),
            )
        brain = protocol.data["dataset"] != "fly_embryo"
        alone: dict[str, Any] = {"conditions": (), "folds": 2}
        sides = {"symmetry": "mirror"} if brain else {}
        found = [
            Method("mean", "mean of the samples", "control", PlaceControl, seeded=False),
            Method("shuffled", "10 nearest of shuffled samples", "control", PlaceControl, {"kind": "shuffled"}, seeded=False),
            _rival("nearest", "nearest sample", alone | sides | {"field": "knn", "neighbours": 1}),
            _rival("knn", "5 nearest samples, plain mean", alone | sides | {"field": "knn", "neighbours": 5}),
            _rival("idw", f"10 nearest samples by distance{' + mirror' if brain else ''}", alone | sides | {"field": "idw"}),
            _rival("gp-place", "Gaussian process, coordinates alone", alone | {"field": "gp"}),
        ]  # fmt: skip
        if brain:
            found += [
                _rival("gp", "Gaussian process, tissue and slab", {"field": "gp", "folds": 2}),
                _rival("gp-donors", "a Gaussian process a donor, averaged for a new one",
                       {"field": "gp", "folds": 2, "donor": "separate", "held_out": "samples"}),
                _rival("siren", "the paper's network, shortened (128 x 3, 400 steps)", SIREN),
            ]  # fmt: skip
        return tuple(found)

    def slow(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return the paper's network whole: minutes a fold."""
        if protocol.data["dataset"] in ("fly_embryo", "ahba_regions"):
            return ()
        return (_rival("siren-whole", "the paper's network whole (512 x 12, 200 steps of 2,048 pairs)", WHOLE),)

    def load(self, protocol: Protocol) -> AnnData:
        """Return the samples with expression as standard scores of each donor, and their group in ``obs``."""
        settings = dict(protocol.data)
        name = settings.pop("dataset")
        if name == "ahba_regions":
            return regions_with_places() if protocol.split["kind"] == "regions" else regions_with_vectors()
        loaders = {"ahba_samples": datasets.ahba_samples, "fly_embryo": datasets.fly_embryo}
        if name != "simulated" and name not in loaders:
            raise DataError(f"protocol {protocol.name!r} names unknown data {name!r}", expected=", ".join(loaders))
        adata = datasets.simulate_brain(**settings) if name == "simulated" else loaders[name]().adata
        return grouped(standardised(adata), by_donor=protocol.split["kind"] == "donors")

    def fingerprint(self, data: AnnData) -> str:
        """Return the hash of expression and names."""
        return fingerprint(data)

    def folds(self, protocol: Protocol, data: AnnData) -> list[Fold]:
        """Hold out blocks, donors, samples, or genes."""
        split = protocol.split
        if split["kind"] == "genes":
            part = gene_parts(split, data)
            return [
                Fold(f"genes {k + 1}", data[:, part != k].copy(), data[:, part == k].copy(),
                     tuple(data.var_names[part == k])) for k in range(split["folds"])
            ]  # fmt: skip
        if split["kind"] == "regions":
            return region_folds(split, data)
        folds = []
        for name, test in held_out(split, data):
            one, other = take(data, ~test), take(data, test)
            check_leak(one, other, by=["obs_names"] if split["kind"] == "random" else ["obs_names", "group"])
            folds.append(Fold(name, one, other, tuple(data.var_names.astype(str))))
        return folds

    def blind(self, test: AnnData) -> AnnData:
        """Return places, donors, slabs and vectors of genes; no expression."""
        kept = [one for one in (keys.DONOR, keys.SLAB) if one in test.obs]
        return AnnData(
            np.full(test.shape, np.nan, dtype=np.float32), obs=test.obs[kept].copy(), var=pd.DataFrame(index=test.var_names),
            obsm=dict(test.obsm), varm=dict(test.varm), uns={keys.SPACE: test.uns[keys.SPACE]},
        )  # fmt: skip

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return the protocol's parameters and the seed."""
        return dict(protocol.parameters) | {"random_state": seed}

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return the map at the places, and bounds where the model gives them, without and with the slab told."""
        places = places_of(seen)
        if VECTORS in seen.varm:
            z = model.at(places, vectors=np.asarray(seen.varm[VECTORS]))
            return {"predicted": pd.DataFrame(z, index=seen.obs_names, columns=seen.var_names)}
        tables = {}
        for told in ("", keys.SLAB) if keys.SLAB in seen.obs else ("",):
            given = seen.obs[[told]].astype(str) if told else None
            tables[f"predicted{told}"] = _asked(model.at, model, seen, places, given)
            if hasattr(model, "at_interval") and model.folds:
                for name, coverage in COVERAGES.items():
                    for i, bound in enumerate(("lower", "upper")):

                        def ask(*place: Any, i: int = i, coverage: float = coverage, **known: Any) -> np.ndarray:
                            return np.asarray(model.at_interval(*place, coverage=coverage, **known)[i])

                        tables[f"{bound}-{name}{told}"] = _asked(ask, model, seen, places, given)
        return tables

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return what was measured and mapped at each sample, what intervals cover, and how much structure the map keeps."""
        if protocol.split["kind"] == "genes":
            return {"genes": judge_genes(fold, tables["predicted"].to_numpy(dtype=np.float64))}
        if protocol.split["kind"] == "regions":
            real = pd.DataFrame(fold.test.X, columns=fold.test.var_names).melt(var_name="gene", value_name="truth")
            return {"regions": real.assign(predicted=tables["predicted"].melt()["value"].to_numpy())}
        truth, places = np.asarray(fold.test.X, dtype=np.float64), places_of(fold.test)
        samples, measured, mapped, maps = [], [], [], []
        for told in protocol.targets["told"]:
            found = tables[f"predicted{told}"].to_numpy(dtype=np.float64)
            table = pd.DataFrame({"told": TOLD[told], "group": fold.test.obs["group"].astype(str).to_numpy()})
            for name in COVERAGES:
                if f"lower-{name}{told}" in tables:
                    low, high = (tables[f"{one}-{name}{told}"].to_numpy() for one in ("lower", "upper"))
                    table[name] = ((truth >= low) & (truth <= high)).mean(axis=1)
            samples.append(table)
            measured.append(truth)
            mapped.append(found)
            scores = {
                "map_spearman": rank_correlation(truth, found), "map_moran": moran_at(found, places) - moran_at(truth, places),
                "map_variogram": variogram_ratio(truth, found, places),
            }  # fmt: skip
            maps += [
                pd.DataFrame({"told": TOLD[told], "metric": name, "value": value}) for name, value in scores.items()
            ]
        genes = list(fold.test.var_names.astype(str))
        return {
            "samples": pd.concat(samples, ignore_index=True), "maps": pd.concat(maps, ignore_index=True),
            "measured": pd.DataFrame(np.concatenate(measured), columns=genes),
            "mapped": pd.DataFrame(np.concatenate(mapped), columns=genes),
        }  # fmt: skip

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return R2 and the rest for each question, and differences of R2 from nearest samples and from Gaussian processes."""
        judges = {"genes": _of_genes, "regions": _of_regions}
        references = {"genes": ("mean", "nearest", "ridge"), "regions": ("neighbours", "ridge")}
        kind = protocol.split["kind"]
        return summarise_patients(
            cells, methods, statistics=judges.get(kind, _of_samples), headline=("map_r2",),
            references=references.get(kind, ("idw", "gp-place", "gp")),
            n_draws=int(protocol.judging["draws"]),
        )  # fmt: skip


SIREN: dict[str, Any] = {
    "field": "siren", "gene": "scalar", "symmetry": "mirror", "conditions": ("tissue",), "width": 128, "depth": 3, "folds": 0,
    "steps": 10, "schedule": "steps", "plan": TrainPlan(lr=1e-4, weight_decay=0.0, batch_size=1024, epochs=40, patience=None),
}  # fmt: skip
"""The paper's network, small enough for a table: 128 x 3 in place of 512 x 12, 400 steps in place of thousands."""

WHOLE: dict[str, Any] = SIREN | {
    "width": 512, "depth": 12, "steps": 20,
    "plan": TrainPlan(lr=1e-4, weight_decay=0.0, batch_size=2048, epochs=10, patience=None),
}  # fmt: skip
"""The paper's network as long as it learns from batches; its authors give all pairs of sample and gene to each step."""


def _rival(name: str, title: str, parameters: Mapping[str, Any]) -> Method:
    return Method(name, title, "control", SYSTEM, parameters, seeded=False)


def _known(kind: str, title: str, **parameters: Any) -> Method:
    return Method(kind, title, "control", GeneControl, {"kind": kind} | parameters, seeded=False)


def _asked(ask: Any, model: Any, seen: AnnData, places: np.ndarray, given: pd.DataFrame | None) -> pd.DataFrame:
    """Ask for all genes at each sample, on its donor's scale where the model knows the donor."""
    donors = seen.obs[keys.DONOR].astype(str).to_numpy() if keys.DONOR in seen.obs else np.full(seen.n_obs, "")
    found = np.empty(seen.shape)
    for one in np.unique(donors):
        rows = donors == one
        known = one if one in getattr(model, "donors_", ()) else None
        found[rows] = ask(places[rows], given=None if given is None else given[rows], donor=known)
    return pd.DataFrame(found, index=seen.obs_names, columns=list(model.genes_in_))[list(seen.var_names)]


def _of_samples(cells: Sequence[Cell]) -> list[Statistic]:
    samples = pd.concat([cell.tables["samples"] for cell in cells], ignore_index=True)
    maps = pd.concat([cell.tables["maps"] for cell in cells], ignore_index=True)
    measured, mapped = (
        pd.concat([cell.tables[name] for cell in cells], ignore_index=True).to_numpy(dtype=np.float64)
        for name in ("measured", "mapped")
    )
    found = []
    for told in dict.fromkeys(samples["told"]):
        rows = np.flatnonzero(samples["told"] == told)
        groups = samples["group"].to_numpy().astype(str)[rows]
        sums = MapSums.of(measured[rows], mapped[rows], groups)
        whole = np.ones((1, len(sums.groups)))
        for name, judge in (("map_r2", sums.r2), ("map_r", sums.r), ("map_mse", sums.mse)):
            value = float(judge(whole)[0])
            found.append(Statistic(told, name, value, sums.groups, judge, measured[rows].size, int(np.isnan(value))))
        own = maps[maps["told"] == told]
        for name, values in own.groupby("metric", sort=False)["value"]:
            value = float(values.mean()) if values.notna().any() else np.nan
            found.append(Statistic(told, str(name), value, n=len(values), n_undefined=int(values.isna().sum())))
        for column, name in (("covered", "map_coverage"), ("covered50", "map_coverage50")):
            if column in samples:
                found.append(mean_statistic(told, name, samples[column].to_numpy()[rows], groups))
    return found


def _of_regions(cells: Sequence[Cell]) -> list[Statistic]:
    seeds = []
    for seed in sorted({cell.key.seed for cell in cells}):
        seeds.append(judge_regions(pd.concat([cell.tables["regions"] for cell in cells if cell.key.seed == seed])))
    genes = pd.concat(seeds)
    return [mean_statistic("all", name, genes[name], genes["gene"]) for name in genes.columns.drop("gene")]


def _of_genes(cells: Sequence[Cell]) -> list[Statistic]:
    genes = pd.concat([cell.tables["genes"] for cell in cells], ignore_index=True)
    return [mean_statistic("all", name, genes[name], genes["gene"]) for name in genes.columns.drop("gene")]


TASK = Brain()
"""The task."""
