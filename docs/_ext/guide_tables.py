"""Tables that guides include: image encoders, metrics, extras, verbs of the command line, benchmark protocols."""

import ast
import tomllib
from pathlib import Path

from _ext.markdown import bullets, table
from expressor.bench import Task, find_task, task_names
from expressor.cli import VERBS
from expressor.encoders import encoders
from expressor.metrics.catalogue import ALL


def pages(docs: Path) -> dict[str, str]:
    """Return path -> text of the included tables."""
    return {
        "guides/_encoders.md": _encoders(),
        "guides/_extras.md": _extras(docs.parent / "pyproject.toml"),
        "guides/_metrics.md": _metrics(),
        "guides/_speed.md": _speed(docs.parent / "benchmarks"),
        "guides/_verbs.md": table(
            ("verb", "what it does"), [(f"`expressor {one}`", what) for one, what in VERBS.items()]
        ),
        "guides/_protocols.md": "\n".join(_protocols(find_task(name)) for name in task_names()),
    }


def _encoders() -> str:
    cards = encoders().values()
    rows = [
        (
            f"`{card.name}`", card.dim or "as loaded", card.input_px, f"{card.um_per_px:.3g}", card.licence,
            "yes" if card.gated else "no", "yes" if card.commercial else "no",
        )
        for card in cards
    ]  # fmt: skip
    heads = ("name", "dim", "input px", "µm/px", "licence of the weights", "gated", "commercial use")
    return table(heads, rows) + "\n" + bullets(f"`{card.name}`: {card.source}" for card in cards)


def _metrics() -> str:
    better = {"higher": "larger", "lower": "smaller", "one": "nearer 1", "nominal": "nearer the stated value"}
    rows = [(f"`{one.name}`", one.meaning, one.averaging, better[one.direction], one.undefined) for one in ALL.values()]
    return table(("metric", "what it is", "one value a", "better is", "undefined where"), rows)


def _speed(folder: Path) -> str:
    scripts = sorted(folder.glob("*.py"))
    told = [(ast.get_docstring(ast.parse(one.read_text(encoding="utf-8"))) or "").split("\n\n")[0] for one in scripts]
    return bullets(f"`benchmarks/{one.name}`: {what}" for one, what in zip(scripts, told))


def _extras(pyproject: Path) -> str:
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return table(
        ("extra", "brings"), [(f"`{name}`", ", ".join(f"`{one}`" for one in needs)) for name, needs in extras.items()]
    )


def _protocols(task: Task) -> str:
    protocols = list(task.protocols.values())
    told = bullets(
        f"`{one.name}` (version {one.version}, hash `{one.hash}`). {' '.join([one.title + '.', *one.notes])}"
        for one in protocols
    )
    controls = {one.name: one for protocol in protocols for one in task.controls(protocol)}
    named = bullets(one.title + (f" (it is given {one.needs})" if one.needs else "") for one in controls.values())
    return f"### {task.name}\n\n{told}\nControls in each of its tables:\n\n{named}"
