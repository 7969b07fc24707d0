"""Encoders of sets of tokens: blocks as BERT has them or as Llama has them, without positions, with places left out."""

from typing import Literal

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

    def forward(self, tokens: Float[Tensor, "cell token dim"]) -> Float[Tensor, "cell token dim"]:
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
        mine = tokens if places is None else tokens[:, :places]
        if self.after:
            mine = self.attention_norm(mine + self.leave_out(self.attention(mine, tokens, keep)))
            return self.layers_norm(mine + self.leave_out(self.layers(mine)))
        normed = self.attention_norm(tokens)
        mine = mine + self.leave_out(self.attention(normed[:, : mine.shape[1]], normed, keep))
        return mine + self.leave_out(self.layers(self.layers_norm(mine)))


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
        cost next to nothing.
        """
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            wanted = places if i == last else None
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, keep, wanted, use_reentrant=False)
            else:
                tokens = block(tokens, keep, wanted)
        return tokens
