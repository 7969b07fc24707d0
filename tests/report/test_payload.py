import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from expressor.report import payload

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))


@given(arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=NUMBERS))
@settings(deadline=None, max_examples=60)
def test_values_survive_to_one_step_of_their_range(values):
    genes = [str(i) for i in range(values.shape[1])]
    packed = payload.pack({"a": values, "b": -values}, genes, budget=10**7)
    assert packed.bits == 16
    for position, gene in enumerate(genes):
        found = payload.unpack(packed, gene, count=len(values))
        for name, truth in (("a", values[:, position]), ("b", -values[:, position])):
            known = np.isfinite(truth)
            assert np.array_equal(np.isfinite(found[name]), known)
            span = np.ptp(truth[known]) if known.any() else 0.0
            tolerance = max(span / 65534, payload.TOLERANCE * np.abs(truth[known]).max(initial=0.0))
            assert np.all(np.abs(found[name][known] - truth[known]) <= tolerance * 0.51 + tolerance)


def test_a_small_budget_takes_fewer_bits_then_fewer_genes():
    values = np.random.default_rng(0).normal(size=(300, 20))
    genes = [f"g{i}" for i in range(20)]
    whole = payload.pack({"a": values}, genes, budget=10**7)
    assert (whole.bits, len(whole.genes)) == (16, 20)
    coarse = payload.pack({"a": values}, genes, budget=int(whole.size * 0.6))
    assert (coarse.bits, len(coarse.genes)) == (8, 20)
    assert coarse.size <= whole.size * 0.6
    few = payload.pack({"a": values}, genes, budget=coarse.size // 4)
    assert few.bits == 8
    assert list(few.genes) == genes[: len(few.genes)], "the first genes are kept"
    assert 1 <= len(few.genes) < 20
    assert few.size <= coarse.size // 4
    assert list(payload.pack({"a": values}, genes, budget=1).genes) == ["g0"]


def test_a_constant_interval_costs_nearly_nothing():
    predicted = np.random.default_rng(0).normal(3, 2, (2000, 1)).astype(np.float32).astype(float)
    lower, upper = (np.float32(predicted) + np.float32(half) for half in (-0.9, 0.9))
    bounds = payload.intervals(predicted, lower.astype(float), upper.astype(float))
    packed = payload.pack(bounds, ["g"], budget=10**7)
    assert packed.size < 100
    assert payload.unpack(packed, "g", count=2000)["above"] == pytest.approx(0.9, abs=1e-4)


def test_no_interval_no_layers():
    assert payload.intervals(np.zeros((2, 1)), None, np.ones((2, 1))) == {}
