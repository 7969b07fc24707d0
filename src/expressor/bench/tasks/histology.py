"""Spatial gene expression from images of tissue."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.controls import EncoderRidge, GeneMean, LibrarySize
from expressor.bench.store import Cell
from expressor.bench.summary import summarise_sections
from expressor.bench.task import Fold, Method, Protocol, Task
from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data.fields import SCALES, counts_of, expression, fingerprint
from expressor.data.keys import FEATURES, PATIENT, SECTION, SPATIAL
from expressor.data.spatial import microns_per_pixel, sections
from expressor.data.splits import Split, check_leak, hold_out, leave_one_group_out, random_spots
from expressor.datasets import her2st, simulate_tissue
from expressor.genes.panels import dispersion, rank_genes
from expressor.metrics import (
    block_bootstrap_pearson,
    block_permutation_pvalues,
    gene_correlation_error,
    moran_concordance,
)
from expressor.metrics.coverage import interval_coverage, interval_score, interval_width
from expressor.metrics.evaluation import GENEWISE

COVERAGE = 0.9
TOP_50 = {"ranking": "dispersion of counts on training spots", "n": 50}
PAIRS = ("section", "obs_names")
JUDGING = {"permutations": 999, "draws": 1000}

PROTOCOLS = (
    Protocol(
        name="patient-c-sections",
        version=1,
        title="HER2ST patient C: train on three sections, judge on the fourth, in turn",
        data={"dataset": "her2st", "sections": ["C2", "C3", "C4", "C5"], "resolution": "sample"},
        split={"kind": "leave-one-out", "key": SECTION, "apart": PAIRS},
        targets=TOP_50,
        variants=SCALES,
        judging=JUDGING,
        notes=(
            "Four adjacent sections of one patient: this says nothing about other patients.",
            "The 50 targets are the genes of largest dispersion (variance over mean of counts) on the training spots of each fold.",
        ),
    ),
    Protocol(
        name="cross-patient",
        version=1,
        title="HER2ST: train on patient C, judge on B4 and A1",
        data={"dataset": "her2st", "sections": ["C2", "C3", "C4", "C5", "B4", "A1"], "resolution": "full"},
        split={"kind": "hold-out", "key": PATIENT, "values": ["A", "B"], "apart": ("patient", *PAIRS)},
        targets=TOP_50,
        variants=SCALES,
        judging=JUDGING,
        notes=(
            "Two test patients with one section each, one training patient: intervals over two clusters are as wide as they look.",
            "The picture of A1 has 3.2 um per pixel, the others 0.69: part of what is lost there is resolution.",
        ),
    ),
    Protocol(
        name="random-spots",
        version=1,
        title="HER2ST C5: random spots of one section in five folds, 3:1:1, as the paper of AGL does",
        data={"dataset": "her2st", "sections": ["C5"], "resolution": "sample"},
        split={"kind": "random-spots", "folds": 5, "seed": 0, "apart": ("obs_names",)},
        targets=TOP_50,
        variants=SCALES,
        judging=JUDGING,
        notes=(
            "Training and test spots are neighbours on the same section, with overlapping patches and one batch: the easy setting. "
            "It tells how well missing spots of a section are filled in, not how a new section fares.",
        ),
    ),
    Protocol(
        name="simulated",
        version=1,
        title="Simulated tissue: three small sections, leave one out; seconds, to try an installation",
        data={"dataset": "simulated", "sections": 3, "spots": 60, "n_genes": 40, "n_features": 16, "um_per_px": 4.0},
        split={"kind": "leave-one-out", "key": SECTION, "apart": PAIRS},
        targets={"ranking": TOP_50["ranking"], "n": 8},
        variants=SCALES,
        judging=JUDGING,
        parameters={"encoder": "precomputed:X_simulated"},
        notes=("Made data: the numbers say that the machinery works, and nothing about tissue.",),
    ),
)

RIDGE = "ridge"
CONTEXT = "ridge-context"
ENCODER = "efficientnet_lite0"


def agl_methods() -> tuple[Method, ...]:
    """Return AGL with what it chooses among, as methods of their own."""
    titles = {
        "pgl": ("none", "PGL: primary genes only"),
        "all": ("all", "all auxiliary genes"),
        "uncertainty": ("uncertainty", "uncertainty weights (Kendall 2018)"),
        "auxilearn": ("auxilearn", "AuxiLearn (Navon 2021)"),
        "amal": ("amal", "AMAL (2023)"),
        "halving": ("halving", "successive halving over k"),
        "dkgsb": ("dkgsb", "AGL: DkGSB"),
    }
    return tuple(
        Method(name, title, "model" if name == "dkgsb" else "rival", "agl", {"auxiliaries": option})
        for name, (option, title) in titles.items()
    )


class Histology(Task):
    """Predict the expression of spots from the image around them.

    Methods see images, positions and sections of the test data, never their counts (but for the control that says so).
    """

    name = "histology"
    role = "Predicts"
    inputs = "histology"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return gene mean, permuted images, library size, colour and ridge, encoder and ridge, the same with context."""
        # The colour control looks at pixels whatever the protocol gives to the others; simulated pixels are small.
        return (
            Method("mean", "gene mean", "control", GeneMean, seeded=False),
            Method("permuted", "ridge on permuted images", "control", EncoderRidge, {"shuffled": True}),
            Method("library", "log library size", "control", LibrarySize, seeded=False,
                   needs="the library size of the test spots"),
            Method("colour", "colour descriptor + ridge", "control", EncoderRidge, {"encoder": "colour"}, seeded=False),
            Method(RIDGE, "encoder + ridge", "control", EncoderRidge, seeded=False),
            Method(CONTEXT, "encoder and colour at 3 patch sizes + ridge", "control", EncoderRidge,
                   {"encoder": (protocol.parameters.get("encoder", ENCODER), "colour"), "patch_ratios": (0.75, 1.0, 1.5)},
                   seeded=False),
        )  # fmt: skip

    def systems(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return the rivals inside AGL, AGL itself, and every other system that takes part by its card."""
        others = super().systems(protocol)
        agl = [one for one in others if one.maker == "agl"]
        return (agl_methods() if agl else ()) + tuple(one for one in others if one not in agl)

    def load(self, protocol: Protocol) -> AnnData:
        """Return the sections of the protocol as one AnnData."""
        settings = dict(protocol.data)
        name = settings.pop("dataset")
        if name == "her2st":
            return her2st(**settings).adata
        if name == "simulated":
            return simulate_tissue(**settings, seed=0)
        raise DataError(f"protocol {protocol.name!r} names unknown data {name!r}", expected="her2st or simulated")

    def fingerprint(self, data: AnnData) -> str:
        """Return the hash of counts and names."""
        return fingerprint(data)

    def folds(self, protocol: Protocol, data: AnnData) -> list[Fold]:
        """Split as the protocol says, choose the targets on the training spots, and refuse a leak."""
        folds = []
        for split in self._splits(protocol, data):
            train, test = _take(data, split.train), _take(data, split.test)
            validation = None if split.validation is None else _take(data, split.validation)
            for part in (test, validation):
                if part is not None:
                    check_leak(train, part, by=protocol.split["apart"])
            folds.append(Fold(split.name, train, test, choose_targets(train, int(protocol.targets["n"])), validation))
        return folds

    def _splits(self, protocol: Protocol, data: AnnData) -> Sequence[Split]:
        settings = protocol.split
        if settings["kind"] == "leave-one-out":
            return leave_one_group_out(data, settings["key"])
        if settings["kind"] == "hold-out":
            return [hold_out(data, settings["key"], settings["values"])]
        if settings["kind"] == "random-spots":
            return random_spots(data, settings["folds"], settings["seed"])
        raise DataError(f"protocol {protocol.name!r} names an unknown split {settings['kind']!r}")

    def blind(self, test: AnnData) -> AnnData:
        """Return images, positions, sections and image features of ``test``: no genes, no table that was made from them."""
        kept = [one for one in (SECTION, PATIENT) if one in test.obs]
        return AnnData(
            obs=test.obs[kept].copy(),
            obsm={name: value for name, value in test.obsm.items() if name == SPATIAL or name.startswith(FEATURES)},
            uns={SPATIAL: test.uns[SPATIAL]},
        )

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return target genes, target scale and seed, and the protocol's parameters."""
        own = {"target_genes": fold.targets, "target_scale": variant, "random_state": seed}
        return dict(protocol.parameters) | own

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return predictions, and 90 % intervals where the model gives them."""
        tables = {"predicted": model.predict(seen)}
        if hasattr(model, "predict_interval"):
            tables["lower"], tables["upper"] = model.predict_interval(seen, coverage=COVERAGE)
        return tables

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return the predictions with scores by section and gene, block-bootstrap draws and permutation p-values."""
        genes = list(fold.targets)
        stated = tables["predicted"].attrs.get("unit")
        if stated != variant:
            raise DataError("predictions are not in the unit of the targets", expected=variant, got=repr(stated))
        kept = {name: _aligned(one, genes) for name, one in tables.items()}
        measured = expression(fold.test, genes, scale=variant)
        labels = fold.test.obs[SECTION].astype(str).to_numpy()
        coords = _micrometres(fold.test)
        judged = measured, kept["predicted"].to_numpy()
        n_draws, n_permutations = protocol.judging["draws"], protocol.judging["permutations"]
        draws = block_bootstrap_pearson(*judged, coords, labels, n_draws=n_draws, rng=stream(0, "spots"))
        p = block_permutation_pvalues(
            *judged, coords, labels, n_permutations=n_permutations, rng=stream(0, "permutations")
        )
        defined = ~np.isnan(draws)
        with np.errstate(invalid="ignore"):
            means = np.where(defined, draws, 0.0).sum(axis=2) / defined.sum(axis=2)
        return {
            **kept,
            "scores": _scores(fold.test, genes, *judged, kept.get("lower"), kept.get("upper"), coords, labels),
            "draws": pd.DataFrame(means, columns=sorted(set(labels))),
            "pvalues": pd.DataFrame({"p": p}, index=genes),
        }

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return means with intervals over sections and patients, and differences from both ridges and the best of PGL and all."""
        shared = protocol.split["kind"] == "random-spots"
        return summarise_sections(
            cells, methods, references=((RIDGE,), (CONTEXT,), ("pgl", "all")), folds_share_sections=shared
        )


def choose_targets(train: AnnData, n: int) -> tuple[str, ...]:
    """Return the ``n`` genes of largest dispersion of counts, best first, from training spots alone."""
    names = train.var_names.to_numpy().astype(str)
    return tuple(str(names[i]) for i in rank_genes(dispersion(counts_of(train)), names)[:n])


def _take(data: AnnData, rows: np.ndarray) -> AnnData:
    part = data[rows].copy()
    present = set(part.obs[SECTION].astype(str))
    part.obs[SECTION] = part.obs[SECTION].cat.remove_unused_categories()
    part.uns[SPATIAL] = {name: entry for name, entry in data.uns[SPATIAL].items() if name in present}
    return part


def _micrometres(data: AnnData) -> np.ndarray:
    coords = np.array(data.obsm[SPATIAL], dtype=np.float64)
    labels = data.obs[SECTION].astype(str).to_numpy()
    for section in sections(data):
        coords[labels == section] *= microns_per_pixel(data, section)
    return coords


def _aligned(table: pd.DataFrame, genes: list[str]) -> pd.DataFrame:
    absent = [gene for gene in genes if gene not in table.columns]
    if absent:
        raise DataError(
            "predictions do not fit what was asked",
            expected=f"{len(genes)} genes",
            got=f"{len(absent)} of them missing",
        )
    return table[genes].astype(np.float32)


def _scores(
    test: AnnData, genes: list[str], measured: np.ndarray, predicted: np.ndarray,
    lower: pd.DataFrame | None, upper: pd.DataFrame | None, coords: np.ndarray, labels: np.ndarray,
) -> pd.DataFrame:  # fmt: skip
    names = sorted(set(labels))
    values: dict[str, np.ndarray] = {name: of(measured, predicted, labels) for name, of in GENEWISE.items()}
    if lower is not None and upper is not None:
        values["coverage"] = interval_coverage(measured, lower, upper, labels)
        values["width"] = interval_width(lower, upper, labels)
        values["interval_score"] = interval_score(measured, lower, upper, labels, coverage=COVERAGE)
    concordance, bias = moran_concordance(measured, predicted, coords, labels)
    single = {
        "gene_correlation_error": gene_correlation_error(measured, predicted, labels),
        "moran_concordance": concordance,
        "moran_bias": bias,
    }
    owner = dict(zip(labels, test.obs[PATIENT].astype(str) if PATIENT in test.obs else [""] * len(labels)))
    rows = [
        {"section": section, "patient": owner[section], "gene": gene, "metric": metric, "value": float(table[i, j])}
        for metric, table in (values | {name: one[:, None] for name, one in single.items()}).items()
        for i, section in enumerate(names)
        for j, gene in enumerate(genes if metric in values else [""])
    ]
    return pd.DataFrame(rows)


TASK = Histology()
