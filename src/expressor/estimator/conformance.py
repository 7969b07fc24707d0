"""The promises that every system keeps, as checks that anyone can run on a system of their own.

``check_system("agl")`` runs them all; a test suite parametrises over ``CHECKS`` instead, so that each is a test of its own. The
data are ``datasets.example(card.inputs)``, the model is the card's preset ``tiny``. A broken promise raises ``AssertionError``
with what was promised.
"""

import dataclasses
import json
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import clone

from expressor.core import registry
from expressor.core.equations import covering_tests, equations
from expressor.core.errors import DataError, ExpressorError, FormatError, GeneError
from expressor.core.serial import to_plain
from expressor.data import keys
from expressor.datasets.examples import example
from expressor.estimator.base import Estimator, load
from expressor.estimator.errors import NotFittedError
from expressor.estimator.roles import Encodes, Imputes, Maps, Predicts, Survives

Check = Callable[[type[Estimator]], None]


def _promise(kept: bool, what: str) -> None:
    if not kept:
        raise AssertionError(f"promise broken: {what}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads may be added in another order; bit equality is promised for the same number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _data(kind: type[Estimator], seed: int = 0) -> ad.AnnData:
    return example(kind.card().inputs, seed=seed)


def _tiny(kind: type[Estimator], **changes: Any) -> Estimator:
    return kind.preset("tiny", **changes)


def _fitted(kind: type[Estimator]) -> Estimator:
    return _tiny(kind).fit(_data(kind))


def outputs(model: Any, data: Any) -> dict[str, pd.DataFrame]:
    """Return what each role of the fitted ``model`` gives for ``data``, as tables by role."""
    found: dict[str, Any] = {}
    if isinstance(model, Predicts):
        found["predict"] = model.predict(data)
        if hasattr(model, "predict_proba"):
            found["predict_proba"] = model.predict_proba(data)
    if isinstance(model, Encodes):
        found["transform"] = model.transform(data)
    if isinstance(model, Imputes):
        found["impute"] = model.impute(data)
    if isinstance(model, Survives) and model.survives_:
        found["risk"] = model.risk(data)
    if isinstance(model, Maps):
        found["at"] = model.at(_places(data))
    return {role: pd.DataFrame(value) for role, value in found.items()}


def _places(data: Any) -> np.ndarray:
    """Where the samples are; data may be given in any form that fits."""
    from expressor.data import fields

    return np.asarray(fields.read(data).obsm[keys.MNI])


def _same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame], what: str) -> None:
    _promise(set(one) == set(other) and bool(one), what)
    for role in one:
        _promise(list(one[role].columns) == list(other[role].columns), f"{what} ({role}: columns)")
        columns = [one[role].select_dtypes("number").columns, one[role].select_dtypes(exclude="number").columns]
        equal = [np.array_equal(one[role][names].to_numpy(), other[role][names].to_numpy(), equal_nan=not i)
                 for i, names in enumerate(columns)]  # fmt: skip
        _promise(all(equal), f"{what} ({role}: values)")


def _close(one: pd.DataFrame, other: pd.DataFrame, *, relative: float, absolute: float) -> bool:
    """Whether numbers agree but for rounding, and labels agree."""
    numeric = list(one.select_dtypes("number").columns)
    labels = [name for name in one.columns if name not in numeric]
    same = np.array_equal(one[labels].to_numpy(dtype=str), other[labels].to_numpy(dtype=str))
    numbers = one[numeric].to_numpy(dtype=float), other[numeric].to_numpy(dtype=float)
    return same and np.allclose(*numbers, rtol=relative, atol=absolute)


def _finite(table: pd.DataFrame) -> bool:
    """Whether numbers are finite and labels are there."""
    return bool(np.isfinite(table.select_dtypes("number").to_numpy(dtype=float)).all()) and not table.isna().any(
        axis=None
    )


def check_construction_is_pure(kind: type[Estimator]) -> None:
    """The constructor takes keywords only and keeps exactly what it was given."""
    model = kind()
    names = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _promise(set(vars(model)) == names, "construction computes nothing")
    _promise(all(one.kw_only for one in dataclasses.fields(kind)), "parameters are keyword-only")  # type: ignore[arg-type]
    _promise(set(model.get_params(deep=False)) == names, "get_params gives every field")


def check_parameters_round_trip(kind: type[Estimator]) -> None:
    """``clone`` and JSON give an estimator of equal parameters; every preset of the card constructs and passes its own check."""
    for preset in kind.card().presets:
        model = kind.preset(preset)
        model._check()
        plain = json.loads(json.dumps(model._parameters()))
        _promise(clone(model)._parameters() == plain, f"clone keeps the parameters of preset {preset!r}")


def check_fit_returns_self(kind: type[Estimator]) -> None:
    """``fit`` returns the estimator, sets the common attributes and leaves its parameters alone."""
    model, data = _tiny(kind), _data(kind)
    before = to_plain(model._parameters())
    _promise(model.fit(data) is model, "fit returns self")
    for name in ("genes_in_", "n_features_in_", "history_", "environment_", "data_fingerprint_"):
        _promise(hasattr(model, name), f"fit sets {name}")
    _promise(to_plain(model._parameters()) == before, "fit leaves the parameters alone")
    _promise(isinstance(model.history_, pd.DataFrame) and len(model.history_) > 0, "history_ is a table with rows")


def check_same_seed_same_bits(kind: type[Estimator]) -> None:
    """Two fits with one seed agree to the bit, whatever state the global generators are in."""
    data = _data(kind)
    with _one_thread():
        first = outputs(_tiny(kind).fit(data), data)
        _move_global_generators()
        _same(first, outputs(_tiny(kind).fit(data), data), "same seed, same bits")


def check_global_generators_untouched(kind: type[Estimator]) -> None:
    """Fitting does not move the global random generators of NumPy and torch.

    (That of ``random`` is moved by checkers of types at run time, which draw the items of a list that they look at.)
    """
    before = _global_generators()
    outputs(_fitted(kind), _data(kind))
    for name, state in _global_generators().items():
        _promise(state == before[name], f"the global generator of {name} is untouched")


def _global_generators() -> dict[str, Any]:
    import torch

    return {
        "NumPy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
    }


def _move_global_generators() -> None:
    """Draw from them, as a user's program may between two fits."""
    import torch

    random.random()
    np.random.random(3)  # noqa: NPY002
    torch.rand(3)


def check_gene_order(kind: type[Estimator]) -> None:
    """The order of the gene columns does not matter, in fit or after it."""
    data = _data(kind)
    order = np.random.default_rng(1).permutation(data.n_vars)
    with _one_thread():
        first = outputs(_tiny(kind).fit(data), data)
        other = outputs(_tiny(kind).fit(data[:, order].copy()), data[:, order].copy())
    for role, table in other.items():
        columns = first[role].columns
        _promise(set(columns) == set(table.columns), f"same genes whatever their order ({role})")
        other[role] = table[columns]
    _same(first, other, "shuffled genes, same output")


def check_observation_order(kind: type[Estimator]) -> None:
    """Permuted observations give permuted outputs."""
    model, data = _fitted(kind), _data(kind, seed=1)
    order = np.random.default_rng(1).permutation(data.n_obs)
    straight, shuffled = outputs(model, data), outputs(model, data[order].copy())
    for role, table in straight.items():
        close = _close(table.iloc[order], shuffled[role], relative=1e-5, absolute=1e-6)
        _promise(close, f"shuffled observations, permuted output ({role})")


def check_extra_genes(kind: type[Estimator]) -> None:
    """Genes that the fit did not know are ignored."""
    model, data = _fitted(kind), _data(kind, seed=1)
    extra = ad.AnnData(
        sparse.csr_matrix(np.ones((data.n_obs, 3), dtype=np.float32)),
        obs=pd.DataFrame(index=data.obs_names), var=pd.DataFrame(index=["extra-1", "extra-2", "extra-3"]),
    )  # fmt: skip
    wider = ad.concat([data, extra], axis=1, merge="first", uns_merge="first")
    _same(outputs(model, data), outputs(model, wider), "extra genes are ignored")


def check_missing_genes(kind: type[Estimator]) -> None:
    """Genes of the fit that new data lack are treated as the card says."""
    model, data = _fitted(kind), _data(kind, seed=1)
    fewer = data[:, data.n_vars // 2 :].copy()
    policy = kind.card().missing_genes
    if policy == "refuse":
        # A system may use few of its genes: what it does not use may be missing, what it uses may not.
        whole, refused = outputs(model, data), 0
        for part in (fewer, data[:, : data.n_vars // 2].copy()):
            try:
                _same(whole, outputs(model, part), "genes that are not used do not matter")
            except GeneError:
                refused += 1
        _promise(refused > 0, "missing genes are refused: nothing was raised")
    elif policy == "unused":
        _same(outputs(model, data), outputs(model, fewer), "missing genes do not matter")
    else:
        for role, table in outputs(model, fewer).items():
            _promise(_finite(table), f"missing genes are imputed ({role})")


def check_gaps_are_filled(kind: type[Estimator]) -> None:
    """A system that imputes fills NaN in new data and in those of the fit, and leaves what was measured alone, to the bit."""
    if "Imputes" not in kind.card().roles:
        return
    data, gaps = _data(kind, seed=1), np.random.default_rng(0).random(_data(kind).shape) < 0.2
    holed, train = data.copy(), _data(kind)
    for one in (holed, train):
        one.X = np.where(gaps[: one.n_obs], np.float32(np.nan), _dense(one.X).astype(np.float32))
    for model, what in ((_fitted(kind), "gaps are filled"), (_tiny(kind).fit(train), "gaps of the fit are filled")):
        _promise(all(_finite(table) for table in outputs(model, holed).values()), what)
        full = pd.DataFrame(np.asarray(outputs(model, holed)["impute"]), columns=list(model.genes_in_))
        kept = full[list(holed.var_names)].to_numpy()
        _promise(np.array_equal(kept[~gaps], holed.X[~gaps]), "measured values stay as they are")


def check_storage_layouts(kind: type[Estimator]) -> None:
    """CSR, CSC, dense and a view give the same fit."""
    data = _data(kind)
    layouts: dict[str, ad.AnnData] = {}
    for name, convert in {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": _dense}.items():
        layouts[name] = data.copy()
        layouts[name].X = convert(data.X)
    padded = ad.concat([data, data[:1].copy()], merge="first", uns_merge="first", index_unique="-")
    padded.obs_names = [*data.obs_names, "one-more"]
    layouts["view"] = padded[: data.n_obs]
    with _one_thread():
        first = outputs(_tiny(kind).fit(layouts["csr"]), layouts["csr"])
        for name, one in layouts.items():
            _same(first, outputs(_tiny(kind).fit(one), one), f"{name} = csr")


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def check_disk_equals_memory(kind: type[Estimator]) -> None:
    """A path to h5ad, a backed AnnData and a path to zarr give what the AnnData in memory gives."""
    data = _data(kind)
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        data.write_h5ad(Path(folder) / "data.h5ad")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which version of zarr is written does not matter here
            data.write_zarr(Path(folder) / "data.zarr")
        first = outputs(_tiny(kind).fit(data), data)
        backed = ad.read_h5ad(Path(folder) / "data.h5ad", backed="r")
        try:
            for name, one in {"h5ad": f"{folder}/data.h5ad", "backed": backed, "zarr": f"{folder}/data.zarr"}.items():
                _same(first, outputs(_tiny(kind).fit(one), one), f"{name} = memory")
        finally:
            backed.file.close()


def _content(data: ad.AnnData) -> dict[str, str]:
    """Hash every element of the data, so that any change shows where it is."""
    with tempfile.TemporaryDirectory() as folder:
        import h5py

        data.copy().write_h5ad(Path(folder) / "data.h5ad")
        found: dict[str, str] = {}
        with h5py.File(Path(folder) / "data.h5ad") as file:
            file.visititems(lambda name, node: found.update({name: _digest(node)}))
        return found


def _digest(node: Any) -> str:
    import hashlib

    import h5py

    if not isinstance(node, h5py.Dataset):
        return "group"
    values = np.asarray(node[()])
    return hashlib.sha256(repr(values.tolist()).encode() if values.dtype == object else values.tobytes()).hexdigest()


def check_data_unchanged(kind: type[Estimator]) -> None:
    """Nothing in the user's object is changed by fitting or using a model, and a failing annotation changes nothing."""
    data = _data(kind)
    before = _content(data)
    model = _tiny(kind).fit(data)
    outputs(model, data)
    model.evaluate(data)
    _promise(_content(data) == before, "the user's object is unchanged")
    data.uns[model.card().name] = "mine"
    before = _content(data)
    _refuses(lambda: model.annotate(data), DataError, "annotate refuses to replace the user's entry")
    _promise(_content(data) == before, "a refused annotation changes nothing")


def check_annotation(kind: type[Estimator]) -> None:
    """``annotate`` writes results with provenance, twice over the same key without complaint, and the file can be written."""
    model, data = _fitted(kind), _data(kind, seed=1)
    model.annotate(data, key="mine")
    model.annotate(data, key="mine")
    record = data.uns["mine"]
    _promise(record["data_fingerprint"] == model.data_fingerprint_, "provenance names the data")
    _promise(json.loads(record["parameters"]) == model._parameters(), "provenance names the parameters")
    with tempfile.TemporaryDirectory() as folder:
        data.write_h5ad(Path(folder) / "annotated.h5ad")
        _promise(
            ad.read_h5ad(Path(folder) / "annotated.h5ad").uns["mine"]["system"] == model.card().name, "it can be read"
        )


def check_outputs_are_finite(kind: type[Estimator]) -> None:
    """Numeric outputs are float32, finite, one row an observation."""
    data = _data(kind, seed=1)
    for role, table in outputs(_fitted(kind), data).items():
        _promise(len(table) == data.n_obs, f"one row an observation ({role})")
        numbers = table.select_dtypes("number")
        _promise(bool(np.isfinite(numbers.to_numpy()).all()), f"finite ({role})")
        _promise(all(kind_ == np.float32 for kind_ in numbers.dtypes), f"float32 ({role})")


def check_save_and_load(kind: type[Estimator]) -> None:
    """A saved model is loaded without data and gives the same bits; saving never destroys anything else."""
    model, data = _fitted(kind), _data(kind, seed=1)
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        first = outputs(model, data)
        path = model.save(Path(folder) / "model")
        again: Any = load(path)
        _same(first, outputs(again, data), "save and load keep every bit")
        _promise(again._parameters() == model._parameters(), "save and load keep the parameters")
        _promise(again.describe() == model.describe(), "save and load keep the description")
        again.save(path)
        _same(first, outputs(load(path), data), "saving over a saved model replaces it")
        _promise({one.name for one in Path(folder).iterdir()} == {"model"}, "saving leaves nothing else behind")
        other = Path(folder) / "other"
        other.mkdir()
        (other / "thesis.txt").write_text("precious")
        _refuses(lambda: model.save(other), DataError, "a folder of something else is not replaced")
        _promise((other / "thesis.txt").read_text() == "precious", "nothing of the user's is lost")


def check_resume(kind: type[Estimator]) -> None:
    """Ten steps are five steps (interrupted after three) and a resumed five, to the bit; a folder of another fit is refused."""
    if not hasattr(kind(), "plan"):
        return
    data = _data(kind)

    def fit(steps: int, folder: str | None, **changes: Any) -> Any:
        model = _tiny(kind, **changes)
        model.plan.set_params(max_steps=steps)  # type: ignore[attr-defined]
        return model.fit(data, resume=folder)

    with tempfile.TemporaryDirectory() as folder, _one_thread():
        whole = outputs(fit(10, None), data)
        # Twice interrupted, so that not both places are the end of an epoch.
        fit(3, folder)
        fit(5, folder)
        _promise(len(list(Path(folder).iterdir())) > 1, "the resume folder holds checkpoints")
        _same(whole, outputs(fit(10, folder), data), "10 steps = 5 + resumed 5")
        _refuses(lambda: fit(10, folder, random_state=1), DataError, "checkpoints of another fit are refused")


def check_command_line(kind: type[Estimator]) -> None:
    """The command line gives what Python gives."""
    import subprocess
    import sys

    if not issubclass(kind, Predicts):
        return
    data = _data(kind)
    name = kind.card().name
    with tempfile.TemporaryDirectory() as folder:
        data.write_h5ad(Path(folder) / "data.h5ad")
        words = [
            ["fit", name, f"{folder}/data.h5ad", "-o", f"{folder}/model", "--preset", "tiny"],
            ["predict", f"{folder}/model", f"{folder}/data.h5ad", "-o", f"{folder}/out.h5ad"],
        ]
        for one in words:
            done = subprocess.run(
                [sys.executable, "-m", "expressor", *one], capture_output=True, text=True, check=False
            )
            _promise(done.returncode == 0, f"`expressor {' '.join(one)}` succeeds: {done.stderr[-500:]}")
        expected = outputs(_tiny(kind).fit(data), data)["predict"]
        got = pd.DataFrame(ad.read_h5ad(Path(folder) / "out.h5ad").obsm[name])
    got.columns = expected.columns
    _promise(_close(expected, got, relative=1e-4, absolute=1e-5), "the command line gives what Python gives")


def _refuses(call: Callable[[], object], kind: type[Exception] | tuple[type[Exception], ...], what: str) -> None:
    try:
        call()
    except kind as error:
        _promise(len(str(error)) > 10, f"{what}: the error says why")
        return
    except Exception as error:
        raise AssertionError(f"promise broken: {what}: raised {type(error).__name__}: {error}") from error
    raise AssertionError(f"promise broken: {what}: nothing was raised")


def check_wrong_data_refused(kind: type[Estimator]) -> None:
    """Wrong data are refused with the right error before any long work; an unfitted model says so."""
    data = _data(kind)
    _refuses(lambda: outputs(_tiny(kind), data), NotFittedError, "an unfitted model refuses")
    _refuses(lambda: _tiny(kind).save("nowhere"), NotFittedError, "an unfitted model is not saved")
    _refuses(lambda: _tiny(kind).fit(object()), DataError, "an object of another kind is refused")
    _refuses(lambda: _tiny(kind).fit("no-such-file.h5ad"), ExpressorError, "a missing file is refused")
    _refuses(lambda: _tiny(kind).fit(data[:0].copy()), DataError, "no observations are refused")
    broken = data.copy()
    broken.X = _dense(data.X).astype(np.float32)
    broken.X[0, 0] = np.nan
    if "Imputes" not in kind.card().roles:
        _refuses(lambda: _tiny(kind).fit(broken), DataError, "NaN is refused")
    double = data.copy()
    double.var_names = [data.var_names[0], *data.var_names[:-1]]
    _refuses(lambda: _tiny(kind).fit(double), (GeneError, DataError), "duplicated genes are refused")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "data.h5ad"
        text.write_text("not HDF5")
        _refuses(lambda: _tiny(kind).fit(str(text)), FormatError, "a file of another format is refused")


def check_description(kind: type[Estimator]) -> None:
    """``describe`` is a methods paragraph with the paper among its references."""
    text = _fitted(kind).describe()
    _promise(kind.card().references[0] in text and len(text.split()) > 40, "describe cites the paper")


def check_equations_are_tagged(kind: type[Estimator]) -> None:
    """Every function of ``equations.py`` is tagged, and a test covers each tag."""
    import inspect
    import sys

    card = kind.card()
    tagged = equations(card.name, package=card.package)
    module = sys.modules[f"{card.package}.equations"]
    public = {
        name for name, one in inspect.getmembers(module, inspect.isfunction)
        if one.__module__ == module.__name__ and not name.startswith("_")
    }  # fmt: skip
    _promise({one.function for one in tagged} == public, "every public function of equations.py is tagged")
    covered = covering_tests(card.name, package=card.package)
    missing = [one.number for one in tagged if one.number not in covered]
    _promise(not missing, f"equations without a test that covers them: {missing}")


CHECKS: dict[str, Check] = {name: check for name, check in list(globals().items()) if name.startswith("check_")}


def check_system(name: str) -> None:
    """Run every check on the system ``name``; the first broken promise raises ``AssertionError``."""
    kind = registry.load(name)
    for check in CHECKS.values():
        check(kind)
