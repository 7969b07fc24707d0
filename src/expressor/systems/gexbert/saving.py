"""A fitted model as plain values, arrays and tensors, and back."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from expressor.estimator.base import State
from expressor.nn.cox import Baseline
from expressor.systems.gexbert.calibration import Calibration
from expressor.systems.gexbert.features import Features
from expressor.systems.gexbert.fitting import Pretrained, build_network
from expressor.systems.gexbert.heads import ClassHead, RiskHead
from expressor.systems.gexbert.memory import Memory
from expressor.systems.gexbert.mixture import Mixture
from expressor.systems.gexbert.network import RestorationNetwork
from expressor.systems.gexbert.profiles import Reference
from expressor.systems.gexbert.restorer import Restorer
from expressor.systems.gexbert.skip import LinearSkip
from expressor.systems.gexbert.training import Options
from expressor.systems.gexbert.tuning import TunedNetwork


def state_of(fitted: Pretrained, *, clipped: bool) -> State:
    """Return what :func:`rebuild` needs."""
    restorer = fitted.restorer
    values: dict[str, Any] = {
        "clipped": clipped, "unit": fitted.unit, "pipelines": list(fitted.pipelines), "counts": fitted.counts,
        "panel": list(fitted.panel), "anchors": list(fitted.anchors), "network_used": restorer.network is not None,
        "options": dataclasses.asdict(restorer.options), "mixture": dataclasses.asdict(restorer.mixture),
        "sizes": list(restorer.skip.sizes), "penalties": list(restorer.skip.penalties),
    }  # fmt: skip
    arrays: dict[str, Any] = {"stretch": fitted.calibration.stretch, "quantiles": fitted.calibration.quantiles}
    tensors = _named("skip", restorer.skip.tensors())
    if fitted.reference is not None:
        arrays |= {"reference.mean": fitted.reference.mean, "reference.scale": fitted.reference.scale}
    if fitted.network is not None:
        tensors |= _named("network", fitted.network.state_dict())
    if restorer.memory is not None:
        tensors["memory"] = restorer.memory.z
    for name, recipe in (("class_features", fitted.class_features), ("risk_features", fitted.risk_features)):
        if recipe is not None:
            values[name] = recipe.representation
            parts = {"panel": recipe.panel, "anchors": recipe.anchors, "shown": recipe.shown}
            tensors |= _named(name, {key: one for key, one in parts.items() if one is not None})
    if fitted.classes is not None:
        values |= {"classes": list(fitted.classes.classes), "strength": fitted.classes.strength}
        tensors |= {"classes.weight": fitted.classes.weight, "classes.bias": fitted.classes.bias}
    if fitted.risks is not None:
        head = fitted.risks
        values |= {"ridge": head.ridge, "concordance": head.concordance}
        tensors |= {"risks.centre": head.centre, "risks.coefficients": head.coefficients,
                    "risks.times": head.baseline.times, "risks.cumulative": head.baseline.cumulative}  # fmt: skip
    for name, tuned in (("tuned_classes", fitted.tuned_classes), ("tuned_risks", fitted.tuned_risks)):
        if tuned is not None:
            tensors |= _named(name, tuned.state_dict())
    return State(values, arrays, tensors)


def rebuild(model: Any, state: State) -> Pretrained:
    """Return what :func:`state_of` was given."""
    values, arrays, tensors = state.values, state.arrays, state.tensors
    skip = LinearSkip.from_tensors(_part("skip", tensors), values["sizes"], values["penalties"])
    options = Options(**values["options"])
    network = _network(model, _part("network", tensors), options, len(values["pipelines"]))
    shares = Mixture(**{name: tuple(one) for name, one in values["mixture"].items()})
    memory = Memory(tensors["memory"]) if "memory" in tensors else None
    restorer = Restorer(skip, model.linear_skip, network if values["network_used"] else None, memory, shares, options)
    reference = None
    if "reference.mean" in arrays:
        reference = Reference(arrays["reference.mean"], arrays["reference.scale"])
    fitted = Pretrained(
        model.genes_in_, values["unit"], reference, tuple(values["pipelines"]), restorer, network,
        Calibration(arrays["stretch"], arrays["quantiles"]), model.history_, tuple(values["panel"]),
        anchors=tuple(values["anchors"]), counts={name: int(one) for name, one in values["counts"].items()},
    )  # fmt: skip
    for name in ("class_features", "risk_features"):
        if name in values:
            none = torch.empty(0, dtype=torch.int64)
            part = _part(name, tensors)
            recipe = Features(bool(values[name]), part.get("panel", none), part.get("anchors", none), part.get("shown"))
            setattr(fitted, name, recipe)
    if "classes" in values:
        fitted.classes = ClassHead(
            tuple(values["classes"]), tensors["classes.weight"], tensors["classes.bias"], float(values["strength"])
        )
    if "ridge" in values:
        baseline = Baseline(tensors["risks.times"], tensors["risks.cumulative"])
        fitted.risks = RiskHead(tensors["risks.centre"], tensors["risks.coefficients"], baseline, float(values["ridge"]),
                                float(values["concordance"]))  # fmt: skip
    for name in ("tuned_classes", "tuned_risks"):
        part = _part(name, tensors)
        if part and network is not None:
            tuned = TunedNetwork(network, part["head.weight"].shape[0])
            tuned.load_state_dict(part)
            setattr(fitted, name, tuned.eval())
    return fitted


def _network(model: Any, weights: dict[str, Tensor], options: Options, n_pipelines: int) -> RestorationNetwork | None:
    if not weights:
        return None
    edges = weights.get("values.edges", torch.zeros(1))
    with torch.random.fork_rng(devices=[]):
        network = build_network(model, weights["gene.weight"], edges, options, n_pipelines)
    network.load_state_dict(weights)
    return network.eval()


def _named(prefix: str, tensors: Any) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": one for name, one in tensors.items()}


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}
