"""``expressor predict DIR DATA -o OUT.h5ad``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from expressor.cli.source import read_source
from expressor.cli.terminal import console, parse
from expressor.core.errors import DataError


def predict(
    folder: Annotated[Path, tyro.conf.Positional],
    data: Annotated[str, tyro.conf.Positional],
    /,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Annotate a copy of the data with a saved model's results and write it as h5ad.

    Parameters
    ----------
    folder
        Folder of a saved model.
    data
        Path to an h5ad or zarr, or the name of a data set.
    out
        The h5ad to write.
    key
        Name under which the results are written; the system's name by default.
    overwrite
        Replace an existing file, and entries of that name in the data.
    """
    from expressor.data.writing import write_h5ad
    from expressor.estimator import load

    if out.exists() and not overwrite:
        raise DataError(f"{out} exists", fix="Give another -o, or --overwrite; nothing was changed.")
    model = load(folder)
    adata = read_source(data)
    adata = adata.to_memory() if adata.isbacked else adata.copy()
    model.annotate(adata, key=key, overwrite=overwrite)
    write_h5ad(adata, out)
    console.print(f"wrote {adata.n_obs} observations to {out}", markup=False)


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(predict, words, prog="expressor predict")
