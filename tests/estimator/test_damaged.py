"""Saved models that are truncated, altered, forged or exchanged: refused with our own error, nothing run, little allocated.

A *damaged* folder is one whose bytes changed by accident: every change is seen, because all that is read has a digest. A *forged*
one has right digests for wrong content: it may only fail in our words.
"""

import contextlib
import copy
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

import expressor as ex
from expressor.core import registry
from expressor.core.errors import ExpressorError, FormatError
from expressor.datasets.examples import example
from expressor.estimator import storage

PARTS = ("config.json", *storage.READ_BACK)


@pytest.fixture(scope="module")
def model(outside: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ex.GeneRidge.preset("tiny").fit(example("histology")).save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def other(outside: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same sizes, fitted on other data."""
    fitted = ex.GeneRidge.preset("tiny", penalty=3.0).fit(example("histology", seed=1))
    return fitted.save(tmp_path_factory.mktemp("saved") / "other")


@pytest.fixture
def folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy to be damaged; what a payload might write into the working folder would show."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    shutil.copytree(model, tmp_path / "model")
    yield tmp_path / "model"
    assert not list((tmp_path / "cwd").iterdir()), "something in the model was run"


def forge(folder: Path, config: Any = None) -> None:
    """Give the folder right digests for what it now holds."""
    found = json.loads((folder / "config.json").read_text()) if config is None else config
    if isinstance(found, dict):
        found.pop("sha256", None)
        storage.seal(folder, found)
    else:
        (folder / "config.json").write_text(json.dumps(found))


def refused(folder: Path) -> str:
    with pytest.raises(FormatError) as caught:
        ex.load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def damage(content: bytes, generator: np.random.Generator) -> bytes:
    """Return other bytes: cut, flipped, overwritten, doubled or filled in."""
    changed = bytearray(content)
    position = int(generator.integers(len(changed)))
    kind = generator.integers(5)
    if kind == 0:
        del changed[position:]
    elif kind == 1:
        changed[position] ^= 1 << int(generator.integers(8))
    elif kind == 2:
        for place in generator.integers(len(changed), size=8):
            changed[place] = int(generator.integers(256))
    elif kind == 3:
        changed[position:position] = changed[: int(generator.integers(1, 64))]
    else:
        changed[position : position + 8] = b"\xff" * 8
    return bytes(changed)


def test_an_untouched_copy_loads(folder: Path) -> None:
    forge(folder)
    assert ex.load(folder).penalty == 2.0


def test_what_is_for_people_may_be_edited(folder: Path) -> None:
    (folder / "README.md").write_text("our model")
    (folder / "history.csv").unlink()
    (folder / "notes.txt").write_text("mine")
    ex.load(folder)


@pytest.mark.parametrize("name", PARTS)
def test_every_damage_is_noticed(folder: Path, name: str) -> None:
    _damage_often(folder, name, np.random.default_rng(0), 25)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_thousands_of_damages_are_noticed(folder: Path, name: str) -> None:
    _damage_often(folder, name, np.random.default_rng(1), 2000)


def _damage_often(folder: Path, name: str, generator: np.random.Generator, times: int) -> None:
    original = (folder / name).read_bytes()
    for _ in range(times):
        changed = damage(original, generator)
        if changed == original:
            continue
        (folder / name).write_bytes(changed)
        try:
            ex.load(folder)
        except FormatError:
            continue
        # JSON says the same with another spelling of blanks: then nothing of the model was altered.
        assert name == "config.json"
        assert json.loads(changed) == json.loads(original)


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    text = refused(folder)
    assert name in text
    assert "lacks" in text or "FileNotFoundError" in text


@pytest.mark.parametrize("name", PARTS)
def test_a_folder_in_the_place_of_a_part_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(folder)


@pytest.mark.timeout(30)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="takes a POSIX system")
@pytest.mark.parametrize("name", PARTS)
def test_a_pipe_or_an_endless_device_in_the_place_of_a_part_does_not_hang(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert name in refused(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert name in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "state.npz"])
def test_a_part_of_another_model_is_noticed(folder: Path, other: Path, name: str) -> None:
    shutil.copy(other / name, folder / name)
    assert "was altered after it was saved, or belongs to another model" in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=2), "has an unknown schema version; expected at most 1, got 2. Upgrade expressor"),
        (lambda c: c.update(schema=0), "unknown schema version"),
        (lambda c: c.update(schema="1"), "is not of a saved model"),
        (lambda c: c.pop("system"), "is not of a saved model; expected keys"),
        (lambda c: c.update(system="no_such_system"), "was saved by a system that is not installed ('no_such_system')"),
        (lambda c: c.update(system="os"), "not installed"),
        (lambda c: c.update(parameters=[]), "is not of a saved model"),
        (lambda c: c["parameters"].update(penalty="much"), "bad GeneRidge.penalty; expected float, got 'much'"),
        (lambda c: c["parameters"].update(penalty={"float": "x"}), "bad GeneRidge.penalty"),
        (lambda c: c["parameters"].update(penalty=10**400), "a number that a float can hold"),
        (lambda c: c["parameters"].update(penatly=1.0), "GeneRidge has no parameter 'penatly'; nearest: 'penalty'"),
        (lambda c: c["parameters"]["plan"].update(lr=None), "bad GeneRidge.plan.lr; expected float, got None"),
        (lambda c: c["parameters"]["plan"].update(speed=1), "unknown key 'speed' in GeneRidge.plan"),
        (lambda c: c["fitted"].pop("data_fingerprint_"), "do not fit together (KeyError: 'data_fingerprint_')"),
        (lambda c: c["fitted"].pop("n"), "do not fit together (KeyError: 'n')"),
        (lambda c: c["fitted"].update(n=7), "do not fit together (ValueError: sizes differ)"),
    ],
)
def test_forged_settings_are_refused_in_words(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    forge(folder, config)
    with pytest.raises(FormatError) as caught:
        ex.load(folder)
    assert message in str(caught.value)


def test_a_newer_schema_is_told_before_its_digests_are_doubted(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"schema": 99}))
    assert "Upgrade expressor" in refused(folder)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in _places(one, (*path, key)))]


STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    "",
    "x" * 1000,
    [],
    {},
    [[]],
    {"float": "nan"},
    {"": 0},
    "../../etc",
)


def _forge_often(folder: Path, name: str, generator: np.random.Generator, times: int) -> int:
    """Put strange values at random places of a JSON part, with right digests; return how many still loaded."""
    original = json.loads((folder / name).read_text())
    original.pop("sha256", None)
    places = [place for place in _places(original) if place]
    whole = json.loads((folder / "config.json").read_text())
    loaded = 0
    for _ in range(times):
        changed = copy.deepcopy(original)
        *way, last = places[int(generator.integers(len(places)))]
        node = changed
        for key in way:
            node = node[key]
        if generator.random() < 0.2 and isinstance(node, dict):
            del node[last]
        else:
            node[last] = STRANGE[int(generator.integers(len(STRANGE)))]
        if name == "config.json":
            forge(folder, changed)
        else:
            (folder / name).write_text(json.dumps(changed))
            forge(folder, copy.deepcopy(whole))
        try:
            ex.load(folder).describe()
            loaded += 1
        except ExpressorError:
            continue
    return loaded


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_forged_values_load_or_are_refused_with_our_error(folder: Path, name: str) -> None:
    assert _forge_often(folder, name, np.random.default_rng(0), 60) < 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_thousands_of_forged_values(folder: Path, name: str) -> None:
    assert _forge_often(folder, name, np.random.default_rng(1), 4000) < 4000


def _forge_a_system(system: str, path: Path, times: int) -> None:
    kind: Any = registry.load(system)
    folder = kind.preset("tiny").fit(example(registry.card(system).inputs)).save(path / "model")
    assert _forge_often(folder, "config.json", np.random.default_rng(2), times) < times


@pytest.mark.parametrize("system", registry.systems())
def test_forged_models_of_every_system(tmp_path: Path, system: str) -> None:
    _forge_a_system(system, tmp_path, 60)


@pytest.mark.slow
@pytest.mark.parametrize("system", registry.systems())
def test_thousands_of_forged_models_of_every_system(tmp_path: Path, system: str) -> None:
    _forge_a_system(system, tmp_path, 3000)


def _forge_bytes_often(folder: Path, name: str, generator: np.random.Generator, times: int) -> None:
    original = (folder / name).read_bytes()
    config = json.loads((folder / "config.json").read_text())
    for _ in range(times):
        (folder / name).write_bytes(damage(original, generator))
        forge(folder, copy.deepcopy(config))
        with contextlib.suppress(ExpressorError):
            ex.load(folder)


@pytest.mark.parametrize("name", storage.READ_BACK)
def test_damaged_files_with_right_digests_are_refused_with_our_error(folder: Path, name: str) -> None:
    _forge_bytes_often(folder, name, np.random.default_rng(0), 25)


@pytest.mark.slow
@pytest.mark.parametrize("name", storage.READ_BACK)
def test_thousands_of_damaged_files_with_right_digests(folder: Path, name: str) -> None:
    _forge_bytes_often(folder, name, np.random.default_rng(1), 2500)


@pytest.mark.parametrize("name", ["state.npz", "model.safetensors", "config.json", "genes.tsv", "environment.json"])
def test_a_pickle_is_never_opened(folder: Path, name: str) -> None:
    payload = b"cos\nsystem\n(S'touch owned'\ntR."
    (folder / name).write_bytes(payload)
    if name != "config.json":
        forge(folder)
    refused(folder)


def test_an_array_of_objects_is_never_opened(folder: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch owned",)

    with open(folder / "state.npz", "wb") as file:
        np.savez(file, **{"array:intercept": np.array([Payload()], dtype=object)})
    forge(folder)
    with pytest.raises(FormatError, match="header does not match its bytes"):
        ex.load(folder)


def test_an_oversized_header_allocates_nothing(folder: Path) -> None:
    """A safetensors file may declare a header, and tensors, of terabytes."""
    header = json.dumps({"beta": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
    for content in ((2**40).to_bytes(8, "little") + b"{" + b" " * 100, len(header).to_bytes(8, "little") + header):
        (folder / "model.safetensors").write_bytes(content)
        forge(folder)
        tracemalloc.start()
        refused(folder)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
        tracemalloc.stop()


def test_tensors_of_other_shapes_and_names_do_not_fit(folder: Path) -> None:
    import torch

    for tensors in ({"beta": torch.zeros(3, 3)}, {"gamma": torch.zeros(16, 40)}, {"beta": torch.zeros(())}):
        save_file(tensors, folder / "model.safetensors")
        forge(folder)
        assert "do not fit together" in refused(folder)


def test_a_hidden_network_file_is_not_read(folder: Path) -> None:
    """Only what has a digest is read: a file slipped in beside the others is as if it were not there."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").unlink()
    forge(folder, config)
    (folder / "model.safetensors").write_bytes(b"slipped in")
    assert "do not fit together (KeyError: 'beta')" in refused(folder)


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty folder", "another folder"])
def test_what_is_no_model_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    if what == "a file":
        path.write_text("x")
    elif what != "nothing":
        path.mkdir()
    if what == "another folder":
        (path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FormatError) as caught:
        ex.load(path)
    assert str(path) in str(caught.value)
