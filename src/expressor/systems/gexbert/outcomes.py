"""Labels and survival: which samples have them, what a head looks at, and its fit; fine-tuned on request."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from expressor.core.errors import DataError, nearest_names
from expressor.core.rng import stream
from expressor.data.outcomes import read_labels, read_outcomes
from expressor.systems.gexbert import equations
from expressor.systems.gexbert.features import Features
from expressor.systems.gexbert.heads import ClassHead, fit_classes, fit_risk
from expressor.systems.gexbert.restorer import Restorer
from expressor.systems.gexbert.skip import CrossFit
from expressor.systems.gexbert.tuning import Task, TunedNetwork, class_loss, risk_loss, tune

if TYPE_CHECKING:
    from expressor.systems.gexbert.fitting import Pretrained, Pretraining

_VIEWS = 3  # random panels in which a labelled sample is seen beside its complete profile
_NONE = torch.empty(0, dtype=torch.int64)


class Heads:
    """Fits the heads of one fit."""

    def __init__(self, fitting: "Pretraining", fitted: "Pretrained", judged: Restorer, cross: CrossFit) -> None:
        self.fitting, self.fitted, self.model, self.seed = fitting, fitted, fitting.model, fitting.seed
        # Training patients would find themselves in the memory; heads are trained and used without it.
        self.restorer = dataclasses.replace(fitted.restorer, memory=None)
        self.judged, self.cross = judged, cross
        self.history: list[pd.DataFrame] = []
        self.obs = fitting.adata.obs if fitting.val is None else pd.concat([fitting.adata.obs, fitting.val.obs])

    def fit(self) -> list[pd.DataFrame]:
        """Fit what was asked for, and return rows of history."""
        if self.model.label is not None:
            self._classes()
        if self.model.time is not None:
            self._risks()
        return self.history

    # Cancer type ----------------------------------------------------------------------------------------------------------

    def _classes(self) -> None:
        model, fitted = self.model, self.fitted
        rows, labels = self._labels()
        recipe = Features(True, _NONE if self._panel is None else self._panel, _NONE, self._panel)
        head = self._fit_classes(self.restorer, recipe, rows, labels)
        fitted.class_features, fitted.classes = recipe, head
        fitted.counts["labelled"] = len(rows)
        self._note("classes", len(rows), penalty=1 / head.strength)
        if model.tuning == "fine-tuned":
            fitted.tuned_classes = self._tune_classes(recipe, rows, labels)

    def _labels(self) -> tuple[Tensor, np.ndarray]:
        column = self.model.label
        labelled = self._there(column)
        labels = read_labels(AnnData(obs=self.obs[labelled].copy()), column)
        return torch.from_numpy(np.flatnonzero(labelled)), labels.astype(str)

    def _fit_classes(self, restorer: Restorer, recipe: Features, rows: Tensor, labels: np.ndarray) -> ClassHead:
        values, codes = self.fitting.values[rows], self.fitting.codes_of(rows)
        views = [recipe.of(restorer, values, codes)]
        if self._panel is None:
            for i in range(_VIEWS):
                views.append(recipe.of(restorer, self._thinned(values, i), codes))
        return fit_classes(views, labels, self.fitting.patients[rows.numpy()], seed=self.seed)

    def _thinned(self, values: Tensor, view: int) -> Tensor:
        """Return the values with NaN outside a random panel; a sample without a value in it keeps its own."""
        draw, options, n_genes = stream(self.seed, "views", view), self.fitting.options, values.shape[1]
        size = round(float(np.exp(draw.uniform(np.log(options.smallest), np.log(options.largest)))))
        shown = torch.from_numpy(draw.permutation(n_genes)[:size])
        left = torch.full_like(values, torch.nan)
        left[:, shown] = values[:, shown]
        lonely = left.isnan().all(1)
        left[lonely] = values[lonely]
        return left

    def _tune_classes(self, recipe: Features, rows: Tensor, labels: np.ndarray) -> TunedNetwork | None:
        inside = np.isin(rows.numpy(), self.fitting.train.numpy())
        if set(labels[inside]) != set(labels) or not (~inside).any():
            raise DataError(
                "fine-tuning needs every label among the patients that train, and held-out patients with labels",
                expected="several labelled patients a label", fix='Label more patients, or use tuning="frozen".',
            )  # fmt: skip
        head = self._fit_classes(self.judged, recipe, rows[torch.from_numpy(inside)], labels[inside])
        codes = torch.from_numpy(np.searchsorted(head.classes, labels))
        parts = []
        for part in (inside, ~inside):
            where = torch.from_numpy(part)
            parts.append((where, {"label": codes[where]}))
        return self._tune(
            parts, rows, recipe, lambda features: head.logits(features), class_loss, whole=False, phase="classes"
        )

    # Survival -------------------------------------------------------------------------------------------------------------

    def _risks(self) -> None:
        model, fitted = self.model, self.fitted
        rows, time, event, strata = self._outcomes()
        recipe, anchors = self._risk_features(rows, time, event)
        features = self._risk_input(recipe, rows)
        head = fit_risk(
            features, time, event, strata=strata, groups=self.fitting.patients[rows.numpy()], seed=self.seed
        )
        fitted.risk_features, fitted.risks, fitted.anchors = recipe, head, anchors
        fitted.counts |= {"outcomes": len(rows), "events": int(event.sum())}
        self._note("risks", len(rows), penalty=head.ridge, concordance=head.concordance)
        if model.tuning == "fine-tuned":
            fitted.tuned_risks = self._tune_risks(recipe, rows, time, event, strata)

    def _outcomes(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        model = self.model
        if model.event is None:
            raise DataError(
                "time= was given without event=", fix="Name the column that says whether the event happened."
            )
        known = self._there(model.time) & self._there(model.event)
        if not known.any():
            raise DataError(f"no sample has a time and an event (obs[{model.time!r}], obs[{model.event!r}])",
                            fix="Give patients with outcomes, or leave time= and event= out.")  # fmt: skip
        found = read_outcomes(
            AnnData(obs=self.obs[known].copy()), time=model.time, event=model.event, strata=model.strata
        )
        strata = None
        if found.strata is not None:
            strata = torch.from_numpy(np.unique(found.strata, return_inverse=True)[1])
        rows = torch.from_numpy(np.flatnonzero(known))
        return rows, torch.from_numpy(found.time), torch.from_numpy(found.event), strata

    def _risk_features(self, rows: Tensor, time: Tensor, event: Tensor) -> tuple[Features, tuple[str, ...]]:
        model, n_genes = self.model, len(self.fitting.genes)
        panel = torch.arange(n_genes) if self._panel is None else self._panel
        if model.survival_input == "token":
            return Features(True, _NONE, _NONE, self._panel), ()
        if model.survival_input == "panel":
            return Features(False, panel, _NONE, self._panel), ()
        # Anchors are chosen by their measured values in training patients, and used as they are restored from the panel.
        z = self.restorer.skip.standardise(self.cross.filled[rows], torch.arange(n_genes))
        score = equations.univariate_score(z, time, event).abs()
        score[panel] = -1.0
        ranked = torch.argsort(score, descending=True, stable=True)[: min(model.anchors, n_genes - len(panel))]
        anchors = torch.sort(ranked).values
        return Features(False, panel, anchors, self._panel), tuple(self.fitting.genes[int(one)] for one in ranked)

    def _risk_input(self, recipe: Features, rows: Tensor) -> Tensor:
        """Return the features of training patients; anchors are restored by closed forms that never saw the patient."""
        values, codes = self.fitting.values[rows], self.fitting.codes_of(rows)
        if not len(recipe.anchors):
            return recipe.of(self.restorer, values, codes)
        found = None
        for k, skip in enumerate(self.cross.parts):
            inside = self.cross.fold[rows] == k
            if not bool(inside.any()):
                continue
            restorer = dataclasses.replace(self.restorer, skip=skip)
            part = recipe.of(restorer, values[inside], None if codes is None else codes[inside])
            found = torch.zeros(len(rows), part.shape[1], dtype=torch.float64) if found is None else found
            found[inside] = part
        return found  # type: ignore[return-value]

    def _tune_risks(
        self, recipe: Features, rows: Tensor, time: Tensor, event: Tensor, strata: Tensor | None
    ) -> TunedNetwork | None:
        inside = torch.from_numpy(np.isin(rows.numpy(), self.fitting.train.numpy()))
        if int(event[inside].sum()) < 2 or not bool(event[~inside].any()):
            raise DataError("fine-tuning needs events among the patients that train and among those held out",
                            got=f"{int(event[inside].sum())} and {int(event[~inside].sum())}",
                            fix='Give more patients, or use tuning="frozen".')  # fmt: skip
        features = recipe.of(self.judged, self.fitting.values[rows[inside]], self.fitting.codes_of(rows[inside]))
        head = fit_risk(
            features, time[inside], event[inside], strata=None if strata is None else strata[inside],
            groups=self.fitting.patients[rows[inside].numpy()], seed=self.seed,
        )  # fmt: skip
        parts = []
        for where in (inside, ~inside):
            targets = {"time": time[where], "event": event[where]}
            parts.append((where, targets if strata is None else targets | {"strata": strata[where]}))
        return self._tune(
            parts, rows, recipe, lambda features: head.log_risk(features)[:, None], risk_loss, whole=True, phase="risks"
        )

    # Shared ---------------------------------------------------------------------------------------------------------------

    def _tune(
        self, parts: list[tuple[Tensor, dict[str, Tensor]]], rows: Tensor, recipe: Features, head: Any, loss: Any, *,
        whole: bool, phase: str,
    ) -> TunedNetwork | None:  # fmt: skip
        fitting, network = self.fitting, self.fitted.network
        if network is None:
            raise DataError("there is no network to fine-tune", fix='Use network=True, or tuning="frozen".')
        n_genes = len(fitting.genes)

        def base(values: Tensor, observed: Tensor, pipeline: Tensor | None) -> Tensor:
            given = torch.full((len(values), n_genes), torch.nan, dtype=torch.float64)
            given[:, observed] = values.double()
            return head(recipe.of(self.judged, given, pipeline))

        tasks = []
        for where, targets in parts:
            mine = rows[where]
            filled = self._filled(mine)
            tasks.append((Task(base, targets, loss, whole), filled, fitting.codes_of(mine)))
        tuned, history = tune(
            network, self.judged, train=tasks[0], held_out=tasks[1], panel=self._panel, plan=self.model.plan,
            seed=self.seed, phase=f"tune-{phase}", resume=fitting.resume, identity=f"{fitting.genes.hash} {phase}",
        )  # fmt: skip
        self.history.append(history.assign(kept=tuned is not None))
        return tuned

    def _filled(self, rows: Tensor) -> Tensor:
        return self.cross.filled[rows]

    @property
    def _panel(self) -> Tensor | None:
        return self.fitting.panel

    def _there(self, column: str) -> np.ndarray:
        """Return bool (sample,): the column tells something of the sample."""
        if column not in self.obs:
            names = [str(one) for one in self.obs.columns]
            raise DataError(f"obs has no column {column!r}", nearest=nearest_names(column, names),
                            fix="There are: " + (", ".join(names) or "none") + ".")  # fmt: skip
        return self.obs[column].notna().to_numpy()

    def _note(self, stage: str, n: int, **found: float) -> None:
        self.history.append(pd.DataFrame([{"stage": stage, "epoch": 1, "samples": n, **found}]))
