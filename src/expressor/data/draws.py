"""Random draws inside compiled loops: one small generator a cell, so that a cell's draws depend on its own seed alone.

The generator is SplitMix64 [1]_; gamma draws are Marsaglia and Tsang's [2]_, binomial draws split the count by beta draws until it
is small [3]_. All are exact. ``state`` is a uint64 array of length 1, which each draw advances.

References
----------
.. [1] Steele, Lea, Flood. Fast splittable pseudorandom number generators. OOPSLA 2014.
.. [2] Marsaglia, Tsang. A simple method for generating gamma variables. ACM Trans. Math. Softw. 2000.
.. [3] Devroye. Non-uniform random variate generation, chapter X. Springer 1986.
"""

import math
from typing import Any

import numpy as np
from numba import njit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S11, _S27, _S30, _S31, _S40 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(40)
_SMALL = 24  # counts up to this are thinned one by one


@njit(cache=True, nogil=True)
def mix(value: Any) -> Any:
    """Return a uint64 whose bits all depend on all bits of the uint64 ``value``."""
    value = (value ^ (value >> _S30)) * _FIRST
    value = (value ^ (value >> _S27)) * _SECOND
    return value ^ (value >> _S31)


@njit(cache=True, nogil=True)
def uniform(state: np.ndarray) -> float:
    """Draw from [0, 1), in steps of 2 to the power of -53."""
    state[0] += _STEP
    return float(mix(state[0]) >> _S11) * 2.0**-53


@njit(cache=True, nogil=True)
def uniform_table(seeds: np.ndarray, n: int) -> np.ndarray:
    """Return float32 (cell, n), uniform on [0, 1): number ``i`` of a cell depends on its seed and on ``i`` alone."""
    found = np.empty((len(seeds), n), dtype=np.float32)
    state = np.empty(1, dtype=np.uint64)
    for cell in range(len(seeds)):
        state[0] = mix(seeds[cell] ^ _FIRST)  # not the numbers that the same seed gives elsewhere
        for i in range(n):
            state[0] += _STEP
            found[cell, i] = np.float32(mix(state[0]) >> _S40) * np.float32(2.0**-24)
    return found


@njit(cache=True, nogil=True)
def below(state: np.ndarray, n: int) -> int:
    """Draw an integer of 0 to n - 1, n up to 2 to the power of 31."""
    return int(uniform(state) * n)


@njit(cache=True, nogil=True)
def normal(state: np.ndarray) -> float:
    """Draw from the standard normal distribution."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(state)))
    return radius * math.cos(2.0 * math.pi * uniform(state))


@njit(cache=True, nogil=True)
def gamma(state: np.ndarray, shape: float) -> float:
    """Draw from the gamma distribution of unit scale, shape >= 1."""
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = normal(state)
        v = (1.0 + c * x) ** 3
        if v > 0.0 and math.log(1.0 - uniform(state)) < 0.5 * x * x + d - d * v + d * math.log(v):
            return d * v


@njit(cache=True, nogil=True)
def beta(state: np.ndarray, a: float, b: float) -> float:
    """Draw from the beta distribution, a and b >= 1."""
    x = gamma(state, a)
    return x / (x + gamma(state, b))


@njit(cache=True, nogil=True)
def binomial(state: np.ndarray, n: int, p: float) -> int:
    """Draw how many of n counts are kept, each with probability p."""
    kept = 0
    # The k-th smallest of n uniform draws is beta distributed; it tells on which side of p a whole half of them lies.
    while n > _SMALL and 0.0 < p < 1.0:
        k = (n + 1) // 2
        middle = beta(state, float(k), float(n + 1 - k))
        if middle <= p:
            kept += k
            n -= k
            p = (p - middle) / (1.0 - middle)
        else:
            n = k - 1
            p = p / middle
    for _ in range(n):
        if uniform(state) < p:
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def poisson(state: np.ndarray, mean: float) -> int:
    """Draw from the Poisson distribution."""
    found = 0
    # A large mean is taken down by the time of its m-th event, which is gamma distributed.
    while mean > _SMALL:
        m = int(mean * 0.875)
        time = gamma(state, float(m))
        if time > mean:
            return found + binomial(state, m - 1, mean / time)
        found += m
        mean -= time
    limit, product = math.exp(-mean), uniform(state)
    while product > limit:
        found += 1
        product *= uniform(state)
    return found


@njit(cache=True, nogil=True)
def first_above(values: np.ndarray, first: np.ndarray, last: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return for each draw the first place from ``first`` to ``last`` whose value is above ``wanted``, or ``last``."""
    found = np.empty(len(wanted), dtype=np.int64)
    for i in range(len(wanted)):
        low, high = first[i], last[i]
        while low < high:
            middle = (low + high) // 2
            if values[middle] <= wanted[i]:
                low = middle + 1
            else:
                high = middle
        found[i] = low
    return found
