"""A training state as one safetensors file: nested dictionaries of tensors and plain values, written atomically, never pickled.

A digest of the whole content stands in the file, so that a damaged checkpoint is refused instead of being trained on.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from expressor.core.errors import DataError, FormatError

_TENSOR = "__tensor__"
_ITEMS = "__items__"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``: to a temporary name first, renamed when it is complete on disk.

    Parameters
    ----------
    path
        The checkpoint file; its folder is made.
    state
        Nested dictionaries and lists of tensors, strings, numbers, booleans and ``None``.

    Raises
    ------
    DataError
        The disk is full or the folder cannot be written. An earlier checkpoint stays as it was.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_pack(state, "", tensors))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"state": text, "sha256": _digest(text, tensors)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"the checkpoint {path} cannot be written ({error})",
            fix="Free space or choose another resume folder; an earlier checkpoint there is unharmed.",
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote.

    Raises
    ------
    FormatError
        The file is missing, truncated, altered or not a checkpoint of this package.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata["sha256"] != _digest(metadata["state"], tensors):
            raise ValueError("its content does not match its digest")
        return _unpack(json.loads(metadata["state"]), tensors)
    except (
        OSError,
        SafetensorError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise FormatError(
            f"{path} is not a readable checkpoint ({type(error).__name__}: {error})",
            fix="Delete it to start that phase anew.",
        ) from error


def sweep(path: Path) -> None:
    """Remove what killed writers of the checkpoint ``path`` left beside it."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        stale.unlink(missing_ok=True)


def _digest(text: str, tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name, one in sorted(tensors.items()):
        found.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
        found.update(one.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _pack(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # A copy: safetensors refuses tensors that share memory, as tied weights and best-so-far copies may.
        tensors[where] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: where}
    if isinstance(value, dict):
        # Pairs, because optimisers use integers as keys and JSON does not.
        return {_ITEMS: [[key, _pack(one, f"{where}/{key}", tensors)] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(one, f"{where}/{i}", tensors) for i, one in enumerate(value)]
    if isinstance(value, float):
        return {"__float__": value.hex()}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise FormatError(f"a {type(value).__name__} cannot stand in a checkpoint", got=f"{where}={value!r}"[:80])


def _unpack(plain: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(plain, list):
        return [_unpack(one, tensors) for one in plain]
    if isinstance(plain, dict):
        if _TENSOR in plain:
            return tensors[plain[_TENSOR]]
        if "__float__" in plain:
            return float.fromhex(plain["__float__"])
        return {key: _unpack(one, tensors) for key, one in plain[_ITEMS]}
    return plain
