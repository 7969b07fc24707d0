"""One set of real data with what must be known to use it: licence, citation, source."""

from collections.abc import Iterable
from dataclasses import dataclass

import anndata as ad
import numpy as np

from expressor.core.errors import DataError, nearest_names


@dataclass(frozen=True)
class Dataset:
    """Observations with their provenance.

    Attributes
    ----------
    adata
        The observations, in the package's layout.
    name
        Short name of the data set.
    licence
        Licence of the data (not of the package).
    citation
        What to cite when the data are used.
    source
        Where this copy came from: a URL or a folder.
    """

    adata: ad.AnnData
    name: str
    licence: str
    citation: str
    source: str

    def split(self, *, by: str, held_out: Iterable[str]) -> tuple[ad.AnnData, ad.AnnData]:
        """Split into training and test data by whole groups.

        Parameters
        ----------
        by
            Column of ``obs`` that names the group, such as ``"section"``, ``"patient"`` or ``"batch"``.
        held_out
            Groups of the test data, at least one and not all.

        Returns
        -------
        tuple of AnnData
            Training and test data: copies, in the original order of rows, which share no group. Each keeps in
            ``uns["spatial"]`` only its own sections.

        Raises
        ------
        DataError
            No such column or group, a missing group label, or one of the two parts would be empty.
        """
        groups = self._groups(by)
        wanted = [held_out] if isinstance(held_out, str) else [str(one) for one in held_out]
        known = sorted(set(groups))
        for one in wanted:
            if one not in known:
                raise DataError(
                    f"data set {self.name!r} has no {by} {one!r}",
                    expected="some of " + ", ".join(repr(group) for group in known),
                    nearest=nearest_names(one, known),
                )
        test = np.isin(groups, wanted)
        if not test.any() or test.all():
            raise DataError(
                f"holding out {wanted} leaves no {'test' if not test.any() else 'training'} data",
                expected=f"at least one {by} on each side",
                fix=f"There are {len(known)}: " + ", ".join(known) + ".",
            )
        return take(self.adata, ~test), take(self.adata, test)

    def _groups(self, by: str) -> np.ndarray:
        if by not in self.adata.obs:
            columns = [str(one) for one in self.adata.obs.columns]
            raise DataError(
                f"data set {self.name!r} has no obs column {by!r}",
                expected="one of " + ", ".join(repr(one) for one in columns),
                nearest=nearest_names(by, columns),
            )
        column = self.adata.obs[by]
        if column.isna().any():
            raise DataError(
                f"{int(column.isna().sum())} of {len(column)} observations have no {by}",
                fix="Group them, or leave them out first: their side of the split is unknown.",
            )
        return column.astype(str).to_numpy()

    def __repr__(self) -> str:
        shape = f"{self.adata.n_obs} observations, {self.adata.n_vars} genes"
        groups = ", ".join(
            f"{key} " + "/".join(sorted(set(self.adata.obs[key].dropna().astype(str))))
            for key in ("patient", "section", "batch", "donor")
            if key in self.adata.obs
        )
        return f"Dataset({self.name}: {shape}; {groups}; {self.licence}; from {self.source})"


def take(adata: ad.AnnData, rows: np.ndarray) -> ad.AnnData:
    """Return a copy of the ``rows`` (bool mask or positions), with only their own categories and sections."""
    part = adata[rows].copy()
    for key in part.obs.columns:
        if hasattr(part.obs[key], "cat"):
            part.obs[key] = part.obs[key].cat.remove_unused_categories()
    if "section" in part.obs:
        present = set(part.obs["section"].astype(str))
        for entry in ("spatial", "sample"):
            if entry in part.uns:
                part.uns[entry] = {key: value for key, value in part.uns[entry].items() if key in present}
    return part
