"""``expressor fit SYSTEM DATA -o DIR``."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from expressor.cli.source import read_source
from expressor.cli.terminal import console, parse
from expressor.core import registry
from expressor.core.errors import DataError


def worded(kind: type) -> type:
    """Return the parameters of an estimator as a command line can take them.

    A function or an object cannot be typed on a command line, so it is no choice there; the markup of the documentation is
    taken off the help.
    """
    hints = get_type_hints(kind, include_extras=True)
    own = [(one.name, _typed(hints[one.name]), field(default=one.default, default_factory=one.default_factory))
           for one in fields(kind)]  # fmt: skip
    made = make_dataclass(kind.__name__, own, kw_only=True)
    made.__doc__ = _plain(kind.__doc__ or "")
    return made


def _typed(hint: Any) -> Any:
    if get_origin(hint) not in (Union, UnionType):
        return hint
    return reduce(
        or_, [one for one in get_args(hint) if get_origin(one) is not Callable and one not in (Callable, Any)]
    )


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text)
    return text.replace("``", "")


def _command(kind: type, model: Any) -> type:
    """Return the dataclass of this system's command line: its own parameters beside what every fit takes."""
    words = worded(kind)
    model = words(**model.get_params(deep=False))

    @dataclass
    class Fit:
        """Fit the system and save it.

        Parameters
        ----------
        data
            Path to an h5ad or zarr, or the name of a data set.
        out
            Folder for the saved model.
        val
            Data to select and stop on, instead of a part of DATA.
        resume
            Folder for checkpoints; a killed fit is continued from it.
        preset
            Start from the card's preset of this name; other options change it.
        model
            The system's parameters.
        """

        data: Annotated[str, tyro.conf.Positional]
        out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
        model: Annotated[words, tyro.conf.arg(name="")] = field(default_factory=lambda: model)  # type: ignore[valid-type]
        val: str | None = None
        resume: Path | None = None
        preset: str | None = None

    return Fit


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    if not words or words[0] in ("-h", "--help"):
        names = ", ".join(registry.systems())
        console.print(f"usage: expressor fit SYSTEM DATA -o DIR [options]\n\nSYSTEM is one of: {names}\n")
        console.print("`expressor fit SYSTEM --help` lists a system's options.")
        return
    kind = registry.load(words[0])
    model = kind.preset(_preset(words)) if _preset(words) else kind()  # type: ignore[attr-defined]
    command = _command(kind, model)
    chosen: Any = parse(command, words[1:], prog=f"expressor fit {words[0]}")
    out = Path(chosen.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / "config.json").exists():
        raise DataError(f"{out} exists and is not a saved model", fix="Choose a new folder; nothing was changed.")
    estimator = kind(**{one.name: getattr(chosen.model, one.name) for one in fields(chosen.model)})
    data = read_source(chosen.data)
    val = None if chosen.val is None else read_source(chosen.val)
    with console.status(f"fitting {kind.__name__}"):
        estimator.fit(data, val=val, resume=chosen.resume)
    console.print(f"saved {kind.__name__} to {estimator.save(out)}", markup=False)


def _preset(words: Sequence[str]) -> str | None:
    for position, word in enumerate(words):
        if word == "--preset" and position + 1 < len(words):
            return words[position + 1]
        if word.startswith("--preset="):
            return word.partition("=")[2]
    return None
