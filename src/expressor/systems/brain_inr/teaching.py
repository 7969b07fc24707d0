"""One network that is taught by others: as good as their mean nearly, and as quick to ask as one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from expressor.core.rng import stream
from expressor.data import keys
from expressor.nn.fields import FourierField
from expressor.systems.brain_inr.inputs import Frame, Query, Samples
from expressor.systems.brain_inr.members import FourierMember, Member
from expressor.systems.brain_inr.training import Material, train
from expressor.train.loop import seeded

MOST_GENES = 1000
"""Genes up to which ``teacher="auto"`` has a teacher: what it says at all lessons is held in memory."""

_LESSONS = 15_000  # places at which the teacher is asked
_APART = 0.1  # mean distance of a lesson from a sample, in units of a field's size: 7.5 mm of a brain
_FINER = 2.0  # the pupil's bandwidth over that of the networks, whose mean is finer than each
_LR, _DECAY, _BATCH, _STEPS = 1e-2, 1e-4, 512, 16


def lessons(samples: Samples, frame: Frame, rng: np.random.Generator, n: int = _LESSONS) -> Query:
    """Return places around the samples, most of them near, some far; each in the slab of its sample.

    In a space that is mirrored every second place is on the other side.
    """
    rows = rng.integers(len(samples.places), size=n)
    away = rng.normal(size=(n, 3)) / np.sqrt(3) * rng.exponential(2 * _APART * frame.length, size=(n, 1))
    places = samples.places[rows] + away
    if frame.symmetry == "mirror":
        places[::2, 0] *= -1
    known = samples.given.iloc[rows]
    return frame.query(places, known[[keys.SLAB]] if keys.SLAB in known else None)


def teach(
    model: Any, module: FourierField, samples: Samples, frame: Frame, teachers: Sequence[Member],
    weights: Sequence[float], *, phase: str,
) -> tuple[FourierMember, list[dict[str, Any]]]:  # fmt: skip
    """Train ``module`` to say what the weighed teachers say at the lessons; return it with a record an epoch.

    Samples are not looked at again: their noise is what the teachers have averaged out. Nothing is dropped out, because what is
    learnt has no noise.
    """
    asked = lessons(samples, frame, stream(model.random_state, f"{phase}/lessons"))
    said = sum(weight * one.predict(asked) for weight, one in zip(weights, teachers))
    plan = dataclasses.replace(model.plan, lr=_LR, weight_decay=_DECAY, batch_size=_BATCH)
    records = train(
        module, Material.of(asked, np.asarray(said)), None, plan=plan, steps=_STEPS, schedule="one_cycle", seed=model.random_state,
        phase=phase,
    )  # fmt: skip
    return FourierMember(module), records


def pupil(model: Any, frame: Frame, n_genes: int, *, phase: str) -> FourierField:
    """Return the network that is to be taught."""
    with seeded(model.random_state, f"{phase}/init"):
        return FourierField(
            3, frame.known_conditions.shape[1], n_genes, frequencies=model.frequencies,
            bandwidth=_FINER * model.bandwidth, width=model.width, depth=model.depth, dropout=0.0,
        )  # fmt: skip


def has_teacher(model: Any, n_genes: int) -> bool:
    """Tell whether an estimator's network is to be taught."""
    if model.field != "fourier" or model.teacher == "none":
        return False
    return bool(model.teacher == "ensemble" or (model.gene == "table" and n_genes <= MOST_GENES))
