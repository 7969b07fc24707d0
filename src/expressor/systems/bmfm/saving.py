"""A fitted model as plain values, arrays and tensors, and back."""

import dataclasses
from typing import Any

import torch

from expressor.core.serial import from_plain, to_plain
from expressor.data.tokens import Tokeniser
from expressor.estimator.base import State
from expressor.systems.bmfm.architecture import Architecture, build_learner
from expressor.systems.bmfm.corpus import Moments
from expressor.systems.bmfm.fitted import Fitted, Head
from expressor.systems.bmfm.objectives import Objective

_MOMENTS = tuple(one.name for one in dataclasses.fields(Moments))


def state_of(fitted: Fitted) -> State:
    """Return what :func:`rebuild` needs."""
    learner = fitted.learner
    values: dict[str, Any] = {
        "architecture": to_plain(fitted.architecture), "objectives": to_plain(learner.objectives),
        "tokeniser": to_plain(fitted.tokeniser), "pooling": fitted.pooling, "counts": fitted.counts, "report": fitted.report,
        "classes": [[name, list(one)] for name, one in fitted.classes.items()],
        "label_classes": list(fitted.label_classes),
    }  # fmt: skip
    arrays: dict[str, Any] = {f"moments.{name}": getattr(fitted.moments, name) for name in _MOMENTS}
    arrays |= {f"below.{name}": one for name, one in learner.below.items()}
    tensors = {f"learner.{name}": one for name, one in learner.state_dict().items()}
    if fitted.head is not None:
        tensors |= {f"head.{name}": one for name, one in vars(fitted.head).items()}
    if fitted.tuned is not None:
        tensors |= {f"tuned.{name}": one for name, one in fitted.tuned.state_dict().items()}
    return State(values, arrays, tensors)


def rebuild(model: Any, state: State) -> Fitted:
    """Return what :func:`state_of` was given."""
    values, arrays = state.values, state.arrays
    architecture = from_plain(Architecture, values["architecture"], where="architecture")
    architecture.check()
    objectives = from_plain(tuple[Objective, ...], values["objectives"], where="objectives")
    classes = {str(name): tuple(map(str, one)) for name, one in values["classes"]}
    moments = Moments(*(arrays[f"moments.{name}"] for name in _MOMENTS))
    weights = _part("learner", state.tensors)
    with torch.random.fork_rng(devices=[]):
        network = architecture.network(weights["network.gene.weight"])
        learner = build_learner(
            architecture, network, objectives, model.masking, mean=moments.positive, zero=moments.zero, classes=classes,
            below=_part("below", arrays),
        )  # fmt: skip
        learner.load_state_dict(weights)
        tuned = None
        if part := _part("tuned", state.tensors):
            tuned = architecture.network(part["gene.weight"])
            tuned.load_state_dict(part)
            tuned.eval()
    head = Head(**part) if (part := _part("head", state.tensors)) else None
    return Fitted(
        model.genes_in_, architecture, learner.eval(), moments,
        from_plain(Tokeniser, values["tokeniser"], where="tokeniser"), str(values["pooling"]), classes,
        tuple(map(str, values["label_classes"])), head, tuned, model.history_,
        {name: int(one) for name, one in values["counts"].items()}, str(values["report"]),
    )  # fmt: skip


def _part(prefix: str, named: dict[str, Any]) -> dict[str, Any]:
    start = f"{prefix}."
    return {name.removeprefix(start): one for name, one in named.items() if name.startswith(start)}
