"""Markdown by the line: tables, cells, lists."""

from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """Return text that is safe in a table cell."""
    return " ".join(str(text).split()).replace("|", r"\|")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell(one) for one in line) + " |" for line in lines) + "\n"


def bullets(items: Iterable[str]) -> str:
    """Return a bulleted list, one line an item."""
    return "".join(f"- {' '.join(item.split())}\n" for item in items)
