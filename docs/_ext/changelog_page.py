"""The changelog: fragments of ``changelog.d`` that no release holds yet, then ``CHANGELOG.md``."""

import tomllib
from pathlib import Path

from _ext.markdown import bullets


def pages(root: Path) -> dict[str, str]:
    """Return path -> text of the changelog page."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]
    parts = ["# Changelog\n", "## Not yet released\n"]
    for kind in settings["type"]:
        paths = sorted((root / settings["directory"]).glob(f"*.{kind['directory']}.md"))
        if paths:
            parts.append(f"### {kind['name']}\n\n{bullets(path.read_text(encoding='utf-8') for path in paths)}")
    released = root / settings["filename"]
    if released.exists():
        parts.append(released.read_text(encoding="utf-8"))
    return {"changelog.md": "\n".join(parts)}
