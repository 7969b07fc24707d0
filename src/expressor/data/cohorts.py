"""Folds of patients: repeated, stratified, kept in a file so that all methods meet the same; and a user's genes as a model's.

A patient is on one side of a split with all samples. What tells the patients apart is ``obs["patient"]``.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from expressor.core.errors import DataError, FormatError, check_range
from expressor.core.log import logger
from expressor.core.rng import stream
from expressor.core.serial import from_plain, read_json, write_json
from expressor.data import keys
from expressor.data.splits import Split
from expressor.genes.matching import GeneTable, Match, match_genes
from expressor.genes.vocab import GeneVocab

FORMAT = "expressor folds, format 1"


@dataclass(frozen=True)
class PatientFolds:
    """Which patients judge in which fold of which repeat.

    Attributes
    ----------
    name
        What the folds are of.
    folds, repeats, seed
        How they were drawn.
    stratified_by
        Columns whose values are spread evenly over the folds.
    test
        For each repeat, for each fold, the patients that judge, in alphabetical order.
    """

    name: str
    folds: int
    repeats: int
    seed: int
    stratified_by: tuple[str, ...]
    test: tuple[tuple[tuple[str, ...], ...], ...]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of who is where."""
        text = "\n".join("\t".join(fold) for repeat in self.test for fold in repeat)
        return hashlib.sha256(text.encode()).hexdigest()

    def splits(self, adata: AnnData, *, patient: str = keys.PATIENT) -> list[Split]:
        """Return a split a fold and repeat, named ``r<repeat>f<fold>``, of the samples of ``adata``.

        Raises
        ------
        DataError
            A patient of ``adata`` is in no fold, or a fold's patients are all absent: the folds were made for other data.
        """
        owner = _patients(adata, patient)
        known = {one for fold in self.test[0] for one in fold}
        strange = sorted(set(owner) - known)
        if strange:
            raise DataError(
                f"the folds of {self.name!r} were made for other patients: {len(strange)} are in none, such as {strange[0]!r}",
                fix="Draw folds for these data with expressor.data.draw_folds.",
            )
        return [
            Split(f"r{r}f{f}", np.flatnonzero(~held), np.flatnonzero(held))
            for r, repeat in enumerate(self.test)
            for f, fold in enumerate(repeat)
            for held in [np.isin(owner, fold)]
        ]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the folds as JSON, with their hash."""
        record = {"format": FORMAT, **{one.name: getattr(self, one.name) for one in dataclasses.fields(self)}}
        write_json(Path(path), record | {"sha256": self.hash})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "PatientFolds":
        """Read what :meth:`write` wrote.

        Raises
        ------
        FormatError
            The file is missing, of another format, holds a patient twice in a repeat, or was changed after it was written.
        """
        path = Path(path)
        record = read_json(path)
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            raise FormatError(f"{path} holds no folds", expected=f"format {FORMAT!r}")
        stated = record.pop("sha256", None)
        found = from_plain(cls, record, where=str(path))
        for r, repeat in enumerate(found.test):
            everyone = [one for fold in repeat for one in fold]
            if len(set(everyone)) != len(everyone):
                raise FormatError(f"a patient stands in two folds of repeat {r} of {path}")
            if set(everyone) != {one for fold in found.test[0] for one in fold} or len(repeat) != found.folds:
                raise FormatError(f"repeat {r} of {path} has other patients or folds than it says")
        if stated != found.hash or len(found.test) != found.repeats:
            raise FormatError(
                f"the folds in {path} were changed after they were written", fix="Restore the original file."
            )
        return found


def draw_folds(
    adata: AnnData,
    *,
    folds: int = 5,
    repeats: int = 2,
    by: Sequence[str] = (),
    seed: int = 0,
    name: str = "",
    patient: str = keys.PATIENT,
) -> PatientFolds:
    """Draw repeated folds of patients, stratified.

    Parameters
    ----------
    adata
        Samples, with the patient in ``obs``.
    folds
        Number of folds, at least 2.
    repeats
        Number of times that they are drawn anew, at least 1.
    by
        Columns of ``obs`` whose values are spread evenly, such as ``("event", "cohort")``; of a patient with several samples the
        most frequent value counts (of equally frequent ones the first in the alphabet). A gap is a value of its own.
    seed
        Non-negative integer. The folds depend on the patients' names and values, not on the order of samples.
    name
        What the folds are of.
    patient
        Column with the patient.

    Raises
    ------
    DataError
        A column is absent, a sample has no patient, or there are fewer patients than folds.
    """
    check_range(folds, name="folds", low=2, integer=True)
    check_range(repeats, name="repeats", low=1, integer=True)
    check_range(seed, name="seed", low=0, integer=True)
    owner = _patients(adata, patient)
    patients, index = np.unique(owner, return_inverse=True)
    strata = [""] * len(patients)
    for column in by:
        if column not in adata.obs:
            raise DataError(f"obs has no column {column!r} to stratify by",
                            fix="There are: " + ", ".join(map(str, adata.obs.columns)) + ".")  # fmt: skip
        values, code = np.unique(adata.obs[column].astype(str).to_numpy(), return_inverse=True)
        counts = np.zeros((len(patients), len(values)), dtype=np.int64)
        np.add.at(counts, (index, code), 1)
        strata = [f"{stratum}\t{values[most]}" for stratum, most in zip(strata, counts.argmax(axis=1))]
    stratum = np.array(strata)
    if len(patients) < folds:
        raise DataError("there are fewer patients than folds", expected=f"at least {folds}", got=len(patients))
    drawn = tuple(_deal_out(patients, stratum, folds, stream(seed, "patient folds", r)) for r in range(repeats))
    return PatientFolds(name, folds, repeats, seed, tuple(by), drawn)


def _deal_out(
    patients: np.ndarray, stratum: np.ndarray, folds: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], ...]:
    """Deal the patients of each stratum round; each stratum goes on where the last one ended, so that folds are of one size."""
    fold = np.empty(len(patients), dtype=np.int64)
    start = 0
    for value in np.unique(stratum):
        rows = rng.permutation(np.flatnonzero(stratum == value))
        fold[rows] = (start + np.arange(len(rows))) % folds
        start += len(rows)
    return tuple(tuple(str(one) for one in patients[fold == f]) for f in range(folds))


def _patients(adata: AnnData, patient: str) -> np.ndarray:
    if patient not in adata.obs:
        raise DataError(
            f"obs has no column {patient!r}: it is not known which samples are of one patient",
            fix="Add it; where every sample is of another patient: adata.obs['patient'] = adata.obs_names.",
        )
    column = adata.obs[patient]
    if column.isna().any():
        raise DataError(f"{int(column.isna().sum())} of {len(column)} samples have no patient (obs[{patient!r}])",
                        fix="Name them, or leave them out: their side of a split is unknown.")  # fmt: skip
    return column.astype(str).to_numpy()


def check_apart(train: AnnData, test: AnnData, *, patient: str = keys.PATIENT) -> None:
    """Refuse training data ``train`` and data to judge on, ``test``, that share a patient (a value of ``obs[patient]``).

    Raises
    ------
    DataError
        The message counts the patients on both sides and names one.
    """
    shared = sorted(set(_patients(train, patient)) & set(_patients(test, patient)))
    if shared:
        raise DataError(
            f"leak: {len(shared)} patients are in the training and in the test data, such as {shared[0]!r}",
            expected="every patient on one side",
            fix="Split by patient (expressor.data.draw_folds), in every file that is trained on.",
        )


def match_to(
    adata: AnnData, vocab: GeneVocab | Iterable[str], *, table: GeneTable | None = None
) -> tuple[AnnData, Match]:
    """Return ``adata`` with genes named as in ``vocab``, and how each was found.

    Parameters
    ----------
    adata
        A user's data, genes named in any usual way: symbols, Ensembl ids with or without version, Entrez ids.
    vocab
        A model's genes (``model.genes_in_``).
    table
        Identifiers; the shipped human table by default.

    Returns
    -------
    AnnData, Match
        The genes found, in the order of the vocabulary and under its names; others are left out. ``var["found_as"]`` is the user's
        name. The report is logged.

    Raises
    ------
    GeneError
        Not one gene of the vocabulary is found.
    """
    vocab = vocab if isinstance(vocab, GeneVocab) else GeneVocab(vocab)
    found = match_genes(map(str, adata.var_names), vocab, table=table)
    there = np.flatnonzero(found.index >= 0)
    part: Any = adata[:, found.index[there]].copy()
    part.var["found_as"] = part.var_names.astype(str)
    part.var_names = [vocab[int(gene)] for gene in there]
    logger.info("%s", found.report())
    return part, found
