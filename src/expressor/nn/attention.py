"""Attention: tokens that look at each other, and queries that look at tokens; sets of different sizes; weights on request."""

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from expressor.core.errors import DataError, check_range

try:  # torch 2.10 and newer
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None  # type: ignore[assignment]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention of queries over a memory.

    Parameters
    ----------
    dim
        Width of queries, memory and output.
    heads
        Number of heads, >= 1; must divide ``dim``.
    dropout
        Share of attention weights left out in training, in [0, 1).
    bias
        Whether the layers add a bias.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        check_range(heads, name="heads", low=1, integer=True)
        if dim % heads:
            raise DataError(f"dim ({dim}) is not a multiple of heads ({heads})", fix="Choose another number of heads.")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key_value = nn.Linear(dim, 2 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def forward(
        self,
        queries: Float[Tensor, "sample query dim"],
        memory: Float[Tensor, "sample token dim"],
        keep: Bool[Tensor, "sample token"] | None = None,
    ) -> Float[Tensor, "sample query dim"]:
        """Return what each query takes from the memory; tokens that are not in ``keep`` are not looked at."""
        query, key, value = self._split(queries, memory)
        mask = None if keep is None else keep[:, None, None, :]
        share = self.dropout if self.training else 0.0
        taken = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=share)
        return self.out(taken.transpose(1, 2).flatten(2))

    def takes_packed(self, tokens: Tensor) -> bool:
        """Whether :meth:`within` has a way to do it here: on CPUs, and on GPUs in half precision without dropout.

        torch's kernel for it takes heads of a width of 8, 16, ... up to 256.
        """
        if tokens.device.type != "cuda":
            return tokens.device.type == "cpu"
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else tokens.dtype
        width, left_out = self.query.out_features // self.heads, self.training and self.dropout > 0
        fits = width % 8 == 0 and width <= 256 and half in (torch.float16, torch.bfloat16) and not left_out
        return varlen_attn is not None and fits

    def within(self, tokens: Float[Tensor, "token dim"], sizes: list[int]) -> Float[Tensor, "token dim"]:
        """Return what the tokens of each set take from each other.

        Parameters
        ----------
        tokens
            Those of all sets, one set after the other, without padding.
        sizes
            Number of tokens of each set.
        """
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        query, key, value = (one.unflatten(-1, (self.heads, -1)) for one in (self.query(tokens), key, value))
        if tokens.is_cuda:
            return self.out(_within_by_flash(query, key, value, sizes).flatten(1))
        share = self.dropout if self.training else 0.0
        sets = zip(*(one.transpose(0, 1)[None].split(sizes, dim=2) for one in (query, key, value)))
        found = [F.scaled_dot_product_attention(q, k, v, dropout_p=share) for q, k, v in sets]
        return self.out(torch.cat(found, dim=2)[0].transpose(0, 1).flatten(1))

    def weights(
        self, queries: Float[Tensor, "sample query dim"], memory: Float[Tensor, "sample token dim"]
    ) -> Float[Tensor, "sample head query token"]:
        """Return the attention weights, which add up to 1 over the memory's tokens."""
        query, key, _ = self._split(queries, memory)
        return torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)

    def _split(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value = self.key_value(memory).chunk(2, dim=-1)
        heads = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (self.query(queries), key, value))
        query, key, value = heads
        return query, key, value


def _within_by_flash(query: Tensor, key: Tensor, value: Tensor, sizes: list[int]) -> Tensor:
    """Return what each set's queries take, all (token, head, part), by one kernel for sets of different sizes."""
    ends = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32, device=query.device)
    return varlen_attn(query, key, value, ends, ends, max(sizes), max(sizes))  # type: ignore[misc, return-value]


class AttentionBlock(nn.Module):
    """One pre-norm transformer block: attention, then two layers with GELU, each added to what came in.

    Parameters
    ----------
    dim
        Width.
    heads
        Attention heads.
    hidden
        Units of the hidden layer, >= 1.
    dropout
        In [0, 1).
    """

    def __init__(self, dim: int, heads: int, *, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_range(hidden, name="hidden", low=1, integer=True)
        self.before_attention = nn.LayerNorm(dim)
        self.memory_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout=dropout)
        self.before_layers = nn.LayerNorm(dim)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.leave_out = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Float[Tensor, "sample query dim"],
        memory: Float[Tensor, "sample token dim"] | None = None,
    ) -> Float[Tensor, "sample query dim"]:
        """Return the tokens after one block; without ``memory`` they look at each other, with it at the memory."""
        normed = self.before_attention(tokens)
        seen = normed if memory is None else self.memory_norm(memory)
        tokens = tokens + self.leave_out(self.attention(normed, seen))
        return tokens + self.leave_out(self.layers(self.before_layers(tokens)))

    def weights(self, tokens: Float[Tensor, "sample token dim"]) -> Float[Tensor, "sample head token token"]:
        """Return the attention weights among the tokens that come into the block."""
        normed = self.before_attention(tokens)
        return self.attention.weights(normed, normed)
