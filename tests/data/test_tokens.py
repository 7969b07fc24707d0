"""Tokens of cells, against a plain loop over one cell and its lists of genes, for every representation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from expressor.core.errors import DataError
from expressor.data import draws
from expressor.data.tokens import PADDING, Tokeniser, Tokens, whole_cell

GENES = 40
RNG = np.random.default_rng(11)
MEDIANS = np.where(RNG.random(GENES) < 0.15, np.nan, RNG.uniform(20, 400, GENES))
WEIGHTS = RNG.uniform(0.1, 3, GENES)
CHROMOSOME = np.where(RNG.random(GENES) < 0.1, -1, RNG.integers(0, 4, GENES))
START = RNG.permutation(GENES) * 1000


def draw_cells(cells=14, seed=0, depth=8.0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, depth, (cells, GENES)))
    counts[0] = 0
    counts[1] = 0
    counts[1, 7] = 3
    return sparse.csr_matrix(counts.astype(np.float32)), counts.sum(axis=1) + rng.integers(0, 200, cells)


class Draws:
    """The same stream of numbers as the compiled loop's."""

    def __init__(self, seed):
        self.state = np.array([seed], dtype=np.uint64)

    def uniform(self):
        return draws.uniform(self.state)

    def shuffle(self, items, wanted):
        for k in range(min(wanted, len(items) - 1)):
            other = k + int(self.uniform() * (len(items) - k))
            items[k], items[other] = items[other], items[k]


def scaled(options, count, depth, gene):
    if options.normalise == "none":
        return float(count)
    if depth == 0:
        return 0.0
    per_10k = 1e4 * count / depth
    return math.log1p(per_10k) if options.normalise == "log1p_cp10k" else per_10k / options.medians[gene]


def thin(options, draw, cell, library):
    """Return gene -> count left, depth of it, and the depth told as the whole's."""
    outside = max(0, library - sum(cell.values()))
    if options.read_depth == "align":
        return dict(cell), library, options.target_depth
    if options.read_depth == "rda" and library >= options.threshold and draw.uniform() < 0.5:
        kept = draws.beta(draw.state, 2.0, 2.0)
        left = {gene: draws.binomial(draw.state, int(count), kept) for gene, count in cell.items()}
        if sum(left.values()):
            return left, sum(left.values()) + draws.binomial(draw.state, int(outside), kept), library
    if options.read_depth == "poisson":
        left, rate = {}, options.poisson_rate
        for gene, count in cell.items():
            lost = draws.poisson(draw.state, count * rate)
            left[gene] = max(0, count - lost) if draw.uniform() >= rate else 0
        if sum(left.values()):
            outside = max(0, outside - draws.poisson(draw.state, outside * rate))
            return left, sum(left.values()) + draws.binomial(draw.state, int(outside), 1 - rate), library
    return dict(cell), library, library


def drop(options, draw, genes):
    if options.dropout == 0 or not genes:
        return genes
    weights = [1.0] * len(genes) if options.dropout_weights is None else [options.dropout_weights[g] for g in genes]
    mean, kept = sum(weights) / len(weights), []
    for gene, weight in zip(genes, weights):
        relative = weight / mean
        if draw.uniform() >= options.dropout * relative / (1 + options.dropout * (relative - 1)):
            kept.append(gene)
    return kept or genes


def ordered(options, draw, genes, left, values):
    if options.order == "random":
        draw.shuffle(genes, len(genes) if options.chunk_dropout else options.max_length)
        return genes
    if options.order == "sorted":
        return sorted(genes, key=lambda gene: (-values[gene], gene))
    if options.order == "none":
        return genes
    edges = np.concatenate([[0], np.cumsum([math.log1p(left[g]) if options.chromosome[g] >= 0 else 0 for g in genes])])
    if edges[-1] <= 0:
        return []
    ranks = list(range(options.chromosome.max() + 1))
    draw.shuffle(ranks, len(ranks))
    picked = [
        genes[int(np.searchsorted(edges, draw.uniform() * edges[-1], side="right")) - 1]
        for _ in range(options.max_length)
    ]
    return sorted(picked, key=lambda gene: (ranks[options.chromosome[gene]], options.start[gene]))


def binned(options, values, all_values):
    if options.bins is None:
        return values
    if options.bins == "quantile":
        seen = [one for one in all_values if one > 0]
        edges = (
            np.quantile(np.array(seen, dtype=float), [k / (options.n_bins - 2) for k in range(options.n_bins - 1)])
            if seen
            else []
        )
        return [float(np.clip(np.digitize(one, edges), 1, options.n_bins - 1)) if one > 0 else 0.0 for one in values]
    levels = {"round": np.rint, "floor": np.floor, "ceil": np.ceil}[options.bins](np.array(values))
    return list(np.clip(levels, 0, options.n_bins - 1))


def tokenise_plainly(options, matrix, library, seeds, measured=None):
    """One cell after the other, with lists: what each option means."""
    dense, found = matrix.toarray(), []
    in_batch = {gene for gene in range(GENES) if dense[:, gene].any()}
    usable = [g for g in range(GENES) if options.normalise != "medians" or options.medians[g] > 0]
    width = options.max_length if options.zeros == "none" else min(options.max_length, GENES)
    for counts, size, seed in zip(dense, library, seeds):
        draw = Draws(seed)
        cell = {gene: counts[gene] for gene in usable if counts[gene] > 0}
        left, depth, whole = thin(options, draw, cell, size)
        values = {gene: np.float32(scaled(options, count, depth, gene)) for gene, count in left.items()}
        zeros = options.zeros != "none" and not (options.expressed_only and draw.uniform() < options.expressed_only)
        sequence = ordered(options, draw, drop(options, draw, list(cell)), left, values)
        if 0 < options.chunk_dropout < len(sequence):
            at = int(draw.uniform() * (len(sequence) - options.chunk_dropout + 1))
            sequence = sequence[:at] + sequence[at + options.chunk_dropout :]
        if zeros:
            silent = [g for g in usable if counts[g] == 0 and (measured is None or measured[g])]
            first = [g for g in silent if options.zeros == "random" or g in in_batch]
            rest = [g for g in silent if g not in first]
            draw.shuffle(first, width)
            draw.shuffle(rest, width)
            mixed = []
            share = min(9, max(1, round(options.interleave * 10))) if options.interleave < 1 else 10
            while share < 10 and len(sequence) >= share and len(first) >= 10 - share:
                mixed += sequence[:share] + first[: 10 - share]
                sequence, first = sequence[share:], first[10 - share :]
            sequence = mixed + sequence + first + rest
        sequence = sequence[:width]
        if options.order == "none":
            sequence = sorted(sequence)
        shown = binned(options, [values.get(gene, 0.0) for gene in sequence], list(values.values()))
        labels = [scaled(options, cell.get(gene, 0), whole, gene) for gene in sequence]
        found.append((sequence, shown, labels, (math.log1p(depth), math.log1p(whole))))
    return found


CASES = {
    "random": {},
    "sorted": {"order": "sorted"},
    "none": {"order": "none"},
    "uce": {"order": "uce", "chromosome": CHROMOSOME, "start": START},
    "zeros random": {"zeros": "random", "interleave": 0.7},
    "zeros batch": {"zeros": "batch"},
    "zeros batch interleaved": {"zeros": "batch", "interleave": 0.9, "expressed_only": 0.4},
    "zeros in order": {"zeros": "random", "order": "none", "max_length": GENES},
    "dropout": {"dropout": 0.4},
    "weighted dropout": {"dropout": 0.3, "dropout_weights": WEIGHTS, "order": "sorted"},
    "chunk dropout": {"chunk_dropout": 6},
    "chunk dropout in order": {"chunk_dropout": 6, "order": "none", "dropout": 0.1},
    "rda": {"read_depth": "rda", "threshold": 150.0},
    "rda, zeros": {"read_depth": "rda", "threshold": 0.0, "zeros": "batch", "interleave": 0.5},
    "rda, medians": {"read_depth": "rda", "threshold": 0.0, "normalise": "medians", "medians": MEDIANS},
    "poisson": {"read_depth": "poisson", "poisson_rate": 0.33},
    "align": {"read_depth": "align", "target_depth": 5000.0},
    "medians": {"normalise": "medians", "medians": MEDIANS, "order": "sorted"},
    "medians, zeros": {"normalise": "medians", "medians": MEDIANS, "zeros": "random"},
    "counts": {"normalise": "none"},
    "round": {"bins": "round", "n_bins": 6},
    "floor": {"bins": "floor", "n_bins": 50},
    "ceil": {"bins": "ceil", "n_bins": 7, "zeros": "random"},
    "quantile": {"bins": "quantile", "n_bins": 8, "zeros": "batch"},
}


def check(options, matrix, library, seeds, measured=None):
    tokens = options(matrix, library, rng=seeds, measured=None if measured is None else measured[None])
    plain = tokenise_plainly(options, matrix, library, seeds, measured)
    assert tokens.genes.dtype == np.int32
    assert tokens.values.dtype == np.float32
    assert tokens.genes.shape[1] == max(1, tokens.lengths.max())
    for cell, (genes, values, labels, depth) in enumerate(plain):
        n = tokens.lengths[cell]
        assert tokens.genes[cell, :n].tolist() == genes
        assert (tokens.genes[cell, n:] == PADDING).all()
        assert not tokens.values[cell, n:].any()
        np.testing.assert_allclose(tokens.values[cell, :n], values, rtol=1e-5)
        if options.read_depth:
            np.testing.assert_allclose(tokens.depth[cell], depth, rtol=1e-6)
        if options.read_depth in ("rda", "poisson"):
            np.testing.assert_allclose(tokens.label_values[cell, :n], labels, rtol=1e-5)
    assert (tokens.depth is None) == (options.read_depth is None)
    assert (tokens.label_values is None) == (options.read_depth not in ("rda", "poisson"))
    return tokens


@pytest.mark.parametrize("name", CASES)
def test_equal_a_plain_loop(name: str) -> None:
    matrix, library = draw_cells()
    check(Tokeniser(**{"max_length": 12} | CASES[name]), matrix, library, np.arange(1, 15, dtype=np.uint64) * 977)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.sampled_from(sorted(CASES)), st.integers(1, 50), st.floats(0.3, 60))
def test_equal_a_plain_loop_whatever_the_cells(seed: int, name: str, most: int, depth: float) -> None:
    matrix, library = draw_cells(cells=6, seed=seed % 2**32, depth=depth)
    seeds = np.random.default_rng(seed).integers(0, 2**64, 6, dtype=np.uint64)
    check(
        Tokeniser(**{"max_length": most} | {k: v for k, v in CASES[name].items() if k != "max_length"}),
        matrix,
        library,
        seeds,
    )


def test_a_gene_that_was_not_measured_is_no_zero() -> None:
    matrix, library = draw_cells()
    measured = np.arange(GENES) % 3 > 0
    matrix = matrix.multiply(measured).tocsr().astype(np.float32)
    tokens = check(
        Tokeniser(max_length=GENES, zeros="random"), matrix, library, np.arange(14, dtype=np.uint64), measured
    )
    assert set(tokens.genes[tokens.genes >= 0]) <= set(np.flatnonzero(measured))


def test_cells_do_not_depend_on_their_neighbours() -> None:
    matrix, library = draw_cells()
    seeds = np.arange(14, dtype=np.uint64)
    options = Tokeniser(max_length=10, zeros="random", dropout=0.2, read_depth="rda", threshold=0)
    whole, part = options(matrix, library, rng=seeds), options(matrix[5:9], library[5:9], rng=seeds[5:9])
    for name in ("genes", "values", "label_values"):
        np.testing.assert_array_equal(getattr(whole, name)[5:9, : part.genes.shape[1]], getattr(part, name))


def test_without_a_generator_draws_follow_from_the_counts() -> None:
    matrix, library = draw_cells()
    options = Tokeniser(max_length=10)
    one = options(matrix, library)
    other = options(matrix[::-1], library[::-1])
    np.testing.assert_array_equal(one.genes, other.genes[::-1])
    doubled = sparse.csr_matrix(matrix.toarray() * 2)
    assert (options(doubled, 2 * library).genes != one.genes).any()


def test_the_scale_is_that_of_the_whole_cell() -> None:
    matrix, library = draw_cells()
    long, short = (Tokeniser(max_length=n, dropout=d)(matrix, library) for n, d in ((GENES, 0.0), (5, 0.5)))
    for cell in range(14):
        values = dict(zip(long.genes[cell], long.values[cell]))
        for gene, value in zip(short.genes[cell, : short.lengths[cell]], short.values[cell]):
            assert value == values[gene]


def test_whole_cell_targets() -> None:
    matrix, library = draw_cells()
    tokens = Tokeniser(max_length=9)(matrix, library)
    dense = np.log1p(1e4 * matrix.toarray() / np.maximum(library, 1)[:, None])
    for which in ("input", "non_input", "all"):
        found = whole_cell(matrix, library, tokens, which=which)
        np.testing.assert_allclose(found.values, dense, rtol=1e-5)
        for cell in range(14):
            shown = set(tokens.genes[cell, : tokens.lengths[cell]])
            expected = {"input": shown, "non_input": set(range(GENES)) - shown, "all": set(range(GENES))}[which]
            assert set(np.flatnonzero(found.wanted[cell])) == expected
    measured = np.arange(GENES)[None] % 2 > 0
    assert not whole_cell(matrix, library, tokens, measured=measured).wanted[:, ::2].any()
    with pytest.raises(DataError, match="unknown which 'most'"):
        whole_cell(matrix, library, tokens, which="most")  # type: ignore[arg-type]


def test_packed_tokens_hold_what_padded_ones_hold() -> None:
    matrix, library = draw_cells()
    tokens = Tokeniser(max_length=20, read_depth="rda", threshold=0)(matrix, library, rng=np.random.default_rng(0))
    packed = tokens.pack()
    assert packed.offsets[-1] == tokens.lengths.sum() == len(packed.genes)
    for cell, n in enumerate(tokens.lengths):
        part = slice(packed.offsets[cell], packed.offsets[cell + 1])
        np.testing.assert_array_equal(packed.genes[part], tokens.genes[cell, :n])
        np.testing.assert_array_equal(packed.values[part], tokens.values[cell, :n])
        np.testing.assert_array_equal(packed.label_values[part], tokens.label_values[cell, :n])


def test_groups_of_like_length_need_less_padding() -> None:
    matrix, library = draw_cells(cells=40, depth=2.0)
    tokens = Tokeniser(max_length=GENES)(matrix, library)
    groups = tokens.split_by_length(4)
    assert sorted(np.concatenate(groups)) == list(range(40))
    parts = [tokens.take(one) for one in groups]
    assert sum(one.genes.size for one in parts) < tokens.genes.size
    for part, cells in zip(parts, groups):
        assert isinstance(part, Tokens)
        assert [row[row >= 0].tolist() for row in part.genes] == [row[row >= 0].tolist() for row in tokens.genes[cells]]


@pytest.mark.parametrize(("options", "message"), [
    ({"max_length": 0}, "max_length is out of range"),
    ({"order": "rnd"}, "unknown order 'rnd'.*nearest: 'random'|unknown order 'rnd'"),
    ({"order": "uce"}, "needs to know where genes are"),
    ({"normalise": "medians"}, "needs the genes' medians"),
    ({"read_depth": "align"}, "target_depth is not a number"),
    ({"interleave": 0.0}, "interleave is out of range"),
    ({"dropout": 1.0}, "dropout is out of range"),
    ({"bins": "middle"}, "unknown bins 'middle'"),
])  # fmt: skip
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tokeniser(**{"max_length": 8} | options)


def test_what_does_not_fit_is_refused() -> None:
    matrix, library = draw_cells()
    with pytest.raises(DataError, match="library sizes do not fit the cells"):
        Tokeniser(max_length=8)(matrix, library[:3])
    with pytest.raises(DataError, match="medians does not fit the vocabulary"):
        Tokeniser(max_length=8, normalise="medians", medians=MEDIANS[:5])(matrix, library)
    with pytest.raises(DataError, match="seeds do not fit the cells"):
        Tokeniser(max_length=8)(matrix, library, rng=np.zeros(3, dtype=np.uint64))
