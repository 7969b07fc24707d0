"""Pages of benchmark results: each is a table that a benchmark run wrote into ``tables``, with the command that made it."""

import re
from pathlib import Path

HEADING = re.compile(r"^(#+) ", re.MULTILINE)


def pages(docs: Path) -> dict[str, str]:
    """Return path -> text: a page for each table, and the list of them that the page on benchmarks includes."""
    found = sorted((docs / "tables").glob("*.md"))
    texts = {f"results/{path.name}": _as_page(path.read_text(encoding="utf-8"), path.stem) for path in found}
    listed = "\n".join(f"results/{path.stem}" for path in found)
    toctree = f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    return texts | {"guides/_results.md": toctree if found else "No run is recorded in this version.\n"}


def _as_page(text: str, name: str) -> str:
    """Return the text with its highest heading made the page's title."""
    levels = [len(marks) for marks in HEADING.findall(text)]
    if not levels:
        return f"# {name}\n\n{text}"
    return HEADING.sub(lambda match: "#" * (len(match[1]) - min(levels) + 1) + " ", text)
