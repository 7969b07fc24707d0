"""Reading what may be damaged: every failure of an outside library becomes a FormatError, and no file makes us allocate at will.

Sizes that a file declares are compared with the bytes that it has before anything is allocated from them.
"""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from expressor.core.errors import DataError, ExpressorError, FormatError, nearest_names

DAMAGED = "The file is damaged or of another format; get it again from its source."
FREE_BYTES = 256 * 2**20
"""Declared sizes below this are never questioned."""
MAX_RATIO = 2000
"""Largest believable ratio of declared to stored bytes; deflate reaches 1032."""

# Raised by our own code these are bugs, which must stay visible; damaged bytes make it raise ValueError and the like.
_BUGS = (TypeError, AttributeError, LookupError, NameError, AssertionError, NotImplementedError)


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside the block into a :class:`~expressor.core.errors.FormatError` that names the file.

    Errors of this package pass, and so do ``MemoryError``, ``KeyboardInterrupt``, and errors that only a bug in this
    package's own code raises. Warnings of the reading library are silenced: what matters in them is checked here.

    Parameters
    ----------
    path
        The file or folder that is read.
    what
        What it should be, to complete "cannot be read as ...".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ExpressorError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, _BUGS) and _is_raised_here(error.__traceback__):
            raise
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{os.fspath(path)} cannot be read as {what} ({type(error).__name__}: {reason})",
            fix=DAMAGED,
        ) from error


def _is_raised_here(trace: TracebackType | None) -> bool:
    """Whether the innermost frame belongs to this package rather than to an outside library."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("expressor.")


def find(path: str | os.PathLike[str], *, what: str) -> Path:
    """Return ``path`` as a Path, or raise :class:`~expressor.core.errors.DataError` when nothing is there."""
    path = Path(path)
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)[:200]!r} is no usable path ({error})") from error
    if there:
        return path
    siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(
        f"there is no {what} at {path}",
        nearest=nearest_names(path.name, siblings),
        fix="Check the path." if siblings else f"The folder {path.parent} does not exist or is empty.",
    )


def check_size(declared: int, stored: int, *, what: str, in_memory: bool = True) -> None:
    """Refuse a declared size that the stored bytes cannot hold, or (``in_memory``) that does not fit in this machine's memory.

    Raises
    ------
    FormatError
        More than ``MAX_RATIO`` declared bytes for each stored one, beyond ``FREE_BYTES``.
    DataError
        More bytes than the machine has memory.
    """
    if declared <= FREE_BYTES:
        return
    if declared > MAX_RATIO * stored:
        raise FormatError(
            f"{what} declares more than it can hold",
            expected=f"at most {MAX_RATIO} times the {stored:,} bytes stored", got=f"{declared:,} bytes",
            fix=DAMAGED,
        )  # fmt: skip
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    if in_memory and declared > memory:
        raise DataError(
            f"{what} does not fit into memory",
            expected=f"at most {memory / 2**30:.0f} GiB", got=f"{declared / 2**30:.0f} GiB",
            fix="Take a part of it: fewer sections, larger bins, fewer genes.",
        )  # fmt: skip
