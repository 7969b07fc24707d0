"""The network: gene tokens, a pre-norm encoder with a sample token, and a decoder that is queried by gene vectors."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from expressor.nn.attention import AttentionBlock

_SMALL = 0.02  # spread of random starts, as is usual for embeddings


class RestorationNetwork(nn.Module):
    """From a panel of observed genes to any genes of the vocabulary.

    The output is what is added to the closed-form restoration; its last layers start at zero, and so does it.

    Parameters
    ----------
    gene_vectors
        Start of the gene table, (gene, dim).
    values
        Encoder of values (see :mod:`expressor.nn.values`).
    layers, decoder_layers
        Blocks of the encoder and of the decoder, >= 0 and >= 1.
    heads
        Attention heads; must divide ``dim``.
    hidden
        Units of the hidden layers.
    dropout
        In [0, 1).
    scores
        Length of the linear scores that the sample token starts from; 0 for none.
    pipelines
        Number of pipelines with a vector of their own; 0 for none.
    product
        Whether a token also holds its value times a turned gene vector (equation I3).
    """

    def __init__(
        self,
        gene_vectors: Float[Tensor, "gene dim"],
        values: nn.Module,
        *,
        layers: int,
        decoder_layers: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        scores: int = 0,
        pipelines: int = 0,
        product: bool = False,
    ) -> None:
        super().__init__()
        dim = gene_vectors.shape[1]
        self.gene = nn.Embedding.from_pretrained(gene_vectors.float().clone(), freeze=False)
        self.values = values
        self.turn = nn.Linear(dim, dim, bias=False) if product else None
        self.sample = nn.Parameter(_SMALL * torch.randn(dim))
        # Row 0 stands for a pipeline that is not known.
        self.pipeline = nn.Embedding(pipelines + 1, dim) if pipelines else None
        self.from_scores = (
            nn.Sequential(nn.Linear(scores + 1, hidden), nn.GELU(), nn.Linear(hidden, dim)) if scores else None
        )
        self.encoder = nn.ModuleList(AttentionBlock(dim, heads, hidden=hidden, dropout=dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(
            AttentionBlock(dim, heads, hidden=hidden, dropout=dropout) for _ in range(decoder_layers)
        )
        self.sample_norm, self.query_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.direction = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.level = nn.Linear(dim, 1)
        for last in (self.direction[-1], self.level):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    @property
    def dim(self) -> int:
        """Width of the tokens."""
        return self.gene.weight.shape[1]

    def tokens(
        self,
        genes: Int[Tensor, " token"],
        z: Float[Tensor, "sample token"],
        missing: Bool[Tensor, "sample token"],
        scores: Float[Tensor, "sample factor"] | None = None,
        pipeline: Int[Tensor, " sample"] | None = None,
    ) -> Float[Tensor, "sample place dim"]:
        """Return what goes into the encoder: the sample token, then one token a gene.

        Values under ``missing`` do not matter; ``scores`` come with the logarithm of the panel's size as their last column.
        """
        first = self.sample.expand(len(z), -1)
        if self.from_scores is not None and scores is not None:
            first = first + self.from_scores(scores)
        if self.pipeline is not None:
            codes = torch.zeros(len(z), dtype=torch.int64, device=z.device) if pipeline is None else pipeline
            first = first + self.pipeline(codes)
        if not len(self.encoder):
            return first[:, None]
        z = torch.where(missing, 0.0, z)
        vectors = self.gene(genes)
        rest = vectors + self.values(z, missing)
        if self.turn is not None:
            rest = rest + z[..., None] * self.turn(vectors)
        return torch.cat([first[:, None], rest], dim=1)

    def encode(self, tokens: Float[Tensor, "sample place dim"]) -> Float[Tensor, "sample place dim"]:
        """Return the encoder's output; place 0 is the sample token."""
        for block in self.encoder:
            tokens = block(tokens)
        return tokens

    def represent(self, memory: Float[Tensor, "sample place dim"]) -> Float[Tensor, "sample dim"]:
        """Return the vector of each sample from the encoder's output."""
        return self.sample_norm(memory[:, 0])

    def decode(
        self, memory: Float[Tensor, "sample place dim"], targets: Int[Tensor, " target"]
    ) -> Float[Tensor, "sample target"]:
        """Return what is added to the restoration of ``targets``, in standard deviations.

        A gene's query is its vector; what it takes from the memory gives a number, and so does its product with a direction that
        depends on the sample.
        """
        vectors = self.gene(targets)
        queries = vectors.expand(len(memory), -1, -1)
        for block in self.decoder:
            queries = block(queries, memory)
        along = self.direction(self.represent(memory)) @ vectors.T
        return self.level(self.query_norm(queries)).squeeze(-1) + along / self.dim**0.5

    def forward(
        self,
        genes: Int[Tensor, " token"],
        z: Float[Tensor, "sample token"],
        missing: Bool[Tensor, "sample token"],
        targets: Int[Tensor, " target"],
        scores: Float[Tensor, "sample factor"] | None = None,
        pipeline: Int[Tensor, " sample"] | None = None,
    ) -> Float[Tensor, "sample target"]:
        """Return what is added to the restoration of ``targets``."""
        return self.decode(self.encode(self.tokens(genes, z, missing, scores, pipeline)), targets)

    def attention_weights(
        self, tokens: Float[Tensor, "sample place dim"]
    ) -> list[Float[Tensor, "sample head place place"]]:
        """Return the attention weights of each encoder block."""
        found = []
        for block in self.encoder:
            found.append(block.weights(tokens))  # type: ignore[operator]
            tokens = block(tokens)
        return found
