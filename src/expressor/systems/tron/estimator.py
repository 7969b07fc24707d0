"""The estimator: parameters, the course of a fit, and what the transferred model gives."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.log import logger
from expressor.data import fields, keys
from expressor.data.profiles import check_scale_of_use, profiles
from expressor.estimator.base import Estimator, State
from expressor.estimator.expression_models import ExpressionModel
from expressor.estimator.judging import patients_of
from expressor.estimator.labelling import most_likely
from expressor.estimator.roles import Predicts, Survives
from expressor.genes.vocab import GeneVocab
from expressor.nn.masked_linear import LOST
from expressor.systems.tron import conversion, families
from expressor.systems.tron.judging import judge
from expressor.systems.tron.labels import Labelled, Targets, class_targets, read_targets, surest
from expressor.systems.tron.learning import learn, learn_curves
from expressor.systems.tron.source import describe_source, read_source
from expressor.train.plan import TrainPlan

MODES = ("zero-shot", "conversion", "joint")
MATCHES = ("none", "mean", "moments")
_EXPLAINED = 256  # observations on which the importance of edges is computed


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class TRON(Estimator, Predicts, Survives):
    """A model of one species that serves another, through a layer on the edges of the graph of orthologs.

    It is fitted on cells or samples of the target species, of which few or none need a label.

    Parameters
    ----------
    source
        The model: a fitted system of this package that predicts labels, numbers or risk from expression; the folder of a saved
        one; a fitted scikit-learn estimator that knows the names of its features; or what
        :func:`expressor.estimator.expression_models.expression_model` makes of a torch network or any other model, with its genes.
        It is not changed. ``"simulated"`` is a small one for examples.
    orthologs
        The table: an :class:`expressor.genes.orthologs.Orthologs`, the path of a table, ``"human_mouse"`` (shipped), a name that
        :func:`expressor.datasets.human_mouse_orthologs` knows, or ``"simulated"``.
    species
        Names of the source's and the target's species, as the table has them.
    scale
        What the source takes: ``"log1p_cp10k"`` or ``"log1p_counts"``, made from raw counts of the target, or ``"given"``: ``X`` as
        it is.
    mode
        ``"zero-shot"``: weights at their start, no label is used; ``"conversion"``: the layer is learnt, the source stays;
        ``"joint"``: the source's network is fine-tuned along.
    label
        Column of ``obs`` with classes; a gap is no label. Where the source gives numbers, the columns are named as its outputs.
    time
        Column of ``obs`` with times to event or censoring, where the source gives a risk; a gap is no outcome.
    event
        Column of ``obs`` that says whether the time ended with the event.
    edges
        ``"all"`` pairs of orthologs, or ``"one-to-one"`` alone.
    weighted
        Whether the confidence of a pair weighs its edge.
    match
        Shift (``"mean"``), or shift and stretch (``"moments"``), every converted gene to what it was where the source was fitted.
        All observations of the fit are used for it, labelled or not. The source must know its means; ``"none"`` needs nothing.
    lost
        What source genes without ortholog are: ``"learned"``, a constant that starts at the source's mean (or 0) and is learnt, or
        ``"mean"``, the source's mean.
    non_negative
        Keep every weight at 0 or above.
    pull
        Strength of the pull of the weights to their start, >= 0.
    l1
        Strength of the lasso on the weights, >= 0.
    balanced
        Whether every class counts the same.
    self_training
        Unlabelled observations of each class that teach along, >= 0: those that a first fit of the layer alone, or its start where
        nothing is labelled, is surest of. For classes; with ``mode="joint"`` they need no label beside them.
    network_rate
        Step size of the source's network over that of the layer, in (0, 1]; with ``mode="joint"``.
    random_state
        Seed, >= 0.
    plan
        How to train.

    Attributes
    ----------
    source_
        The model behind the layer, fine-tuned with ``mode="joint"``.
    classes_
        Its classes, or no names.
    edges_
        One row an edge: source, target, confidence, start, weight, change, importance.
    report_
        How many genes of both species were matched, split, merged and lost.
    n_labelled_
        Labelled observations that taught the layer.
    n_named_
        Unlabelled ones that did; see ``self_training``.
    survives_
        Whether the source gives a risk.
    """

    source: str | Any | None = dataclasses.field(default=None, metadata={"plain": describe_source})
    orthologs: str | Any = dataclasses.field(default="human_mouse", metadata={"plain": conversion.describe_table})
    species: tuple[str, str] = ("human", "mouse")
    scale: Literal["log1p_cp10k", "log1p_counts", "given"] = "log1p_cp10k"
    mode: Literal["zero-shot", "conversion", "joint"] = "conversion"
    label: str = keys.CELL_TYPE
    time: str = keys.TIME
    event: str = keys.EVENT
    edges: Literal["all", "one-to-one"] = "all"
    weighted: bool = False
    match: Literal["none", "mean", "moments"] = "none"
    lost: Literal["learned", "mean"] = "learned"
    non_negative: bool = False
    pull: float = 1e-3
    l1: float = 0.0
    balanced: bool = True
    self_training: int = 0
    network_rate: float = 0.1
    random_state: int = 0
    plan: TrainPlan = dataclasses.field(
        default_factory=lambda: TrainPlan(lr=1e-2, weight_decay=0.0, batch_size=64, epochs=100, max_steps=200)
    )

    def __sklearn_clone__(self) -> "TRON":
        # A clone keeps the fitted source; scikit-learn would take it for a parameter and unfit it.
        values = self.get_params(deep=False)
        return type(self)(**values | {"plan": copy.deepcopy(self.plan)})

    def _check(self) -> None:
        check_choice(self.mode, MODES, name="mode")
        check_choice(self.match, MATCHES, name="match")
        check_choice(self.lost, LOST, name="lost")
        check_choice(self.edges, ("all", "one-to-one"), name="edges")
        check_choice(self.scale, (*fields.SCALES, "given"), name="scale")
        check_range(self.pull, name="pull", low=0)
        check_range(self.l1, name="l1", low=0)
        check_range(self.self_training, name="self_training", low=0, integer=True)
        check_range(self.network_rate, name="network_rate", low=0, high=1, open_low=True)
        check_range(self.random_state, name="random_state", low=0, integer=True)
        self.plan.check()

    # Fitting ---------------------------------------------------------------------------------------------------------

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        model = read_source(self.source)
        if self.self_training and (model.kind != "classes" or self.mode == "zero-shot"):
            raise DataError("self_training names classes, and learns from them",
                            expected="a source of classes and a mode that learns", got=f"{model.kind}, mode={self.mode!r}",
                            fix="Leave self_training at 0.")  # fmt: skip
        if self.mode != "zero-shot" and model.network is None:
            raise DataError(
                f"nothing can be learnt in front of this source: a {model.name} cannot be differentiated",
                expected="a network, a linear model, or a system with to_torch", fix="Use mode='zero-shot'.",
            )  # fmt: skip
        if model.unit and self.scale != "given" and model.unit != self.scale:
            raise DataError(f"the source takes {model.unit}, not {self.scale}",
                            fix="Bring the target's data to that scale and use scale='given'.")  # fmt: skip
        genes = GeneVocab(sorted(map(str, adata.var_names)), namespace="none")
        bridge = conversion.read_table(self.orthologs, (self.species[0], self.species[1])).connect(model.genes, genes)
        if self.edges == "one-to-one":
            bridge = bridge.one_to_one()
        self.report_ = bridge.report()
        logger.info("%s", self.report_)
        self._wiring, self._model, self.genes_in_ = conversion.Wiring.of(bridge), model, genes
        # A canonical order, so that draws of a seed fall on the same observations.
        adata = adata[np.argsort(adata.obs_names.astype(str).to_numpy(), kind="stable")]
        self.target_mean_ = None
        x = self._expression(adata)
        self.target_mean_ = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        known, targets = self._targets(adata, model)
        self._layer = self._wiring.layer(
            model, x, weighted=self.weighted, match=self.match, lost=self.lost, non_negative=self.non_negative,
            pull=float(self.pull), l1=float(self.l1), frozen=self.mode == "zero-shot",
        )  # fmt: skip
        self.n_labelled_, self.n_named_, self._n_fitted = int(known.sum()), 0, len(x)
        if self.self_training:
            known, targets = self._name_more(x, known, targets)
        if self.mode == "zero-shot":
            self.history_ = pd.DataFrame({"epoch": [0], "steps": [0], "n_labelled": [0]})
        else:
            self._learn(adata[known], (x[known], targets), self._validation(val, model), resume)
        self._layer.eval()
        self._expose()
        some = np.unique(np.linspace(0, len(x) - 1, min(_EXPLAINED, len(x))).astype(int))
        self.edges_ = conversion.edge_table(self._wiring, self._layer, self._model, x[some])

    def _expose(self) -> None:
        kind = self._model.kind
        self.source_, self.classes_ = self._model, self._model.outputs if kind == "classes" else ()
        self.survives_ = kind == "risk"

    def _learn(self, adata: Any, given: Labelled, validation: Labelled | None, resume: Path | None) -> None:
        rate = float(self.network_rate) if self.mode == "joint" else None
        options: dict[str, Any] = {"plan": self.plan, "seed": self.random_state, "network_rate": rate}
        start, source = copy.deepcopy(self._layer), self._model
        self._model, self.history_ = learn(self._layer, source, given, validation=validation, resume=resume, **options)
        if source.kind == "risk":
            hazard = learn_curves(start, source, given, patients_of(adata), **options).hazard
            self._model = dataclasses.replace(self._model, hazard=hazard)

    def _name_more(self, x: np.ndarray, known: np.ndarray, targets: Targets) -> tuple[np.ndarray, Targets]:
        """Name the unlabelled observations that a first fit is surest of; return which have a name now, and their labels."""
        first = copy.deepcopy(self._layer)
        codes = np.full(len(x), -1, dtype=np.int64)
        if known.any():
            codes[known] = targets["y"].numpy()
            learn(first, self._model, (x[known], targets), plan=self.plan, seed=self.random_state)
        named = surest(conversion.answer(first.eval(), self._model, x), ~known, self.self_training)
        codes = np.where(known, codes, named)
        self.n_named_ = int((named >= 0).sum())
        return codes >= 0, class_targets(codes[codes >= 0], balanced=self.balanced)

    def _validation(self, val: Any, model: ExpressionModel) -> Labelled | None:
        if val is None:
            return None
        known, targets = self._targets(val, model)
        return self._expression(val)[known], targets

    def _expression(self, adata: Any) -> np.ndarray:
        """Return expression of the joined target genes, float32 (obs, target gene); of absent ones the mean of the fit."""
        there = adata.var_names.isin(list(self.genes_in_))
        adata = adata if there.all() else adata[:, there]
        found = GeneVocab(self._wiring.target, namespace="none").align(adata.var_names)
        if not found.matched:
            found.require_all(where="the data")
        if found.missing:
            logger.info("%s", found.report())
        if self.scale == "given":
            unit = self._model.unit
            if unit:
                check_scale_of_use(adata, unit)
            part = profiles(adata, found.matched)
        else:
            part = fields.expression(adata, found.matched, scale=self.scale)
        if not found.missing:
            return part
        x = np.tile(self.target_mean_, (len(part), 1))  # type: ignore[arg-type]
        x[:, found.index >= 0] = part
        return x

    def _targets(self, adata: Any, model: ExpressionModel) -> tuple[np.ndarray, Targets]:
        if self.mode == "zero-shot":
            return np.zeros(adata.n_obs, dtype=bool), {}
        return read_targets(
            adata, model, label=self.label, time=self.time, event=self.event, balanced=self.balanced, needed=not self.self_training
        )  # fmt: skip

    # Using -----------------------------------------------------------------------------------------------------------

    def predict(self, data: Any) -> pd.DataFrame:
        """Predict what the source predicts: one column named by ``label`` with the class, its numbers, or ``risk``."""
        self._check_fitted()
        if self._model.kind == "classes":
            return most_likely(self.predict_proba(data), self.label)
        return self._ask(fields.read(data))

    def predict_proba(self, data: Any) -> pd.DataFrame:
        """Return the probability of each class of the source, float32 (obs, class).

        Raises
        ------
        DataError
            The source gives no classes.
        """
        self._check_fitted()
        if self._model.kind != "classes":
            raise DataError(f"the source gives {self._model.kind}, not classes", fix="Use predict.")
        return self._ask(fields.read(data))

    def risk(self, data: Any) -> np.ndarray:
        """Return the log risk that the source gives, float32 (obs,); larger is earlier.

        Raises
        ------
        DataError
            The source gives no risk.
        """
        self._check_fitted()
        if self._model.kind != "risk":
            raise DataError(f"the source gives {self._model.kind}, no risk", fix="Use predict.")
        return self._ask(fields.read(data))["risk"].to_numpy()

    def survival_function(self, data: Any, times: Any = None) -> pd.DataFrame:
        """Return the probability of no event up to each time, float32 (obs, time); the columns are the times.

        Baseline hazard and slope of the risk are learnt on the target's times and events, out of fold; with ``mode="zero-shot"``,
        or fewer than six events, they are the source's.

        Parameters
        ----------
        data
            As for :meth:`risk`.
        times
            In the unit of the fit, >= 0; the event times behind the baseline hazard by default.

        Raises
        ------
        DataError
            The source gives no risk, or neither it nor the target's data tell a baseline hazard.
        """
        self._check_fitted()
        adata = fields.read(data)
        curves = self._model.survival(conversion.convert(self._layer, self._expression(adata)), times)
        return curves.set_axis(adata.obs_names.copy(), axis=0)

    def convert(self, data: Any) -> pd.DataFrame:
        """Return expression in the gene space of the source, float32 (obs, source gene)."""
        self._check_fitted()
        adata = fields.read(data)
        values = conversion.convert(self._layer, self._expression(adata))
        return pd.DataFrame(values, index=adata.obs_names.copy(), columns=list(self._wiring.source))

    def _ask(self, adata: Any) -> pd.DataFrame:
        values = conversion.answer(self._layer, self._model, self._expression(adata)).astype(np.float32)
        return pd.DataFrame(values, index=adata.obs_names.copy(), columns=list(self._model.outputs))

    # Reading the map -------------------------------------------------------------------------------------------------

    @property
    def conversion_(self) -> AnnData:
        """The conversion as a labelled sparse matrix: ``X`` (source gene, target gene) holds W times M; ``obs["constant"]``, b."""
        self._check_fitted()
        return conversion.labelled(self._wiring, self._layer)

    def edge_stability(self, data: Any, *, seeds: int = 5) -> pd.DataFrame:
        """Fit anew on resampled labelled observations, and say which edges come out the same.

        Parameters
        ----------
        data
            That of the fit.
        seeds
            Number of fits, >= 2.

        Returns
        -------
        ``edges_`` with ``weight_mean``, ``weight_sd``, ``same_sign`` (share of fits whose change has the sign of the mean change),
        ``importance_mean`` and ``importance_sd``; ``.attrs["agreement"]`` is the mean rank correlation of importance between fits.
        """
        self._check_fitted()
        check_range(seeds, name="seeds", low=2, integer=True)
        if self.mode == "zero-shot":
            raise DataError(
                "mode='zero-shot' learns no edge whose stability could be told", fix="Use mode='conversion'."
            )
        return families.stability(self, fields.read(data), seeds=seeds)

    def families(self, edges: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return the source genes whose most important ortholog is not the most confident one, largest difference first.

        Parameters
        ----------
        edges
            A table of :meth:`edge_stability`, to see how often; ``edges_`` by default.

        Returns
        -------
        One row a source gene: ``best_match`` (largest confidence) and ``functional`` (largest importance) among its orthologs, the
        confidence, weight and importance of both, ``ratio`` of the two importances. Genes whose best match is tied are left out.
        """
        self._check_fitted()
        return families.disagreeing(self.edges_ if edges is None else edges)

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        return judge(self, adata, self._model.kind)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        found = {key: self.predict(adata)}
        if self._model.kind == "classes":
            found[f"{key}_proba"] = self.predict_proba(adata)
        return {"obsm": found}

    def _state(self) -> State:
        state = self._model.pack("source")
        wiring = self._wiring
        state.values |= {"report_": self.report_, "n_labelled_": self.n_labelled_, "n_named_": self.n_named_,
                         "n_fitted": self._n_fitted, "target": list(wiring.target)}  # fmt: skip
        state.arrays |= {"rows": wiring.rows, "columns": wiring.columns, "confidence": wiring.confidence,
                         "target_mean_": self.target_mean_, "edges_": self.edges_}  # fmt: skip
        layer = self._layer.state_dict()
        state.tensors |= {f"layer.{name}": one for name, one in layer.items() if name not in ("rows", "columns")}
        return state

    def _restore(self, state: State) -> None:
        self._model = ExpressionModel.unpack(state, "source")
        arrays = state.arrays
        target = GeneVocab(state.values["target"], namespace="none")
        self._wiring = conversion.Wiring(
            self._model.genes, target, arrays["rows"], arrays["columns"], arrays["confidence"].astype(np.float32)
        )
        layer = self._wiring.layer(
            self._model, np.empty((0, len(target)), dtype=np.float32), weighted=self.weighted, match="none", lost="learned",
            non_negative=self.non_negative, pull=float(self.pull), l1=float(self.l1), frozen=self.mode == "zero-shot",
        )  # fmt: skip
        saved = {name.removeprefix("layer."): one for name, one in state.tensors.items() if name.startswith("layer.")}
        layer.load_state_dict({"rows": layer.rows, "columns": layer.columns} | saved)
        layer.lost = self.lost
        self._layer = layer.eval()
        self.target_mean_, self.edges_ = arrays["target_mean_"], arrays["edges_"]
        self.report_, self.n_labelled_ = str(state.values["report_"]), int(state.values["n_labelled_"])
        self.n_named_, self._n_fitted = int(state.values.get("n_named_", 0)), int(state.values["n_fitted"])
        self._expose()
        if isinstance(self.source, dict) and self.mode != "joint":
            self.source = self._model  # so that a loaded model can be fitted again

    def _methods(self) -> str:
        learnt = {
            "zero-shot": "Nothing was learnt: each source gene was the mean of its orthologs",
            "conversion": f"The layer's weights were learnt on {self.n_labelled_} labelled observations, the source unchanged",
            "joint": f"The layer's weights and the source's were learnt on {self.n_labelled_} labelled observations",
        }[self.mode]
        said = [learnt + "."]
        if self.n_named_:
            said.append(
                f"{self.n_named_} unlabelled ones that a first fit was surest of, {self.self_training} a class, taught along."
            )
        if self.match != "none":
            what = "means" if self.match == "mean" else "means and spreads"
            said.append(f"Converted genes were brought to the {what} of the source's training data.")
        if self.weighted:
            said.append("Edges were weighted by confidence.")
        if self.non_negative:
            said.append("Weights were kept non-negative.")
        if self.mode != "zero-shot" and self.pull > 0:
            said.append(f"Weights were pulled to their start ({self.pull:g}).")
        return (
            f"A model of {self.species[0]} ({self._model.name}, {len(self._wiring.source)} genes) was applied to "
            f"{self.species[1]} expression ({self.scale}) of {self._n_fitted} observations through a linear layer on "
            f"{len(self._wiring.rows)} edges of the graph of orthologs ({self.edges}). {' '.join(said)} {self.report_}"
        )
