"""Every marked example of the documentation is run.

A fence after the line ``<!-- runs -->`` is executed: Python in one namespace a page, ``$ expressor ...`` lines of a console
block as commands. A ``text`` fence after ``<!-- prints -->`` is compared with what the block before it printed, where ``...``
stands for anything.
"""

import contextlib
import doctest
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = [ROOT / "docs" / name for name in ("_build", "api", "results", "systems", "tables")]
FENCE = re.compile(
    r"^<!-- (?P<mark>runs|prints) -->\n+```(?:\{code-block\} )?(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    mark: str
    language: str
    body: str
    line: int


def pages() -> list[Path]:
    """Return the pages that people wrote."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src/expressor/systems").glob("*/paper.md")]
    return sorted(
        path for path in found if not any(path.is_relative_to(folder) for folder in GENERATED) and path.name[0] != "_"
    )


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(one["mark"], one["language"], one["body"], text.count("\n", 0, one.start("body")) + 1)
        for one in FENCE.finditer(text)
    ]


def bodies(page: Path) -> tuple[str, ...]:
    return tuple(block.body for block in blocks(page))


# The start page shows the README's example; it is run once.
PAGES = list({bodies(page): page for page in pages() if blocks(page) and page.name != "README.md"}.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    printed = ""
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.mark == "prints":
            same = doctest.OutputChecker().check_output(
                block.body, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            )
            assert same, f"{where} does not print what it says, but:\n{printed}"
        elif block.language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                # Padded, so that a traceback gives the line of the page.
                exec(compile("\n" * (block.line - 1) + block.body, str(page), "exec"), namespace)
            printed = output.getvalue()
        else:
            assert block.language == "console", f"{where}: no way to run {block.language!r}"
            printed = "".join(run_command(line, where) for line in block.body.splitlines() if line.startswith("$ "))


def run_command(line: str, where: str) -> str:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    assert words[0] == "expressor", f"{where}: only expressor commands are run, not {words[0]!r}"
    done = subprocess.run([sys.executable, "-m", "expressor", *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}: {line!r} fails:\n{done.stderr[-2000:]}"
    return done.stdout


def test_readme_shows_the_example_of_the_start_page() -> None:
    assert bodies(ROOT / "README.md") == bodies(ROOT / "docs/index.md") != ()
    assert len(PAGES) >= 8
