"""What users see: a light import, documented names, estimators of one shape."""

import importlib
import inspect
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import expressor as ex
from expressor.core import registry
from expressor.core.equations import covering_tests, equations
from expressor.core.optional import EXTRAS
from expressor.estimator import Estimator, roles

ROOMS = ("bench", "core", "data", "datasets", "encoders", "estimator", "genes", "metrics", "nn", "report", "train")
HEAVY = (
    "torch",
    "anndata",
    "pandas",
    "sklearn",
    "scipy",
    "numpy",
    "matplotlib",
    "PIL",
    "lightning_fabric",
    "tyro",
    "rich",
)


def seconds(code: str) -> float:
    """Return the best of several runs: what the machine needs when nothing else disturbs it."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - started)
    return min(times)


def test_importing_the_package_takes_less_than_a_third_of_a_second() -> None:
    assert seconds("import expressor") - seconds("pass") < 0.3


@pytest.mark.parametrize(
    "code",
    [
        "import expressor",
        "import expressor; expressor.__version__; expressor.core; expressor.train; expressor.data; expressor.nn",
        "import expressor; dir(expressor)",
        "from expressor.cli import main; main(['--help'])",
    ],
)
def test_looking_at_the_package_loads_nothing_heavy(code: str) -> None:
    heavy = HEAVY if code == "import expressor" else tuple(one for one in HEAVY if one != "numpy")
    check = f"{code}\nimport sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def public_names() -> list[tuple[str, str]]:
    """Every name a room exports, and those at the top."""
    names = [("expressor", name) for name in dir(ex) if name not in (*ROOMS, "systems", "__version__")]
    for room in ROOMS:
        module = importlib.import_module(f"expressor.{room}")
        exported = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
        names += [(f"expressor.{room}", name) for name in exported]
    return names


NAMES = public_names()
CONVENTIONAL = {"adata", "X", "path"}  # the data in the package's one layout; (observation, gene); a file


def thing(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def sections(text: str) -> dict[str, str]:
    """Split a numpydoc text into its sections by title."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", text, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2]))}


def documented(text: str) -> set[str]:
    """Return the names that a Parameters or Attributes section explains; several may stand on one line."""
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "\t"))]
    return {name.strip(" *") for line in lines for name in line.split(":")[0].split(",")}


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_exported_name_exists_and_is_documented(module: str, name: str) -> None:
    found = thing(module, name)
    if not callable(found) or inspect.ismodule(found):
        return
    text = inspect.getdoc(found) or ""
    assert len(text.splitlines()[0] if text else "") > 10, "a summary line"
    parts = sections(text)
    known = documented(parts.get("Parameters", "")) | documented(parts.get("Attributes", ""))
    if inspect.isclass(found):
        if issubclass(found, Exception) or inspect.isabstract(found) or getattr(found, "_is_protocol", False):
            return
        takes = [one for one in inspect.signature(found).parameters if not one.startswith("_")]
    else:
        takes = list(inspect.signature(found).parameters)
        result = str(inspect.signature(found).return_annotation)
        if re.search("ndarray|DataFrame|tuple|dict|list|Any|AnnData", result):
            tells = re.match(r"(Return|Yield|Iterate|Read|Load|Compute|Open|Construct|Simulate|Encode)", text)
            assert "Returns" in parts or "Yields" in parts or tells, "what it returns"
    if "made by :func:" in text or (len(takes) <= 2 and not known):
        return  # not called by users; or so small that its summary is enough
    # A small function may speak of its parameters in a sentence, its own or that of its module on parameters which they share.
    shared = inspect.getmodule(found).__doc__ or ""  # type: ignore[union-attr]
    spoken = set(re.findall(r"\w+", f"{text} {shared}")) | CONVENTIONAL
    missing = [one for one in takes if one not in known and (known or one not in spoken)]
    assert not missing, f"parameters without a word: {missing}"


def few_parameters() -> Iterator[tuple[str, list[str]]]:
    for module, name in NAMES:
        found = thing(module, name)
        members = {name: found} if inspect.isfunction(found) else {}
        if inspect.isclass(found):
            members = {
                f"{name}.{key}": one for key, one in vars(found).items() if inspect.isfunction(one) and key[0] != "_"
            }
        for key, one in members.items():
            positional = [p.name for p in inspect.signature(one).parameters.values() if p.kind < p.KEYWORD_ONLY]
            yield key, [name for name in positional if name != "self"]


# More than three, because they are of one kind and a keyword each would say less.
LONG = {
    "TissueImage.region": "a rectangle",
    "Task.context": "what names a cell of a benchmark",
    "Task.score": "what names a cell of a benchmark",
    "block_bootstrap_pearson": "columns of one table",
    "block_permutation_pvalues": "columns of one table",
    "interval_coverage": "columns of one table",
    "interval_score": "columns of one table",
    "moran_concordance": "columns of one table",
}


def test_public_functions_take_at_most_three_positional_parameters() -> None:
    long = {name: takes for name, takes in few_parameters() if len(takes) > 3}
    assert set(long) == set(LONG)


def test_the_top_level_exports_what_the_readme_uses() -> None:
    for name in (
        "load",
        "TrainPlan",
        "datasets",
        "DataError",
        "GeneError",
        "FormatError",
        "MissingExtra",
        "NotFittedError",
    ):
        assert name in dir(ex)
        assert getattr(ex, name) is not None


def test_misspelt_names_raise_attribute_errors() -> None:
    for room in ("", *[f".{room}" for room in ROOMS]):
        with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
            _ = importlib.import_module(f"expressor{room}").no_such_name


# Systems ------------------------------------------------------------------------------------------------------------------

SYSTEMS = sorted(registry.systems())


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_are_final_and_one_level_below_the_estimator(system: str) -> None:
    kind = registry.load(system)
    played = {getattr(roles, name) for name in registry.card(system).roles}
    assert set(kind.__bases__) == {Estimator, *played}, "an estimator derives from Estimator and the roles of its card"
    assert getattr(kind, "__final__", False), "mark the class with typing.final"
    assert not kind.__subclasses__()


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_implement_methods_once(system: str) -> None:
    """What Estimator does for all is not overridden: abstract or final, nothing between.

    (scikit-learn gives every class its own ``set_..._request``.)
    """
    kind = registry.load(system)
    concrete = {
        name for name, one in vars(Estimator).items()
        if callable(getattr(Estimator, name)) and not name.startswith(("__", "set_"))
        and not getattr(one, "__isabstractmethod__", False)
    }  # fmt: skip
    assert not concrete & set(vars(kind))


@pytest.mark.parametrize("system", SYSTEMS)
def test_parameters_of_systems_are_documented(system: str) -> None:
    kind = registry.load(system)
    known = documented(sections(inspect.getdoc(kind) or "").get("Parameters", ""))
    assert set(inspect.signature(kind).parameters) == known


@pytest.mark.parametrize("system", SYSTEMS)
def test_cards_tell_what_there_is(system: str) -> None:
    card = registry.card(system)
    assert set(card.extras) <= set(EXTRAS)
    assert card.arxiv or card.doi
    assert card.references
    assert card.limits, "every method has limits"
    assert len(card.summary) < 200


@pytest.mark.parametrize("system", SYSTEMS)
def test_equations_say_where_they_were_read(system: str) -> None:
    found = equations(system, package=registry.card(system).package)
    assert found
    for one in found:
        assert one.fidelity in ("paper", "code", "inferred")
        assert one.source.strip(), one.number
        assert one.latex.strip(), one.number
        assert one.meaning.strip(), one.number
        # The paper's own numbers are digits; what is ours never looks like one of the paper's.
        assert one.number.isdigit() == (one.fidelity == "paper") or not one.number.isdigit(), one.number
    known = {one.number for one in found}
    assert set(covering_tests(system, package=registry.card(system).package)) <= known, "tests that cover no equation"
