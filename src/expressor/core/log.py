"""The package's logger and its progress bar; both quiet unless someone is looking."""

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger("expressor")
logger.addHandler(logging.NullHandler())


def progress(items: Iterable[T], *, what: str, total: int | None = None, show: bool | None = None) -> Iterator[T]:
    """Iterate over ``items`` behind one progress bar on the error stream.

    Parameters
    ----------
    items
        What to iterate over.
    what
        The phase, shown at the left of the bar.
    total
        Number of items where ``len`` does not tell.
    show
        Force the bar on or off; by default it shows in an interactive terminal only.
    """
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() if show is None else not show
    yield from tqdm(items, desc=what, total=total, disable=hidden, leave=False)
