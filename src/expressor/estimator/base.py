"""The estimator protocol: one way to construct, fit, use, describe, save and load, whatever a system eats.

A system is a keyword-only dataclass that derives from :class:`Estimator` and from its roles. Its fields are hyper-parameters;
nothing is computed at construction. It implements the underscore methods listed under "What a system implements".
"""

import dataclasses
import os
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import TransformerTags

from expressor.core import registry
from expressor.core.card import Card
from expressor.core.equations import equations
from expressor.core.errors import DataError, FormatError, check_choice, nearest_names
from expressor.core.serial import from_plain, read_json, to_plain, write_json
from expressor.estimator import storage
from expressor.estimator.errors import NotFittedError
from expressor.estimator.provenance import environment, provenance
from expressor.estimator.roles import Encodes
from expressor.genes.vocab import GeneVocab


@dataclasses.dataclass
class State:
    """What a fitted system must keep to be used again.

    Attributes
    ----------
    values
        Small plain values (numbers, strings, lists, dictionaries); they go to ``config.json``.
    arrays
        NumPy arrays, tables, series, indexes; they go to ``state.npz``.
    tensors
        Torch tensors by name, for instance a network's ``state_dict()``; they go to ``model.safetensors``.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    arrays: dict[str, Any] = dataclasses.field(default_factory=dict)
    tensors: dict[str, Any] = dataclasses.field(default_factory=dict)


class Estimator(BaseEstimator, ABC):
    """Base of every system; see the guide "Adding a system".

    Attributes
    ----------
    genes_in_
        The genes of the fit, in their order there.
    n_features_in_
        Their number; the number of features where ``fit`` was given arrays.
    history_
        One row an epoch, or an iteration.
    environment_
        Versions and machine of the fit.
    data_fingerprint_
        Content hash of what it was fitted on; equal data in any storage give the same.
    streams
        Whether the system reads cells in parts: what is on disk stays there, and several sources are one.
    """

    streams: typing.ClassVar[bool] = False
    genes_in_: GeneVocab
    n_features_in_: int
    history_: pd.DataFrame
    environment_: dict[str, Any]
    data_fingerprint_: str

    # What a system implements ---------------------------------------------------------------------------------------

    @abstractmethod
    def _check(self) -> None:
        """Raise DataError where a hyper-parameter is out of its range."""

    @abstractmethod
    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        """Learn from ``adata`` (an AnnData that must not be changed); set ``genes_in_``, ``history_`` and the system's own."""

    @abstractmethod
    def _state(self) -> State:
        """Return what ``_restore`` needs."""

    @abstractmethod
    def _restore(self, state: State) -> None:
        """Set the fitted attributes from what ``_state`` returned."""

    @abstractmethod
    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        """Return what ``annotate`` writes: slot (``"obsm"``, ``"obs"``, ``"layers"``, ``"var"``) -> name -> value."""

    @abstractmethod
    def _evaluate(self, adata: Any) -> pd.DataFrame:
        """Return the tidy table of ``evaluate``; its first row is the headline metric that ``score`` gives."""

    @abstractmethod
    def _methods(self) -> str:
        """Return the methods paragraph for the options used, in the past tense."""

    def _open(self, data: Any, *, genes: typing.Sequence[str] | None = None) -> tuple[Any, str]:
        """Return what ``_fit`` is given, and its fingerprint: an AnnData in memory, or ``data`` where they stay on disk."""
        from expressor.data import blocks, fields

        layer = getattr(self, "layer", None)
        if self.streams:
            if blocks.is_read_in_parts(data):
                return data, blocks.open_blocks(data, layer=layer).fingerprint()
            if layer is not None:
                data = fields.read(data, genes=genes)
                return data, blocks.open_blocks(data, layer=layer).fingerprint()
        adata = fields.read(data, genes=genes)
        return adata, fields.fingerprint(adata)

    # What users call -------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        y: Any = None,
        *,
        genes: typing.Sequence[str] | None = None,
        val: Any = None,
        resume: str | Path | None = None,
    ) -> Self:
        """Learn from data.

        Parameters
        ----------
        data
            AnnData, path to h5ad or zarr, DataFrame, or array with ``genes=``; (obs, gene). It is not changed.
        y
            Targets of an array input, (obs,) or (obs, target), where the system takes arrays of features.
        genes
            Names of the columns where ``data`` (or ``y``, if given) is an array without names.
        val
            Data of the same kind to select and stop on, instead of a part of ``data``.
        resume
            Folder for checkpoints. A fit that was killed is continued from it and ends with the bits of an uninterrupted one.

        Returns
        -------
        self

        Raises
        ------
        DataError
            A parameter or the data are not what the system needs, or ``resume`` holds checkpoints of another fit.
        """
        self._check()
        adata, fingerprint = self._open(data if y is None else with_features(data, y, genes=genes),
                                        genes=genes if y is None else None)  # fmt: skip
        val, fingerprint_of_val = (None, None) if val is None else self._open(val)
        folder = None
        if resume is not None:
            folder = self._open_resume(Path(resume), {"data": fingerprint, "val": fingerprint_of_val})
        self._fit(adata, val=val, resume=folder)
        self.n_features_in_ = len(self.genes_in_) if y is None else adata.obsm["X_features"].shape[1]
        self.environment_ = environment()
        self.data_fingerprint_ = fingerprint
        return self

    def score(self, data: Any, y: Any = None) -> float:
        """Return the headline metric of :meth:`evaluate` on ``data``; larger is better."""
        return float(self.evaluate(data if y is None else with_features(data, y))["value"].iloc[0])

    def evaluate(self, data: Any) -> pd.DataFrame:
        """Compare with what was measured.

        Returns
        -------
        Tidy table: metric, unit (what is averaged over), value, low, high (95 % interval), n, n_undefined.
        """
        from expressor.data import fields

        self._check_fitted()
        return self._evaluate(fields.read(data))

    def annotate(self, adata: Any, *, key: str | None = None, overwrite: bool = False) -> None:
        """Write results into ``adata`` in place, with their provenance in ``uns[key]``.

        Parameters
        ----------
        adata
            An AnnData in memory.
        key
            Name under which results are written; the system's name by default.
        overwrite
            Replace entries of these names that this package did not write.

        Raises
        ------
        DataError
            An entry of that name exists and was not written by this package. Nothing is changed then.
        """
        self._check_fitted()
        name = key or self.card().name
        results = self._annotations(adata, name)
        ours = isinstance(adata.uns.get(name), Mapping) and "system" in adata.uns[name]
        taken = [
            f"{slot}[{one!r}]" for slot, entries in results.items() for one in entries if one in getattr(adata, slot)
        ]
        if name in adata.uns and not ours:
            taken.append(f"uns[{name!r}]")
        if taken and not ours and not overwrite:
            raise DataError(
                f"the data already hold {', '.join(taken)}",
                fix="Give another key=, or overwrite=True; nothing was changed.",
            )
        for slot, entries in results.items():
            for one, value in entries.items():
                getattr(adata, slot)[one] = value
        adata.uns[name] = self._provenance()

    def describe(self) -> str:
        """Return the methods paragraph for the options used, the equations behind it, and the references."""
        card = self.card()
        numbers = ", ".join(f"{one.number} ({one.fidelity})" for one in equations(card.name, package=card.package))
        references = "\n".join(f"{i}. {text}" for i, text in enumerate(card.references, 1))
        return f"{self._methods()}\n\nEquations: {numbers}.\n\nReferences\n{references}\n"

    def save(self, folder: str | Path) -> Path:
        """Save to a folder that :func:`load` reads without the training data; see :mod:`expressor.estimator.storage`.

        Raises
        ------
        NotFittedError
            There is nothing to save yet.
        DataError
            The folder exists and is not a saved model, or cannot be written. Nothing is lost then.
        """
        self._check_fitted()
        return storage.write_folder(Path(folder), self._write, mark=storage.CONFIG)

    @classmethod
    def card(cls) -> Card:
        """Return the system's card."""
        return registry.card(cls.__name__)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Construct with the parameters of one of the card's presets (``"paper"``, ``"tiny"``, ...), with ``changes``."""
        presets = cls.card().presets
        check_choice(name, presets, name=f"preset of {cls.__name__}")
        parameters: dict[str, Any] = _typed(cls, dict(presets[name]))
        return cls(**(parameters | changes))

    # The machinery ---------------------------------------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if isinstance(self, Encodes):
            tags.transformer_tags = TransformerTags()
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "data_fingerprint_")

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted", fix="Call fit first, or load a saved model."
            )

    def _parameters(self) -> dict[str, Any]:
        """Return the hyper-parameters as JSON-ready values; a callable is kept by name, to be read but not run.

        A field that may hold an object says with ``metadata={"plain": function}`` what stands for it.
        """
        return {
            one.name: one.metadata.get("plain", _plain)(getattr(self, one.name))
            for one in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    def _provenance(self) -> dict[str, Any]:
        fitted = {
            "data_fingerprint": self.data_fingerprint_,
            "genes_hash": self.genes_in_.hash,
            "n_genes": len(self.genes_in_),
        }
        return provenance(self.card(), self._parameters(), fitted)

    def _open_resume(self, folder: Path, data: dict[str, str | None]) -> Path:
        """Return the checkpoint folder after making sure that it belongs to this estimator and these data."""
        parameters = self._parameters()
        plan = parameters.get("plan")
        if isinstance(plan, dict):
            # A fit may go on for longer than it was first meant to.
            parameters["plan"] = {name: value for name, value in plan.items() if name not in ("max_steps", "epochs")}
        belongs = {"system": self.card().name, "parameters": to_plain(parameters), **data}
        note = folder / "run.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not note.exists():
                temporary = folder / f".run.{os.getpid()}.tmp"
                write_json(temporary, belongs)
                temporary.replace(note)
        except OSError as error:
            raise DataError(
                f"the resume folder {folder} cannot be written ({error})", fix="Choose another folder."
            ) from error
        found = read_json(note)
        if found != belongs:
            differs = [name for name in belongs if not isinstance(found, dict) or found.get(name) != belongs[name]]
            raise DataError(
                f"{folder} holds checkpoints of another fit (its {' and '.join(differs)} differ)",
                fix="Give an empty resume folder, or the parameters and data it was started with.",
            )
        return folder

    def _write(self, folder: Path) -> None:
        state = self._state()
        config = {
            "schema": storage.SCHEMA,
            "version": self.environment_["versions"]["expressor"],
            "system": self.card().name,
            "class": type(self).__name__,
            "roles": list(self.card().roles),
            "parameters": self._parameters(),
            "fitted": {
                **to_plain(state.values),
                "data_fingerprint_": self.data_fingerprint_,
                "n_features_in_": self.n_features_in_,
            },
        }
        storage.write_npz(folder / "state.npz", storage.pack_arrays({**state.arrays, "history_": self.history_}))
        if state.tensors:
            storage.write_tensors(folder / "model.safetensors", state.tensors)
        self.genes_in_.write(folder / "genes.tsv")
        self.history_.to_csv(folder / "history.csv", index=False)
        write_json(folder / "environment.json", self.environment_)
        (folder / "README.md").write_text(self._model_card(), encoding="utf-8")
        storage.seal(folder, config)

    def _model_card(self) -> str:
        card = self.card()
        front = [
            "---", "library_name: expressor", f"tags: [{', '.join(['gene-expression', card.inputs, card.name])}]", "---",
        ]  # fmt: skip
        limits = "".join(f"- {limit}\n" for limit in card.limits)
        body = f"# {type(self).__name__}\n\n{card.summary}\n\n{self.describe()}\n## Limits\n\n{limits}"
        use = '\n## Use\n\n```python\nimport expressor as ex\n\nmodel = ex.load("path/to/this/folder")\n```\n'
        return "\n".join(front) + "\n\n" + body + use


def _plain(value: Any) -> Any:
    return f"<callable {getattr(value, '__qualname__', type(value).__name__)}>" if callable(value) else to_plain(value)


def load(folder: str | Path) -> Any:
    """Load a saved model; no training data are needed and no code of the folder is run.

    Raises
    ------
    FormatError
        The folder is not a saved model, is damaged, or was saved by a newer version.
    """
    folder = Path(folder)
    config = storage.read_config(folder)
    try:
        kind = registry.load(config["system"])
    except DataError as error:
        raise FormatError(f"{folder} was saved by a system that is not installed ({config['system']!r})") from error
    try:
        arrays = storage.unpack_arrays(storage.read_npz(folder / "state.npz"))
        tensors = storage.read_tensors(folder / "model.safetensors") if "model.safetensors" in config["sha256"] else {}
        genes, made_in = GeneVocab.read(folder / "genes.tsv"), read_json(folder / "environment.json")
        model = revive(kind, config, arrays, tensors, genes=genes, environment=made_in)
    except FormatError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # Files that are each readable and do not fit together: the parts come from different models, or one was altered.
        raise FormatError(f"the parts of {folder} do not fit together ({type(error).__name__}: {error})") from error
    return model


def revive(
    kind: type,
    config: Mapping[str, Any],
    arrays: Mapping[str, Any],
    tensors: Mapping[str, Any],
    *,
    genes: GeneVocab,
    environment: dict[str, Any],
) -> Any:
    """Make a fitted estimator of class ``kind`` from the parts that saving gave; errors of any kind say that they do not fit.

    Parameters
    ----------
    config
        ``"parameters"`` and ``"fitted"``, plain values.
    arrays, tensors
        Those of the estimator's :class:`State`; ``arrays`` also holds ``"history_"``.
    genes, environment
        The attributes ``genes_in_`` and ``environment_``.
    """
    model = kind(**_typed(kind, config["parameters"]))
    fitted, arrays = dict(config["fitted"]), dict(arrays)
    model.data_fingerprint_ = str(fitted.pop("data_fingerprint_"))
    model.history_ = arrays.pop("history_")
    model.genes_in_ = genes
    model.n_features_in_ = from_plain(int, fitted.pop("n_features_in_"), where="n_features_in_")
    model.environment_ = environment
    str(environment["versions"]["expressor"])  # must be there to save again
    model._restore(State(fitted, arrays, dict(tensors)))
    model._methods()  # what a model cannot say of itself was altered
    return model


def _typed(kind: type, parameters: Any) -> dict[str, Any]:
    """Check plain parameters against the dataclass fields of ``kind`` and give them their types."""
    if not isinstance(parameters, dict):
        raise FormatError(f"bad parameters of {kind.__name__}", expected="an object", got=type(parameters).__name__)
    hints = typing.get_type_hints(kind)
    known = {one.name for one in dataclasses.fields(kind) if one.init}
    for name in parameters:
        if name not in known:
            raise FormatError(f"{kind.__name__} has no parameter {name!r}", nearest=nearest_names(name, known))
    return {name: from_plain(hints[name], value, where=f"{kind.__name__}.{name}") for name, value in parameters.items()}


def with_features(features: Any, y: Any, *, genes: typing.Sequence[str] | None = None) -> Any:
    """Return an AnnData whose matrix is ``y`` and whose ``obsm["X_features"]`` is ``features``, for callers with plain arrays.

    Parameters
    ----------
    features
        Numbers, (obs, feature).
    y
        Targets, (obs,) or (obs, gene).
    genes
        Names of the columns of ``y``; ``"y0"``, ``"y1"``, ... where neither they nor a DataFrame give any.

    Raises
    ------
    DataError
        The shapes do not fit, or the features are not finite numbers.
    """
    from sklearn.utils import check_array

    from expressor.data import fields

    matrix = check_array(features, dtype=np.float32, input_name="features", estimator="the estimator")
    if not isinstance(y, pd.DataFrame):
        y = np.asarray(y, dtype=np.float32)
        y = y.reshape(len(y), -1)
        genes = genes or [f"y{i}" for i in range(y.shape[1])]
    adata = fields.read(y, genes=genes)
    if adata.n_obs != len(matrix):
        raise DataError("features and targets differ in length", expected=f"{len(matrix)} rows of y", got=adata.n_obs)
    adata.obsm["X_features"] = matrix
    return adata
