"""``expressor systems [NAME]``."""

from collections.abc import Sequence
from typing import Annotated

import tyro

from expressor.cli.terminal import console, parse, show_table
from expressor.core import registry


def systems(name: Annotated[str | None, tyro.conf.Positional] = None, /) -> None:
    """List the systems, or show the card of one.

    Parameters
    ----------
    name
        A system's name.
    """
    if name is None:
        rows = [
            (one.name, one.estimator, ", ".join(one.roles), one.inputs, one.summary)
            for one in registry.systems().values()
        ]
        show_table("", ["name", "class", "roles", "inputs", "summary"], rows)
        return
    card = registry.card(name)
    console.print(f"[bold]{card.estimator}[/bold]  {card.summary}\n")
    console.print(
        f"{card.title}\n{card.authors}, {card.year}" + (f", arXiv:{card.arxiv}" if card.arxiv else ""), markup=False
    )
    show_table(
        "\npresets", ["preset", "parameters"], [(preset, dict(values)) for preset, values in card.presets.items()]
    )
    for title, lines in (("differs from the paper", card.deviations), ("limits", card.limits)):
        console.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            console.print(f"- {line}", markup=False)


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(systems, words, prog="expressor systems")
