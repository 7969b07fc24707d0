"""Bringing cells of several batches together without losing their types: the scores of scIB on small sets of cells."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor import datasets
from expressor.bench.cohorts import METRICS, Statistic, hide, summarise_patients
from expressor.bench.controls.annotating import log_normalised
from expressor.bench.controls.integrating import Integrator, components
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol, Task, digest
from expressor.bench.tasks.annotation import NETWORKS
from expressor.core.rng import stream
from expressor.data.fields import fingerprint
from expressor.data.keys import BATCH, CELL_TYPE
from expressor.datasets.dataset import take
from expressor.metrics.integration import BATCH as BATCH_SCORES
from expressor.metrics.integration import BIO, judge_integration

REFERENCES = ("none", "harmony")
HEADLINE = ("integration", "avg_bio", "avg_batch")
SETS = ("pbmc_3tech", "kang", "amygdala", "mixology", "pancreas_3tech")
ALL = "mean of the sets"
_COMPONENTS = 50

PROTOCOLS = (
    Protocol(
        name="cells",
        version=1,
        title="Five sets of cells by two to four technologies, donors or samples: all cells are given, without their types",
        data={"sets": list(SETS)},
        split={},
        targets={"scores": "scIB"},
        variants=("counts",),
        judging={"halves": 40},
        notes=(
            "All cells are seen in fitting; their types are used for judging alone.",
            "Batches: three chemistries (pbmc_3tech), two donors with and without interferon (kang), two donors (amygdala), "
            "technologies (mixology, pancreas_3tech). In mixology two of five lines are in one batch alone.",
            "Technologies (mixology, pancreas_3tech) differ more than chemistries of one maker (pbmc_3tech) and than "
            "donors (amygdala).",
        ),
    ),
    Protocol(
        name="simulated",
        version=1,
        title="Simulated cells of four types in two batches: seconds, to try an installation",
        data={"n_cells": 160, "batch_fold": 2.5, "seed": 0},
        split={},
        targets={"scores": "scIB"},
        variants=("counts",),
        judging={"halves": 10},
        notes=("Made data: the numbers say that the machinery works, and nothing about cells.",),
    ),
)


class Integration(Task):
    """Represent all cells of a set so that types stay apart and batches do not.

    A method sees counts and batches, never types. Systems that represent cells take part, fitted on the same cells.
    """

    name = "integration"
    role = "Encodes"
    inputs = "cells"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "clustering", "integration")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return noise, no integration on all and on variable genes, batch means taken away, Harmony, and scVI on real cells."""
        variable = {"genes": 500}
        found = (
            Method("random", "random places", "control", Integrator, {"way": "random"}),
            Method("none", "no integration (PCA)", "control", Integrator, seeded=False),
            Method("variable", "no integration (HVG + PCA)", "control", Integrator, variable, seeded=False),
            Method("means", "batch means taken away + PCA", "control", Integrator, {"way": "means"}, seeded=False),
            Method("harmony", "PCA + Harmony", "control", Integrator, {"way": "harmony"}),
        )
        if protocol.name == "simulated":
            return found
        return (*found, Method("scvi", "scVI, HVG", "control", Integrator, {"way": "scvi", "genes": 2000}))

    def systems(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return every system that represents cells; BMFM also untrained and pretrained on masked genes."""
        more = (Method(name, title, "rival", "bmfm", dict(words)) for name, (title, words) in NETWORKS.items())
        return (*super().systems(protocol), *more)

    def load(self, protocol: Protocol) -> dict[str, AnnData]:
        """Return the data sets of the protocol by name, cells of known type alone."""
        if "sets" not in protocol.data:
            return {"simulated": datasets.simulate_cells(**protocol.data)}
        found = {}
        for name in protocol.data["sets"]:
            adata = getattr(datasets, name)().adata
            found[name] = take(adata, adata.obs[CELL_TYPE].notna().to_numpy())
        return found

    def fingerprint(self, data: Any) -> str:
        """Return a hash of all sets' counts and names."""
        return digest({name: fingerprint(one) for name, one in data.items()})

    def folds(self, protocol: Protocol, data: Any) -> list[Fold]:
        """Return one fold a data set; the same cells are seen and judged, without and with their types."""
        return [Fold(name, self.blind(one), one, ()) for name, one in data.items()]

    def blind(self, test: AnnData) -> AnnData:
        """Return counts and batches, without types."""
        return hide(test, columns=(BATCH,))

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return seed and the name of the batches."""
        return dict(protocol.parameters) | {"random_state": seed, "batch": BATCH}

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return the places of the cells."""
        return {"places": pd.DataFrame(np.asarray(model.transform(seen)), index=seen.obs_names)}

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return the scores on all cells, and on random halves of them: the same halves for every method."""
        label, batch = (fold.test.obs[one].astype(str).to_numpy() for one in (CELL_TYPE, BATCH))
        places = tables["places"].to_numpy(dtype=np.float64)
        before = components(log_normalised(fold.test), _COMPONENTS, 0)
        everyone = judge_integration(places, label, batch, before=before)
        rng, n = stream(0, f"halves {fold.name}"), len(places)
        halves = []
        for _ in range(int(protocol.judging["halves"])):
            half = np.sort(rng.permutation(n)[: n // 2])
            halves.append(judge_integration(places[half], label[half], batch[half], before=before[half]))
        return {"scores": pd.DataFrame([everyone]), "halves": pd.DataFrame(halves), "cells": pd.DataFrame({"n": [n]})}

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return the scores on each set and their mean, and differences from no integration and from Harmony."""
        results = summarise_patients(
            cells, methods, statistics=_statistics, headline=HEADLINE, references=REFERENCES, n_draws=0
        )
        spread = results["design"] == "patients"
        return results.assign(
            level=results["level"].replace("patients", "cells"), design=results["design"].mask(spread, "halves")
        )


def _statistics(cells: Sequence[Cell]) -> list[Statistic]:
    sets: dict[str, list[Cell]] = {}
    for cell in cells:
        sets.setdefault(cell.key.fold, []).append(cell)
    found = []
    for metric in (*HEADLINE, *BIO, *BATCH_SCORES):
        own = []
        for name, runs in sets.items():
            value = float(np.mean([run.tables["scores"][metric].iloc[0] for run in runs]))
            halves = np.mean([run.tables["halves"][metric].to_numpy() for run in runs], axis=0)
            # A half is as far from all cells as these are from more cells of the kind; its bias is that of having fewer neighbours.
            draws = value + halves - halves.mean()
            members = np.char.add(f"{name} ", np.arange(int(runs[0].tables["cells"]["n"].iloc[0])).astype(str))
            own.append(Statistic(name, metric, value, members, n=len(members), draws=draws))
        found += own
        if len(own) > 1:
            found.append(_mean(own))
    return found


def _mean(own: Sequence[Statistic]) -> Statistic:
    """Return the mean over sets, whose halves are drawn independently of one another."""
    value = float(np.mean([one.value for one in own]))
    draws = np.mean([one.draws for one in own if one.draws is not None], axis=0)
    members = np.concatenate([one.patients for one in own if one.patients is not None])
    return Statistic(ALL, own[0].metric, value, members, n=len(members), draws=draws)


TASK = Integration()
"""The task."""
