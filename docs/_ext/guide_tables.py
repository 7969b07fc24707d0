"""Tables that guides include: image encoders, metrics, extras, verbs of the command line, benchmark results."""

import tomllib
from pathlib import Path

from _ext.markdown import table
from expressor.cli import VERBS
from expressor.encoders import encoders
from expressor.metrics import METRICS


def pages(docs: Path) -> dict[str, str]:
    """Return path -> text of the included tables."""
    return {
        "guides/_encoders.md": _encoders(),
        "guides/_extras.md": _extras(docs.parent / "pyproject.toml"),
        "guides/_metrics.md": _metrics(),
        "guides/_verbs.md": table(
            ("verb", "what it does"), [(f"`expressor {one}`", what) for one, what in VERBS.items()]
        ),
        "guides/_results.md": _results(docs / "tables"),
    }


def _encoders() -> str:
    rows = [
        (
            f"`{card.name}`", card.dim or "as loaded", card.input_px, f"{card.um_per_px:g}", f"{card.patch_um:g}",
            card.licence, "yes" if card.gated else "no", "yes" if card.commercial else "no", card.source,
        )
        for card in encoders().values()
    ]  # fmt: skip
    heads = (
        "name",
        "dim",
        "input px",
        "µm/px",
        "patch µm",
        "licence of the weights",
        "gated",
        "commercial use",
        "source",
    )
    return table(heads, rows)


def _metrics() -> str:
    better = {"higher": "larger", "lower": "smaller", "one": "nearer 1", "nominal": "nearer the stated value"}
    rows = [
        (f"`{one.name}`", one.meaning, one.averaging, better[one.direction], one.undefined) for one in METRICS.values()
    ]
    return table(("metric", "what it is", "one value a", "better is", "undefined where"), rows)


def _extras(pyproject: Path) -> str:
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return table(
        ("extra", "brings"), [(f"`{name}`", ", ".join(f"`{one}`" for one in needs)) for name, needs in extras.items()]
    )


def _results(folder: Path) -> str:
    """Return the result tables that were written by benchmark runs, one after another."""
    texts = [path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.md"))]
    return "\n\n".join(texts) + "\n" if texts else "No run has been recorded in this version of the documentation.\n"
