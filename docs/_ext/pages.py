"""Writes the pages that are made from the package itself, so that a new system, room or encoder appears without an edit here.

======================  ==========================================================
``systems/*.md``        one page a system: its ``paper.md``, card, equations, estimator
``fidelity.md``         every equation of every system, and how well it is known
``api/*.md``            one page a room
``guides/_*.md``        tables that guides include
``results/*.md``        tables that benchmark runs wrote
``changelog.md``        the fragments of ``changelog.d``, then what was released
======================  ==========================================================
"""

from pathlib import Path

from sphinx.application import Sphinx

from _ext import api_pages, changelog_page, guide_tables, result_pages, system_pages


def write_pages(docs: Path) -> None:
    """Write every generated page below the folder ``docs``; pages whose text did not change are left untouched."""
    texts = {
        **system_pages.pages(docs),
        **api_pages.pages(),
        **guide_tables.pages(docs),
        **result_pages.pages(docs),
        **changelog_page.pages(docs.parent),
    }
    for name, text in texts.items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for folder in ("systems", "api", "results"):
        for path in (docs / folder).glob("*.md"):
            if f"{folder}/{path.name}" not in texts:
                path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
