"""The course of a fit: what is held out, the closed form, pretraining, what is used of it, intervals, heads."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from expressor.core.errors import DataError
from expressor.core.log import logger
from expressor.core.rng import stream
from expressor.nn.values import BinnedValues, ContinuousValues
from expressor.systems.gexbert import equations, mixture
from expressor.systems.gexbert.calibration import Calibration, calibrate, stretch_of
from expressor.systems.gexbert.features import Features
from expressor.systems.gexbert.heads import ClassHead, RiskHead
from expressor.systems.gexbert.memory import Memory
from expressor.systems.gexbert.network import RestorationNetwork
from expressor.systems.gexbert.outcomes import Heads
from expressor.systems.gexbert.parameters import SUPPLIED
from expressor.systems.gexbert.profiles import Reference, patients, pipelines, read_query, read_training
from expressor.systems.gexbert.restorer import Restorer
from expressor.systems.gexbert.skip import CrossFit, LinearSkip, fit_skip
from expressor.systems.gexbert.training import Judge, Material, Options, pretrain
from expressor.systems.gexbert.tuning import TunedNetwork
from expressor.train import loop


@dataclass(eq=False)
class Pretrained:
    """What a fit leaves behind; the estimator keeps it."""

    genes: Any
    unit: str
    reference: Reference | None
    pipelines: tuple[str, ...]
    restorer: Restorer
    network: RestorationNetwork | None
    calibration: Calibration
    history: pd.DataFrame
    panel: tuple[str, ...]
    classes: ClassHead | None = None
    risks: RiskHead | None = None
    anchors: tuple[str, ...] = ()
    class_features: Features | None = None
    risk_features: Features | None = None
    tuned_classes: TunedNetwork | None = None
    tuned_risks: TunedNetwork | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)


class Pretraining:
    """One fit of an estimator's parameters to data."""

    def __init__(self, model: Any, adata: AnnData, val: AnnData | None, resume: Path | None) -> None:
        self.model, self.adata, self.val, self.resume, self.seed = model, adata, val, resume, model.random_state
        self.genes, self.unit, values = read_training(adata)
        self.patients = patients(adata, model.patient)
        self.train, self.held_out = self._parts(val)
        if val is not None:
            values = np.vstack([values, read_query(val, self.genes, self.unit)[1]])
        self.lowest = float(np.nanmin(values))
        self.reference = None
        if model.value_scale == "rank":
            self.reference = Reference.of(values[self.train])
            values = self.reference.bring(values)
        self.values = torch.from_numpy(values)
        self.pipelines, self.codes = self._pipelines(val)
        n_genes = len(self.genes)
        smallest, largest = model.panel_sizes
        self.options = Options(
            smallest=min(smallest, n_genes - 1), largest=min(largest, n_genes - 1), targets=model.targets,
            tokens=model.tokens, hidden=model.hidden_share, visible_weight=model.visible_weight,
            scores=0, steps=model.steps,
        )  # fmt: skip
        self.panel = torch.from_numpy(np.sort(self.genes.index_of(model.panel))) if model.panel else None
        self.history: list[pd.DataFrame] = []

    # What is held out ---------------------------------------------------------------------------------------------------

    def _parts(self, val: AnnData | None) -> tuple[Tensor, Tensor]:
        """Return rows that train and rows that judge; no patient is among both."""
        n = self.adata.n_obs
        if val is not None:
            both = sorted(set(self.patients) & set(patients(val, self.model.patient)))
            if both:
                raise DataError(f"{len(both)} patients are in the training and in the validation data, such as {str(both[0])!r}",
                                expected="no patient on both sides", fix="Split by patient.")  # fmt: skip
            self.patients = np.concatenate([self.patients, patients(val, self.model.patient)])
            return torch.arange(n), torch.arange(n, n + val.n_obs)
        names = np.unique(self.patients)
        if len(names) < 4:
            raise DataError("too few patients to hold some out", expected="at least 4", got=len(names),
                            fix="Give val=, or check the column that names patients.")  # fmt: skip
        n_held_out = min(max(2, round(self.model.validation * len(names))), len(names) - 2)
        # Patients are drawn by name, so that the order of rows does not matter for who they are.
        chosen = names[stream(self.seed, "validation").permutation(len(names))[:n_held_out]]
        inside = np.isin(self.patients, chosen)
        return torch.from_numpy(np.flatnonzero(~inside)), torch.from_numpy(np.flatnonzero(inside))

    def _pipelines(self, val: AnnData | None) -> tuple[tuple[str, ...], Tensor | None]:
        column = self.model.pipeline
        if column is None:
            return (), None
        if column not in self.adata.obs:
            raise DataError(f"obs has no column {column!r} for the pipeline", fix="Name the column with pipeline=.")
        known = tuple(sorted(set(self.adata.obs[column].astype(str))))
        codes = [pipelines(one, column, known) for one in (self.adata, val) if one is not None]
        return known, torch.cat(codes)  # type: ignore[arg-type]

    # The course -----------------------------------------------------------------------------------------------------------

    def run(self) -> Pretrained:
        """Fit, and return what is to be kept."""
        model = self.model
        given = {"seed": self.seed, "folds": model.folds, "components": self.model.components}
        skip, cross = fit_skip(self.values[self.train], **given)
        self.options = dataclasses.replace(self.options, scores=skip.basis.shape[1] if model.linear_skip else 0)
        judge = Judge.of(
            skip, self.values[self.held_out], self.codes_of(self.held_out),
            options=self.options, linear=model.linear_skip, seed=self.seed,
        )  # fmt: skip
        network = self._pretrain(skip, cross, judge) if model.network else None
        memory = None
        if model.memory and model.linear_skip:
            memory = Memory.of(skip, cross.filled, model.memory, self.seed)
        sizes = tuple(dict.fromkeys(len(one.observed) for one in judge.panels))
        shares = mixture.unmixed(sizes, float(network is not None))
        if model.linear_skip:
            shares = mixture.choose(judge, skip, network, memory)
        used = network if network is not None and any(shares.network) else None
        memory = memory if any(shares.memory) else None
        restorer = Restorer(skip, model.linear_skip, used, memory, shares, self.options)
        self._report(judge, shares)
        stretch = stretch_of(cross, self.values[self.train], seed=self.seed)
        calibration = calibrate(
            restorer, self.values[self.held_out], self.codes_of(self.held_out), stretch=stretch, seed=self.seed
        )
        # What was chosen is kept; the closed form and the memory now learn from everyone.
        again = model.time is not None and model.survival_input == "anchors"
        whole, whole_cross = fit_skip(self.values, **given, like=skip, cross=again)
        if memory is not None:
            memory = Memory.of(whole, whole_cross.filled, model.memory, self.seed)
        judged = dataclasses.replace(restorer, memory=None)
        restorer = Restorer(whole, model.linear_skip, used, memory, shares, self.options)
        fitted = Pretrained(
            self.genes, self.unit, self.reference, self.pipelines, restorer, network, calibration, pd.DataFrame(),
            tuple(model.panel or ()),
            counts={"samples": len(self.values), "patients": len(set(self.patients)), "held_out": len(self.held_out),
                    "gaps": int(self.values.isnan().sum())},
        )  # fmt: skip
        if model.label is not None or model.time is not None:
            self.history += Heads(self, fitted, judged, whole_cross).fit()
        fitted.history = pd.concat(self.history, ignore_index=True)
        return fitted

    def codes_of(self, rows: Tensor) -> Tensor | None:
        """Return the pipeline codes of some samples, where pipelines are told apart."""
        return None if self.codes is None else self.codes[rows]

    def _pretrain(self, skip: LinearSkip, cross: CrossFit, judge: Judge) -> RestorationNetwork:
        model = self.model
        with loop.seeded(self.seed, "init"):
            network = build_network(
                model, self._gene_vectors(skip), self._edges(skip), self.options, len(self.pipelines)
            )
        material = Material.of(self.values[self.train], cross, self.codes_of(self.train))
        identity = json.dumps({"genes": self.genes.hash, "options": dataclasses.asdict(self.options)}, sort_keys=True)
        history = pretrain(
            network, material, judge, options=self.options, plan=model.plan, seed=self.seed,
            linear=model.linear_skip, resume=self.resume, identity=identity,
        )  # fmt: skip
        self.history.append(history)
        return network

    def _gene_vectors(self, skip: LinearSkip) -> Tensor:
        """Return the start of the gene table, (gene, dim)."""
        n_genes, dim = len(self.genes), self.model.dim
        found = torch.randn(n_genes, dim)
        if self.model.gene_vectors == "random":
            return found
        if self.model.gene_vectors == "pca":
            loadings = skip.state.factors[:, :dim]
        else:
            loadings = self._supplied(dim)
        start = equations.loading_start(loadings).float()
        # Directions that the loadings do not fill stay random, and small.
        found *= 0.1
        found[:, : start.shape[1]] = start
        return found

    def _supplied(self, dim: int) -> Tensor:
        """Return the leading components of the supplied gene vectors; genes without a vector get the mean."""
        key = self.model.gene_vectors.removeprefix(SUPPLIED)
        if key not in self.adata.varm:
            raise DataError(f"varm has no gene vectors {key!r}", expected=", ".join(map(str, self.adata.varm)) or "an entry",
                            fix='Put them into adata.varm and name them: gene_vectors="varm:NAME".')  # fmt: skip
        table = pd.DataFrame(np.asarray(self.adata.varm[key], dtype=np.float64), index=self.adata.var_names.astype(str))
        vectors = table.loc[list(self.genes)].to_numpy()
        known = np.isfinite(vectors).all(axis=1)
        if not known.any():
            raise DataError(f"no gene has a vector in varm[{key!r}]", expected="finite numbers for at least one gene")
        vectors = np.where(known[:, None], vectors - vectors[known].mean(0), 0.0)
        u, s, _ = np.linalg.svd(vectors, full_matrices=False)
        signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(u.shape[1])])
        keep = min(dim, int((s > s[0] * 1e-6).sum())) if s[0] > 0 else 1
        return torch.from_numpy((u * s * signs)[:, :keep])

    def _edges(self, skip: LinearSkip) -> Tensor:
        """Return the inner edges of the value bins: quantiles of standardised training values."""
        every = torch.arange(len(self.genes))
        z = skip.standardise(self.values[self.train], every)
        z = z[~z.isnan()]
        if len(z) > 10**6:
            z = z[torch.from_numpy(stream(self.seed, "edges").integers(len(z), size=10**6))]
        share = torch.arange(1, self.model.bins, dtype=torch.float64) / self.model.bins
        # Equal quantiles, of the many zeros of genes that are hardly expressed, make one edge.
        return (
            torch.unique(torch.quantile(z, share)) if len(z) < 10**7 else torch.linspace(-2.5, 2.5, self.model.bins - 1)
        )

    def _report(self, judge: Judge, shares: mixture.Mixture) -> None:
        """Record, a row a panel size, what held-out patients decided."""
        rows = []
        for i, size in enumerate(shares.sizes):
            errors = [one.batch["truth"] - one.batch["skip"] for one in judge.panels if len(one.observed) == size]
            before = float(torch.cat([one[~one.isnan()] for one in errors]).double().square().mean().sqrt())
            rows.append({"stage": "judge", "panel": size, "skip_rmse": before, "val_rmse": before - shares.gain[i],
                         "network_share": shares.network[i], "memory_share": shares.memory[i]})  # fmt: skip
        table = pd.DataFrame(rows)
        self.history.append(table.assign(epoch=range(1, len(table) + 1), loss=table["val_rmse"] ** 2))
        if self.model.network and self.model.linear_skip and not any(shares.network):
            logger.info("the network did not help held-out patients at any panel size and is not used for restoring")


def build_network(
    model: Any, gene_vectors: Tensor, edges: Tensor, options: Options, n_pipelines: int
) -> RestorationNetwork:
    """Return the network of an estimator's parameters; random numbers are drawn from torch's present generator."""
    dim = gene_vectors.shape[1]
    continuous = model.value_encoder == "continuous"
    values: Any = ContinuousValues(dim) if continuous else BinnedValues(edges, dim)
    return RestorationNetwork(
        gene_vectors, values, layers=model.layers, decoder_layers=model.decoder_layers, heads=model.heads,
        hidden=model.hidden, dropout=model.dropout, scores=options.scores,
        pipelines=n_pipelines, product=continuous,
    )  # fmt: skip
