"""What a benchmark is made of: a task, its protocols, the folds of a protocol, the methods that are compared."""

import ast
import dataclasses
import hashlib
import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from expressor.core import registry
from expressor.core.card import Card
from expressor.core.errors import DataError, nearest_names
from expressor.core.serial import to_plain

METRICS_OF_SECTIONS = (
    "__init__", "blocks", "bootstrap", "checks", "coverage", "evaluation", "genewise", "multiplicity", "records", "structure",
)  # fmt: skip
"""What judges expression of spots in sections."""


def digest(value: object) -> str:
    """Return 12 hex digits of the SHA-256 of a plain value's canonical JSON."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def code_digest(module: str, only: tuple[str, ...] | None = None) -> str:
    """Return a hash of the code of a module, or of all modules of a package but its tests; comments and docstrings do not count.

    A result that was made by other code is not taken for one of this code.

    Parameters
    ----------
    module
        Dotted name of a module or a package.
    only
        Names of those modules of the package that count; all when not given.
    """
    try:
        spec = find_spec(module)
    except ValueError:  # the main module of a script or notebook has none
        spec = None
    if spec is None or spec.origin is None:
        return ""
    path = Path(spec.origin)
    files = (
        sorted(one for one in path.parent.rglob("*.py") if "tests" not in one.parts)
        if path.stem == "__init__"
        else [path]
    )
    files = [one for one in files if only is None or one.stem in only]
    whole = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                setattr(node, "body", [one for one in body if not _is_words(one)])  # noqa: B010
        whole.update(ast.dump(tree).encode())
    return whole.hexdigest()[:12]


def _is_words(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


@dataclass(frozen=True)
class Protocol:
    """What exactly is compared; two results may be set side by side only if they carry the same hash.

    Attributes
    ----------
    name, version
        A change of anything that changes numbers raises the version.
    title
        One line: what is trained on and what is judged.
    data, split, targets
        Plain settings that the task reads: which data, how they are split, what is predicted.
    variants
        Each method is fitted for each of them; for expression the target scales.
    parameters
        Given to every method that has a parameter of that name.
    judging
        Settings of the judgement, such as numbers of permutations and of bootstrap draws.
    notes
        What a reader must know to judge the numbers; no part of the hash.
    """

    name: str
    version: int
    title: str
    data: Mapping[str, Any]
    split: Mapping[str, Any]
    targets: Mapping[str, Any]
    variants: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    judging: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """12 hex digits of a SHA-256 over everything but the title and the notes."""
        kept = {
            one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name not in ("title", "notes")
        }
        return digest(kept)

    def __hash__(self) -> int:
        return hash(self.hash)


@dataclass(frozen=True, eq=False)
class Fold:
    """One training and test set.

    Attributes
    ----------
    name
        What is held out.
    train, test
        Data; ``test`` holds what was measured and is not what a method sees (see :meth:`Task.blind`).
    validation
        Data to select and stop on, where the protocol has such a part.
    targets
        What is predicted, chosen on ``train`` alone.
    """

    name: str
    train: Any
    test: Any
    targets: tuple[str, ...]
    validation: Any = None


@dataclass(frozen=True)
class Method:
    """One entry of the comparison: a control's class or a registered system, with parameters.

    Attributes
    ----------
    name, title
        Key in tables, and what a reader sees.
    kind
        ``"control"`` sets the scale, ``"rival"`` competes, ``"model"`` is what the task was made to judge.
    maker
        The class of a control, or the name of a system.
    parameters
        Given to the constructor on top of its defaults.
    needs
        What it uses of the test data besides the task's inputs, to be said wherever its number is shown.
    seeded
        Whether another seed gives another result.
    part
        Which part of the training data it is fitted on, in the words of :meth:`Task.narrow`; empty for all of them.
    wraps
        A system that the maker uses: a result is made again where its code changed.
    """

    name: str
    title: str
    kind: Literal["control", "rival", "model"]
    maker: type | str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    seeded: bool = True
    part: str = ""
    wraps: str = ""

    @property
    def hash(self) -> str:
        """Hash of what the method is: maker, its code, parameters, and what it is fitted on; not its name."""
        maker = self.maker if isinstance(self.maker, str) else self.maker.__qualname__
        module = registry.card(self.maker).package if isinstance(self.maker, str) else self.maker.__module__
        what: dict[str, Any] = {"maker": maker, "code": code_digest(module), "parameters": dict(self.parameters)}
        if self.part:
            what["part"] = self.part
        if self.wraps:
            what["wraps"] = code_digest(registry.card(self.wraps).package)
        return digest(what)

    def build(self, context: Mapping[str, Any]) -> Any:
        """Construct it; of ``context`` it gets what it has a parameter for, its own ``parameters`` come first."""
        kind = registry.load(self.maker) if isinstance(self.maker, str) else self.maker
        known = {one.name for one in dataclasses.fields(kind)}
        for name in self.parameters:
            if name not in known:
                raise DataError(f"{kind.__name__} has no parameter {name!r}", nearest=nearest_names(name, known))
        return kind(**({name: value for name, value in context.items() if name in known} | dict(self.parameters)))


class Task(ABC):
    """A kind of question that systems of one role are asked.

    A task is stateless: data come from :meth:`load`, so that a worker on another machine can do the same.

    Attributes
    ----------
    name
        Name of its module in ``expressor.bench.tasks``.
    role, inputs
        Systems whose card has this role and these inputs take part.
    protocols
        By name; the first is the default.
    metrics
        The modules of ``expressor.metrics`` that judge. A result is made again where one of them changed, not where another did.
    """

    name: str
    role: str
    inputs: str
    protocols: Mapping[str, Protocol]
    metrics: tuple[str, ...] = METRICS_OF_SECTIONS

    @abstractmethod
    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return what is in every table: the trivial answers and the strong simple baseline of the field."""

    @abstractmethod
    def load(self, protocol: Protocol) -> Any:
        """Return the protocol's data."""

    @abstractmethod
    def fingerprint(self, data: Any) -> str:
        """Return a hash of the data's content."""

    @abstractmethod
    def folds(self, protocol: Protocol, data: Any) -> list[Fold]:
        """Split, choose targets on each training part, and refuse leaks."""

    @abstractmethod
    def blind(self, test: Any) -> Any:
        """Return what a method may see of test data."""

    @abstractmethod
    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return the constructor parameters that the task sets for every method that has them."""

    @abstractmethod
    def predict(self, model: Any, seen: Any) -> dict[str, pd.DataFrame]:
        """Ask the fitted model by its role; ``"predicted"``, and ``"lower"``, ``"upper"`` where it gives intervals."""

    def check(self, fold: Fold, tables: Mapping[str, pd.DataFrame]) -> None:
        """Refuse predictions that are not of all test observations in their order; DataError."""
        for name, table in tables.items():
            if not table.index.equals(fold.test.obs_names):
                raise DataError(
                    f"predictions do not fit what was asked ({name})",
                    expected=f"all {fold.test.n_obs} test observations in order",
                    got=f"{len(table)} rows with other names or in another order",
                )

    @abstractmethod
    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Judge a fold's predictions: tables of scores that :meth:`summarise` joins over folds and seeds."""

    @abstractmethod
    def summarise(self, protocol: Protocol, cells: Iterable[Any], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return the tidy results of all cells: values with intervals, and paired differences."""

    def training(self, model: Any, fold: Fold) -> Any:
        """Return what an unfitted ``model`` is fitted on: the fold's training data, unless the task has a reason for less."""
        return fold.train

    def narrow(self, fold: Fold, part: str) -> Fold:
        """Return the fold with only ``part`` of its training data, for methods that are to be compared with training on all."""
        raise DataError(f"task {self.name!r} has no part of the training data that is called {part!r}")

    def keep(self, protocol: Protocol, folder: Path) -> None:
        """Write what is to be kept beside the results, such as who was in which fold; nothing by default."""
        del protocol, folder

    def __eq__(self, other: object) -> bool:
        # Tasks hold settings and no data, so a copy that reached another process is the same task.
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def systems(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return one method for every registered system that plays the role on these inputs, by its card alone.

        A card may have a preset ``bench``, whose parameters are then used instead of the defaults. Each preset ``bench-NAME`` is
        a further method beside it.
        """
        return tuple(
            method
            for card in registry.systems().values()
            if self.role in card.roles and card.inputs == self.inputs
            for method in _entries(card)
        )

    def slow(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return methods that take so long that they run only where they are named; none by default."""
        del protocol
        return ()

    def protocol(self, name: str | None) -> Protocol:
        """Return the protocol ``name``, or the first; DataError with the nearest names if there is none."""
        if name is None:
            return next(iter(self.protocols.values()))
        if name not in self.protocols:
            raise DataError(
                f"task {self.name!r} has no protocol {name!r}",
                expected="one of " + ", ".join(repr(one) for one in self.protocols),
                nearest=nearest_names(name, self.protocols),
            )
        return self.protocols[name]

    def methods(self, protocol: Protocol, names: Iterable[str] | None = None) -> tuple[Method, ...]:
        """Return the controls, which are in every table, and the named methods; by default all systems, and what is not slow."""
        controls, systems, slow = self.controls(protocol), self.systems(protocol), self.slow(protocol)
        if names is None:
            return controls + systems
        known = {one.name: one for one in controls + slow + systems}
        wanted = list(names)
        for name in wanted:
            if name not in known:
                raise DataError(
                    f"task {self.name!r} has no method {name!r}",
                    expected="some of " + ", ".join(repr(one) for one in known),
                    nearest=nearest_names(name, known),
                )
        return controls + tuple(one for one in slow + systems if one.name in wanted)


def _entries(card: Card) -> list[Method]:
    """One method of the preset ``bench`` or the defaults, and one of each preset ``bench-NAME``."""
    found = [Method(card.name, card.estimator, "rival", card.name, dict(card.presets.get("bench", {})))]
    for preset, parameters in card.presets.items():
        start, _, name = preset.partition("-")
        if start == "bench" and name:
            title = f"{card.estimator}, {name.replace('_', ' ')}"
            found.append(Method(f"{card.name}-{name}", title, "rival", card.name, dict(parameters)))
    return found


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks."""
    from expressor.bench import tasks as room

    return tuple(sorted(one.name for one in pkgutil.iter_modules(room.__path__)))


def find_task(name: str) -> Task:
    """Return the task ``name``; DataError with the nearest names if there is none."""
    if name not in task_names():
        raise DataError(
            f"no benchmark task is called {name!r}",
            expected="one of " + ", ".join(repr(one) for one in task_names()),
            nearest=nearest_names(name, task_names()),
        )
    return importlib.import_module(f"expressor.bench.tasks.{name}").TASK
