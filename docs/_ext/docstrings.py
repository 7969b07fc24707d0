"""Docstrings as this package writes them.

``Returns`` is prose here, because signatures tell the types; Napoleon takes its first line for a type, so the prose is handed
over as the description of a mark, and the mark is taken out afterwards. Names are documented in the module that defines them
and offered by their room as well; a reference to the room's name is led to the definition.
"""

import importlib
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

_RULE = re.compile(r"^-{3,}\s*$")
_HEADS = ("Returns", "Yields")
_MARK = "returnsinwords"
# What scikit-learn adds to every estimator for its metadata routing, which is not used here.
_NOT_OURS = re.compile(r"get_metadata_routing|set_\w+_request")


def _section_end(lines: list[str], start: int) -> int:
    """Return the index after the section whose body begins at ``start``: the next heading, or the end."""
    for position in range(start, len(lines) - 1):
        if lines[position].strip() and not lines[position].startswith(" ") and _RULE.match(lines[position + 1]):
            return position
    return len(lines)


def mark_prose(lines: list[str]) -> list[str]:
    """Return the docstring's ``lines`` with the body of each ``Returns`` section of prose indented below a mark."""
    done: list[str] = []
    position = 0
    while position < len(lines):
        is_head = lines[position].strip() in _HEADS and position + 1 < len(lines) and _RULE.match(lines[position + 1])
        if not is_head:
            done.append(lines[position])
            position += 1
            continue
        end = _section_end(lines, position + 2)
        body = lines[position + 2 : end]
        done += lines[position : position + 2]
        if any(line.startswith(" ") for line in body):  # a type with an indented description: Napoleon's own case
            done += body
        else:
            done += [_MARK, *(f"    {line}" if line.strip() else "" for line in body)]
        position = end
    return done


def _before_napoleon(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = mark_prose(lines)


def _after_napoleon(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [re.sub(rf"\*{_MARK}\*(?: -- )?", "", line) for line in lines]


def _skip(app: Sphinx, kind: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    return True if _NOT_OURS.fullmatch(name) else None


def _readable_defaults(
    app: Sphinx, kind: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Give defaults that are made at construction a form that can be parsed, so that the signature is laid out in lines."""
    return None if signature is None else (signature.replace("<factory>", "..."), returns)


def _follow(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Resolve a reference to a name of a room by the module that defines it."""
    target = node.get("reftarget", "")
    room, _, name = target.rpartition(".")
    if node.get("refdomain") != "py" or not room.startswith("expressor"):
        return None
    try:
        thing = getattr(importlib.import_module(room), name)
    except (ImportError, AttributeError):
        return None
    home = getattr(thing, "__module__", "")
    if not home.startswith("expressor.") or f"{home}.{name}" == target:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], f"{home}.{name}", node, content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before and after Napoleon, which listens with the default priority of 500."""
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.connect("autodoc-process-signature", _readable_defaults)
    app.connect("autodoc-skip-member", _skip)
    app.connect("missing-reference", _follow)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
