"""Which observations train and which judge: by group, by tissue block, or at random; and the check that none does both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from expressor.core.errors import DataError, check_range, nearest_names
from expressor.core.rng import stream
from expressor.data.fields import fingerprint
from expressor.data.recipes import FittedRecipe
from expressor.data.spatial import coordinates, microns_per_pixel, section_of, sections

TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, -1
"""Labels of :func:`spatial_blocks`."""

_REMEDY = "Fit gene choice, scaling and models on training data alone."


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of the observations that train, judge, and (where there are some) select.

    Attributes
    ----------
    name
        What is held out.
    train, test, validation
        int64 positions, sorted; ``validation`` may be None. They share none.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray | None = None

    def __post_init__(self) -> None:
        parts = {"train": self.train, "test": self.test, "validation": self.validation}
        seen: set[int] = set()
        for part, index in parts.items():
            if index is None:
                continue
            index = np.sort(np.asarray(index, dtype=np.int64))
            object.__setattr__(self, part, index)
            if not len(index):
                raise DataError(f"the {part} part of split {self.name!r} is empty", expected="at least one observation")
            if seen & set(index.tolist()) or len(np.unique(index)) < len(index):
                raise DataError(
                    f"split {self.name!r} uses an observation twice", got=f"a repetition in its {part} part"
                )
            seen.update(index.tolist())


def _groups(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obs:
        raise DataError(f"obs has no column {key!r}", nearest=nearest_names(key, adata.obs.columns),
                        fix="The columns are: " + (", ".join(map(str, adata.obs.columns)) or "none") + ".")  # fmt: skip
    column = adata.obs[key]
    if column.isna().any():
        raise DataError(
            f"{int(column.isna().sum())} observations have no {key}", fix=f"Fill obs[{key!r}] or drop them."
        )
    return column.astype(str).to_numpy()


def leave_one_group_out(adata: AnnData, key: str) -> list[Split]:
    """Return one split a group: that group judges, all others train.

    Parameters
    ----------
    adata
        Any data.
    key
        Column of ``obs`` with the groups, such as ``"patient"`` or ``"section"``.

    Raises
    ------
    DataError
        The column is absent or has gaps, or there are fewer than two groups.
    """
    groups = _groups(adata, key)
    names = sorted(set(groups))
    if len(names) < 2:
        raise DataError(f"{key} has one group only", expected="two or more", got=names[0] if names else "none",
                        fix="Split by another column, or by spatial_blocks.")  # fmt: skip
    return [hold_out(adata, key, [name]) for name in names]


def hold_out(adata: AnnData, key: str, values: Iterable[Any]) -> Split:
    """Return the split in which the groups ``values`` of column ``key`` judge and the others train.

    Raises
    ------
    DataError
        The column or a group is absent, or nothing is left to train on.
    """
    groups, wanted = _groups(adata, key), [str(value) for value in ([values] if isinstance(values, str) else values)]
    known = sorted(set(groups))
    for value in wanted:
        if value not in known:
            raise DataError(f"{key} has no group {value!r}", nearest=nearest_names(value, known),
                            fix="The groups are: " + ", ".join(known[:20]) + ".")  # fmt: skip
    held = np.isin(groups, wanted)
    return Split(name=f"{key} {', '.join(wanted)}", train=np.flatnonzero(~held), test=np.flatnonzero(held))


def random_spots(adata: AnnData, folds: int = 5, seed: int = 0) -> list[Split]:
    """Return splits of randomly drawn spots of the same sections, ``folds - 2`` : 1 : 1 for train, validation, test.

    Neighbouring spots share tissue and image pixels, so this is the easy setting: it tells how well a section's missing spots are
    filled in, not how a new section or patient fares. Spots are drawn within each section.

    Parameters
    ----------
    adata
        Tissue data.
    folds
        Number of parts and of splits, at least 3. Fold ``i`` judges in split ``i`` and selects in the split before.
    seed
        Non-negative integer.

    Raises
    ------
    DataError
        A section has fewer spots than folds.
    """
    check_range(folds, name="folds", low=3, integer=True)
    section = section_of(adata).to_numpy()
    fold = np.empty(adata.n_obs, dtype=np.int64)
    for i, name in enumerate(sections(adata)):
        spots = np.flatnonzero(section == name)
        if len(spots) < folds:
            raise DataError(
                f"section {name!r} is too small for {folds} folds", expected=f"at least {folds} spots", got=len(spots)
            )
        # Spots are dealt out by name, so that their order in the table does not matter.
        spots = spots[np.argsort(adata.obs_names.to_numpy()[spots].astype(str), kind="stable")]
        fold[stream(seed, "random spots", i).permutation(spots)] = np.arange(len(spots)) % folds
    splits = []
    for test in range(folds):
        validation = (test + 1) % folds
        train = np.flatnonzero((fold != test) & (fold != validation))
        splits.append(
            Split(f"random spots {test}", train, np.flatnonzero(fold == test), np.flatnonzero(fold == validation))
        )
    return splits


def spatial_blocks(
    adata: AnnData,
    *,
    block_um: float,
    seed: int,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    gap_um: float = 0.0,
) -> np.ndarray:
    """Label each spot train (0), validation (1) or test (2), whole square blocks of tissue at a time.

    Parameters
    ----------
    adata
        Tissue data with the um per pixel of each section.
    block_um
        Side of a block in um.
    seed
        Non-negative integer: which block goes where.
    fractions
        Wanted shares of the spots of each section; a share of 0 leaves its part out.
    gap_um
        Spots of the training part nearer than this to a spot of another part are left out (-1), so that image patches of this
        size never show the same pixels on both sides.

    Returns
    -------
    numpy.ndarray
        int8 (spot,).

    Raises
    ------
    DataError
        Fractions that are no shares, or a section with fewer blocks than parts.
    """
    check_range(block_um, name="block_um", low=0, open_low=True)
    check_range(gap_um, name="gap_um", low=0)
    share = np.asarray(fractions, dtype=np.float64)
    if share.shape != (3,) or not np.isfinite(share).all() or (share < 0).any() or not np.isclose(share.sum(), 1):
        raise DataError("fractions are no shares", expected="three numbers from 0 that add up to 1", got=str(fractions))
    coords, section = coordinates(adata), section_of(adata).to_numpy()
    label = np.full(adata.n_obs, LEFT_OUT, dtype=np.int8)
    for i, name in enumerate(sections(adata)):
        spots = np.flatnonzero(section == name)
        at = coords[spots] * microns_per_pixel(adata, name)
        cell = np.floor((at - at.min(axis=0)) / block_um).astype(np.int64)
        _, block, size = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
        if len(size) < (share > 0).sum():
            raise DataError(
                f"section {name!r} has {len(size)} blocks for {int((share > 0).sum())} parts",
                got=f"blocks of {block_um:g} um on {np.ptp(at[:, 0]):.0f} x {np.ptp(at[:, 1]):.0f} um of tissue",
                fix="Use a smaller block_um.",
            )
        part = _deal(size, share, stream(seed, "spatial blocks", i))
        label[spots] = _open_gap(part[block.ravel()], at, gap_um)
    return label


def _deal(size: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give blocks, in random order, to the part that lacks most of its share; every part with a share gets one."""
    part = np.empty(len(size), dtype=np.int8)
    missing = share * size.sum()
    order = rng.permutation(len(size))
    for place, block in enumerate(order):
        left = len(size) - place
        empty = [one for one in np.flatnonzero(share > 0) if one not in part[order[:place]]]
        candidates = empty if len(empty) >= left else np.flatnonzero(share > 0)
        part[block] = max(candidates, key=lambda one: (missing[one], -one))
        missing[part[block]] -= size[block]
    return part


def _open_gap(label: np.ndarray, at: np.ndarray, gap_um: float) -> np.ndarray:
    if gap_um > 0 and (label == TRAIN).any() and (label != TRAIN).any():
        train = np.flatnonzero(label == TRAIN)
        near = cKDTree(at[label != TRAIN]).query(at[train])[0] < gap_um
        label[train[near]] = LEFT_OUT
    return label


def split_from_labels(labels: np.ndarray, *, name: str = "spatial blocks") -> Split:
    """Turn labels of :func:`spatial_blocks` into a :class:`Split`; what is labelled -1 is in no part."""
    labels = np.asarray(labels)
    validation = np.flatnonzero(labels == VALIDATION)
    return Split(
        name, np.flatnonzero(labels == TRAIN), np.flatnonzero(labels == TEST), validation if len(validation) else None
    )


def check_leak(train: AnnData | FittedRecipe, test: AnnData, *, by: str | Iterable[str]) -> None:
    """Refuse training and test data that share a group, or a recipe that has seen the test data.

    Parameters
    ----------
    train
        The training data, or a recipe fitted on them.
    test
        The data to judge on.
    by
        What must not be shared: ``"obs_names"``, and columns of ``obs`` such as ``"patient"`` or ``"section"``; one or more.

    Raises
    ------
    DataError
        The message names what stands on both sides. A recipe fitted on exactly the test data is refused in any case.
    """
    wanted = [by] if isinstance(by, str) else list(by)
    who = "the training data hold"
    if isinstance(train, FittedRecipe):
        who = "the recipe was fitted on"
        if train.fitted_on == fingerprint(test):
            raise DataError("leak: the recipe was fitted on the test data", fix=_REMEDY)
    for key in wanted:
        left = train.groups_of(key) if isinstance(train, FittedRecipe) else _names_of(train, key)
        shared = sorted(left & _names_of(test, key))
        if shared:
            what = "observations" if key == "obs_names" else f"groups of {key!r}"
            raise DataError(
                f"leak: {who} {len(shared)} {what} that are also in the test data, such as {shared[0]!r}",
                expected="none on both sides",
                fix=_REMEDY,
            )


def _names_of(adata: AnnData, key: str) -> set[str]:
    names: pd.Index | np.ndarray = adata.obs_names if key == "obs_names" else _groups(adata, key)
    return set(map(str, names))
