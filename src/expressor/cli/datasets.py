"""``expressor datasets [NAME]``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from expressor.cli.terminal import console, parse, show_table
from expressor.core.errors import DataError, nearest_names


def datasets(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    /,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> None:
    """List the data sets, or get one and write it as h5ad.

    Parameters
    ----------
    name
        A data set's name.
    out
        The h5ad to write.
    """
    import expressor
    from expressor.data.writing import write_h5ad

    rooms = expressor.datasets
    if name is None:
        rows = [(one, getattr(rooms, one).__doc__.strip().splitlines()[0]) for one in rooms.names()]
        show_table("", ["name", "what"], rows)
        return
    if name not in rooms.names():
        raise DataError(f"no data set is called {name!r}", nearest=nearest_names(name, rooms.names()))
    if out is not None and out.exists():
        raise DataError(f"{out} exists", fix="Give another -o; nothing was changed.")
    dataset = getattr(rooms, name)()
    console.print(f"{dataset.adata}\n\nlicence: {dataset.licence}\ncite: {dataset.citation}", markup=False)
    if out is not None:
        write_h5ad(dataset.adata, out)
        console.print(f"\nwrote {out}", markup=False)


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(datasets, words, prog="expressor datasets")
