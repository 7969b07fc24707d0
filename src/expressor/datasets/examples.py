"""Tiny data, one set for each kind of input that a system's card may name: for tests, docs and the conformance suite."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import anndata as ad

from expressor.core.errors import check_choice, check_range
from expressor.datasets.cells import simulate_cells
from expressor.datasets.places import simulate_brain
from expressor.datasets.profiles import simulate_bulk
from expressor.datasets.species import simulate_species
from expressor.datasets.tissue import simulate_tissue


def example(kind: str, *, seed: int = 0, n: int | None = None) -> ad.AnnData:
    """Return a tiny data set of one kind, made in a fraction of a second.

    Data of different seeds have the same genes, which follow the same rules: what is fitted on one can be used on another.

    Parameters
    ----------
    kind
        ``"histology"``: two sections of simulated tissue with pictures, 40 genes and precomputed features in
        ``obsm["X_simulated"]`` (see :func:`expressor.datasets.simulate_tissue`). ``"bulk"``: tumour profiles of 40 genes in
        log2(TPM+1), one a patient, with three types and survival (see :func:`expressor.datasets.simulate_bulk`). ``"cells"``: raw
        counts of 50 genes, CSR, with four cell types and two batches (see :func:`expressor.datasets.simulate_cells`). ``"brain"``:
        samples of tissue of two donors at places of MNI152, 12 genes (see :func:`expressor.datasets.simulate_brain`).
        ``"species"``: raw counts of cells of the second of two simulated species, CSR, with four types (see
        :func:`expressor.datasets.simulate_species`).
    seed
        Seed of the draws.
    n
        Observations, at least 4: spots a section (42 by default), patients (60 by default), cells (80 by default; 60
        of the second species), or samples (90 by default).

    Returns
    -------
    AnnData
        A new object at each call. Its pictures are files of a temporary folder that goes when the process ends.

    Raises
    ------
    DataError
        There is no example of that kind.
    """
    check_choice(kind, _KINDS, name="kind of example")
    if n is not None:
        check_range(n, name="n", low=4, integer=True)
    make, usual = _KINDS[kind]
    return make(seed, usual if n is None else n)


def _histology(seed: int, n: int) -> ad.AnnData:
    return simulate_tissue(
        sections=2, spots=n, n_genes=40, n_features=16, um_per_px=4.0, seed=seed, folder=_folder(seed, n)
    )


def _bulk(seed: int, n: int) -> ad.AnnData:
    return simulate_bulk(n_patients=n, n_genes=40, n_types=3, n_factors=4, seed=seed)


def _cells(seed: int, n: int) -> ad.AnnData:
    return simulate_cells(n_cells=n, n_genes=50, n_types=4, n_batches=2, seed=seed)


def _brain(seed: int, n: int) -> ad.AnnData:
    return simulate_brain(n_samples=n, n_genes=12, n_donors=2, seed=seed)


def _species(seed: int, n: int) -> ad.AnnData:
    return simulate_species(n_cells=n, n_families=40, n_types=4, seed=seed).target


@cache
def _folder(seed: int, n: int) -> Path:
    return _root() / f"{n}-{seed}"


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="expressor-example-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


_KINDS: dict[str, tuple[Callable[[int, int], ad.AnnData], int]] = {
    "brain": (_brain, 90), "bulk": (_bulk, 60), "cells": (_cells, 80), "histology": (_histology, 42),
    "species": (_species, 60),
}  # fmt: skip
