"""Checkpoint files: exact round trips, written whole or not at all, and refused when damaged."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from expressor.core.errors import DataError, FormatError
from expressor.train.checkpoint import read_checkpoint, sweep, write_checkpoint


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float):
        return type(other) is float and (one.hex() == other.hex() or (math.isnan(one) and math.isnan(other)))
    return type(one) is type(other) and one == other


kinds = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
tensors = st.builds(
    lambda shape, kind: (torch.arange(math.prod(shape)).reshape(shape) % 3).to(kind),
    st.lists(st.integers(0, 3), max_size=3),
    kinds,
)
leaves = tensors | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
states = st.recursive(
    st.dictionaries(st.text(max_size=6) | st.integers(), leaves, max_size=4),
    lambda inner: st.dictionaries(st.text(max_size=6) | st.integers(), inner | st.lists(inner | leaves, max_size=3), max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(states)
@settings(max_examples=60)
def test_states_survive_to_the_bit(tmp_path_factory: pytest.TempPathFactory, state: dict[Any, Any]) -> None:
    path = tmp_path_factory.mktemp("state") / "x.safetensors"
    write_checkpoint(path, state)
    assert equal(read_checkpoint(path), state)


def test_optimisers_survive(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1, amsgrad=True)
    parameter.sum().backward()
    optimizer.step()
    write_checkpoint(tmp_path / "x", optimizer.state_dict())
    again = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    again.load_state_dict(read_checkpoint(tmp_path / "x"))
    mine, found = optimizer.state_dict(), again.state_dict()
    assert equal(found["state"], mine["state"])
    assert {**found["param_groups"][0], "betas": ()} == {**mine["param_groups"][0], "betas": ()}
    assert tuple(found["param_groups"][0]["betas"]) == mine["param_groups"][0]["betas"]


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    write_checkpoint(tmp_path / "x", {"a": shared, "b": shared, "view": shared.T})
    again = read_checkpoint(tmp_path / "x")
    assert equal(again, {"a": shared, "b": shared, "view": shared.T})


@pytest.mark.parametrize("value", [np.float32(1), {1, 2}, b"x", len])
def test_what_cannot_stand_in_a_checkpoint_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(FormatError, match=f"a {type(value).__name__} cannot stand in a checkpoint; got /outer/x="):
        write_checkpoint(tmp_path / "x", {"outer": {"x": value}})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x.safetensors"
    state = {
        "module": {"w": torch.randn(4, 5), "n": torch.tensor(3)},
        "records": [{"loss": 0.5}],
        "epoch": 3,
        "best": None,
    }
    write_checkpoint(path, state)
    return path.read_bytes()


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path} is not a readable checkpoint (")
    assert str(caught.value).endswith("Delete it to start that phase anew.")


def test_every_truncation_is_refused(tmp_path: Path, good: bytes) -> None:
    for length in range(len(good)):
        refused(tmp_path / "x", good[:length])


def test_every_flipped_byte_is_refused(tmp_path: Path, good: bytes) -> None:
    """Each byte, with one bit flipped; the padding of the header is the one place where nothing is lost."""
    generator = np.random.default_rng(0)
    reached = 0
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << int(generator.integers(8))
        (tmp_path / "x").write_bytes(changed)
        try:
            state = read_checkpoint(tmp_path / "x")
        except FormatError:
            continue
        reached += 1
        (tmp_path / "y").write_bytes(good)
        assert equal(state, read_checkpoint(tmp_path / "y")), f"byte {position} changed the state unnoticed"
    assert reached < 20


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        b"\xff" * 64,
        (2**62).to_bytes(8, "little") + b"{}",  # a header of 4 EiB
        (10**8).to_bytes(8, "little") + b"{}" + b" " * 64,
        (2).to_bytes(8, "little") + b"{}",
        b"\x80\x04\x95" + b"cos\nsystem\n(S'touch owned'\ntR.",  # a pickle
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path / "x", content)


@pytest.mark.parametrize(
    "text",
    ["", "[", '{"__items__": 3}', '{"__tensor__": "gone"}', '{"__float__": "x"}', "[" * 5000, '{"__items__": [["a"]]}'],
)
def test_forged_states_with_a_right_digest_are_refused_too(tmp_path: Path, text: str) -> None:
    from expressor.train.checkpoint import _digest

    save_file({}, tmp_path / "forged", metadata={"state": text, "sha256": _digest(text, {})})
    refused(tmp_path / "x", (tmp_path / "forged").read_bytes())


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(FormatError, match="is not a readable checkpoint"):
            read_checkpoint(path)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from expressor.core.errors import DataError
from expressor.train.checkpoint import read_checkpoint, write_checkpoint
path = Path(sys.argv[1])
write_checkpoint(path, {"epoch": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    write_checkpoint(path, {"epoch": 2, "weights": torch.zeros(100_000)})
except DataError as error:
    print(error)
assert read_checkpoint(path) == {"epoch": 1}
write_checkpoint(path, {"epoch": 3})
assert read_checkpoint(path) == {"epoch": 3}
"""


def test_a_write_that_the_system_stops_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """A limit on file sizes makes the kernel refuse a write in the middle of the file, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"the checkpoint {tmp_path}/x cannot be written (")
    assert "an earlier checkpoint there is unharmed." in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        write_checkpoint(disk / "x", {"epoch": 1})
        with pytest.raises(DataError, match="cannot be written .*No space left on device"):
            write_checkpoint(disk / "x", {"weights": torch.zeros(100_000)})
        assert read_checkpoint(disk / "x") == {"epoch": 1}
        assert [path.name for path in disk.iterdir()] == ["x"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written .*choose another resume folder"):
        write_checkpoint(tmp_path / "file" / "x", {"epoch": 1})
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failing_rename_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "x", {"epoch": 1})

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DataError, match="cannot be written .*Read-only file system"):
        write_checkpoint(tmp_path / "x", {"epoch": 2})
    assert read_checkpoint(tmp_path / "x") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_sweeping_takes_leftovers_of_this_checkpoint_alone(tmp_path: Path) -> None:
    for name in (".x.1.tmp", ".x.22.tmp", ".y.1.tmp", "x", "x.tmp"):
        (tmp_path / name).touch()
    sweep(tmp_path / "x")
    assert {path.name for path in tmp_path.iterdir()} == {".y.1.tmp", "x", "x.tmp"}
    sweep(tmp_path / "no-folder" / "x")


@pytest.mark.slow
def test_thousands_of_random_damages_are_refused(tmp_path: Path, good: bytes) -> None:
    generator = np.random.default_rng(1)
    (tmp_path / "good").write_bytes(good)
    reference = read_checkpoint(tmp_path / "good")
    for _ in range(20_000):
        changed = bytearray(good)
        for position in generator.integers(len(good), size=generator.integers(1, 9)):
            changed[position] = int(generator.integers(256))
        if generator.random() < 0.2:
            del changed[int(generator.integers(len(changed))) :]
        (tmp_path / "x").write_bytes(changed)
        try:
            state = read_checkpoint(tmp_path / "x")
        except FormatError:
            continue
        assert equal(state, reference)
