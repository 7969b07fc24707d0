"""Writes observations to disk so that a failure leaves what was there."""

import os
from pathlib import Path
from typing import Any

from expressor.core.errors import DataError


def write_h5ad(adata: Any, path: str | Path) -> Path:
    """Write ``adata`` as h5ad under a temporary name and rename it when it is complete.

    Parameters
    ----------
    adata
        An AnnData.
    path
        The file; its folder is made, an older file is replaced only when the new one is complete.

    Returns
    -------
    The path.

    Raises
    ------
    DataError
        The disk is full or the folder cannot be written. An older file stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        adata.write_h5ad(temporary, compression="gzip")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error})", fix="Free space or choose another folder; an older file is unharmed."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_table(table: Any, path: str | Path) -> Path:
    """Write a DataFrame (sample, gene) as CSV or TSV, by the ending of ``path`` (also ``.gz``), whole or not at all.

    Raises
    ------
    DataError
        The disk is full or the folder cannot be written. An older file stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    names = path.name.lower().removesuffix(".gz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(
            temporary, sep="," if names.endswith(".csv") else "\t", na_rep="NA",
            compression="gzip" if path.suffix == ".gz" else None,
        )  # fmt: skip
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error})", fix="Free space or choose another folder; an older file is unharmed."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
