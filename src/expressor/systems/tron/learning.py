"""Learning the layer, alone or with the source's network, on labelled observations of the target species."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from expressor.core.log import logger
from expressor.estimator.expression_models import ExpressionModel
from expressor.estimator.inner import inner_folds
from expressor.nn.cox import calibrate_risk
from expressor.nn.masked_linear import MaskedLinear
from expressor.systems.tron.labels import Labelled
from expressor.systems.tron.network import Batches, Transfer, transfer_loss
from expressor.train import loop
from expressor.train.plan import TrainPlan

_FOLDS = 3  # for survival curves


def learn(
    layer: MaskedLinear,
    model: ExpressionModel,
    given: Labelled,
    *,
    plan: TrainPlan,
    seed: int,
    network_rate: float | None = None,
    validation: Labelled | None = None,
    resume: Path | None = None,
) -> tuple[ExpressionModel, pd.DataFrame]:
    """Train the layer in place; return the model behind it and the history.

    Parameters
    ----------
    layer
        At its start.
    model
        The source. It is copied where it is trained along.
    given
        What it is trained on.
    plan
        How.
    seed
        Of the batches.
    network_rate
        Step size of the source's network over that of the layer; None where the network stays as it is.
    validation
        Labelled observations that say when to stop.
    resume
        Checkpoint to go on from.
    """
    x, targets = given
    module = Transfer(layer, copy.deepcopy(model.network), joint=network_rate is not None)  # type: ignore[arg-type]
    size = None if model.kind == "risk" else plan.batch_size
    batches = Batches({"x": torch.from_numpy(x), **targets}, size=size, seed=seed)

    def loss(network: Any, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"loss": transfer_loss(model.kind, network(batch["x"]), batch) + module.conversion.penalty()}

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        del parameters
        groups = [{"params": [one for one in module.conversion.parameters() if one.requires_grad]}]
        if network_rate is not None:
            groups.append({"params": list(module.network.parameters()), "lr": plan.lr * network_rate})  # type: ignore[dict-item]
        return torch.optim.AdamW(groups, lr=plan.lr, weight_decay=plan.weight_decay)

    def validate(network: Any) -> Mapping[str, float]:
        # Where it is trained may be another device than where its data are.
        output = network(torch.from_numpy(validation[0]).to(module.conversion.weight.device)).cpu()  # type: ignore[index]
        return {"val_loss": float(transfer_loss(model.kind, output, validation[1]))}  # type: ignore[index]

    training = loop.Training(
        module=module, batches=batches, loss=loss, optimizer=optimizer, validate=validate if validation else None,
        monitor="val_loss" if validation else None, direction="min",
    )  # fmt: skip
    outcome = loop.run(training, plan, seed=seed, phase="transfer", resume=resume)
    # A fit that was stopped inside its first epoch has no record of one.
    records = outcome.records or [{"epoch": 0, "steps": outcome.steps}]
    return dataclasses.replace(model, network=module.cpu().network), pd.DataFrame(records).assign(n_labelled=len(x))


def learn_curves(
    start: MaskedLinear, model: ExpressionModel, given: Labelled, patients: np.ndarray, *, seed: int, **options: Any
) -> ExpressionModel:
    """Return the model with what makes survival curves of its risk in the target species.

    Slope and baseline hazard are those of risks of patients whom the layer did not see, learnt anew without each third of them: the
    layer ranks those that it was learnt on too well, and curves made with them would be too sure. With fewer than two events a
    third the source's own are kept.

    Parameters
    ----------
    start
        The layer before it learns; it is copied.
    model
        The model whose risk is asked for, learnt or not.
    given
        The labelled observations.
    patients
        Labels (obs,); a patient's observations stay together.
    seed
        Of the thirds and of the batches.
    **options
        As for :func:`learn`.
    """
    x, targets = given
    time, event = targets["time"], targets["event"]
    if int(event.sum()) < 2 * _FOLDS:
        logger.info(
            "%d events are too few for survival curves of the target; those of the source are kept", int(event.sum())
        )
        return model
    fold = inner_folds(patients, event.numpy(), folds=_FOLDS, seed=seed)
    risk = torch.zeros(len(x), dtype=torch.float64)
    for one in range(_FOLDS):
        inside = torch.from_numpy(fold != one)
        layer = copy.deepcopy(start)
        part = x[inside.numpy()], {name: values[inside] for name, values in targets.items()}
        other, _ = learn(layer, model, part, seed=seed, **options)
        with torch.no_grad():
            converted = layer.eval()(torch.from_numpy(x[~inside.numpy()]))
        risk[~inside] = torch.from_numpy(other.predict(converted.numpy())[:, 0])
    slope, baselines = calibrate_risk(risk, time, event)
    return dataclasses.replace(model, hazard=(slope, baselines[-1]))
