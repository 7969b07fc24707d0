"""The soft top-k against its definition, its limit, and its derivative."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.nn.topk import count_active, hard_top_k, relaxed_top_k, threshold_range


def ranks(n: int) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float64) / (n - 1)


def test_it_is_the_softmax_of_threshold_against_rank() -> None:
    """The authors write it as a softmax over the pair (threshold, rank); a sigmoid is the same number."""
    rank, threshold, tau = ranks(7), torch.tensor(0.42, dtype=torch.float64), 0.05
    pairs = torch.stack([threshold.expand(7), rank], dim=1) / tau
    expected = torch.softmax(pairs, dim=1)[:, 0]
    torch.testing.assert_close(relaxed_top_k(rank, threshold, temperature=tau), expected)


@given(st.integers(2, 40), st.floats(-0.5, 1.5), st.floats(0.01, 1.0))
def test_weights_fall_with_rank_and_rise_with_the_threshold(n: int, at: float, tau: float) -> None:
    rank = ranks(n)
    low = relaxed_top_k(rank, torch.tensor(at, dtype=torch.float64), temperature=tau)
    high = relaxed_top_k(rank, torch.tensor(at + 0.01, dtype=torch.float64), temperature=tau)
    assert bool((low.diff() <= 0).all())
    assert bool((high >= low).all())
    assert bool(((low >= 0) & (low <= 1)).all())


@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_at_a_small_temperature_it_is_the_hard_top_k(k: int) -> None:
    rank, positions = ranks(6), torch.arange(6)
    between = torch.tensor((k - 0.5) / 5, dtype=torch.float64)
    soft = relaxed_top_k(rank, between, temperature=1e-4)
    torch.testing.assert_close(soft, hard_top_k(positions, k).double(), atol=1e-12, rtol=0)


def test_its_derivative_is_that_of_a_sigmoid() -> None:
    rank = ranks(9)
    threshold = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    weight = relaxed_top_k(rank, threshold, temperature=0.1)
    (slope,) = torch.autograd.grad(weight.sum(), threshold)
    expected = sum(w * (1 - w) / 0.1 for w in (1 / (1 + math.exp(-(0.3 - r / 8) / 0.1)) for r in range(9)))
    assert slope.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_range_switches_everything_off_and_on(tau: float, dtype: torch.dtype) -> None:
    low, high = threshold_range(tau)
    rank = ranks(50).to(dtype)
    off = relaxed_top_k(rank, torch.tensor(low, dtype=dtype), temperature=tau)
    on = relaxed_top_k(rank, torch.tensor(high, dtype=dtype), temperature=tau)
    assert off.max() < 1e-3
    assert on.min() > 1 - 1e-3
    assert off.max() > 0.9e-3, "the range is no wider than it must be"
    assert count_active(off) == 0
    assert count_active(on) == 50


def test_active_weights_are_counted_from_the_front() -> None:
    assert count_active(torch.tensor([1.0, 0.5, 0.001, 0.0009, 0.0])) == 3
    with pytest.raises(DataError, match="not in order of rank"):
        count_active(torch.tensor([0.5, 0.0, 0.5]))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match=r"temperature is out of range; expected a number in \(0, inf\], got 0.0"):
        relaxed_top_k(ranks(3), torch.tensor(0.5, dtype=torch.float64), temperature=0.0)
    with pytest.raises(DataError, match=r"k is out of range; expected an integer in \[0, 3\], got 4"):
        hard_top_k(torch.arange(3), 4)
    with pytest.raises(DataError, match="floor is out of range"):
        threshold_range(0.1, floor=0.5)
