"""The network: genes and values of a cell become a set of tokens, cell tokens gather them, heads say what was asked."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from expressor.core.errors import check_choice
from expressor.nn.encoder import SetEncoder
from expressor.nn.reversal import reverse_gradient
from expressor.systems.bmfm.equations import place

_SMALL = 0.02  # spread of random starts, as is usual for embeddings

DECODERS = ("linear", "query", "vectors")


class CellNetwork(nn.Module):
    """From the tokens of cells to vectors of cells and tokens.

    The encoder's set is the cell tokens, then the two tokens of read depth where there are any, then the genes.

    Parameters
    ----------
    gene_vectors
        Start of the gene table, (gene, dim).
    values
        Encoder of values (see :mod:`expressor.nn.values`).
    encoder
        The blocks.
    cells
        Number of cell tokens, >= 1.
    ends
        Further tokens that every cell has, such as the [SEP] of a published checkpoint, >= 0.
    depth
        Whether two tokens tell the read depth.
    product
        Whether a token also holds its value times a turned gene vector (equation I3).
    mean
        Mean value of each gene, from which cell tokens start at the cell's place (equation I7); None: they start alike.
    pooler
        Whether a layer with tanh stands behind the first cell token.
    dropout
        Of the tokens, in [0, 1).
    eps
        Of the tokens' LayerNorm.
    """

    def __init__(
        self,
        gene_vectors: Float[Tensor, "gene dim"],
        values: nn.Module,
        encoder: SetEncoder,
        *,
        cells: int = 1,
        ends: int = 0,
        depth: bool = False,
        product: bool = False,
        mean: Float[Tensor, " gene"] | None = None,
        pooler: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        dim = gene_vectors.shape[1]
        self.gene = nn.Embedding.from_pretrained(gene_vectors.float().clone(), freeze=False)
        self.hidden_gene = nn.Parameter(_SMALL * torch.randn(dim))
        self.cells = cells
        self.first = nn.Parameter(_SMALL * torch.randn(cells + ends, dim))
        self.depth = nn.Parameter(_SMALL * torch.randn(2, dim)) if depth else None
        self.values = values
        self.turn = nn.Linear(dim, dim, bias=False) if product else None
        self.mean: Tensor | None
        self.register_buffer("mean", mean)
        self.project = None if mean is None else nn.Linear(dim, dim, bias=False)
        self.norm, self.leave_out = nn.LayerNorm(dim, eps=eps), nn.Dropout(dropout)
        self.encoder = encoder
        self.pooler = nn.Linear(dim, dim) if pooler else None

    @property
    def dim(self) -> int:
        """Width of the tokens."""
        return self.gene.weight.shape[1]

    @property
    def before(self) -> int:
        """Number of tokens that stand before the genes."""
        return len(self.first) + (0 if self.depth is None else 2)

    def tokens(
        self,
        genes: Int[Tensor, "cell token"],
        values: Float[Tensor, "cell token"],
        hidden_genes: Bool[Tensor, "cell token"] | None = None,
        hidden_values: Bool[Tensor, "cell token"] | None = None,
        depth: Float[Tensor, "cell 2"] | None = None,
        measured: Bool[Tensor, "cell gene"] | None = None,
    ) -> Float[Tensor, "cell place dim"]:
        """Return what goes into the encoder; padding (a gene below 0) holds numbers that nothing looks at."""
        # A row behind the table stands for a hidden gene.
        hidden_gene = len(self.gene.weight)
        table = torch.cat([self.gene.weight, self.hidden_gene[None]])
        row = genes.clamp(min=0).long()
        row = row if hidden_genes is None else torch.where(hidden_genes, hidden_gene, row)
        vectors = F.embedding(row, table)
        missing = torch.zeros_like(genes, dtype=torch.bool) if hidden_values is None else hidden_values
        rest = vectors + self.values(values, missing)
        if self.turn is not None:
            # Turning the table costs less than turning tokens.
            rest = rest + torch.where(missing, 0.0, values)[..., None] * F.embedding(row, self.turn(table))
        first = self.first.expand(len(genes), -1, -1)
        if self.project is not None:
            hidden = missing if hidden_genes is None else missing | hidden_genes
            shown = torch.where(hidden | (genes < 0), 0.0, values)
            expected = self.mean.expand(len(genes), -1)  # type: ignore[union-attr]
            expected = expected if measured is None else torch.where(measured, expected, 0.0)
            first = first + self.project(place(vectors, shown, self.gene.weight, expected))[:, None]
        parts = [first]
        if self.depth is not None:
            told = torch.zeros(len(genes), 2, device=values.device) if depth is None else depth
            parts.append(self.depth + self.values(told, torch.zeros_like(told, dtype=torch.bool)))
        return self.leave_out(self.norm(torch.cat([*parts, rest], dim=1)))

    def forward(
        self,
        genes: Int[Tensor, "cell token"],
        values: Float[Tensor, "cell token"],
        hidden_genes: Bool[Tensor, "cell token"] | None = None,
        hidden_values: Bool[Tensor, "cell token"] | None = None,
        depth: Float[Tensor, "cell 2"] | None = None,
        places: int | None = None,
        measured: Bool[Tensor, "cell gene"] | None = None,
    ) -> Float[Tensor, "cell place dim"]:
        """Return the first ``places`` vectors of the encoder's output, all by default; genes begin at :attr:`before`.

        ``measured`` says which genes could have been shown; all by default.
        """
        tokens = self.tokens(genes, values, hidden_genes, hidden_values, depth, measured)
        keep = torch.cat([genes.new_ones(len(genes), self.before, dtype=torch.bool), genes >= 0], dim=1)
        return self.encoder(tokens, None if bool(keep.all()) else keep, places)

    def pool(
        self, encoded: Float[Tensor, "cell place dim"], genes: Int[Tensor, "cell token"], how: str
    ) -> Float[Tensor, "cell output"]:
        """Return one vector a cell, as wide as all of its parts.

        Parameters
        ----------
        encoded
            The encoder's output.
        genes
            The tokens' genes, for the mean.
        how
            ``"cell"``, ``"pooler"``, ``"mean"`` (of the genes' tokens), or the number of a cell token; several joined by ``+``.

        Raises
        ------
        DataError
            The network has no such vector.
        """
        known = ["cell", "mean", *(["pooler"] if self.pooler is not None else []), *map(str, range(self.cells))]
        for one in how.split("+"):
            check_choice(one, known, name="pooling")
        return torch.cat([self._pooled(encoded, genes, one) for one in how.split("+")], dim=1)

    def _pooled(self, encoded: Tensor, genes: Tensor, how: str) -> Tensor:
        if how == "mean":
            keep = (genes >= 0)[..., None]
            return torch.where(keep, encoded[:, self.before :], 0.0).sum(1) / keep.sum(1).clamp(min=1)
        if how == "pooler":
            return torch.tanh(self.pooler(encoded[:, 0]))  # type: ignore[misc]
        return encoded[:, 0 if how == "cell" else int(how)]


def places_of(how: str, network: CellNetwork) -> int | None:
    """Return how many places of the encoder's output the pooling ``how`` needs; None for all."""
    return None if "mean" in how.split("+") else network.cells


class ProfileHead(nn.Module):
    """From the vector of a cell to a value and a logit of being zero for every gene (equations C15, C16, I1).

    Parameters
    ----------
    dim
        Width.
    mean, zero
        What the two outputs start from, (gene,): the mean of the values that are not zero, and the logit of being zero.
    decoder
        ``"linear"``: two numbers a gene from a linear layer. ``"query"``: what a gene asks comes from its vector, squashed.
        ``"vectors"``: the product with the gene's vector itself. The last two grow with the genes by a bias alone.
    """

    def __init__(
        self, dim: int, mean: Float[Tensor, " gene"], zero: Float[Tensor, " gene"], *, decoder: str = "linear"
    ) -> None:
        super().__init__()
        check_choice(decoder, DECODERS, name="decoder")
        self.decoder, n_genes = decoder, len(mean)
        self.mean: Tensor
        self.zero: Tensor
        self.register_buffer("mean", mean.float())
        self.register_buffer("zero", zero.float())
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        if decoder == "linear":
            self.out = nn.Linear(dim, 2 * n_genes)
            nn.init.normal_(self.out.weight, std=_SMALL)
            nn.init.zeros_(self.out.bias)
        else:
            self.query = nn.Linear(dim, dim) if decoder == "query" else None
            self.along = nn.Linear(dim, 2 * dim, bias=False)
            self.bias = nn.Parameter(torch.zeros(2, n_genes))

    def forward(
        self, cell: Float[Tensor, "cell dim"], gene_vectors: Float[Tensor, "gene dim"]
    ) -> tuple[Float[Tensor, "cell gene"], Float[Tensor, "cell gene"]]:
        """Return values and logits of being zero."""
        inside = self.norm(F.gelu(self.dense(cell)))
        if self.decoder == "linear":
            value, zero = self.out(inside).chunk(2, dim=1)
        else:
            asked = gene_vectors if self.query is None else torch.sigmoid(self.query(gene_vectors))
            asked = asked / asked.shape[1] ** 0.5
            value, zero = (one @ asked.T for one in self.along(inside).chunk(2, dim=1))
            value, zero = value + self.bias[0], zero + self.bias[1]
        return self.mean + value, self.zero + zero


class TokenHead(nn.Module):
    """From the vectors of masked tokens to their values, whether they are zero, and their genes.

    Parameters
    ----------
    dim
        Width.
    genes
        Size of the vocabulary; 0 where genes are not asked for.
    levels
        Number of bins of the value; 0 where values are numbers.
    """

    def __init__(self, dim: int, genes: int, levels: int = 0) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.value = nn.Linear(dim, 2)
        self.level = nn.Linear(dim, levels) if levels else None
        self.gene = nn.Linear(dim, genes) if genes else None

    def inside(self, tokens: Float[Tensor, "place dim"]) -> Float[Tensor, "place dim"]:
        """Return what the last layers look at."""
        return self.norm(F.gelu(self.dense(tokens)))


class LabelHeads(nn.Module):
    """One linear layer a label.

    Parameters
    ----------
    dim
        Width.
    classes
        Column -> number of classes.
    """

    def __init__(self, dim: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.columns = tuple(classes)
        self.layers = nn.ModuleList(nn.Linear(dim, n) for n in classes.values())

    def forward(
        self, cell: Float[Tensor, "cell dim"], column: str, reversal: float = 0.0
    ) -> Float[Tensor, "cell class"]:
        """Return the logits of one label; with ``reversal`` the cell's vector unlearns it."""
        cell = reverse_gradient(cell, reversal) if reversal else cell
        return self.layers[self.columns.index(column)](cell)
