"""Using a model of one species in another: cell types of the pancreas, from human to mouse and back, with few labelled cells."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from expressor import datasets
from expressor.bench.cohorts import METRICS, Statistic, hide, summarise_clusters, summarise_patients
from expressor.bench.controls.label_transfer import COUNTS, LabelTransfer
from expressor.bench.controls.transferring import Dense, TargetAlone, Transferred, most_variable, train_source
from expressor.bench.labels import Judged, by_setting, label_some, predict_labels, score_labels
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol, Task
from expressor.core.rng import stream
from expressor.data.fields import expression_sparse, fingerprint
from expressor.data.keys import CELL_TYPE, DONOR, UNIT
from expressor.data.splits import check_leak
from expressor.data.units import LOG1P
from expressor.datasets.dataset import take
from expressor.datasets.species import SPECIES, simulate_species
from expressor.estimator.expression_models import ExpressionModel
from expressor.genes.ortholog_files import human_mouse
from expressor.genes.orthologs import Orthologs
from expressor.metrics.classification import balanced_accuracy
from expressor.train.plan import TrainPlan

LABEL = CELL_TYPE
REFERENCES = ("one-to-one", "tron")
_TARGETS = {"label": LABEL, "genes": 4000, "least": 10}
_PLAN = {"steps": 60, "lr": 1e-2, "scale": "given", "match": "moments"}
_NOTES = (
    "A method is given the network of the source species, trained on all of its donors, and the cells of one half of the target's "
    "donors, of which so many of each type are labelled; it is judged on the other half, then the halves change places. The "
    "labelled cells are drawn once (5 a type: twice).",
    "With 0 labelled cells the unlabelled cells of the training donors still serve to match the mean and spread of genes, for all "
    "methods alike; what is trained on the target alone has nothing and calls all types as likely.",
    "Matching, step size and pull to the start were chosen on the mouse cells of this set, for TRON and one-to-one orthologs "
    "alike; so from human to mouse all methods with a layer look a little too good. From mouse to human nothing was chosen.",
    "Self-trained: 50 unlabelled training cells of each type, those that a first fit is surest of, teach along as if labelled. "
    "That it is 50, and with the network, was chosen from mouse to human; from human to mouse nothing was chosen for it.",
    "In brackets the cells are resampled, donors as they are; what donors add stands in the table of means over donors. Neither "
    "says anything about another laboratory.",
    "The dense layer joins every gene of the network to the 4,000 most variable of the target, starts at 0, and has a step size "
    "of its own (1e-4, chosen from mouse to human). In TRON's layer 16 million edges are not practical: it gathers each anew.",
    "scANVI sees counts of the 2,000 most variable one-to-one orthologs, 300 cells a type of the source, and the training cells "
    "of the target, labelled and not; the cells that are judged are in no training. It is trained for few epochs (20 of scVI, 5 of "
    "scANVI).",
)


def _protocol(source: str, target: str, title: str, groups: Sequence[Sequence[str]]) -> Protocol:
    return Protocol(
        name=f"{source}-{target}", version=1, title=title, data={"source": source, "target": target},
        split={"groups": [list(one) for one in groups], "shots": [0, 1, 5, 20, 100], "draws": [1, 1, 2, 1, 1], "seed": 0},
        targets=_TARGETS, variants=("log1p_cp10k",), parameters=_PLAN, judging={"draws": 1000}, notes=_NOTES,
    )  # fmt: skip


PROTOCOLS = (
    _protocol("human", "mouse", "Types of mouse pancreas by a network of human pancreas", (("mouse1",), ("mouse2",))),
    _protocol("mouse", "human", "Types of human pancreas by a network of mouse pancreas",
              (("human1", "human2"), ("human3", "human4"))),
    Protocol(
        name="simulated",
        version=1,
        title="Two simulated species: seconds, to try an installation",
        data={"source": SPECIES[0], "target": SPECIES[1], "n_cells": 120, "n_families": 60},
        split={"groups": [["beta1"], ["beta2"]], "shots": [0, 5], "draws": [1, 1], "seed": 0},
        targets=_TARGETS | {"least": 1},
        variants=("log1p_cp10k",),
        parameters=_PLAN | {"steps": 20},
        judging={"draws": 200},
        notes=("Made data: the numbers say that the machinery works, and nothing about species.",),
    ),
)  # fmt: skip


class Transfer(Task):
    """Predict the type of cells of one species from a network of another, with no or few labelled cells.

    A system of the role ``Predicts`` whose inputs are ``species`` takes part.
    """

    name = "transfer"
    role = "Predicts"
    inputs = "species"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "classification")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return what uses fewer orthologs, wrong ones or none, what tunes more, scANVI, and models of the target alone."""

        def same(name: str, title: str, kind: str = "rival", **parameters: Any) -> Method:
            return Method(name, title, kind, Transferred, parameters, wraps="tron")  # type: ignore[arg-type]

        named = {"joint": True, "self_training": 50}
        scanvi = Method("scanvi", "scANVI on one-to-one orthologs", "rival", LabelTransfer)
        return (
            same("permuted", "permuted orthologs", "control", graph="permuted"),
            same("random", "random edges, same degrees", "control", graph="random"),
            Method("dense", "dense layer, 4,000 x 4,000 genes", "rival", Dense),
            same("symbols", "same symbols, network retrained on these genes", graph="symbols", retrained=True),
            same(
                "one-to-one",
                "one-to-one orthologs, network retrained on these genes",
                graph="one-to-one",
                retrained=True,
            ),
            same("one-to-one-same", "one-to-one orthologs, same network", graph="one-to-one"),
            same("tron-retrained", "TRON, network retrained on genes with an ortholog", "model", retrained=True),
            same("tron-joint", "TRON, network fine-tuned along", "model", joint=True),
            same("tron-self", "TRON, network fine-tuned along, self-trained", "model", **named),
            same(
                "one-to-one-self",
                "one-to-one orthologs, network retrained, fine-tuned along and self-trained",
                graph="one-to-one",
                retrained=True,
                **named,  # type: ignore[arg-type]
            ),
            same("scratch", "TRON's layer, network from scratch", scratch=True),
            *([] if protocol.name == "simulated" else [scanvi]),
            Method("logistic", "logistic regression on the target alone", "rival", TargetAlone, seeded=False),
            Method("ridge", "ridge on the target alone", "rival", TargetAlone, {"head": "ridge"}, seeded=False),
        )

    def load(self, protocol: Protocol) -> dict[str, AnnData]:
        """Return log expression and counts of the cells of both species, of the types that both have."""
        settings = dict(protocol.data)
        names = [settings.pop("source"), settings.pop("target")]
        if names[0] == SPECIES[0]:
            pair = simulate_species(**settings)
            cells = [pair.source, pair.target]
        else:
            both = {"human": datasets.baron_human, "mouse": datasets.baron_mouse}
            cells = [both[one]().adata for one in names]
        counts = [one.obs[LABEL].astype(str).value_counts() for one in cells]
        least = int(protocol.targets["least"])
        types = sorted(set(counts[0].index[counts[0] >= least]) & set(counts[1].index[counts[1] >= least]))
        found = {}
        for name, one in zip(("source", "target"), cells):
            part = take(one, one.obs[LABEL].isin(types).to_numpy())
            found[name] = AnnData(
                expression_sparse(part, scale="log1p_cp10k"), layers={COUNTS: sparse.csr_matrix(part.X, dtype=np.float32)},
                obs=part.obs[[LABEL, DONOR]].astype(str), var=pd.DataFrame(index=part.var_names), uns={UNIT: LOG1P},
            )  # fmt: skip
        return found

    def fingerprint(self, data: dict[str, AnnData]) -> str:
        """Return the hash of both species' expression and names."""
        return fingerprint(data["source"]) + fingerprint(data["target"])

    def folds(self, protocol: Protocol, data: dict[str, AnnData]) -> list[Fold]:
        """Hold out each half of the donors in turn; label so many cells of each type of the other half."""
        target, split = data["target"], protocol.split
        folds = []
        for number, held_out in enumerate(split["groups"]):
            inside = target.obs[DONOR].isin(held_out).to_numpy()
            train, test = take(target, ~inside), take(target, inside)
            check_leak(train, test, by=["obs_names", DONOR])
            for shots, draws in zip(split["shots"], split["draws"]):
                for draw in range(draws):
                    rng = stream(int(split["seed"]), "labelled cells", number, shots, draw)
                    name = f"{'+'.join(held_out)} {shots} labelled a type #{draw + 1}"
                    some = label_some(train, LABEL, partial(_first, shots, rng))
                    folds.append(Fold(name, some, test, (LABEL,)))
        return folds

    def blind(self, test: AnnData) -> AnnData:
        """Return expression, counts and donors, without types."""
        hidden = hide(test, columns=(DONOR,))
        hidden.layers[COUNTS] = test.layers[COUNTS]
        return hidden

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return the source's network and cells, the orthologs, how many cells are labelled, and how to train."""
        shots = int(fold.name.split(" labelled")[0].rsplit(" ", 1)[1])
        source, cells, table = _source(self, protocol, seed)
        given = dict(protocol.parameters)
        plan = TrainPlan(lr=given.pop("lr"), weight_decay=0.0, batch_size=64, epochs=200, max_steps=given.pop("steps"))
        return given | {
            "label": LABEL, "source": source, "source_cells": cells, "orthologs": table, "random_state": seed, "plan": plan,
            "species": (protocol.data["source"], protocol.data["target"]), "shots": shots,
            "mode": "zero-shot" if shots == 0 else "conversion",
        }  # fmt: skip

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return types, and probabilities where the model gives them."""
        return predict_labels(model, seen, LABEL)

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return for each cell its donor, what it is, what was predicted, and its log loss."""
        truth = fold.test.obs[LABEL].astype(str).to_numpy()
        donor = fold.test.obs[DONOR].to_numpy().astype(str)
        return score_labels(truth, tables, label=LABEL, cell=fold.test.obs_names.astype(str), donor=donor)

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return scores for each number of labelled cells, and differences from one-to-one orthologs and TRON; by donor too."""
        cells = list(cells)
        inside = summarise_patients(
            cells, methods, statistics=_statistics, headline=("balanced_accuracy", "macro_f1", "log_loss"), references=REFERENCES,
            n_draws=int(protocol.judging["draws"]),
        )  # fmt: skip
        donors = summarise_clusters(
            cells, methods, values=_by_donor, metric="balanced_accuracy", level="donors", references=REFERENCES[:1]
        )
        return pd.concat([inside, donors], ignore_index=True)


@lru_cache(maxsize=4)
def _source(task: Transfer, protocol: Protocol, seed: int) -> tuple[ExpressionModel, AnnData, Orthologs]:
    cells = task.load(protocol)["source"]
    if protocol.data["source"] == SPECIES[0]:
        settings = {name: value for name, value in protocol.data.items() if name not in ("source", "target")}
        table = simulate_species(**settings).orthologs
    else:
        table = human_mouse()
    genes = most_variable(cells, int(protocol.targets["genes"]))
    return train_source(cells, genes, label=LABEL, seed=seed), cells, table


def _first(shots: int, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    return rng.permutation(rows)[:shots]


def _by_donor(cells: Sequence[Cell]) -> dict[str, pd.Series]:
    """Return balanced accuracy over the types of each donor, by number of labels."""
    found = {}
    for setting, own in by_setting(cells).items():
        samples = pd.concat([cell.tables["samples"].assign(fold=cell.key.fold) for cell in own])
        each = {
            key: balanced_accuracy(rows["truth"].to_numpy().astype(str), rows["predicted"].to_numpy().astype(str))
            for key, rows in samples.groupby(["donor", "fold"])
        }
        found[setting] = pd.Series(each).groupby(level=0).mean()
    return found


def _statistics(cells: Sequence[Cell]) -> list[Statistic]:
    found = []
    for setting, own in by_setting(cells).items():
        n = len({name for cell in own for name in cell.tables["samples"]["cell"]})
        judged = Judged.of(setting, own, unit="cell", n=n)
        found += [judged.balanced_accuracy(), judged.macro_f1(), *judged.of_probabilities()]
    return found


TASK = Transfer()
"""The task."""
