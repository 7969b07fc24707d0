"""Cards and how systems are found: in the package's own folder, and in other packages through their entry points."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import expressor as ex
from expressor.core import registry
from expressor.core.card import Card, read_card
from expressor.core.errors import DataError, FormatError

CARD = """
name = "ridge"
estimator = "Ridge"
title = "Ridge regression: biased estimation for nonorthogonal problems"
authors = "Hoerl, Kennard"
year = 1970
summary = "from features, to expression, by penalised least squares"
roles = ["Predicts"]
inputs = "histology"
references = ["Hoerl AE, Kennard RW (1970). Technometrics 12, 55-67."]
[presets.paper]
[presets.tiny]
penalty = 1.0
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_card_is_read(tmp_path: Path) -> None:
    card = read_card(write(tmp_path / "card.toml", CARD), package="somewhere.ridge")
    assert card.name == "ridge"
    assert card.roles == ("Predicts",)
    assert card.presets == {"paper": {}, "tiny": {"penalty": 1.0}}
    assert card.package == "somewhere.ridge"
    assert card.missing_genes == "unused"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "ridge"', "name = ridge", "is not a TOML file"),
        ('name = "ridge"', "", "is incomplete"),
        ('title = "Ridge', 'titel = "Ridge', "unknown key 'titel' in"),
        ("year = 1970", 'year = "1970"', "expected int, got '1970'"),
        ("year = 1970", "year = true", "expected int, got True"),
        ('roles = ["Predicts"]', 'roles = "Predicts"', "expected a list, got 'Predicts'"),
        ('roles = ["Predicts"]', 'roles = ["Predict"]', "unknown role 'Predict' in"),
        ('roles = ["Predicts"]', "roles = [3]", "expected str, got 3"),
        ("[presets.tiny]\npenalty = 1.0", "", "has no preset 'tiny'"),
        ("[presets.paper]", "", "has no preset 'paper'"),
        ('inputs = "histology"', 'inputs = "histology"\nmissing_genes = "ignore"', "unknown missing_genes"),
        ('inputs = "histology"', 'inputs = "histology"\npackage = "os"', "unknown key 'package'"),
        ('inputs = "histology"', 'inputs = "histology"\nextras = "report"', "expected a list, got 'report'"),
    ],
)
def test_a_bad_card_is_refused_in_words(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CARD
    path = write(tmp_path / "card.toml", CARD.replace(old, new))
    with pytest.raises(FormatError) as caught:
        read_card(path, package="ridge")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_misspelt_role_and_key_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nearest: 'Predicts'"):
        read_card(write(tmp_path / "a.toml", CARD.replace('["Predicts"]', '["Predict"]')), package="ridge")
    with pytest.raises(FormatError, match="nearest: 'title'"):
        read_card(write(tmp_path / "b.toml", CARD.replace('title = "', 'titel = "')), package="ridge")


@pytest.mark.parametrize("content", [None, b"\xff\xff", b"name = \x00"])
def test_an_unreadable_card_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "card.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FormatError, match="is not a TOML file"):
        read_card(path, package="ridge")


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give a function that installs an outside package by hand: its modules and the metadata an installer would write."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str = "ridge", package: str = "outside_ridge", card: str | None = CARD, code: str = "") -> None:
        if card is not None:
            write(tmp_path / package / "card.toml", card)
        write(tmp_path / package / "__init__.py", code)
        metadata = tmp_path / f"{package}-1.0.dist-info"
        write(metadata / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        write(metadata / "entry_points.txt", f"[expressor.systems]\n{name} = {package}\n")
        registry.systems.cache_clear()

    yield install
    registry.systems.cache_clear()
    for module in [one for one in sys.modules if one.startswith("outside_")]:
        del sys.modules[module]


def test_another_package_brings_a_system(register: Callable[..., None]) -> None:
    register(code="class Ridge:\n    pass\n")
    assert isinstance(registry.systems()["ridge"], Card)
    assert registry.card("RIDGE").package == "outside_ridge"
    assert registry.load("ridge").__module__ == "outside_ridge"
    assert ex.Ridge is registry.load("Ridge")
    assert "Ridge" in dir(ex)


def test_systems_are_listed_without_importing_them(register: Callable[..., None]) -> None:
    register(code="raise RuntimeError('imported')\n")
    assert "ridge" in registry.systems()
    with pytest.raises(RuntimeError, match="imported"):
        registry.load("ridge")


def test_systems_come_in_alphabetical_order(register: Callable[..., None]) -> None:
    register("zz", "outside_zz", CARD.replace('"ridge"', '"zz"'))
    register("aa", "outside_aa", CARD.replace('"ridge"', '"aa"'))
    assert list(registry.systems()) == sorted(registry.systems())
    assert {"aa", "zz"} <= set(registry.systems())


def test_an_unknown_system_names_the_nearest(register: Callable[..., None]) -> None:
    register()
    with pytest.raises(DataError) as caught:
        registry.card("rigde")
    assert str(caught.value) == "no system is called 'rigde'; nearest: 'ridge'. `expressor systems` lists them."
    with pytest.raises(AttributeError, match="module 'expressor' has no attribute 'Rigde'"):
        _ = ex.Rigde


def test_a_registered_package_without_a_card_is_named(register: Callable[..., None]) -> None:
    register(card=None)
    with pytest.raises(FormatError, match="outside_ridge.*card.toml is not a TOML file"):
        registry.systems()


@pytest.mark.parametrize("package", ["no_such_package", "no_such_parent.child", "outside_ridge.no_child"])
def test_a_registered_package_that_is_gone_is_named(
    register: Callable[..., None], tmp_path: Path, package: str
) -> None:
    register()
    write(tmp_path / "outside_ridge-1.0.dist-info/entry_points.txt", f"[expressor.systems]\nridge = {package}\n")
    registry.systems.cache_clear()
    with pytest.raises(FormatError) as caught:
        registry.systems()
    assert f"the registered system package '{package}' cannot be found" in str(caught.value)


def test_a_name_of_another_system_is_not_taken_over(register: Callable[..., None]) -> None:
    register()
    register("ridge", "outside_other")
    with pytest.raises(FormatError, match=r"two packages bring a system 'ridge': outside_\w+ and outside_\w+"):
        registry.systems()


def test_a_card_must_bear_the_name_it_is_registered_by(register: Callable[..., None]) -> None:
    register("lasso")
    with pytest.raises(FormatError, match="has another name; expected lasso, got ridge"):
        registry.systems()


def test_every_card_of_the_package_is_valid() -> None:
    folder = Path(registry.__file__).parent.parent / "systems"
    for path in folder.glob("*/card.toml"):
        card = read_card(path, package=f"expressor.systems.{path.parent.name}")
        assert card.name == path.parent.name
        assert card.references
        assert card.summary == textwrap.dedent(card.summary).strip()
    assert {path.parent for path in folder.glob("*/estimator.py")} == {
        path.parent for path in folder.glob("*/card.toml")
    }
