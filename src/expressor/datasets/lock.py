"""One process at a time, by a lock on a file that the operating system frees when its holder ends, however it ends."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.05


class Busy(Exception):
    """The lock cannot be had: its holder makes no progress, or the file system knows no locks."""


@contextmanager
def hold(path: Path, *, watch: Path, patience_s: float) -> Iterator[None]:
    """Hold the lock file ``path``, waiting for whoever holds it now.

    Parameters
    ----------
    path
        The lock file. It is made where it is missing, and stays: removing it would let two processes hold it.
    watch
        A file that grows while the holder works.
    patience_s
        Seconds to wait while ``watch`` does not change.

    Raises
    ------
    Busy
        ``watch`` did not change for so long, or the file system knows no locks.
    OSError
        The lock file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size, since = _size(watch), time.monotonic()
        while not _try_lock(descriptor):
            if (now := _size(watch)) != size:
                size, since = now, time.monotonic()
            if time.monotonic() - since > patience_s:
                raise Busy(str(path))
            time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)  # frees the lock


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Busy(f"no locks on this file system ({error})") from error
        return True
