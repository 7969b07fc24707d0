"""The saved model: a folder of JSON, safetensors, TSV and npz files; a written format with a version, and no pickle.

=====================  ======================================================================================================
``config.json``        schema version, package version, system, parameters, small fitted values, digests of all that is read
``model.safetensors``  tensors of the network (absent where there is no network)
``genes.tsv``          the genes of the fit, in order, with their hash
``state.npz``          fitted arrays and tables; no object arrays, members stored uncompressed
``history.csv``        the training history, for people; it is read back from ``state.npz``
``environment.json``   versions and machine of the fit
``README.md``          the model card
=====================  ======================================================================================================

A folder is written under a temporary name and renamed when complete. Loading needs no training data, runs no code from the
files, refuses files that differ from their digests (SHA-256), and checks every declared size against the bytes that are there
before it allocates. ``README.md`` and ``history.csv`` are for people and may be edited.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
import tokenize
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError
from expressor.core.serial import read_json, to_plain, write_json

SCHEMA = 1
CONFIG = "config.json"
READ_BACK = ("environment.json", "genes.tsv", "model.safetensors", "state.npz")
_TABLE = "table:"
_SERIES = "series:"
_ARRAY = "array:"
_INDEX = "index"


def pack_arrays(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Lay out arrays, tables and series as named plain arrays (a table is one array a column)."""
    packed: dict[str, np.ndarray] = {}
    for name, value in values.items():
        if isinstance(value, pd.DataFrame):
            packed[f"{_TABLE}{name}:{_INDEX}"] = _plain(value.index.to_numpy(), name)
            for position, column in enumerate(value.columns):
                packed[f"{_TABLE}{name}:{position}:{column}"] = _plain(value[column].to_numpy(), f"{name}.{column}")
        elif isinstance(value, pd.Series):
            packed[f"{_SERIES}{name}:{_INDEX}"] = _plain(value.index.to_numpy(), name)
            packed[f"{_SERIES}{name}:values"] = _plain(value.to_numpy(), name)
        elif isinstance(value, pd.Index):
            packed[f"{_INDEX}:{name}"] = _plain(value.to_numpy(), name)
        else:
            packed[f"{_ARRAY}{name}"] = _plain(np.asarray(value), name)
    return packed


def unpack_arrays(packed: dict[str, np.ndarray]) -> dict[str, Any]:
    """Undo :func:`pack_arrays`."""
    values: dict[str, Any] = {}
    tables: dict[str, dict[str, np.ndarray]] = {}
    for key, array in packed.items():
        kind, _, rest = key.partition(":")
        if kind == "array":
            values[rest] = array
        elif kind == _INDEX:
            values[rest] = pd.Index(_text(array))
        elif kind in ("table", "series"):
            name, _, part = rest.partition(":")
            tables.setdefault(f"{kind}:{name}", {})[part] = array
        else:
            raise FormatError(f"unknown member {key!r} in state.npz")
    for key, parts in tables.items():
        kind, _, name = key.partition(":")
        if _INDEX not in parts or (kind == "series" and "values" not in parts):
            raise FormatError(f"{name!r} in state.npz is incomplete")
        index = pd.Index(_text(parts.pop(_INDEX)))
        if any(len(part) != len(index) for part in parts.values()):
            raise FormatError(f"the columns of {name!r} in state.npz differ in length")
        if kind == "series":
            values[name] = pd.Series(_text(parts["values"]), index=index)
        else:
            columns = sorted(parts, key=lambda part: int(part.partition(":")[0]))
            values[name] = pd.DataFrame({part.partition(":")[2]: _text(parts[part]) for part in columns}, index=index)
    return values


def _plain(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == object or not isinstance(array, np.ndarray):
        array = np.asarray([str(value) for value in array], dtype=np.str_)
    if array.dtype.kind not in "biufU":
        raise FormatError(f"{name!r} cannot be saved", expected="numbers, booleans or strings", got=array.dtype)
    return array


def _text(array: np.ndarray) -> np.ndarray:
    return array.astype(object) if array.dtype.kind == "U" else array


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write plain arrays as an uncompressed npz file whose bytes depend on the arrays alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write torch tensors as a safetensors file; each becomes a copy of its own on the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: one.detach().cpu().clone().contiguous() for name, one in tensors.items()}, path)
        path.chmod(mode)  # safetensors makes a file that only its owner may read
    except SafetensorError as error:
        # Its message holds the system's own, such as that no space is left.
        raise OSError(str(error)) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read an npz file of plain arrays; sizes in headers must match the bytes that are there.

    Raises
    ------
    FormatError
        The file is missing, truncated, compressed, or holds object arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            members = archive.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                raise FormatError(f"{path} has compressed members", expected="members stored as they are")
            # Together, because members may be laid one over another.
            if sum(one.file_size for one in members) > path.stat().st_size:
                raise FormatError(f"{path} has members of false sizes")
            for member in members:
                with archive.open(member) as file:
                    found[member.filename.removesuffix(".npy")] = _read_npy(file, member.file_size)
        return found
    except FormatError:
        raise
    except (OSError, zipfile.BadZipFile, struct.error, tokenize.TokenError, ArithmeticError, AttributeError, EOFError, LookupError,
            MemoryError, RuntimeError, SyntaxError, TypeError, ValueError, Warning) as error:  # fmt: skip
        raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _read_npy(file: Any, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what NumPy would only wonder at, this package did not write
        shape, fortran, dtype = read_header[version](file)
    body = file.read(size)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(body) or any(length < 0 for length in shape):
        raise FormatError(
            "an array's header does not match its bytes", expected=f"{shape} {dtype}", got=f"{len(body)} bytes"
        )
    return np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy()


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a safetensors file, or nothing where there is none."""
    if not path.exists():
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def seal(folder: Path, config: dict[str, Any]) -> None:
    """Write ``config.json`` with the digests of what it holds and of the files that will be read back; written last."""
    digests = {name: _digest_of_file(folder / name) for name in READ_BACK if (folder / name).exists()}
    plain = to_plain(config)
    write_json(folder / CONFIG, {**plain, "sha256": {CONFIG: _digest_of_config(plain), **digests}})


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a saved model and make sure that nothing was altered since it was written.

    Returns
    -------
    The configuration; under ``"sha256"`` the digests by file name.

    Raises
    ------
    FormatError
        The folder is not a saved model, was saved by a newer version, lacks a file, or a file does not match its digest.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FormatError(f"{folder} is not a folder", expected="the folder of a saved model")
    config = read_json(folder / CONFIG)
    kinds = {"schema": int, "version": str, "system": str, "parameters": dict, "fitted": dict}
    if not isinstance(config, dict) or any(not isinstance(config.get(key), kind) for key, kind in kinds.items()):
        raise FormatError(f"{folder / CONFIG} is not of a saved model", expected=f"keys {', '.join(kinds)}")
    if not 1 <= config["schema"] <= SCHEMA:
        raise FormatError(
            f"{folder} has an unknown schema version",
            expected=f"at most {SCHEMA}",
            got=repr(config["schema"]),
            fix="Upgrade expressor to load a model saved by a newer version.",
        )
    _check_digests(folder, config)
    return config


def _check_digests(folder: Path, config: dict[str, Any]) -> None:
    digests = config.get("sha256")
    if not isinstance(digests, dict):
        raise FormatError(f"{folder / CONFIG} has no digests", expected="a key sha256")
    rest = {key: value for key, value in config.items() if key != "sha256"}
    found = {CONFIG: _digest_of_config(rest)}
    for name in READ_BACK:
        if name in digests or name != "model.safetensors":
            found[name] = _digest_of_file(folder / name)
    for name, digest in found.items():
        if digests.get(name) != digest:
            raise FormatError(
                f"{folder / name} was altered after it was saved, or belongs to another model",
                fix="Restore the folder as it was saved.",
            )


def _digest_of_config(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    if not path.is_file():
        raise FormatError(f"the saved model lacks {path}", fix="Restore the folder as it was saved.")
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error})") from error


def write_folder(folder: Path, write: Callable[[Path], None], *, mark: str) -> Path:
    """Fill a temporary folder beside ``folder`` with ``write`` and rename it; an older one is replaced only when complete.

    Parameters
    ----------
    folder
        Where the result shall stand.
    write
        Called with the temporary folder.
    mark
        A file that an existing folder must hold to be replaced, so that nothing else of the user's is lost.

    Raises
    ------
    DataError
        ``folder`` exists and holds something else, or the disk is full or read-only.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / mark).exists())):
        raise DataError(f"{folder} exists and is not a saved result", fix="Choose a new folder; nothing was changed.")
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        write(temporary)
        temporary.chmod(0o755)
        _swap(temporary, folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error})",
            fix="Free space or choose another folder; what stood there is unharmed.",
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``; what stood there goes only when the new one stands, and comes back otherwise."""
    if not folder.exists():
        os.replace(new, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        os.replace(folder, aside / "old")
        try:
            os.replace(new, folder)
        except OSError:
            os.replace(aside / "old", folder)
            raise
    finally:
        # Only when the old one is back or not needed any more: `rmdir` spares a folder that is not empty.
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            aside.rmdir()
