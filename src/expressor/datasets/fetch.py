"""Downloads files once, into a cache, and believes nothing but their SHA-256.

A download goes into a ``.part`` file, which the next attempt continues (HTTP Range), and gets its name only when it is
complete and right. Processes that share a cache take turns at a file by a lock that the system frees when its holder dies.
"""

import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch

from expressor.core.errors import DataError
from expressor.core.log import logger, progress
from expressor.datasets.lock import Busy, hold

CHUNK_BYTES = 1 << 16
TIMEOUT_S = 30.0
ATTEMPTS = 4
"""Attempts that bring not one byte, in a row, before giving up."""

CONNECTIONS = 100
"""Connections for one file, against a server that gives and takes for ever."""

PAUSE_S = 0.5
SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file whose content is known.

    Attributes
    ----------
    name
        Path inside the cache, with forward slashes.
    url
        Where it is, ``https`` or ``http``.
    sha256
        Checksum of its bytes, hexadecimal.
    size
        Its length in bytes.
    licence
        Licence of its content.
    """

    name: str
    url: str
    sha256: str
    size: int
    licence: str


class _Offline(Exception):
    """The server could not be reached, or stopped before the end."""


def cache_folder() -> Path:
    """Return the folder of downloaded files: ``EXPRESSOR_CACHE``, or the platform's cache folder for the user."""
    return Path(os.environ.get("EXPRESSOR_CACHE") or pooch.os_cache("expressor")).absolute() / "datasets"


def fetch(file: RemoteFile, *, folder: Path | None = None, show: bool | None = None) -> Path:
    """Return the path of the file in the cache, downloading it if it is not there.

    Parameters
    ----------
    file
        What to fetch.
    folder
        The cache; by default :func:`cache_folder`.
    show
        Force the progress bar on or off.

    Raises
    ------
    DataError
        No connection and no copy; an answer other than the file; other bytes than expected; a folder that cannot be written;
        a full disk. Files that were complete before stay as they are, and a part that was received is continued next time.
    """
    target = (cache_folder() if folder is None else folder) / file.name
    if _is_right(target, file):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            with hold(target.with_name(target.name + ".lock"), watch=part, patience_s=2 * TIMEOUT_S):
                return target if _is_right(target, file) else _download(file, target, part, show)
        except Busy:  # go it alone, and let the last rename win
            lone = target.with_name(f"{target.name}.{os.getpid()}.part")
            try:
                return _download(file, target, lone, show)
            finally:
                lone.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error.strerror or error})",
            fix="Free space, or name a folder that can be written in the environment variable EXPRESSOR_CACHE. "
            "Files downloaded before are unharmed.",
        ) from error


def _is_right(path: Path, file: RemoteFile) -> bool:
    try:
        return path.stat().st_size == file.size and pooch.file_hash(str(path), alg="sha256") == file.sha256
    except OSError:
        return False


def _download(file: RemoteFile, target: Path, part: Path, show: bool | None) -> Path:
    if target.exists():
        logger.warning("%s is not what was expected; it is downloaded again", target)
    resumed = part.exists()
    _fill(file, target, part, show)
    if not _is_right(part, file) and resumed:  # what was continued may have been another file's beginning
        part.unlink()
        _fill(file, target, part, show)
    if not _is_right(part, file):
        size, found = part.stat().st_size, pooch.file_hash(str(part), alg="sha256")
        part.unlink()
        raise _other_file(file, f"{size} bytes with {found}")
    os.replace(part, target)
    return target


def _other_file(file: RemoteFile, got: str) -> DataError:
    return DataError(
        f"{file.url} is not the file it should be",
        expected=f"{file.size} bytes with SHA-256 {file.sha256}",
        got=got,
        fix="It was not kept. The source has changed, or something between here and there answers in its place (a login page, "
        "a filter): try another network.",
    )


def _fill(file: RemoteFile, target: Path, part: Path, show: bool | None) -> None:
    """Make ``part`` as long as the file, over as many connections as it takes."""
    barren = connections = 0
    while (have := part.stat().st_size if part.exists() else 0) < file.size:
        _check_space(file.size - have, part)
        try:
            _receive(file, part, have, show)
            reason = "the connection ended early"
        except _Offline as error:
            reason = str(error)
        now = part.stat().st_size if part.exists() else 0
        barren, connections = 0 if now > have else barren + 1, connections + 1
        if barren >= ATTEMPTS or connections >= CONNECTIONS:
            raise DataError(
                f"{file.url} could not be downloaded ({reason})",
                got=f"{now} of {file.size} bytes" if now else None,
                fix=f"Connect and try again; what was received is kept. Or put the file at {target} yourself.",
            )
        if barren:
            time.sleep(PAUSE_S * 2 ** (barren - 1))


def _receive(file: RemoteFile, part: Path, have: int, show: bool | None) -> None:
    """Append what one connection gives to ``part``, which holds ``have`` bytes; start afresh where Range is not honoured."""
    if urlsplit(file.url).scheme not in ("https", "http"):
        raise DataError(f"{file.url} is no web address", expected="https:// or http://")
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(file.url, headers={"User-Agent": "expressor", **headers})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            continues = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(
                f"bytes {have}-"
            )
            if answer.status == 206 and not continues:
                part.unlink(missing_ok=True)
                raise _Offline("the server answered with another part of the file")
            if (whole := _whole_size(answer)) not in (None, file.size):
                raise _other_file(file, f"{whole} bytes")
            with part.open("ab" if continues else "wb") as out:
                _copy(answer, out, file, have if continues else 0, show)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part does not fit the file at the server
            part.unlink(missing_ok=True)
        if error.code not in (408, 416, 425, 429) and error.code < 500:
            raise DataError(
                f"{file.url} is not there (HTTP status {error.code} {error.reason})",
                fix="The source has moved the file; update the package or fetch the file by hand.",
            ) from error
        raise _Offline(f"HTTP status {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Offline(f"no connection: {error.reason}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Offline(f"{type(error).__name__}: {error}") from error


def _whole_size(answer: http.client.HTTPResponse) -> int | None:
    """Return the length of the whole file as the answer's headers state it, or None."""
    stated = (
        answer.headers.get("Content-Range", "") if answer.status == 206 else answer.headers.get("Content-Length", "")
    )
    number = stated.rpartition("/")[2].strip()
    return int(number) if number.isdecimal() else None


def _copy(answer: http.client.HTTPResponse, out: BinaryIO, file: RemoteFile, have: int, show: bool | None) -> None:
    """Copy at most what is missing and one byte more, so that a longer file than promised shows and no endless one fills up."""

    def chunks() -> Iterator[bytes]:
        left = file.size + 1 - have
        while left > 0:
            try:
                chunk = answer.read1(min(CHUNK_BYTES, left))
            except (OSError, http.client.HTTPException) as error:  # of the network, not of the disk
                raise _Offline(f"{type(error).__name__}: {error}") from error
            if not chunk:
                return
            left -= len(chunk)
            yield chunk

    total = -(-(file.size - have) // CHUNK_BYTES)
    for chunk in progress(chunks(), what=f"Fetching {file.name}", total=total, show=show):
        out.write(chunk)


def _check_space(needed: int, part: Path) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < needed + SPARE_BYTES:
        raise DataError(
            f"the disk of {part.parent} is full",
            expected=f"{needed / 1e6:.1f} MB free",
            got=f"{free / 1e6:.1f} MB",
            fix="Free space, or name another folder in the environment variable EXPRESSOR_CACHE.",
        )
