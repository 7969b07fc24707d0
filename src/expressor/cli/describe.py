"""``expressor describe DIR``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from expressor.cli.terminal import console, parse


def describe(folder: Annotated[Path, tyro.conf.Positional], /) -> None:
    """Print the methods paragraph, the equations and the references of a saved model.

    Parameters
    ----------
    folder
        Folder of a saved model.
    """
    from expressor.estimator import load

    console.print(load(folder).describe(), markup=False)


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(describe, words, prog="expressor describe")
