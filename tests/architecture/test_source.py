"""House rules that the linter and the import contracts cannot hold, read from the source without running it."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "expressor"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "tests" not in path.relative_to(PACKAGE).parts)
MOST_LINES = 500
EMPTY_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "manager",
    "managers",
    "base_utils",
    "tools",
    "stuff",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield name_of(path), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """Yield name, definition and whether it is a method, of all that users may call."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if any(ast.unparse(one).startswith("Protocol") for one in node.bases):
                continue  # a shape; its own docstring says what each part is
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner, True


def test_the_source_is_found() -> None:
    assert len(SOURCES) > 50


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_modules_say_what_they_hold() -> None:
    parts = {part.removesuffix(".py") for path in SOURCES for part in path.relative_to(PACKAGE).parts}
    assert not parts & EMPTY_NAMES


def test_the_library_never_prints() -> None:
    assert not [name for name, tree in trees() for call, _ in calls(tree) if call in ("print", "pprint")]


def test_users_never_meet_a_bare_assert() -> None:
    found = [
        f"{name}:{node.lineno}" for name, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Assert)
    ]
    assert not found


def test_nothing_runs_code_from_a_file() -> None:
    forbidden = {"eval", "exec", "pd.read_pickle", "joblib.load", "os.system", "yaml.load"}
    found = []
    for name, tree in trees():
        found += [f"{name}: {call}" for call, _ in calls(tree) if call in forbidden]
        found += [
            f"{name}: {keyword.arg}" for _, node in calls(tree) for keyword in node.keywords
            if keyword.arg in ("allow_pickle", "shell") and getattr(keyword.value, "value", None) is True
        ]  # fmt: skip
        for node in ast.walk(tree):
            modules = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [
                f"{name}: {one}"
                for one in modules
                if one.split(".")[0] in ("pickle", "dill", "cloudpickle", "shelve", "marshal")
            ]
    assert not found


@pytest.mark.parametrize(
    ("function", "option"), [("torch.load", "weights_only=True"), ("np.load", "allow_pickle=False")]
)
def test_loaders_that_could_run_code_are_told_not_to(function: str, option: str) -> None:
    for name, tree in trees():
        for call, node in calls(tree):
            if call == function:
                assert option in [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords], name


def test_annotations_that_are_checked_at_run_time_are_not_postponed() -> None:
    for name, tree in trees():
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not ("jaxtyping" in modules and "__future__" in modules), name


def test_every_module_and_public_definition_says_what_it_is() -> None:
    silent = []
    for name, tree in trees():
        if not ast.get_docstring(tree):
            silent.append(name)
        silent += [f"{name}: {function}" for function, node, _ in public_functions(tree) if not ast.get_docstring(node)]
        silent += [
            f"{name}: {node.name}" for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
        ]  # fmt: skip
    assert not silent


def test_every_room_has_tests() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} - {"systems"}
    assert not {room for room in rooms if not list((ROOT / "tests" / room).glob("test_*.py"))}
    for system in (PACKAGE / "systems").glob("*/card.toml"):
        assert list((system.parent / "tests").glob("test_*.py")), system.parent.name


def test_every_system_has_the_same_files() -> None:
    for card in (PACKAGE / "systems").glob("*/card.toml"):
        for name in ("__init__.py", "equations.py", "estimator.py", "paper.md", "tests/test_equations.py"):
            assert (card.parent / name).exists(), f"{card.parent.name}/{name}"


# The text of the repository -----------------------------------------------------------------------------------------------

# Put together here, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me|Us" + r"ers)/\w",
    "a number of an issue or a request": r"(?i)\b(?:is" + r"sue|pull req" + r"uest|ti" + r"cket)s? ?#?\d+",
    "how the text was made": r"(?i)\b(?:this|previous|next|another|each) se"
    + r"ssion\b|\bse"
    + r"ssion (?:of|that|which) (?:the|works)",
    "an unfinished place": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b",
}
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".cfg",
    ".yml",
    ".yaml",
    ".json",
    ".j2",
    ".js",
    ".css",
    ".html",
    ".csv",
    ".cff",
    "",
}


def tracked() -> list[Path]:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT and path.is_file() and path.stat().st_size < 2**20]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_text_speaks_of_the_project_alone(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_only_text_and_shipped_data_are_tracked() -> None:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in done.stdout.split("\0") if name]
    assert not [
        name for name in names if re.search(r"(__pycache__|\.pyc$|\.egg-info|\.DS_Store|\.ipynb_checkpoints)", name)
    ]
    sizes = {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).exists()}
    sample = sum(size for name, size in sizes.items() if name.startswith("src/expressor/datasets/sample/"))
    assert sample <= 15 * 2**20, "the shipped sample is at most 15 MB"
    assert not {name: size for name, size in sizes.items() if size > 2**20 and "datasets/sample/" not in name}
