"""What the verbs share: one console, tables, parsing of options into dataclasses."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

# Into a file or a pipe a row is a line, however long.
console = Console(soft_wrap=False, highlight=False, width=None if sys.stdout.isatty() else 10_000)


def parse(kind: Callable[..., T], words: Sequence[str], *, prog: str, default: Any = None) -> T:
    """Parse ``words`` into a ``kind`` (a dataclass or a function); wrong words print the usage and exit with 2."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=list(words), prog=prog, **options)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table; numbers are right-aligned."""
    table = Table(
        title=Text(title, style="italic"), title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for position, name in enumerate(columns):
        numeric = all(isinstance(row[position], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # As plain text: in rich's own markup the extra of "expressor[slides]" would be a style.
        table.add_row(*(Text(f"{value:.3f}" if isinstance(value, float) else str(value)) for value in row))
    console.print(table)
