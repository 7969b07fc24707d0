"""Protocols, folds, what a method may see, and how methods are found."""

import sys
import types
from dataclasses import dataclass, replace

import numpy as np
import pytest

from expressor.bench.controls import EncoderRidge, GeneMean
from expressor.bench.task import Method, code_digest, find_task, task_names
from expressor.bench.tasks.histology import TASK, choose_targets
from expressor.core import registry
from expressor.core.card import Card
from expressor.core.errors import DataError

FROZEN = {
    "patient-c-sections": (1, "17532297a5f7"),
    "cross-patient": (1, "a5a6e5f32756"),
    "random-spots": (1, "517955d67527"),
    "simulated": (1, "22063bfd30f3"),
}


def test_every_module_of_the_room_is_a_task():
    assert "histology" in task_names()
    for name in task_names():
        assert find_task(name).name == name
    with pytest.raises(DataError, match="no benchmark task is called 'histolgy'; expected .*; nearest: 'histology'"):
        find_task("histolgy")


def test_unknown_protocols_and_methods_are_named_with_their_nearest():
    with pytest.raises(DataError, match="task 'histology' has no protocol 'cross_patient'; .*nearest: 'cross-patient'"):
        TASK.protocol("cross_patient")
    with pytest.raises(DataError, match="task 'histology' has no method 'dkgbs'"):
        TASK.methods(TASK.protocol(None), ["dkgbs"])


def test_the_hash_follows_what_decides_numbers_and_nothing_else():
    one = TASK.protocol("patient-c-sections")
    assert one.hash == replace(one, title="other words", notes=("other notes",)).hash
    changes = {
        "version": 2,
        "data": {**one.data, "sections": ["C2", "C3"]},
        "split": {**one.split, "key": "patient"},
        "targets": {**one.targets, "n": 51},
        "variants": one.variants[:1],
        "parameters": {"encoder": "colour"},
        "judging": {},
    }
    hashes = {replace(one, **{name: value}).hash for name, value in changes.items()}
    assert len(hashes | {one.hash}) == len(changes) + 1
    assert len({protocol.hash for protocol in TASK.protocols.values()}) == len(TASK.protocols)


def test_published_protocols_are_frozen():
    """A change here must come with a new version: results of equal hashes are set side by side."""
    assert {name: (one.version, one.hash) for name, one in TASK.protocols.items()} == FROZEN


def test_every_protocol_has_both_scales_and_the_controls_come_first():
    for protocol in TASK.protocols.values():
        assert set(protocol.variants) == {"log1p_cp10k", "log1p_counts"}
        methods = TASK.methods(protocol)
        assert [one.name for one in methods[:6]] == ["mean", "permuted", "library", "colour", "ridge", "ridge-context"]
        assert {one.name for one in methods if one.needs} == {"library"}
        assert TASK.methods(protocol, [])[-1].kind == "control"


def test_a_method_gets_what_it_has_a_parameter_for():
    method = Method("x", "x", "control", EncoderRidge, {"encoder": "colour"})
    built = method.build({"target_genes": ("A",), "encoder": "other", "random_state": 3, "unknown": 1})
    assert (built.encoder, built.target_genes, built.random_state) == ("colour", ("A",), 3)
    with pytest.raises(DataError, match="GeneMean has no parameter 'encodr'"):
        Method("x", "x", "control", GeneMean, {"encodr": "colour"}).build({"target_genes": ("A",)})


def test_targets_come_from_training_spots_alone(small, protocol, data, folds):
    for fold in folds:
        changed = data.copy()
        rows = np.flatnonzero(changed.obs_names.isin(fold.test.obs_names))
        X = changed.X.toarray()
        X[rows] = X[rows][:, ::-1] * 7
        changed.X = X
        again = next(one for one in small.folds(protocol, changed) if one.name == fold.name)
        assert again.targets == fold.targets
        assert len(fold.targets) == protocol.targets["n"]
        counts = fold.train.X.toarray()
        score = counts.var(axis=0, ddof=1) / counts.mean(axis=0)
        best = data.var_names[np.argsort(-score)[: len(fold.targets)]]
        assert set(fold.targets) == set(best)


def test_target_choice_ignores_the_order_of_genes(data):
    order = np.random.default_rng(0).permutation(data.n_vars)
    assert choose_targets(data[:, order].copy(), 5) == choose_targets(data, 5)


def test_a_group_on_both_sides_is_refused(small, protocol, data):
    same = data.copy()
    same.obs["patient"] = "P"
    leaky = replace(protocol, split={**protocol.split, "apart": ("patient", "obs_names")})
    with pytest.raises(DataError, match="leak: the training data hold 1 groups of 'patient' that are also in the test"):
        small.folds(leaky, same)


def test_a_method_sees_no_expression_of_the_test_data(small, folds):
    test = folds[0].test
    test.obsm["cell_types"] = np.ones((test.n_obs, 3))
    test.layers["more"] = test.X.copy()
    seen = small.blind(test)
    assert seen.n_vars == 0
    assert seen.X is None
    assert list(seen.obs.columns) == ["section", "patient"]
    assert set(seen.obsm) == {"spatial", "X_simulated"}
    assert set(seen.uns) == {"spatial"}
    assert set(seen.uns["spatial"]) == {folds[0].name.removeprefix("section ")}
    assert not seen.layers


def test_folds_of_random_spots_keep_test_and_validation_apart(small):
    protocol = small.protocol("spots")
    for fold in small.folds(protocol, small.load(protocol)):
        parts = [set(part.obs_names) for part in (fold.train, fold.validation, fold.test)]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        assert sum(map(len, parts)) == 180


@dataclass(kw_only=True)
class Outsider(GeneMean):
    """A system of another package."""

    spice: int = 0


def test_a_system_takes_part_by_its_card_alone(monkeypatch):
    card = Card(
        name="outsider", estimator="Outsider", title="", authors="", year=2030, summary="", roles=("Predicts",),
        inputs="histology", presets={"paper": {}, "tiny": {}, "bench": {"spice": 4}, "bench-very_hot": {"spice": 9}},
        references=(), package="bench_outsider",
    )  # fmt: skip
    other = replace(card, name="cells", inputs="cells")
    blind = replace(card, name="encodes", roles=("Encodes",))
    package = types.ModuleType("bench_outsider")
    package.Outsider = Outsider
    monkeypatch.setitem(sys.modules, "bench_outsider", package)
    monkeypatch.setattr(registry, "systems", lambda: {one.name: one for one in (card, other, blind)})
    protocol = TASK.protocol("simulated")
    methods = TASK.methods(protocol)
    own = [one for one in methods if one.kind != "control"]
    assert [(one.name, one.title) for one in own] == [
        ("outsider", "Outsider"), ("outsider-very_hot", "Outsider, very hot"),
    ]  # fmt: skip
    assert own[1].parameters == {"spice": 9}
    built = own[0].build({"target_genes": ("A",), "target_scale": "log1p_counts", "random_state": 1})
    assert isinstance(built, Outsider)
    assert (built.spice, built.target_scale) == (4, "log1p_counts")


def test_the_hash_of_code_ignores_words_and_sees_changes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for text in (
        'def f(x):\n    """Words."""\n    return x + 1\n',
        "# other words\ndef f(x):\n\n    return (x + 1)\n",
        "def f(x):\n    return x + 2\n",
    ):
        (tmp_path / "bench_some_code.py").write_text(text)
        code_digest.cache_clear()
        found.append(code_digest("bench_some_code"))
    code_digest.cache_clear()
    assert found[0] == found[1] != found[2]
    assert code_digest("expressor.metrics") != code_digest("expressor.bench")
    assert code_digest("no_such_module_anywhere") == ""


def test_a_metric_of_another_task_makes_no_result_stale(tmp_path, monkeypatch):
    package = tmp_path / "judges"
    package.mkdir()
    for name in ("__init__", "genewise", "survival"):
        (package / f"{name}.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    few = ("__init__", "genewise")
    code_digest.cache_clear()
    before = {only: code_digest("judges", only) for only in (None, few)}
    (package / "survival.py").write_text("NAME = 'other'\n")
    code_digest.cache_clear()
    assert code_digest("judges") != before[None]
    assert code_digest("judges", few) == before[few]
    (package / "genewise.py").write_text("NAME = 'other'\n")
    code_digest.cache_clear()
    assert code_digest("judges", few) != before[few]
