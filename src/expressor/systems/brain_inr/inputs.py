"""What a fit is given, checked: places, expression, donors; and what is known of any place beside its coordinates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from expressor.core.errors import DataError, nearest_names
from expressor.data import keys
from expressor.data.brainspace import SPACE, check_brain, check_places, tissue_at
from expressor.data.profiles import profiles
from expressor.systems.brain_inr.equations import inverse_distance_weights, scale_together, tissue_code
from expressor.systems.brain_inr.slabs import Boundaries

CONDITIONS = ("tissue", "slab")
GREY, WHITE = "grey", "white"

_LENGTH_MM = 75.0  # half of a brain's length, by which places are divided
_NEIGHBOURS = 10  # samples of which a condition is derived where it is not given


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a fit.

    Attributes
    ----------
    places
        float64 (sample, 3).
    values
        float64 (sample, gene).
    donors
        (sample,) names; one name for all where donors are not told apart.
    given
        What the data say of each sample: columns ``grey``, ``white``, ``slab``, as far as they are there.
    """

    places: np.ndarray
    values: np.ndarray
    donors: np.ndarray
    given: pd.DataFrame

    def take(self, rows: np.ndarray) -> "Samples":
        """Return some of the samples."""
        return Samples(self.places[rows], self.values[rows], self.donors[rows], self.given.iloc[rows])

    @classmethod
    def join(cls, one: "Samples", other: "Samples") -> "Samples":
        """Return both, one after the other, with what is given of both."""
        given = pd.concat([one.given, other.given], join="inner")
        places, values, donors = (
            np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("places", "values", "donors")
        )
        return cls(places, values, donors, given)


def space_of(adata: AnnData) -> str:
    """Return the name of the space; samples with ``obsm["mni"]`` that name none are in MNI152."""
    return str(adata.uns.get(keys.SPACE, SPACE if keys.MNI in adata.obsm else "unknown"))


def read_places(adata: AnnData, space: str | None = None) -> np.ndarray:
    """Return the places of samples, float64 (sample, 3): of a brain from ``obsm["mni"]``, else from ``obsm["xyz"]``.

    Raises
    ------
    DataError
        There are none, they cannot be places of a brain, or the space is another than that of the fit.
    """
    found = space_of(adata)
    if space is not None and found != space:
        raise DataError("the samples are in another space than those of the fit", expected=repr(space), got=repr(found))
    if found == SPACE:
        return check_brain(adata)
    if keys.XYZ not in adata.obsm:
        raise DataError(f"samples in space {found!r} have no obsm[{keys.XYZ!r}]", got=str(sorted(adata.obsm)),
                        fix=f"Put x, y, z of each sample into obsm[{keys.MNI!r}], in mm of MNI152; of anything else into "
                        f"obsm[{keys.XYZ!r}], with the name of its space in uns[{keys.SPACE!r}].")  # fmt: skip
    return check_points(adata.obsm[keys.XYZ])


def check_points(points: Any) -> np.ndarray:
    """Return float64 (point, 3), or refuse another shape or values that are not finite."""
    place = np.asarray(points, dtype=np.float64)
    if place.ndim != 2 or place.shape[1] != 3:
        raise DataError("these are no places", expected="numbers (point, 3)", got=str(place.shape))
    bad = ~np.isfinite(place).all(axis=1)
    if bad.any():
        raise DataError(f"{int(bad.sum())} of {len(place)} places are NaN or infinite", fix="Drop these rows.")
    return place


def read_samples(adata: AnnData, genes: Sequence[str], *, donors: bool, space: str | None = None) -> Samples:
    """Take samples out of data that are checked on the way."""
    places = read_places(adata, space)
    values = profiles(adata, genes).astype(np.float64)
    names = np.full(adata.n_obs, "all", dtype=object)
    if donors and keys.DONOR in adata.obs:
        if adata.obs[keys.DONOR].isna().any():
            raise DataError(
                f"{int(adata.obs[keys.DONOR].isna().sum())} samples have no donor", fix="Name or drop them."
            )
        names = adata.obs[keys.DONOR].astype(str).to_numpy(dtype=object)
    return Samples(places, values, names, read_given(adata))


def read_given(adata: AnnData) -> pd.DataFrame:
    """Return what the data say of each sample beside its place."""
    given = pd.DataFrame(index=adata.obs_names)
    if keys.TISSUE in adata.obsm:
        tissue = np.asarray(adata.obsm[keys.TISSUE], dtype=np.float64)
        if tissue.shape != (adata.n_obs, 2) or not ((tissue >= 0) & (tissue <= 1)).all():
            raise DataError(f"obsm[{keys.TISSUE!r}] holds no probabilities of grey and white matter",
                            expected=f"({adata.n_obs}, 2) from 0 to 1", got=str(tissue.shape))  # fmt: skip
        given[GREY], given[WHITE] = tissue.T
    if keys.SLAB in adata.obs:
        if adata.obs[keys.SLAB].isna().any():
            raise DataError(
                f"{int(adata.obs[keys.SLAB].isna().sum())} samples have no slab", fix="Name them, or drop the column."
            )
        given[keys.SLAB] = adata.obs[keys.SLAB].astype(str).to_numpy()
    return given


def check_given(given: Any, n: int) -> pd.DataFrame | None:
    """Return what a user says of ``n`` places: ``grey`` and ``white``, or ``slab``, or all of them; refuse another table."""
    if given is None:
        return None
    known = (GREY, WHITE, keys.SLAB)
    if not isinstance(given, pd.DataFrame):
        raise DataError("what is given of the places is no table", expected="a DataFrame with columns " + ", ".join(known),
                        got=type(given).__name__)  # fmt: skip
    if len(given) != n:
        raise DataError("what is given of the places does not fit them", expected=f"{n} rows", got=len(given))
    for name in given.columns:
        if name not in known:
            raise DataError(f"a field is told nothing of places by {name!r}", expected=", ".join(known),
                            nearest=nearest_names(str(name), known))  # fmt: skip
    tissue = given[[one for one in (GREY, WHITE) if one in given]].to_numpy(dtype=np.float64)
    if tissue.shape[1] == 1 or not ((tissue >= 0) & (tissue <= 1)).all():
        raise DataError("what is given holds no probabilities of grey and white matter",
                        expected=f"columns {GREY} and {WHITE}, from 0 to 1")  # fmt: skip
    if keys.SLAB in given and given[keys.SLAB].isna().any():
        raise DataError(
            f"{int(given[keys.SLAB].isna().sum())} places have no slab", fix="Name them, or drop the column."
        )
    return given


@dataclass(frozen=True, eq=False)
class Query:
    """Places at which a field is asked, in the forms that fields want.

    Attributes
    ----------
    places
        float64 (point, 3) as given.
    folded
        float64 (point, 3) with the sides of a symmetric space laid upon each other.
    scaled
        float32 (point, 3): what a network sees, in units of a field's size; folded where the symmetry is ``"fold"``.
    conditions
        float32 (point, condition).
    """

    places: np.ndarray
    folded: np.ndarray
    scaled: np.ndarray
    conditions: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Any) -> "Query":
        """Return some of the places."""
        return Query(self.places[rows], self.folded[rows], self.scaled[rows], self.conditions[rows])


@dataclass(frozen=True, eq=False)
class Frame:
    """How places and what is known of them are turned into a field's inputs; kept with the fit.

    Attributes
    ----------
    space
        Name of the space.
    symmetry
        ``"fold"``, ``"mirror"`` or ``"none"``.
    conditions
        Which are used, of :data:`CONDITIONS`.
    coded
        The tissue is one number, as in the paper.
    slabs
        Names of the slabs, in order.
    shift, length
        Places are moved by the first, (3,), and divided by the second.
    known
        float64 (sample, 3): places of the fit.
    known_conditions
        float32 (sample, condition): theirs.
    """

    space: str
    symmetry: str
    conditions: tuple[str, ...]
    coded: bool
    slabs: tuple[str, ...]
    shift: np.ndarray
    length: float
    known: np.ndarray
    known_conditions: np.ndarray

    @classmethod
    def of(cls, samples: Samples, *, space: str, symmetry: str, conditions: Any, paper: bool) -> "Frame":
        """Settle the inputs of a fit on its samples.

        Raises
        ------
        DataError
            A condition is asked for that the data do not have.
        """
        chosen = _choose(samples.given, conditions, space)
        symmetry = symmetry if symmetry != "auto" else "fold" if space == SPACE else "none"
        slabs = tuple(sorted(set(samples.given[keys.SLAB]))) if "slab" in chosen else ()
        folded = fold(samples.places) if symmetry == "fold" else images(samples.places, symmetry)
        if paper:
            low, high = float(folded.min()), float(folded.max())
            shift, length = np.full(3, (low + high) / 2), max((high - low) / 2, 1e-12)
        elif space == SPACE:
            shift, length = np.zeros(3), _LENGTH_MM
        else:
            shift = (folded.max(axis=0) + folded.min(axis=0)) / 2
            length = max(float(np.ptp(folded, axis=0).max()) / 2, 1e-12)
        empty = np.zeros((len(samples.places), 0), dtype=np.float32)
        frame = cls(space, symmetry, chosen, paper, slabs, shift, length, samples.places, empty)
        own = frame._conditions(samples.places, samples.given)
        return cls(space, symmetry, chosen, paper, slabs, shift, length, samples.places, own)

    def query(self, places: np.ndarray, given: pd.DataFrame | None = None) -> Query:
        """Return the inputs at some places; what is not given of them is derived (see :meth:`_conditions`)."""
        own = fold(places) if self.symmetry == "fold" else places
        low, high = float(self.shift[0] - self.length), float(self.shift[0] + self.length)
        scaled = scale_together(own, low, high) if self.coded else (own - self.shift) / self.length
        folded = fold(places) if self.symmetry != "none" else places
        return Query(places, folded, scaled.astype(np.float32), self._conditions(places, given))

    def check(self, points: Any) -> np.ndarray:
        """Return places, or refuse what cannot be places of this space: of a brain also by the template, where it is in use."""
        return (
            check_places(points, template="tissue" in self.conditions) if self.space == SPACE else check_points(points)
        )

    def nearest(self, places: np.ndarray) -> np.ndarray:
        """Return the distance from each place to the nearest sample of the fit, or to its mirror image, (point,)."""
        return cKDTree(images(self.known, self.symmetry)).query(places)[0]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return plain values and arrays; :meth:`from_state` is the way back."""
        values = {"space": self.space, "symmetry": self.symmetry, "conditions": list(self.conditions), "coded": self.coded,
                  "slabs": list(self.slabs), "length": self.length}  # fmt: skip
        return values, {"shift": self.shift, "known": self.known, "known_conditions": self.known_conditions}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> "Frame":
        """Rebuild from what :meth:`state` returned."""
        return cls(str(values["space"]), str(values["symmetry"]), tuple(values["conditions"]), bool(values["coded"]),
                   tuple(map(str, values["slabs"])), arrays["shift"], float(values["length"]), arrays["known"],
                   arrays["known_conditions"])  # fmt: skip

    def _conditions(self, places: np.ndarray, given: pd.DataFrame | None) -> np.ndarray:
        """Return (point, condition): what is given; else the template's tissue, in MNI152; else what the samples tell."""
        parts: list[np.ndarray] = []
        for name in self.conditions:
            width = (1 if self.coded else 2) if name == "tissue" else len(self.slabs)
            start = sum(part.shape[1] for part in parts)
            if name == "slab":
                told = given is not None and keys.SLAB in given
                slab = self._known_slab(given[keys.SLAB].astype(str).to_numpy()) if told else self._slab_at(places)  # type: ignore[index]
                parts.append(np.eye(width)[slab])
            elif name == "tissue" and given is not None and {GREY, WHITE} <= set(given):
                parts.append(self._tissue(given[[GREY, WHITE]].to_numpy(dtype=np.float64)))
            elif name == "tissue" and self.space == SPACE:
                parts.append(self._tissue(tissue_at(places).astype(np.float64)))
            else:
                parts.append(self._derived(places)[:, start : start + width])
        return np.concatenate([np.zeros((len(places), 0)), *parts], axis=1).astype(np.float32)

    def _tissue(self, probabilities: np.ndarray) -> np.ndarray:
        return tissue_code(*probabilities.T)[:, None] if self.coded else probabilities

    def _known_slab(self, slabs: np.ndarray) -> np.ndarray:
        """Return the numbers of named slabs, (point,)."""
        for one in sorted(set(slabs) - set(self.slabs)):
            raise DataError(f"slab {one!r} was not in the fit", expected=", ".join(map(repr, self.slabs)),
                            nearest=nearest_names(one, self.slabs))  # fmt: skip
        return np.searchsorted(np.array(self.slabs), slabs)

    def _slab_at(self, places: np.ndarray) -> np.ndarray:
        """Return the number of the slab on whose side of the boundaries a place is, (point,)."""
        if len(self.slabs) == 1:
            return np.zeros(len(places), dtype=np.int64)
        return self._boundaries.classify(self._one_side(places))

    @cached_property
    def _boundaries(self) -> Boundaries:
        # A smooth boundary goes on where no sample is; the nearest samples would carry their slab across it.
        slab = self.known_conditions[:, -len(self.slabs) :].argmax(axis=1)
        return Boundaries.of(self._one_side(self.known), slab)

    def _one_side(self, places: np.ndarray) -> np.ndarray:
        return places if self.symmetry == "none" else fold(places)

    def _derived(self, places: np.ndarray) -> np.ndarray:
        known = images(self.known, self.symmetry)
        own = np.concatenate([self.known_conditions] * (len(known) // len(self.known)))
        d, near = cKDTree(known).query(places, k=min(_NEIGHBOURS, len(known)))
        d, near = d.reshape(len(places), -1), near.reshape(len(places), -1)
        return np.einsum("pn,pnc->pc", inverse_distance_weights(d), own[near])


def fold(places: np.ndarray) -> np.ndarray:
    """Return places with ``abs(x)`` for ``x``: the sides laid upon each other."""
    return np.concatenate([np.abs(places[:, :1]), places[:, 1:]], axis=1)


def images(places: np.ndarray, symmetry: str) -> np.ndarray:
    """Return places, followed by their mirror images where the space is symmetric."""
    return places if symmetry == "none" else np.concatenate([places, places * [-1.0, 1.0, 1.0]])


def _choose(given: pd.DataFrame, conditions: Any, space: str) -> tuple[str, ...]:
    there = {"tissue": GREY in given or space == SPACE, "slab": keys.SLAB in given}
    if conditions == "auto":
        return tuple(name for name in CONDITIONS if there[name])
    for name in conditions:
        if not there[name]:
            where = f"obs[{keys.SLAB!r}]" if name == "slab" else f"obsm[{keys.TISSUE!r}]"
            raise DataError(
                f"the field is to know the {name}, and the data have no {where}",
                fix="Add it, or leave it out of conditions.",
            )
    return tuple(name for name in CONDITIONS if name in conditions)
