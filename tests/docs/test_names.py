"""The documentation speaks of nothing that does not exist: names, commands, options, make targets, extras, files."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import expressor
from expressor.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
GENERATED = [ROOT / "docs" / name for name in ("_build", "api", "results", "systems", "tables")]
WRITTEN = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "src/expressor/systems").glob("*/paper.md"),
    ]
    if not any(path.is_relative_to(folder) for folder in GENERATED) and not path.name.startswith("_")
)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
by_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))


def resolve(dotted: str) -> object:
    """Return what the dotted name stands for: a module, an attribute, or an attribute's attribute."""
    thing: object = expressor
    package = "expressor"
    for part in dotted.split(".")[1:]:
        try:
            thing = getattr(thing, part)
        except AttributeError:
            thing = importlib.import_module(f"{package}.{part}")
        package = f"{package}.{part}"
    return thing


@by_page
def test_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"`(?:expressor|ex)((?:\.[A-Za-z_]\w*)+)[(`]", text))
    names |= set(re.findall(r"\bex((?:\.[A-Za-z_]\w*)+)\(", text))
    names |= set(re.findall(r"^(?:from|import) expressor((?:\.\w+)+)", text, re.MULTILINE))
    for module, imported in re.findall(r"^from expressor((?:\.\w+)*) import ([\w, ]+)$", text, re.MULTILINE):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    missing = []
    for name in sorted(names):
        try:
            resolve(f"expressor{name}")
        except (AttributeError, ImportError) as error:
            missing.append(f"expressor{name} ({error})")
    assert not missing, missing


@by_page
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    verbs = set(re.findall(r"(?:^\$ |`)expressor ([a-z]+)", text, re.MULTILINE))
    assert verbs <= set(VERBS) | {"version"}, verbs - set(VERBS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = set(re.findall(r"(?:^\$ |`)make ([a-z]+)", text, re.MULTILINE))
    assert asked <= targets, asked - targets


@by_page
def test_extras_exist(page: Path) -> None:
    asked = re.findall(r"expressor\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    extras = {one for group in asked for one in group.split(",")}
    assert extras <= set(PYPROJECT["project"]["optional-dependencies"]), extras


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve()
        made = path == ROOT / "docs/fidelity.md" or path == ROOT / "docs/changelog.md"
        made = made or any(path.is_relative_to(folder) for folder in GENERATED)
        assert made or path.exists(), f"{page.name} links to {target}"


def test_readme_tells_every_extra() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in PYPROJECT["project"]["optional-dependencies"] if f"`{name}`" not in text]
    assert not missing, missing


def test_citation_file() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["cff-version"]) == "1.2.0"
    assert citation["type"] == "software"
    assert citation["version"] == expressor.__version__
    assert citation["license"] == PYPROJECT["project"]["license"]
    for one in [*citation["authors"], *(who for paper in citation.get("references", []) for who in paper["authors"])]:
        assert "name" in one or {"family-names", "given-names"} <= set(one)
    assert all({"type", "title", "authors"} <= set(paper) for paper in citation.get("references", []))


def test_changelog_fragments() -> None:
    kinds = {one["directory"] for one in PYPROJECT["tool"]["towncrier"]["type"]}
    fragments = [path for path in (ROOT / "changelog.d").iterdir() if path.name != ".gitignore"]
    assert fragments, "a change tells users what it changed"
    for path in fragments:
        match = re.fullmatch(r"\+[a-z0-9-]+\.([a-z]+)\.md", path.name)
        assert match, path.name
        assert match[1] in kinds, path.name
        assert path.read_text(encoding="utf-8").strip(), path.name


def test_axes_stand_in_the_glossary() -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z]+)\n  ", text, re.MULTILINE))
    used: dict[str, str] = {}
    for path in (ROOT / "src/expressor").rglob("*.py"):
        for axes in re.findall(r'\b[A-Z]\w*\[[\w.]+, "([^"]*)"\]', path.read_text(encoding="utf-8")):
            used |= {axis.lstrip("*#_?"): path.name for axis in axes.split() if re.fullmatch(r"[*#_?]*[a-z]+", axis)}
    assert {"spot", "gene"} <= set(used)
    missing = {axis: file for axis, file in used.items() if axis and axis not in known}
    assert not missing, missing


def test_cited_results_stand_in_the_tables() -> None:
    tables = "".join(one.read_text(encoding="utf-8") for one in (ROOT / "docs/tables").glob("*.md"))
    cited = {
        (page, number)
        for page in ("README.md", "docs/benchmarks.md", "docs/decisions/target-scale.md")
        for number in re.findall(r"\b0\.\d{3}\b", (ROOT / page).read_text(encoding="utf-8"))
    }
    assert cited
    missing = [(page, number) for page, number in sorted(cited) if number not in tables]
    assert not missing, missing
