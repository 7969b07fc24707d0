"""Finds systems by their cards: every folder of ``expressor.systems``, and what other packages register.

Another package registers a system through the entry-point group ``expressor.systems``; the entry's name is the system's, its
value the dotted name of a package that holds a ``card.toml``. Nothing is imported to list the systems.
"""

import importlib
import importlib.util
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from expressor.core.card import Card, read_card
from expressor.core.errors import DataError, FormatError, nearest_names

GROUP = "expressor.systems"


@cache
def systems() -> dict[str, Card]:
    """Return the cards of all systems by name, in alphabetical order."""
    found: dict[str, Card] = {}
    own = Path(__file__).resolve().parent.parent / "systems"
    for path in sorted(own.glob("*/card.toml")):
        _add(found, path.parent.name, read_card(path, package=f"expressor.systems.{path.parent.name}"))
    # A set, because an installation seen twice on the path lists its entry twice.
    for name, package in {(entry.name, entry.value) for entry in entry_points(group=GROUP)}:
        _add(found, name, read_card(_card_path(package), package=package))
    return dict(sorted(found.items()))


def _add(found: dict[str, Card], name: str, card: Card) -> None:
    if card.name != name:
        raise FormatError(f"the card of the package {card.package} has another name", expected=name, got=card.name)
    if name in found:
        raise FormatError(
            f"two packages bring a system {name!r}: {found[name].package} and {card.package}",
            fix="Uninstall one of them.",
        )
    found[name] = card


def _card_path(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise FormatError(
            f"the registered system package {package!r} cannot be found",
            fix="Reinstall or uninstall the package that registers it.",
        )
    return Path(spec.origin).parent / "card.toml"


def card(name: str) -> Card:
    """Return the card of the system ``name`` (folder name, or class name in any case).

    Raises
    ------
    DataError
        No system has that name; the message gives the nearest ones.
    """
    wanted = name.lower()
    for one in systems().values():
        if wanted in (one.name.lower(), one.estimator.lower()):
            return one
    raise DataError(
        f"no system is called {name!r}",
        nearest=nearest_names(name, systems()),
        fix="`expressor systems` lists them.",
    )


def load(name: str) -> type:
    """Import and return the estimator class of the system ``name``."""
    one = card(name)
    return getattr(importlib.import_module(one.package), one.estimator)
