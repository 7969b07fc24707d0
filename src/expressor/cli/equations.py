"""``expressor equations [NAME]``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from expressor.cli.terminal import parse, show_table
from expressor.core import registry
from expressor.core.equations import covering_tests
from expressor.core.equations import equations as tagged


def equations(name: Annotated[str | None, tyro.conf.Positional] = None, /) -> None:
    """List equations: number, meaning, function, file and line, how well the source is known, and the covering tests.

    Parameters
    ----------
    name
        A system's name; all systems by default.
    """
    for card in [registry.card(name)] if name else registry.systems().values():
        covered = covering_tests(card.name, package=card.package)
        rows = [
            (one.number, one.meaning, one.function, f"{Path(one.file).name}:{one.line}", one.fidelity,
             ", ".join(covered.get(one.number, ("none",))))
            for one in tagged(card.name, package=card.package)
        ]  # fmt: skip
        show_table(
            f"{card.estimator}: {card.title}", ["number", "meaning", "function", "where", "fidelity", "tests"], rows
        )


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(equations, words, prog="expressor equations")
