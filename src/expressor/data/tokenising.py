"""The compiled loop from cells' counts to tokens; :mod:`expressor.data.tokens` says what the options mean and checks them.

A cell is a few arrays: its candidates (genes with a count), their counts, what is left of them at a lower depth, and the places of
those that become tokens, in their order. Each step below takes such arrays and returns how much of them is in use.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from expressor.data.draws import below, beta, binomial, mix, poisson, uniform

THINNING = ("none", "rda", "poisson", "align")
SCALES = ("none", "log1p_cp10k", "medians")
ORDERS = ("none", "random", "sorted", "uce")
ZEROS = ("none", "random", "batch")
BINS = ("none", "round", "floor", "ceil", "quantile")
_CYCLE = 10  # tokens of one cycle where zeros are interleaved
_CHROMOSOME = 2.0**40  # further than any two genes of one chromosome are apart
_PRIME = np.uint64(0x9FB21C651E98DF25)


@njit(cache=True, nogil=True)
def hash_cells(indptr: np.ndarray, genes: np.ndarray, counts: np.ndarray, seed: Any) -> np.ndarray:
    """Return uint64 (cell,), a seed made of the cell's counts and ``seed``, whatever the order in which genes are stored."""
    found = np.empty(len(indptr) - 1, dtype=np.uint64)
    for cell in range(len(found)):
        total = mix(np.uint64(seed) + _PRIME)
        for at in range(indptr[cell], indptr[cell + 1]):
            if counts[at] != 0:
                bits = np.uint64(np.int64(np.float64(counts[at]) * 4096.0))
                total += mix(mix(np.uint64(genes[at]) + _PRIME) + bits)
        found[cell] = mix(total)
    return found


@njit(cache=True, nogil=True)
def _rank(keys):
    """Return the places of float64 ``keys`` from the smallest on; equal ones keep their order."""
    return np.argsort(keys, kind="mergesort")


@njit(cache=True, nogil=True)
def _thin(state, counts, n, library, how, threshold, rate, target, left):
    """Write the counts left at the depth drawn; return the depth of what is left and the depth of the whole (or aimed at)."""
    inside = 0.0
    for k in range(n):
        left[k] = counts[k]
        inside += counts[k]
    outside = max(0.0, library - inside)
    if how == 3:
        return library, target
    if how == 1 and library >= threshold and uniform(state) < 0.5:
        kept = beta(state, 2.0, 2.0)
        found = 0.0
        for k in range(n):
            left[k] = binomial(state, int(counts[k]), kept)
            found += left[k]
        if found > 0:
            return found + binomial(state, int(outside), kept), library
    elif how == 2:
        found = 0.0
        for k in range(n):
            lost = poisson(state, counts[k] * rate)
            left[k] = max(0.0, counts[k] - lost) if uniform(state) >= rate else 0.0
            found += left[k]
        if found > 0:
            lost = poisson(state, outside * rate)
            return found + binomial(state, int(max(0.0, outside - lost)), 1.0 - rate), library
    for k in range(n):
        left[k] = counts[k]
    return library, library


@njit(cache=True, nogil=True)
def _scale(count, depth, how, median):
    if how == 0:
        return count
    if depth <= 0:
        return 0.0
    per_10k = 1e4 * count / depth
    return math.log1p(per_10k) if how == 1 else per_10k / median


@njit(cache=True, nogil=True)
def _drop(state, genes, n, rate, weights, places):
    """Write the places of the candidates that stay; return their number. A cell never loses all."""
    mean = 1.0
    if len(weights):
        mean = 0.0
        for k in range(n):
            mean += weights[genes[k]] / n
    kept = 0
    for k in range(n):
        lost = rate
        if len(weights):
            relative = weights[genes[k]] / mean if mean > 0 else 1.0
            lost = rate * relative / (1.0 + rate * (relative - 1.0))
        if uniform(state) >= lost:
            places[kept] = k
            kept += 1
    if kept == 0:
        for k in range(n):
            places[k] = k
        kept = n
    return kept


@njit(cache=True, nogil=True)
def _shuffle(state, places, n, wanted):
    """Shuffle so that the first ``wanted`` of n places are a random draw in random order."""
    for k in range(min(wanted, n - 1)):
        other = k + below(state, n - k)
        places[k], places[other] = places[other], places[k]


@njit(cache=True, nogil=True)
def _order_by_genome(state, genes, left, places, n, wanted, chromosome, start, drawn):
    """Draw ``wanted`` places in proportion to the logarithm of their counts; chromosomes in random order, each along itself."""
    total = np.zeros(n + 1)
    for k in range(n):
        one = places[k]
        total[k + 1] = total[k] + (math.log1p(left[one]) if chromosome[genes[one]] >= 0 else 0.0)
    if total[n] <= 0:
        return 0
    ranks = np.arange(chromosome.max() + 1)
    _shuffle(state, ranks, len(ranks), len(ranks))
    keys = np.empty(wanted)
    for k in range(wanted):
        one = places[min(n - 1, np.searchsorted(total, uniform(state) * total[n], side="right") - 1)]
        drawn[k] = one
        keys[k] = ranks[chromosome[genes[one]]] * _CHROMOSOME + start[genes[one]]
    by_place = _rank(keys)
    copy = drawn[:wanted].copy()
    for k in range(wanted):
        drawn[k] = copy[by_place[k]]
    return wanted


@njit(cache=True, nogil=True)
def _drop_chunk(state, places, n, size):
    """Take one stretch of ``size`` tokens out; return how many are left."""
    if size == 0 or n <= size:
        return n
    at = below(state, n - size + 1)
    for k in range(at, n - size):
        places[k] = places[k + size]
    return n - size


@njit(cache=True, nogil=True)
def _add_zeros(state, chosen, n, first, n_first, rest, n_rest, ratio, wanted, sequence):
    """Write the places chosen and the genes of count zero (as -1 - gene) into one sequence of at most ``wanted``."""
    _shuffle(state, first, n_first, wanted)
    _shuffle(state, rest, n_rest, wanted)
    of_chosen = _CYCLE
    if ratio < 1.0:
        of_chosen = min(_CYCLE - 1, max(1, int(round(ratio * _CYCLE))))
    of_first = _CYCLE - of_chosen
    cycles = min(n // of_chosen, n_first // of_first) if of_first > 0 else 0
    length, i, j = 0, 0, 0
    for _ in range(cycles):
        for _ in range(of_chosen):
            if length < wanted:
                sequence[length] = chosen[i]
                length, i = length + 1, i + 1
        for _ in range(of_first):
            if length < wanted:
                sequence[length] = -1 - first[j]
                length, j = length + 1, j + 1
        if length == wanted:
            return length
    while i < n and length < wanted:
        sequence[length] = chosen[i]
        length, i = length + 1, i + 1
    while j < n_first and length < wanted:
        sequence[length] = -1 - first[j]
        length, j = length + 1, j + 1
    for k in range(min(n_rest, wanted - length)):
        sequence[length] = -1 - rest[k]
        length += 1
    return length


@njit(cache=True, nogil=True)
def _bin(values, n, all_values, how, levels):
    """Replace the first n values by levels from 0; quantiles are those of the cell's positive ``all_values``."""
    if how == 4:
        seen = all_values[all_values > 0]
        seen = seen[_rank(seen.astype(np.float64))]
        if len(seen) == 0:
            return
        edges = np.empty(levels - 1)
        for k in range(levels - 1):
            at = k / max(1, levels - 2) * (len(seen) - 1)
            low = int(at)
            high = min(low + 1, len(seen) - 1)
            step = np.float64(seen[high]) - np.float64(seen[low])
            edges[k] = seen[low] + (at - low) * step if at - low < 0.5 else seen[high] - (1.0 - (at - low)) * step
        for k in range(n):
            if values[k] > 0:
                values[k] = min(levels - 1, max(1, np.searchsorted(edges, values[k], side="right")))
        return
    for k in range(n):
        if how == 1:
            level = np.rint(values[k])
        elif how == 2:
            level = math.floor(values[k])
        else:
            level = math.ceil(values[k])
        values[k] = min(levels - 1, max(0, level))


@njit(cache=True, nogil=True)
def tokenise_cells(
    indptr, indices, data, library, seeds, n_genes, width,
    thinning, threshold, rate, target, scale, medians, order, chromosome, start,
    dropout, weights, chunk, zeros, ratio, expressed_only, measured, source, binning, levels,
    out_genes, out_values, out_labels, out_depth,
):  # fmt: skip
    """Fill the token arrays, cell by cell; return int32 (cell,), their lengths."""
    lengths = np.zeros(len(seeds), dtype=np.int32)
    state = np.empty(1, dtype=np.uint64)
    room = max(n_genes, width)
    genes, places = np.empty(n_genes, dtype=np.int64), np.empty(room, dtype=np.int64)
    counts, left, values = np.empty(n_genes), np.empty(n_genes), np.empty(n_genes, dtype=np.float32)
    sequence, drawn = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    first, rest = np.empty(n_genes, dtype=np.int64), np.empty(n_genes, dtype=np.int64)
    stamp = np.full(n_genes, -1, dtype=np.int64)
    in_batch = np.zeros(n_genes, dtype=np.bool_)
    if zeros == 2:
        for at in range(len(data)):
            if data[at] > 0:
                in_batch[indices[at]] = True
    for cell in range(len(seeds)):
        state[0] = seeds[cell]
        n = 0
        for at in range(indptr[cell], indptr[cell + 1]):
            gene = indices[at]
            stamp[gene] = cell if data[at] > 0 else stamp[gene]
            if data[at] > 0 and (scale != 2 or medians[gene] > 0):
                genes[n], counts[n] = gene, data[at]
                n += 1
        depth, whole = _thin(state, counts, n, library[cell], thinning, threshold, rate, target, left)
        out_depth[cell, 0], out_depth[cell, 1] = math.log1p(depth), math.log1p(whole)
        for k in range(n):
            values[k] = _scale(left[k], depth, scale, medians[genes[k]] if scale == 2 else 1.0)
        shows_zeros = zeros > 0 and not (expressed_only > 0 and uniform(state) < expressed_only)
        kept = n
        for k in range(n):
            places[k] = k
        if dropout > 0 and n > 0:
            kept = _drop(state, genes, n, dropout, weights, places)
        chosen = places
        if order == 1:
            _shuffle(state, places, kept, kept if chunk else width)
        elif order == 2:
            rank = _rank(-values[places[:kept]].astype(np.float64))
            for k in range(kept):
                drawn[k] = places[rank[k]]
            chosen = drawn
        elif order == 3:
            kept = _order_by_genome(state, genes, left, places, kept, width, chromosome, start, drawn)
            chosen = drawn
        kept = _drop_chunk(state, chosen, kept, chunk)
        if shows_zeros:
            n_first, n_rest = 0, 0
            for gene in range(n_genes):
                if stamp[gene] != cell and measured[source[cell], gene] and (scale != 2 or medians[gene] > 0):
                    if zeros == 1 or in_batch[gene]:
                        first[n_first] = gene
                        n_first += 1
                    else:
                        rest[n_rest] = gene
                        n_rest += 1
            length = _add_zeros(state, chosen, kept, first, n_first, rest, n_rest, ratio, width, sequence)
        else:
            length = min(kept, width)
            sequence[:length] = chosen[:length]
        for k in range(length):
            one = sequence[k]
            out_genes[cell, k] = genes[one] if one >= 0 else -1 - one
            out_values[cell, k] = values[one] if one >= 0 else 0.0
            if thinning == 1 or thinning == 2:
                median = medians[genes[one]] if scale == 2 and one >= 0 else 1.0
                out_labels[cell, k] = _scale(counts[one], whole, scale, median) if one >= 0 else 0.0
        if binning > 0:
            _bin(out_values[cell], length, values[:n], binning, levels)
        if order == 0 and shows_zeros:
            by_gene = _rank(out_genes[cell, :length].astype(np.float64))
            out_genes[cell, :length] = out_genes[cell, :length][by_gene]
            out_values[cell, :length] = out_values[cell, :length][by_gene]
            if thinning == 1 or thinning == 2:
                out_labels[cell, :length] = out_labels[cell, :length][by_gene]
        lengths[cell] = length
    return lengths
