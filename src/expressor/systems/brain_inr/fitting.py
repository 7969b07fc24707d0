"""The course of a fit: what is held out, the members, their errors on it, intervals."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree

from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.nn.fields import FourierField, Siren
from expressor.nn.gp import fit_process, refit
from expressor.systems.brain_inr.calibration import Calibration
from expressor.systems.brain_inr.equations import block_of, standard_score
from expressor.systems.brain_inr.genes import GeneInputs
from expressor.systems.brain_inr.inputs import Frame, Query, Samples, fold, images
from expressor.systems.brain_inr.members import FourierMember, Member, Neighbours, Process, SirenMember
from expressor.systems.brain_inr.teaching import has_teacher, pupil, teach
from expressor.systems.brain_inr.training import Material, train
from expressor.train.loop import seeded

_BLOCKS_A_LENGTH = 9  # blocks along the longest axis of a space that is no brain's
BLOCK_MM = 20.0


@dataclass(frozen=True, eq=False)
class Scales:
    """Each donor's mean and standard deviation of each gene, (donor, gene)."""

    donors: tuple[str, ...]
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, samples: Samples) -> "Scales":
        """Compute them; a donor of fewer than two samples is refused."""
        donors = tuple(sorted(set(samples.donors)))
        mean, spread = [], []
        for one in donors:
            own = samples.values[samples.donors == one]
            if len(own) < 2:
                raise DataError(f"donor {one!r} has a single sample", expected="two or more a donor",
                                fix='Drop it, or fit with donor="ignore".')  # fmt: skip
            mean.append(own.mean(axis=0))
            spread.append(own.std(axis=0))
        return cls(donors, np.array(mean), np.array(spread))

    def scores(self, samples: Samples) -> np.ndarray:
        """Return standard scores, each sample among its donor's."""
        found = np.empty_like(samples.values)
        for i, one in enumerate(self.donors):
            rows = samples.donors == one
            found[rows] = standard_score(samples.values[rows], self.mean[i], self.spread[i])
        return found

    def of_donor(self, donor: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of one donor, or the mean of them over donors."""
        if donor is None:
            return self.mean.mean(axis=0), self.spread.mean(axis=0)
        row = self.donors.index(donor)
        return self.mean[row], self.spread[row]


@dataclass(frozen=True, eq=False)
class FittedField:
    """One field, of all donors or of one.

    Attributes
    ----------
    frame, scales, genes
        How places, expression and genes are turned into numbers.
    members, weights
        Their weighed sum is the field.
    calibration
        Held-out errors; None where nothing was held out.
    """

    frame: Frame
    scales: Scales
    genes: GeneInputs
    members: tuple[Member, ...]
    weights: tuple[float, ...]
    calibration: Calibration | None

    def predict(self, query: Query, genes: np.ndarray | None, vectors: np.ndarray | None = None) -> np.ndarray:
        """Return standard scores float32 (point, gene)."""
        found = self.members[0].predict(query, genes, vectors)
        if len(self.members) > 1:
            found *= self.weights[0]
        for weight, one in zip(self.weights[1:], self.members[1:]):
            found += weight * one.predict(query, genes, vectors)
        return found

    def radius(self, query: Query, coverage: float, genes: np.ndarray) -> np.ndarray:
        """Return half the width of an interval in standard scores, float64 (point, gene), of the genes at some positions."""
        if self.calibration is None:
            raise DataError(
                "the fit held nothing out, so that errors are not known", fix="Fit with folds of 2 or more."
            )
        own = self.members[0].spread(query) if len(self.members) == 1 else None
        return self.calibration.radius_at(coverage, self.frame.nearest(query.places), own, genes)


class FieldFit:
    """One fit of an estimator's parameters to samples."""

    def __init__(self, model: Any, adata: Any, samples: Samples, space: str, genes: list[str], phase: str,
                 resume: Path | None) -> None:  # fmt: skip
        self.model, self.seed, self.phase, self.resume = model, model.random_state, phase, resume
        paper = model.field == "siren"
        self.samples = samples
        self.frame = Frame.of(samples, space=space, symmetry=model.symmetry, conditions=model.conditions, paper=paper)
        self.scales = Scales.of(samples)
        self.z = self.scales.scores(samples)
        self.genes = GeneInputs.of(model.gene, self.z, adata, genes, dim=model.gene_dim)
        self.query = self.frame.query(samples.places, samples.given)
        self.history: list[dict[str, Any]] = []
        self.identity = json.dumps({"genes": genes, "n": len(samples.places), "phase": phase})

    def run(self, held_out: np.ndarray | None) -> FittedField:
        """Fit; ``held_out`` marks samples that only judge (bool), or None to hold out each part in turn."""
        everything = np.arange(len(self.z))
        parts = [(np.flatnonzero(~held_out), np.flatnonzero(held_out))] if held_out is not None else self.parts()
        kept = np.flatnonzero(~held_out) if held_out is not None else everything
        taught = has_teacher(self.model, self.z.shape[1])
        kinds = ("gp", "fourier") if taught or self.model.field == "ensemble" else (self.model.field,)
        members: list[Member] = []
        weights: list[float] = []
        guesses, owns = [], []
        for kind in kinds:
            made, guess, own = (
                self._networks(parts, kept) if kind in ("fourier", "siren") else self._closed(kind, parts, kept)
            )
            members += made
            weights += [1.0 / len(made) / len(kinds)] * len(made)
            guesses.append(guess)
            owns.append(own)
        calibration = None
        if parts:
            rows = np.concatenate([held for _, held in parts])
            error = np.abs(self.z[rows] - np.mean(guesses, axis=0))
            distance = np.concatenate([self._distance(train_rows, held) for train_rows, held in parts])
            calibration = Calibration.of(error, distance, owns[0] if len(members) == 1 else None)
        if taught:
            members, weights = [self._pupil(kept, members, weights)], [1.0]
        return FittedField(self.frame, self.scales, self.genes, tuple(members), tuple(weights), calibration)

    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each fold, rows that teach and rows that are held out; none with ``folds=0``."""
        k = self.model.folds
        if not k:
            return []
        labels = hold_out_groups(self.samples, self.frame, self.model.held_out)
        names = np.unique(labels)
        if len(names) < 2:
            raise DataError(f"there is one group of samples to hold out (held_out={self.model.held_out!r})", expected="two or more",
                            fix='Use held_out="samples", or folds=0.')  # fmt: skip
        k = min(k, len(names))
        place = np.empty(len(names), dtype=np.int64)
        place[stream(self.seed, "folds").permutation(len(names))] = np.arange(len(names)) % k
        fold_of = place[np.searchsorted(names, labels)]
        return [(np.flatnonzero(fold_of != one), np.flatnonzero(fold_of == one)) for one in range(k)]

    def _distance(self, train_rows: np.ndarray, held: np.ndarray) -> np.ndarray:
        places = self.samples.places
        return cKDTree(images(places[train_rows], self.frame.symmetry)).query(places[held])[0]

    def _closed(
        self, kind: str, parts: list[tuple[np.ndarray, np.ndarray]], kept: np.ndarray
    ) -> tuple[list[Member], np.ndarray, np.ndarray | None]:
        def nearest(rows: np.ndarray) -> Member:
            return Neighbours.of(
                self.query.take(rows), self.z[rows], mirrored=self.frame.symmetry != "none",
                neighbours=self.model.neighbours, power=0.0 if kind == "knn" else 1.0,
            )  # fmt: skip

        make = nearest
        if kind == "gp":
            points, z = Process.points(self.query), torch.from_numpy(self.z)
            first = fit_process(points[kept], z[kept], seed=self.seed, inducing=self.model.inducing)

            def make(rows: np.ndarray) -> Member:
                return Process(refit(first, points[rows], z[rows]))

        guesses, owns = [], []
        for train_rows, held in parts:
            one, query = make(train_rows), self.query.take(held)
            guesses.append(one.predict(query))
            owns.append(one.spread(query))
        final = make(kept)
        guess = np.concatenate(guesses) if guesses else np.empty((0, self.z.shape[1]))
        error = float(((guess - self.z[np.concatenate([held for _, held in parts])]) ** 2).mean()) if parts else np.nan
        self.history.append({"stage": f"{self.phase}{kind}", "epoch": 1, "held_out_mse": error})
        known = [one for one in owns if one is not None]
        return [final], guess, np.concatenate(known) if known else None

    def _networks(
        self, parts: list[tuple[np.ndarray, np.ndarray]], kept: np.ndarray
    ) -> tuple[list[Member], np.ndarray, None]:
        members: list[Member] = []
        guesses = []
        for number, (rows, held) in enumerate(parts or [(kept, kept[:0])]):
            member = self._network(number, rows, held if len(held) else None)
            members.append(member)
            if len(held):
                guesses.append(member.predict(self.query.take(held)))
        guess = np.concatenate(guesses) if guesses else np.empty((0, self.z.shape[1]))
        return members, guess, None

    def _network(self, number: int, rows: np.ndarray, held: np.ndarray | None) -> Member:
        model, phase = self.model, f"{self.phase}network{number}"
        with seeded(self.seed, f"{phase}/init"):
            module = build(model, self.frame, self.genes, self.z.shape[1])
        inputs = torch.from_numpy(self.genes.vectors) if isinstance(module, Siren) else None
        records = train(
            module, self._material(rows),
            None if held is None else Material.of(self.query.take(held), self.z[held]),
            plan=model.plan, steps=model.steps, schedule=model.schedule, seed=self.seed, phase=phase, resume=self.resume,
            identity=self.identity, gene_inputs=inputs,
        )  # fmt: skip
        self._remember(phase, records)
        return SirenMember(module, inputs) if isinstance(module, Siren) else FourierMember(module)  # type: ignore[arg-type]

    def _pupil(self, kept: np.ndarray, teachers: list[Member], weights: list[float]) -> Member:
        phase = f"{self.phase}pupil"
        module = pupil(self.model, self.frame, self.z.shape[1], phase=phase)
        member, records = teach(self.model, module, self.samples.take(kept), self.frame, teachers, weights, phase=phase)
        self._remember(phase, records)
        return member

    def _remember(self, phase: str, records: list[dict[str, Any]]) -> None:
        self.history += [{"stage": phase, **{k: v for k, v in one.items() if k != "seconds"}} for one in records]

    def _material(self, rows: np.ndarray) -> Material:
        """Return what a network learns from: samples, and their mirror images where it does not fold the sides itself."""
        query, z = self.query.take(rows), self.z[rows]
        if self.frame.symmetry != "mirror":
            return Material.of(query, z)
        other = self.frame.query(query.places * [-1.0, 1.0, 1.0], self.samples.given.iloc[rows])
        return Material.join(Material.of(query, z), Material.of(other, z))


def build(model: Any, frame: Frame, genes: GeneInputs, n_genes: int) -> FourierField | Siren:
    """Return the network of an estimator's parameters; random numbers are drawn from torch's present generator."""
    n_conditions = frame.known_conditions.shape[1]
    if model.field == "siren":
        return Siren(3 + n_conditions + genes.vectors.shape[1], width=model.width, hidden=model.depth,
                     omega_first=model.omega, omega=model.omega)  # fmt: skip
    given = torch.from_numpy(genes.vectors) if genes.kind != "table" else n_genes
    return FourierField(3, n_conditions, given, frequencies=model.frequencies, bandwidth=model.bandwidth, width=model.width,
                        depth=model.depth, dropout=model.dropout)  # fmt: skip


def hold_out_groups(samples: Samples, frame: Frame, how: str) -> np.ndarray:
    """Return the group of each sample, of which a group is held out whole: its block of space, its donor, or itself."""
    if how == "donors":
        return samples.donors.astype(str)
    if how == "samples":
        return np.arange(len(samples.places))
    folded = fold(samples.places) if frame.symmetry != "none" else samples.places
    side = BLOCK_MM if frame.space == "MNI152" else max(float(np.ptp(folded, axis=0).max()) / _BLOCKS_A_LENGTH, 1e-9)
    return block_of(folded, side)


def history_of(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the records of all stages as one table."""
    table = pd.DataFrame(records)
    return table if len(table) else pd.DataFrame({"stage": ["none"], "epoch": [1]})
