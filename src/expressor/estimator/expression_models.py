"""Models on expression that something else is put in front of: which genes they take, what they give, and how they are kept.

Whatever predicts from expression becomes one :class:`ExpressionModel`: a fitted system of this package, a network of torch, an
estimator of scikit-learn. What can be differentiated is a network; what cannot, such as a forest, is only asked.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import nn

from expressor.core import registry
from expressor.core.errors import DataError, FormatError, GeneError, check_choice
from expressor.core.serial import to_plain
from expressor.data import fields
from expressor.data.keys import UNIT
from expressor.data.outcomes import check_times
from expressor.estimator.base import Estimator, State, revive
from expressor.estimator.classifiers import PlainClassifier, as_plain, pack_classifier, unpack_classifier
from expressor.estimator.roles import Predicts, Survives
from expressor.genes.vocab import GeneVocab
from expressor.nn.cox import Baseline
from expressor.nn.plain import Pick, Standardise, build_layers, dense_layer, describe_layers, flatten_layers

KINDS = ("classes", "values", "risk")
"""What a model gives: probabilities of classes, numbers, or the logarithm of a hazard."""


@dataclass(frozen=True, eq=False)
class ExpressionModel:
    """A fitted model that takes expression of its own genes.

    Attributes
    ----------
    name
        What it is, such as the name of its class.
    genes
        The genes it takes, in order.
    kind
        One of :data:`KINDS`.
    outputs
        Names of the classes or of the numbers; ``("risk",)`` for a risk.
    network
        From expression, float32 (obs, gene), to logits, numbers or log risk, (obs, output); None for what cannot be differentiated.
    ask
        From expression to probabilities, numbers or log risk, float (obs, output), where there is no network.
    unit
        The scale of expression it was fitted on; empty where it is not known.
    mean, spread
        Of each gene where it was fitted, (gene,); None where that is not known.
    kept
        What is saved of it where there is no network: a classifier as plain arrays, or a fitted system; None where it cannot be.
    hazard
        Of a risk: by what it is multiplied, and the baseline hazard of the product; None where that is not known.
    """

    name: str
    genes: GeneVocab
    kind: str
    outputs: tuple[str, ...]
    network: nn.Module | None = None
    ask: Callable[[np.ndarray], np.ndarray] | None = None
    unit: str = ""
    mean: np.ndarray | None = None
    spread: np.ndarray | None = None
    kept: PlainClassifier | Estimator | None = field(default=None, repr=False)
    hazard: tuple[float, Baseline] | None = None

    def __post_init__(self) -> None:
        check_choice(self.kind, KINDS, name="kind of model")
        if (self.network is None) == (self.ask is None):
            raise DataError("a model is a network or is asked", expected="one of network and ask")
        if not self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise DataError("the outputs of the model need names of their own", got=", ".join(map(repr, self.outputs)))
        for name in ("mean", "spread"):
            value = getattr(self, name)
            if value is not None and (value.shape != (len(self.genes),) or not np.isfinite(value).all()):
                raise DataError(f"{name} of the source's genes is not usable", expected=f"{len(self.genes)} finite numbers",
                                got=str(value.shape))  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return what names it without holding it: name, kind, number of genes and a digest of genes, outputs and weights."""
        whole = hashlib.sha256("\n".join([self.kind, *self.outputs, "", *self.genes]).encode())
        state = self.pack("model") if self.kept is not None else State()
        tensors = {} if self.network is None else self.network.state_dict()
        parts = {**{name: np.asarray(one) for name, one in state.arrays.items() if not isinstance(one, pd.DataFrame | pd.Series)},
                 **{name: one.detach().cpu().numpy() for name, one in {**tensors, **state.tensors}.items()}}  # fmt: skip
        for name in sorted(parts):
            one = parts[name]
            whole.update(name.encode() + (repr(one.tolist()).encode() if one.dtype.kind in "OU" else one.tobytes()))
        return {"model": self.name, "kind": self.kind, "n_genes": len(self.genes), "digest": whole.hexdigest()[:12]}

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Return probabilities, numbers or log risk, float64 (obs, output), from expression in the order of the genes."""
        if self.network is None:
            return np.asarray(self.ask(values), dtype=np.float64).reshape(len(values), -1)  # type: ignore[misc]
        with torch.no_grad():
            raw = self.network(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))).double()
        return (torch.softmax(raw, dim=1) if self.kind == "classes" else raw).numpy()

    def survival(self, values: np.ndarray, times: Any = None) -> pd.DataFrame:
        """Return the probability of no event up to each time, float32 (obs, time), from expression in the order of the genes.

        Parameters
        ----------
        values
            float32 (obs, gene).
        times
            In the unit of the fit, >= 0; the event times of the fit by default.

        Raises
        ------
        DataError
            The model gives no risk, or its baseline hazard is not known.
        """
        if self.hazard is not None:
            slope, baseline = self.hazard
            at = baseline.times.numpy() if times is None else check_times(times)
            log_risk = torch.from_numpy(slope * self.predict(values)[:, 0])
            return pd.DataFrame(
                baseline.survival(log_risk, torch.from_numpy(at)).numpy().astype(np.float32), columns=at
            )
        if self.kind == "risk" and isinstance(self.kept, Survives):
            return self.kept.survival_function(
                _as_data(values, self.genes, self.unit), *([] if times is None else [times])
            )
        what = "its baseline hazard is not known" if self.kind == "risk" else f"it gives {self.kind}, no risk"
        raise DataError(f"the {self.name} has no survival curves: {what}",
                        expected="a system that predicts survival, or a risk that was learnt on times and events")  # fmt: skip

    def refer(self, mean: Any, spread: Any) -> "ExpressionModel":
        """Return it with the mean and spread of its genes where it was fitted, (gene,)."""
        return replace(self, mean=np.asarray(mean, dtype=np.float64), spread=np.asarray(spread, dtype=np.float64))

    def check_output(self) -> None:
        """Refuse a network that does not take its genes or give its outputs.

        Raises
        ------
        DataError
            It does not run on so many genes, or gives another number of outputs.
        """
        start = np.zeros((2, len(self.genes))) if self.mean is None else np.stack([self.mean, self.mean])
        try:
            found = self.predict(start.astype(np.float32)).shape
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{self.name} does not take {len(self.genes):,} genes ({error})",
                            fix="Give the genes in the order of its inputs.") from error  # fmt: skip
        if found != (2, len(self.outputs)):
            raise DataError(f"{self.name} gives another number of outputs than there are names",
                            expected=f"{len(self.outputs)}: {', '.join(self.outputs[:5])}", got=found[-1])  # fmt: skip

    # Saving ----------------------------------------------------------------------------------------------------------

    def pack(self, name: str) -> State:
        """Return what :meth:`unpack` rebuilds it from, under names that begin with ``name``.

        Raises
        ------
        DataError
            It cannot be written without pickle: its network is more than a chain of plain layers, or its class is not known.
        """
        values: dict[str, Any] = {"name": self.name, "kind": self.kind, "outputs": list(self.outputs), "unit": self.unit,
                                  "genes": list(self.genes)}  # fmt: skip
        state = State({name: values})
        for part in ("mean", "spread"):
            if getattr(self, part) is not None:
                state.arrays[f"{name}.{part}"] = getattr(self, part)
        if self.hazard is not None:
            values["slope"], baseline = self.hazard
            state.arrays |= {f"{name}.times": baseline.times.numpy(), f"{name}.cumulative": baseline.cumulative.numpy()}
        layers = None if self.network is None else describe_layers(self.network)
        if layers is not None and self.network is not None:
            values["layers"] = layers
            flat = flatten_layers(self.network).state_dict()
            state.tensors |= {f"{name}.layers.{key}": one for key, one in flat.items()}
        elif isinstance(self.kept, PlainClassifier):
            values["classifier"], arrays = pack_classifier(self.kept, name=f"{name}.classifier")
            state.arrays |= arrays
        elif isinstance(self.kept, Estimator):
            inner = self.kept._state()
            values["system"] = {
                "name": self.kept.card().name, "parameters": self.kept._parameters(), "environment": self.kept.environment_,
                "genes": list(self.kept.genes_in_),
                "fitted": {**to_plain(inner.values), "data_fingerprint_": self.kept.data_fingerprint_,
                           "n_features_in_": self.kept.n_features_in_},
            }  # fmt: skip
            fitted: dict[str, Any] = {**inner.arrays, "history_": self.kept.history_}
            state.arrays |= {f"{name}.system.{key}": one for key, one in fitted.items()}
            state.tensors |= {f"{name}.system.{key}": one for key, one in inner.tensors.items()}
        else:
            raise DataError(
                f"the source, a {self.name}, cannot be saved without running code of the file when it is loaded",
                expected="a system of this package, a chain of plain layers, or a linear model or forest of scikit-learn",
                fix="Keep it yourself; the learnt conversion is in conversion_.",
            )
        return state

    @classmethod
    def unpack(cls, state: State, name: str) -> "ExpressionModel":
        """Rebuild what :meth:`pack` took apart; ``state`` may hold others too."""
        values = dict(state.values[name])
        outputs = tuple(map(str, values["outputs"]))
        hazard = None
        if "slope" in values:
            curve = [torch.from_numpy(np.asarray(state.arrays[f"{name}.{part}"])) for part in ("times", "cumulative")]
            hazard = float(values["slope"]), Baseline(curve[0], curve[1])
        model = cls(
            str(values["name"]), GeneVocab(values["genes"], namespace="none"), str(values["kind"]), outputs, ask=np.asarray,
            unit=str(values["unit"]), mean=state.arrays.get(f"{name}.mean"), spread=state.arrays.get(f"{name}.spread"),
            hazard=hazard,
        )  # fmt: skip
        if "layers" in values:
            network = build_layers(values["layers"], _under(f"{name}.layers.", state.tensors))
            return replace(model, network=network, ask=None)
        if "classifier" in values:
            kept = unpack_classifier(str(values["classifier"]), dict(state.arrays), name=f"{name}.classifier")
            return replace(model, ask=kept.predict_proba, kept=kept)
        if "system" not in values:
            raise FormatError(f"the model {name!r} holds nothing that predicts")
        config = values["system"]
        inner = revive(
            registry.load(config["name"]), config, _under(f"{name}.system.", state.arrays),
            _under(f"{name}.system.", state.tensors), genes=GeneVocab(config["genes"], namespace="none"),
            environment=config["environment"],
        )  # fmt: skip
        return replace(of_system(inner), mean=model.mean, spread=model.spread)


def _under(start: str, table: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(start): one for key, one in table.items() if key.startswith(start)}


def _as_data(values: np.ndarray, genes: GeneVocab, unit: str) -> AnnData:
    """Return expression as data that a system fitted on such a unit takes."""
    adata = fields.read(np.asarray(values, dtype=np.float32), genes=list(genes))
    if unit:
        adata.uns[UNIT] = unit
    return adata


def of_system(model: Estimator) -> ExpressionModel:
    """Take a fitted system that predicts from expression.

    A system with a method ``to_torch`` gives its network; any other is asked by its role, for classes, risk or numbers.

    Raises
    ------
    DataError
        It is not fitted, or does not predict from expression.
    """
    kind, name = type(model), type(model).__name__
    model._check_fitted()
    if kind.card().inputs == "histology" or not isinstance(model, Predicts | Survives):
        raise DataError(f"{name} does not predict from expression", expected="a system that predicts labels, numbers or risk",
                        got=f"roles {', '.join(kind.card().roles)} on {kind.card().inputs}")  # fmt: skip
    if hasattr(model, "to_torch") and (found := model.to_torch()) is not None:
        return found  # type: ignore[no-any-return]
    genes, unit = model.genes_in_, str(getattr(model, "unit_", ""))
    classes = tuple(str(one) for one in getattr(model, "classes_", ()))
    what = (
        "classes"
        if classes and hasattr(model, "predict_proba")
        else "risk"
        if isinstance(model, Survives) and model.survives_
        else "values"
    )

    def ask(values: np.ndarray) -> np.ndarray:
        adata = _as_data(values, genes, unit)
        method = {"classes": "predict_proba", "risk": "risk", "values": "predict"}[what]
        return np.asarray(getattr(model, method)(adata), dtype=np.float64).reshape(len(values), -1)

    outputs = classes if what == "classes" else ("risk",)
    if what == "values":
        probe = fields.read(np.zeros((2, len(genes)), dtype=np.float32), genes=list(genes))
        outputs = tuple(map(str, model.predict(probe).columns))  # type: ignore[union-attr]
    return ExpressionModel(name, genes, what, outputs, ask=ask, unit=unit, kept=model)


def linear_network(
    name: str,
    genes: GeneVocab,
    table: pd.DataFrame,
    kind: str,
    outputs: Sequence[str],
    *,
    weight: np.ndarray,
    offset: np.ndarray,
    unit: str,
    reach: float,
    hazard: tuple[float, Baseline] | None = None,
) -> ExpressionModel:
    """Return a linear model on standardised, cut expression of some genes as a model on all genes of its fit.

    Parameters
    ----------
    name, kind, outputs, unit
        See :class:`ExpressionModel`.
    genes
        All genes of the fit.
    table
        One row a gene that is used: ``mean`` and ``scale`` of its standardisation.
    weight, offset
        (output, used gene) and (output,).
    reach
        Where standard scores are cut.
    hazard
        See :class:`ExpressionModel`.
    """
    columns = genes.index_of(table.index).astype(np.int64)
    mean, scale = (table[one].to_numpy(dtype=np.float32) for one in ("mean", "scale"))
    standardise = Standardise(torch.from_numpy(mean), torch.from_numpy(scale), reach)
    network = nn.Sequential(Pick(torch.from_numpy(columns)), standardise, dense_layer(weight, offset)).eval()
    # Genes that are not used may be anything.
    means, spreads = np.zeros(len(genes)), np.ones(len(genes))
    means[columns], spreads[columns] = mean, scale
    return ExpressionModel(name, genes, kind, tuple(outputs), network=network, unit=unit, mean=means, spread=spreads,
                           hazard=hazard)  # fmt: skip


def of_torch(
    network: nn.Module, *, genes: Sequence[str], kind: str, outputs: Sequence[str], unit: str = ""
) -> ExpressionModel:
    """Take a network of torch; it is copied, and put in evaluation mode.

    Parameters
    ----------
    network
        From expression (obs, gene) to logits of classes, numbers, or one log risk.
    genes
        Its inputs, in order.
    kind
        One of :data:`KINDS`.
    outputs
        Names of the classes or numbers.
    unit
        The scale of its inputs, where it is to be checked.

    Raises
    ------
    DataError
        The network does not take so many genes or give so many outputs.
    GeneError
        Genes repeat or have no name.
    """
    import copy

    model = ExpressionModel(
        type(network).__name__, GeneVocab(genes, namespace="none"), kind, ("risk",) if kind == "risk" else tuple(map(str, outputs)),
        network=copy.deepcopy(network).cpu().float().eval(), unit=unit,
    )  # fmt: skip
    model.check_output()
    return model


def of_sklearn(
    model: Any,
    *,
    genes: Sequence[str] | None = None,
    kind: str | None = None,
    outputs: Sequence[str] | None = None,
    unit: str = "",
) -> ExpressionModel:
    """Take a fitted estimator of scikit-learn, or anything with its methods.

    Linear models, multilayer perceptrons and pipelines of a scaler and one of these become networks. Others are only asked.

    Parameters
    ----------
    model
        A classifier with ``predict_proba`` or a regressor.
    genes
        Its features, in order; by default the names that it was fitted with.
    kind
        ``"risk"`` for a Cox model; told from the model otherwise.
    outputs
        Names of numbers; told from the model for classes.
    unit
        The scale of its inputs, where it is to be checked.

    Raises
    ------
    GeneError
        It was fitted without names and ``genes`` is not given, or they are not as many as its features.
    DataError
        It is not fitted, or predicts nothing.
    """
    from expressor.estimator.sklearn_networks import as_network

    name, n = type(model).__name__, getattr(model, "n_features_in_", None)
    if not hasattr(model, "predict"):
        raise DataError(f"a {name} predicts nothing", expected="a fitted model with predict")
    if genes is None:
        genes = getattr(model, "feature_names_in_", None)
    if genes is None:
        raise GeneError(
            f"the genes of the source are unknown: the {name} was fitted without names",
            expected=f"the names of its {n if n is not None else 'unknown number of'} features",
            fix="Give them: expression_model(model, genes=[...]).",
        )
    vocab = GeneVocab([str(one) for one in genes], namespace="none")
    if n is not None and len(vocab) != n:
        raise GeneError(f"genes= does not fit the {name}", expected=f"{n} names", got=len(vocab))
    classes = tuple(str(one) for one in getattr(model, "classes_", ()))
    kind = kind or ("classes" if classes else "values")
    if kind == "values" and outputs is None:
        coefficients = np.atleast_2d(getattr(model, "coef_", np.zeros((1, 1))))
        outputs = (
            [f"y{i}" for i in range(getattr(model, "n_outputs_", len(coefficients)))]
            if len(coefficients) > 1
            else ["y"]
        )
    names = classes if kind == "classes" else ("risk",) if kind == "risk" else tuple(map(str, outputs or ()))
    network = as_network(model)
    if network is not None:
        found = ExpressionModel(name, vocab, kind, names, network=network, unit=unit)
    elif kind == "classes":
        if not hasattr(model, "predict_proba"):
            raise DataError(f"a {name} gives no probabilities", expected="a classifier with predict_proba")
        try:
            kept: PlainClassifier | None = as_plain(model)
        except FormatError:
            kept = None
        found = ExpressionModel(name, vocab, kind, names, ask=(kept or model).predict_proba, unit=unit, kept=kept)
    else:
        found = ExpressionModel(name, vocab, kind, names, ask=model.predict, unit=unit)
    found.check_output()
    return found


def expression_model(
    model: Any,
    *,
    genes: Sequence[str] | None = None,
    kind: str | None = None,
    outputs: Sequence[str] | None = None,
    unit: str = "",
    mean: Any = None,
    spread: Any = None,
) -> ExpressionModel:
    """Take any fitted model that predicts from expression.

    Parameters
    ----------
    model
        A fitted system of this package, a torch network, a fitted scikit-learn estimator, or what this function gave.
    genes
        Names of its inputs, in order; needed for a network, and for an estimator that was fitted without names.
    kind, outputs
        For a network: one of :data:`KINDS` (classes by default), and the names of its outputs.
    unit
        The scale of its inputs, where it is to be checked.
    mean, spread
        Of each gene in the data it was fitted on, (gene,), on that scale; some ways of matching species need them.

    Raises
    ------
    GeneError
        Its genes are unknown, repeat, or are not as many as its inputs.
    DataError
        It is not fitted, does not predict from expression, or is nothing that could.
    """
    if isinstance(model, ExpressionModel):
        found = model
    elif isinstance(model, Estimator):
        found = of_system(model)
    elif isinstance(model, nn.Module):
        if genes is None:
            raise GeneError(
                f"the genes of the source are unknown: a network does not name its inputs (it is a {type(model).__name__} of "
                f"{sum(one.numel() for one in model.parameters()):,} weights)",
                fix="Give them: expression_model(network, genes=[...], outputs=[...]).",
            )
        if outputs is None and kind != "risk":
            raise DataError("the outputs of a network need names", fix="Give outputs=[...]: its classes or numbers.")
        found = of_torch(model, genes=genes, kind=kind or "classes", outputs=outputs or (), unit=unit)
    elif hasattr(model, "predict"):
        found = of_sklearn(model, genes=genes, kind=kind, outputs=outputs, unit=unit)
    else:
        raise DataError(
            f"a {type(model).__name__} is no model on expression",
            expected="a fitted system, a torch network, or a scikit-learn estimator",
        )
    if mean is None:
        return found
    return found.refer(mean, np.ones(len(found.genes)) if spread is None else spread)
