"""Where results come from, as plain values that go into JSON and h5ad."""

import dataclasses
import json
import platform

import expressor
from expressor.core.card import Card
from expressor.estimator.provenance import environment, provenance

CARD = Card(
    name="ridge", estimator="Ridge", title="t", authors="a", year=1970, summary="s", roles=("Predicts",), inputs="histology",
    presets={}, references=("r",), package="p", arxiv="1234.5678", doi="10.1/x",
)  # fmt: skip


def test_the_environment_tells_versions_and_machine() -> None:
    found = environment()
    assert found["versions"]["expressor"] == expressor.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert {"numpy", "torch", "anndata", "scikit-learn"} <= set(found["versions"])
    assert found["cores"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_provenance_is_flat_and_names_the_paper() -> None:
    record = provenance(CARD, {"b": 1, "a": [None]}, {"n_genes": 3})
    assert record["paper"] == "arXiv:1234.5678"
    assert json.loads(record["parameters"]) == {"a": [None], "b": 1}
    assert all(isinstance(value, str | int) for value in record.values())
    assert provenance(dataclasses.replace(CARD, arxiv=""), {}, {})["paper"] == "10.1/x"
