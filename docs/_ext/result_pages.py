"""Pages of benchmark results: each is a table that a benchmark run wrote into ``tables``, with the command that made it."""

import re
from pathlib import Path

HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
VERSION = re.compile(r"^(#+ .*) \((version \d+, hash) (\w+)\)$", re.MULTILINE)
INTERVAL = re.compile(r"(?P<gap> ?)\[(-?[\d.]+), (-?[\d.]+)\]")
NEEDS = re.compile(r"^- \\\* .*$", re.MULTILINE)
WIDE = '<div class="wide-page"></div>\n'


def pages(docs: Path) -> dict[str, str]:
    """Return path -> text: a page for each table, and what the page on benchmarks includes: their headlines and their list."""
    found = sorted((docs / "tables").glob("*.md"), key=_order)
    read = {path.stem: _readable(path.read_text(encoding="utf-8")) for path in found}
    texts = {f"results/{name}.md": _as_page(text, name) for name, text in read.items()}
    if not found:
        return {"guides/_results.md": "No run is recorded in this version.\n"}
    headlines = "\n".join(_headline(text, name) for name, text in read.items())
    listed = "\n".join(f"results/{path.stem}" for path in found)
    return texts | {"guides/_results.md": f"{headlines}\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"}


def _order(path: Path) -> tuple[bool, str]:
    """Order by name, results across patients last: they are the hard case and read better after the easier one."""
    return "cross" in path.stem, path.stem


def _readable(text: str) -> str:
    """Return the text with version and hash below its title, and each interval on a line of its own."""
    text = VERSION.sub(r"\1\n\n\2 `\3`", text)
    return INTERVAL.sub(lambda one: f"{'<br>' if one['gap'] else ''}[{one[2]},&nbsp;{one[3]}]", text)


def _as_page(text: str, name: str) -> str:
    """Return the text with its highest heading made the page's title, on a page without a table of contents."""
    levels = [len(one[1]) for one in HEADING.finditer(text)]
    if levels:
        text = HEADING.sub(lambda one: f"{'#' * (len(one[1]) - min(levels) + 1)} {one[2]}", text)
    else:
        text = f"# {name}\n\n{text}"
    return f"---\nhide-toc: true\n---\n\n{text}\n{WIDE}"


def _headline(text: str, name: str) -> str:
    """Return the first table of the text and what stands below it, under its title."""
    first = HEADING.search(text)
    body = text[first.end() :] if first else text
    following = HEADING.search(body)
    headline = body[: following.start()].strip() if following else body.strip()
    title = first[2] if first else name
    needs = "\n".join(NEEDS.findall(text))
    link = f"[All metrics, paired differences, claims and the command](results/{name}.md)"
    return f"### {title}\n\n{headline}\n\n{needs}\n\n{link}\n"
