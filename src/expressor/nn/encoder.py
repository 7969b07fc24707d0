"""Encoders of sets of tokens: blocks as BERT has them or as Llama has them, without positions, with places left out."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from expressor.core.errors import check_choice, check_range
from expressor.nn.attention import Attention

Style = Literal["bert", "llama"]


class GatedLayers(nn.Module):
    """SwiGLU: the SiLU of one projection times another, then a third back; no biases.

    Parameters
    ----------
    dim
        Width.
    hidden
        Units of the hidden layer.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, tokens: Float[Tensor, "*place dim"]) -> Float[Tensor, "*place dim"]:
        """Return the tokens after the three layers."""
        return self.down(F.silu(self.gate(tokens)) * self.up(tokens))


class EncoderBlock(nn.Module):
    """One block: attention among the tokens, then hidden layers, each added to what came in.

    Parameters
    ----------
    dim
        Width.
    heads
        Attention heads; must divide ``dim``.
    hidden
        Units of the hidden layer, >= 1.
    style
        ``"bert"``: LayerNorm after each addition, GELU, biases. ``"llama"``: RMSNorm before each part, SwiGLU, no biases.
    dropout
        In [0, 1).
    first
        Whether this is the first block, whose input is normalised already; Llama's has no norm before its attention then.
    """

    def __init__(
        self, dim: int, heads: int, *, hidden: int, style: Style, dropout: float = 0.0, first: bool = False
    ) -> None:
        super().__init__()
        check_choice(style, ("bert", "llama"), name="style")
        check_range(hidden, name="hidden", low=1, integer=True)
        self.after = style == "bert"
        self.attention = Attention(dim, heads, dropout=dropout, bias=self.after)
        self.leave_out = nn.Dropout(dropout)
        self.attention_norm: nn.Module
        self.layers_norm: nn.Module
        self.layers: nn.Module
        if self.after:
            self.attention_norm, self.layers_norm = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
            self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        else:
            self.attention_norm = nn.Identity() if first else nn.RMSNorm(dim, eps=1e-5)
            self.layers_norm = nn.RMSNorm(dim, eps=1e-5)
            self.layers = GatedLayers(dim, hidden)

    def last_layers(self) -> tuple[nn.Linear, nn.Linear]:
        """Return the layers whose outputs are added to the tokens: of the attention, and of the hidden layers."""
        return self.attention.out, self.layers.down if isinstance(self.layers, GatedLayers) else self.layers[-1]  # type: ignore

    def forward(
        self,
        tokens: Float[Tensor, "cell token dim"],
        keep: Bool[Tensor, "cell token"] | None = None,
        places: int | None = None,
    ) -> Float[Tensor, "cell place dim"]:
        """Return the first ``places`` tokens (all by default) after one block; tokens not in ``keep`` are not looked at."""
        normed = tokens if self.after else self.attention_norm(tokens)
        wanted = slice(places)
        return self._add(tokens[:, wanted], self.attention(normed[:, wanted], normed, keep))

    def within(self, tokens: Float[Tensor, "token dim"], sizes: list[int]) -> Float[Tensor, "token dim"]:
        """Return all tokens after one block, where those of each cell stand behind each other without padding."""
        return self._add(tokens, self.attention.within(tokens if self.after else self.attention_norm(tokens), sizes))

    def _add(self, tokens: Tensor, taken: Tensor) -> Tensor:
        """Add what was taken by attention, then the hidden layers."""
        tokens = tokens + self.leave_out(taken)
        if self.after:
            tokens = self.attention_norm(tokens)
            return self.layers_norm(tokens + self.leave_out(self.layers(tokens)))
        return tokens + self.leave_out(self.layers(self.layers_norm(tokens)))


class SetEncoder(nn.Module):
    """Blocks in a row. Nothing marks the tokens' order, so that they are a set.

    Parameters
    ----------
    dim, heads, hidden, style, dropout
        As of each block.
    layers
        Number of blocks, >= 1.
    checkpointing
        Compute the blocks again in the backward pass instead of keeping what they gave: less memory, a third more time.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int,
        heads: int,
        hidden: int,
        style: Style = "llama",
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_range(layers, name="layers", low=1, integer=True)
        self.blocks = nn.ModuleList(
            EncoderBlock(dim, heads, hidden=hidden, style=style, dropout=dropout, first=i == 0) for i in range(layers)
        )
        self.checkpointing = checkpointing

    def forward(
        self,
        tokens: Float[Tensor, "cell token dim"],
        keep: Bool[Tensor, "cell token"] | None = None,
        places: int | None = None,
    ) -> Float[Tensor, "cell place dim"]:
        """Return the first ``places`` tokens (all by default) after all blocks.

        The last block computes these places only, with the same result: where only the cell tokens are wanted, its hidden layers
        cost next to nothing. Blocks that compute all places leave the padding out where attention can (on CPUs, and on GPUs in
        half precision); what stands in its places is 0 then.
        """
        whole = len(self.blocks) - (places is not None)
        if keep is not None and whole and self.blocks[0].attention.takes_packed(tokens):  # type: ignore[operator, union-attr]
            sizes, packed = keep.sum(1).tolist(), tokens[keep]
            for block in self.blocks[:whole]:
                packed = self._run(block.within, packed, sizes)  # type: ignore[arg-type]
            tokens = torch.zeros_like(tokens, dtype=packed.dtype).masked_scatter(keep[..., None], packed)
        else:
            for block in self.blocks[:whole]:
                tokens = self._run(block, tokens, keep)
        return tokens if places is None else self._run(self.blocks[-1], tokens, keep, places)

    def _run(self, block: Callable[..., Tensor], *given: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *given, use_reentrant=False)
        return block(*given)
