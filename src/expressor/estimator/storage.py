"""The saved model: a folder of JSON, safetensors, TSV and npz files; a written format with a version, and no pickle.

====================  ==========================================================================
``config.json``       schema version, package version, system, parameters, small fitted values
``model.safetensors``  tensors of the network (absent where there is no network)
``genes.tsv``         the genes of the fit, in order, with their hash
``state.npz``         fitted arrays and tables; no object arrays, members stored uncompressed
``history.csv``       the training history, for people; it is read back from ``state.npz``
``environment.json``  versions and machine of the fit
``README.md``         the model card
====================  ==========================================================================

A folder is written under a temporary name and renamed when complete. Loading needs no training data, runs no code from the
files, and checks every declared size against the bytes that are there before it allocates.
"""

import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError
from expressor.core.serial import read_json

SCHEMA = 1
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
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                    raise FormatError(f"member {member.filename!r} of {path} is compressed or has a false size")
                with archive.open(member) as file:
                    found[member.filename.removesuffix(".npy")] = _read_npy(file, member.file_size)
        return found
    except FormatError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, SyntaxError, EOFError, NotImplementedError, TypeError,
            RuntimeError, OverflowError) as error:  # fmt: skip
        raise FormatError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def _read_npy(file: Any, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
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


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check ``config.json`` of a saved model."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FormatError(f"{folder} is not a folder", expected="the folder of a saved model")
    config = read_json(folder / "config.json")
    keys = {"schema", "version", "system", "parameters", "fitted"}
    if not isinstance(config, dict) or not keys <= set(config):
        raise FormatError(f"{folder}/config.json is not of a saved model", expected=f"keys {sorted(keys)}")
    if not isinstance(config["schema"], int) or not 1 <= config["schema"] <= SCHEMA:
        raise FormatError(
            f"{folder} has an unknown schema version",
            expected=f"at most {SCHEMA}",
            got=repr(config["schema"]),
            fix="Upgrade expressor to load a model saved by a newer version.",
        )
    if not isinstance(config["fitted"], dict) or not isinstance(config["system"], str):
        raise FormatError(f"{folder}/config.json is not of a saved model")
    return config


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
        if folder.exists():
            # mkdtemp reserves a name for the old folder, so that there is always one complete folder to go back to.
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            os.replace(folder, old / "old")
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error})",
            fix="Free space or choose another folder; what stood there is unharmed.",
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
