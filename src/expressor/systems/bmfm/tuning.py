"""Telling a label: a linear probe on the vectors of cells, and fine-tuning that starts from it."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from expressor.core.errors import DataError
from expressor.data.stream import Stream
from expressor.estimator.inner import choose_setting
from expressor.nn.lora import add_low_rank, merge_low_rank
from expressor.systems.bmfm.corpus import Reading
from expressor.systems.bmfm.equations import focal_loss
from expressor.systems.bmfm.fitted import Head
from expressor.systems.bmfm.network import CellNetwork, places_of
from expressor.systems.bmfm.start import digest
from expressor.systems.bmfm.training import Batches, Judged, Labels, labels_at, unwrapped
from expressor.train import loop
from expressor.train.plan import TrainPlan

STRENGTHS = (0.003, 0.03, 0.3, 3.0, 30.0)
"""Inverse penalties that a probe chooses from."""
_ADAPTED = ("query", "key_value", "out", "gate", "up", "down")
_JUDGED = 2048  # held-out cells that judge an epoch, at most


def fit_probe(vectors: np.ndarray, codes: np.ndarray, n_classes: int, *, strength: float | None, seed: int = 0) -> Head:
    """Fit multinomial logistic regression on centred vectors of mean square 1, and return it as a layer on the vectors themselves.

    Parameters
    ----------
    vectors
        (cell, dim).
    codes
        int (cell,) classes; each occurs.
    n_classes
        Number of classes, >= 2.
    strength
        Inverse penalty, > 0; None to choose one of :data:`STRENGTHS` in folds of the cells.
    seed
        Of the folds.
    """
    values = vectors.astype(np.float64)
    mean = values.mean(axis=0)
    # One scale for all columns: those that vary little among cells count little.
    spread = max(1e-12, float(np.sqrt(values.var(axis=0).mean())))
    values = (values - mean) / spread

    def fit(strength: float, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=2000).fit(x, y)

    with warnings.catch_warnings():
        # What is left of the gradient then is below what a class depends on.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = fit(strength or choose_setting(STRENGTHS, fit, values, codes, seed=seed), values, codes)
    weight, bias = model.coef_, model.intercept_
    if n_classes == 2:
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.append(0.0, bias)
    weight = weight / spread
    return Head(torch.from_numpy(weight).float(), torch.from_numpy(bias - weight @ mean).float())


class TunedNetwork(nn.Module):
    """A copy of a network with a head; its ``forward`` gives the logits of a batch.

    Parameters
    ----------
    network
        The pretrained network; it is copied.
    head
        Where the head starts from.
    pooling
        Vector of the encoder's output that the head looks at.
    """

    def __init__(self, network: CellNetwork, head: Head, pooling: str) -> None:
        super().__init__()
        self.network, self.pooling = copy.deepcopy(network), pooling
        self.head = nn.Linear(head.weight.shape[1], head.weight.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(head.weight)
            self.head.bias.copy_(head.bias)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return logits (cell, class)."""
        network = self.network
        places = places_of(self.pooling, network)
        encoded = network(
            batch["genes"], batch["values"], depth=batch.get("depth"), places=places, measured=batch["measured"]
        )
        return self.head(network.pool(encoded, batch["genes"], self.pooling))


def tune(
    network: CellNetwork,
    head: Head,
    pooling: str,
    reading: Reading,
    rows: np.ndarray,
    labels: Labels,
    judged: Judged,
    *,
    low_rank: tuple[int, float] | None,
    gamma: float,
    plan: TrainPlan,
    seed: int,
    resume: Path | None,
) -> tuple[CellNetwork | None, Head, pd.DataFrame]:
    """Train network and head on, and return them if held-out cells gain over the probe; else None and the probe.

    Parameters
    ----------
    network, head, pooling
        Where training starts from; they are left as they are.
    reading, rows, labels
        Cells that train, all of which have a label: one column.
    judged
        Cells that judge.
    low_rank
        Rank and strength of low-rank additions to the encoder, which else stays; None to train all.
    gamma
        Of the focal loss; 0 for cross-entropy.
    plan, seed, resume
        As for :func:`expressor.train.loop.run`.
    """
    (column,) = labels.codes
    name = f"label:{column}"
    with loop.seeded(seed, "tune/init"):
        tuned = TunedNetwork(network, head, pooling)
        if low_rank is not None:
            tuned.network.requires_grad_(False)
            add_low_rank(tuned.network.encoder, _ADAPTED, rank=low_rank[0], alpha=low_rank[1])
    held = _held_out(judged, plan.batch_size)

    def validate(module: Any) -> dict[str, float]:
        module = unwrapped(module)
        device, total, right, n = next(module.parameters()).device, 0.0, 0, 0
        for one in held:
            logits, truth = module({key: value.to(device) for key, value in one.items()}).cpu(), one[name]
            total += float(focal_loss(logits, truth, gamma)) * len(truth)
            right, n = right + int((logits.argmax(1) == truth).sum()), n + len(truth)
        return {"val_loss": total / n, "val_accuracy": right / n}

    with torch.no_grad():
        before = validate(tuned.eval())
    source = Stream(reading.corpus.blocks, batch_size=min(plan.batch_size, len(rows)), seed=seed, rows=rows)
    training = loop.Training(
        leaves_parts_out=True,
        module=tuned, validate=validate, monitor="val_loss", direction="min",
        batches=lambda epoch, rank, world: Batches(
            source.batches(epoch, rank, world), reading, labels, whole=False, masked=False
        ),
        loss=lambda module, batch: {"loss": focal_loss(module(batch), batch[name], gamma)},
    )  # fmt: skip
    outcome = loop.run(
        training, plan, seed=seed, phase="tune", resume=resume, identity=digest(network.state_dict() | vars(head))
    )
    tuned.cpu().eval()
    first = {"epoch": 0, "stage": "probe", **before}
    history = pd.concat([pd.DataFrame([first]), pd.DataFrame(outcome.records).assign(stage="tune")], ignore_index=True)
    with torch.no_grad():
        if not validate(tuned)["val_loss"] < before["val_loss"]:
            return None, head, history
    if low_rank is not None:
        merge_low_rank(tuned.network.encoder)
    tuned.network.requires_grad_(True)
    found = Head(tuned.head.weight.detach().clone(), tuned.head.bias.detach().clone())
    return tuned.network, found, history


def _held_out(judged: Judged, size: int) -> list[dict[str, Tensor]]:
    """Return batches of the held-out cells that have a label."""
    ((_, codes),) = judged.labels.codes.items()
    rows = judged.rows[codes[judged.rows] >= 0][:_JUDGED]
    if not len(rows):
        raise DataError("no held-out cell has a label, so that fine-tuning cannot be judged",
                        fix='Give val= with labels, a larger validation=, or finetune="probe".')  # fmt: skip
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        batch = judged.reading.batch(part, judged.reading.corpus.blocks.read(part), None, whole=False)
        found.append(batch | labels_at(judged.labels, part))
    return found
