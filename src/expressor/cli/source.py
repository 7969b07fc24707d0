"""Where a verb's data come from: a path, or the name of a data set."""

from pathlib import Path
from typing import Any

from expressor.core.errors import DataError, nearest_names


def read_source(source: str) -> Any:
    """Return the AnnData of a path (h5ad, zarr, CSV, TSV) or of a data set's name (see ``expressor datasets``).

    Raises
    ------
    DataError
        It is neither.
    """
    from expressor import datasets
    from expressor.data import fields

    if Path(source).exists():
        return fields.read(source)
    names = datasets.names()
    if source in names:
        return getattr(datasets, source)().adata
    raise DataError(
        f"{source!r} is neither a file nor a data set",
        expected="a path to an h5ad, zarr, CSV or TSV, or one of " + ", ".join(names),
        nearest=nearest_names(source, names),
    )
