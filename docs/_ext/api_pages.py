"""One page a room: its public names, then every module in it."""

import importlib
import re
from pathlib import Path

from sphinx.util import logging

import expressor
from _ext.markdown import table
from expressor.core import registry

logger = logging.getLogger(__name__)
PACKAGE = Path(expressor.__file__).parent
# From the ground up, as the floors stand; a room that is not named here is put at the end.
ORDER = (
    "core",
    "genes",
    "data",
    "metrics",
    "nn",
    "encoders",
    "datasets",
    "train",
    "estimator",
    "bench",
    "report",
    "cli",
)


def pages() -> dict[str, str]:
    """Return path -> text of the API pages."""
    found = {one.name for one in PACKAGE.iterdir() if (one / "__init__.py").exists() and one.name != "systems"}
    rooms = [*(room for room in ORDER if room in found), *sorted(found.difference(ORDER))]
    texts = {f"api/{room}.md": _room_page(room) for room in rooms}
    systems = [card for card in registry.systems().values() if card.package.startswith("expressor.")]
    texts |= {f"api/systems-{card.name}.md": _system_modules(card.name) for card in systems}
    return texts | {"api/index.md": _index(rooms, [card.name for card in systems])}


def _modules(folder: Path, package: str) -> list[str]:
    """Return the dotted names of the public modules below ``folder``, packages by their own names."""
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts and not any(part.startswith("_") or part == "tests" for part in parts):
            names.append(".".join((package, *parts)))
    return names


def _words(module: str) -> str:
    """Return the first sentence of a module's docstring."""
    return _first_line(importlib.import_module(module).__doc__)


def _first_line(docstring: str | None) -> str:
    """Return the first line of a docstring as Markdown: roles become code."""
    lines = (docstring or "").strip().splitlines() or [""]
    return re.sub(r":[a-z:]+:`~?([^`]+)`", lambda match: f"`{match[1].rpartition('.')[2]}`", lines[0])


def _index(rooms: list[str], systems: list[str]) -> str:
    rows = [(f"[`{room}`]({room}.md)", _words(f"expressor.{room}")) for room in rooms]
    rows += [(f"[`systems.{name}`](systems-{name}.md)", _words(f"expressor.systems.{name}")) for name in systems]
    listed = "\n".join([*rooms, *(f"systems-{name}" for name in systems)])
    return (
        "# API\n\nThe package has rooms on floors; each room imports only from floors below it (see "
        "{doc}`../decisions/folder-per-system-and-floors`). Here they stand from the ground up. The estimators are on the pages "
        "of their [systems](../systems/index.md).\n\n"
        + table(("room", "what is there"), rows)
        + f"\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    )


def _public_names(room: str) -> str:
    """Return the table of what can be taken straight from the room, where it offers names."""
    module = importlib.import_module(f"expressor.{room}")
    rows = []
    for name in sorted(set(dir(module))):
        try:
            thing = None if name.startswith("_") else getattr(module, name)
        except ImportError as error:
            logger.warning("%s.%s cannot be documented: %s", f"expressor.{room}", name, error)
            continue
        home = getattr(thing, "__module__", "") or ""
        if home.startswith(f"expressor.{room}.") and callable(thing):
            role = "class" if isinstance(thing, type) else "func"
            rows.append((f"{{py:{role}}}`~{home}.{thing.__qualname__}`", _first_line(thing.__doc__)))
    if not rows:
        return ""
    return f"From `expressor.{room}`:\n\n" + table(("name", "what it is"), rows)


def _automodule(module: str, *, members: bool) -> str:
    return f"```{{eval-rst}}\n.. automodule:: {module}\n" + ("   :members:\n" if members else "") + "```\n"


def _room_page(room: str) -> str:
    package = f"expressor.{room}"
    parts = [f"# {room}\n", _automodule(package, members=room == "cli"), _public_names(room) if room != "cli" else ""]
    for module in _modules(PACKAGE / room, package):
        is_package = (PACKAGE.parent / Path(*module.split("."))).is_dir()
        parts.append(f"## `{module.removeprefix('expressor.')}`\n\n{_automodule(module, members=not is_package)}")
    return "\n".join(part for part in parts if part)


def _system_modules(name: str) -> str:
    package = f"expressor.systems.{name}"
    parts = [f"# systems.{name}\n", _automodule(package, members=False)]
    parts.append(f"The estimator is on the page of the system: [{name}](../systems/{name}.md).\n")
    for module in _modules(PACKAGE / "systems" / name, package):
        if not module.endswith(".estimator"):
            parts.append(f"## `{module.removeprefix(package + '.')}`\n\n{_automodule(module, members=True)}")
    return "\n".join(parts)
