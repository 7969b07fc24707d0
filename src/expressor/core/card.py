"""A system's card: who it is, read from its ``card.toml`` without importing the system."""

import tomllib
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from expressor.core.errors import FormatError, nearest_names
from expressor.core.serial import from_plain

MISSING_GENES = ("unused", "refuse", "impute")
ROLES = ("Predicts", "Encodes", "Imputes", "Maps", "Clusters", "Survives", "Infers")


@dataclass(frozen=True)
class Card:
    """What a ``card.toml`` says.

    Attributes
    ----------
    name
        Folder name, the key of the registry.
    estimator
        Name of the estimator class that the system's package exports.
    title, authors, arxiv, doi, year, licence
        The paper, and the licence of the authors' code where there is some.
    summary
        One line: from what, to what, how.
    roles
        Names of the roles the estimator plays (see :mod:`expressor.estimator.roles`).
    inputs
        Kind of data it eats: ``"histology"``, ``"cells"``, ``"bulk"``, ``"brain"``, ...
    extras
        Package extras that it needs beyond the core.
    missing_genes
        What ``predict`` does when genes of the fit are absent from new data: ``"unused"``, ``"refuse"``, ``"impute"``.
    presets
        Preset name -> estimator parameters. Every system has ``paper`` and ``tiny``; one that takes plain arrays has ``array``,
        with which scikit-learn's own battery is run.
    sklearn_exceptions
        Checks of that battery that cannot hold for this system -> why.
    deviations, limits
        Known departures from the paper; where the method should not be used.
    references
        Full references, the paper first.
    package
        The Python package that holds the system.
    """

    name: str
    estimator: str
    title: str
    authors: str
    year: int
    summary: str
    roles: tuple[str, ...]
    inputs: str
    presets: dict[str, dict[str, Any]]
    references: tuple[str, ...]
    package: str
    arxiv: str = ""
    doi: str = ""
    licence: str = ""
    extras: tuple[str, ...] = ()
    missing_genes: str = "unused"
    deviations: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    sklearn_exceptions: dict[str, str] = field(default_factory=dict)


def read_card(path: Path, *, package: str) -> Card:
    """Read and check one card.

    Raises
    ------
    FormatError
        The file is missing or not TOML, or a key is missing, unknown, or of the wrong kind.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not a TOML file ({error})") from error
    known = {one.name for one in fields(Card)} - {"package"}
    for key in raw:
        if key not in known:
            raise FormatError(f"unknown key {key!r} in {path}", nearest=nearest_names(key, known))
    hints = typing.get_type_hints(Card)
    values = {key: from_plain(hints[key], value, where=f"{key} in {path}") for key, value in raw.items()}
    try:
        card = Card(package=package, **values)
    except TypeError as error:
        raise FormatError(f"{path} is incomplete ({error})") from error
    for role in card.roles:
        if role not in ROLES:
            raise FormatError(f"unknown role {role!r} in {path}", nearest=nearest_names(role, ROLES))
    if card.missing_genes not in MISSING_GENES:
        raise FormatError(
            f"unknown missing_genes in {path}", expected=f"one of {MISSING_GENES}", got=repr(card.missing_genes)
        )
    for preset in ("paper", "tiny"):
        if preset not in card.presets:
            raise FormatError(f"{path} has no preset {preset!r}", fix=f"Add a table [presets.{preset}].")
    return card
