"""Features on disk, so that no patch is encoded twice.

A folder of immutable files, one for each time that something was computed. Features are looked up patch by patch: a subset, a
reordering or an extension of patches that were seen before is served from the cache, and only the rest is computed.

The name of a group is a digest of all that the features of its patches share: the content of the image, scale and geometry,
encoder, revision, preprocessing, precision, device, pooling. So an old entry can never answer for another image or encoder.
Files are written to a temporary name and renamed; each carries a digest of its payload. Two processes may share a folder: at
worst both compute the same patches.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from expressor.core.errors import DataError
from expressor.core.log import logger

_FORMAT = "expressor-features-1"
_SUFFIX = ".safetensors"
_LARGEST_FILE = 16 * 2**30


class FeatureCache:
    """A folder of cached features.

    Parameters
    ----------
    folder
        Made at the first write. It may be deleted at any time, whole or in part.

    Notes
    -----
    A damaged file is reported to the log, skipped and replaced by what is computed anew. Where the folder cannot be written (no
    rights, disk full), that is reported once and the computation goes on without; what was there stays readable.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"the feature cache {self.folder} is a file", fix="Give a folder.")
        self._is_writable = True

    @classmethod
    def default(cls) -> Self:
        """Return the cache of this user: ``$EXPRESSOR_CACHE/features``, or a folder where the platform keeps caches."""
        root = os.environ.get("EXPRESSOR_CACHE")
        if root:
            return cls(Path(root) / "features")
        import pooch

        return cls(Path(pooch.os_cache("expressor")) / "features")

    def read(self, group: Mapping[str, object], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Look up the features of some patches.

        Parameters
        ----------
        group
            All that the patches and the encoder share; see :meth:`write`.
        keys
            uint8 (patch, 16), unlike for unlike patches of the group.

        Returns
        -------
        found
            bool (patch,).
        features
            float32 (patch, ...) with undefined rows where nothing was found; None where nothing was found at all.
        """
        wanted = _as_words(keys)
        found = np.zeros(len(wanted), dtype=bool)
        features: np.ndarray | None = None
        for path in sorted(self._group_folder(group).glob("*" + _SUFFIX)):
            if found.all():
                break
            entry = self._read_file(path, group)
            if entry is None:
                continue
            known, values = entry
            if features is None:
                features = np.empty((len(wanted), *values.shape[1:]), dtype=np.float32)
            elif features.shape[1:] != values.shape[1:]:
                logger.warning("cached features %s have another shape than their group; skipped", path)
                continue
            order = np.argsort(known)
            place = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
            rows = order[place]
            hit = ~found & (known[rows] == wanted)
            features[hit] = values[rows[hit]]
            found |= hit
        return found, features

    def write(self, group: Mapping[str, object], keys: np.ndarray, features: np.ndarray) -> bool:
        """Add the features of some patches.

        Parameters
        ----------
        group
            Whatever the features depend on beyond the single patch, as plain values by name; it is kept in the file, so that
            the cache can be understood.
        keys
            uint8 (patch, 16).
        features
            float32 (patch, ...), finite.

        Returns
        -------
        False where the folder could not be written; a warning has then gone to the log.
        """
        if not self._is_writable or not len(keys):
            return False
        payload = {"keys": np.ascontiguousarray(keys), "features": np.ascontiguousarray(features, dtype=np.float32)}
        digest = _digest(payload)
        about = {"format": _FORMAT, "group": json.dumps(dict(group), sort_keys=True), "sha256": digest}
        folder = self._group_folder(group)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_whole(folder / (digest[:32] + _SUFFIX), save_tensors(payload, metadata=about))
        except OSError as error:
            self._is_writable = False
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else error.strerror
            logger.warning(
                "features are not cached: %s cannot be written (%s); computing on without", self.folder, reason
            )
            return False
        return True

    def clear(self) -> int:
        """Delete every entry and return how many files that were. Other files in the folder stay."""
        files = [path for path in self.folder.glob("*/*" + _SUFFIX) if path.is_file()]
        for path in files:
            path.unlink(missing_ok=True)
        return len(files)

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.folder)!r})"

    def _group_folder(self, group: Mapping[str, object]) -> Path:
        text = json.dumps(dict(group), sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:40]

    def _read_file(self, path: Path, group: Mapping[str, object]) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise ValueError("the file is too large")
            data = path.read_bytes()
            tensors = load_tensors(data)
            keys, features = tensors["keys"], tensors["features"]
            about = _metadata(data)
            if about.get("format") != _FORMAT or about.get("group") != json.dumps(dict(group), sort_keys=True):
                raise ValueError("it belongs to something else")
            if about.get("sha256") != _digest(tensors) or features.dtype != np.float32 or len(keys) != len(features):
                raise ValueError("its content does not match its digest")
            return _as_words(keys), features
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            logger.warning("cached features %s are damaged (%s); computed anew", path, error)
            _remove(path)
            return None


def open_cache(cache: "FeatureCache | str | Path | None") -> FeatureCache | None:
    """Return a cache from what a user may give: a cache, a folder, ``"auto"`` (this user's cache) or None (no cache)."""
    if cache is None or isinstance(cache, FeatureCache):
        return cache
    return FeatureCache.default() if cache == "auto" else FeatureCache(cache)


def _as_words(keys: np.ndarray) -> np.ndarray:
    keys = np.ascontiguousarray(keys, dtype=np.uint8)
    if keys.ndim != 2 or keys.shape[1] != 16:
        raise ValueError(f"keys have shape {keys.shape} instead of (patch, 16)")
    # Fixed-width bytes compare and sort as one value each.
    return keys.view("S16").reshape(-1)


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in ("keys", "features"):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})


def _write_whole(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        _remove(Path(temporary))
        raise


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        logger.debug("%s was not removed (%s)", path, error)
