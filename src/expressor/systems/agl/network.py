"""The network: a trunk that all genes share, and one linear head a gene, computed only for the genes that count."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

# A start near 0 lets the first steps, not the draw, decide which directions of the features the trunk takes up (measured).
_TRUNK_SHRINK = 0.1


class FeatureTrunk(nn.Module):
    """From image features to a few shared factors; linear, or with one hidden layer.

    The narrow end is what makes auxiliary genes matter: heads of their own on fixed features would share nothing.

    Parameters
    ----------
    dim
        Number of features.
    width
        Number of shared factors.
    hidden
        Units of the hidden layer; 0 for a linear trunk.
    """

    def __init__(self, dim: int, width: int, *, hidden: int = 0) -> None:
        super().__init__()
        first = nn.Linear(dim, hidden or width)
        with torch.no_grad():
            first.weight.mul_(_TRUNK_SHRINK)
        self.layers = nn.Sequential(first, nn.GELU(), nn.Linear(hidden, width)) if hidden else nn.Sequential(first)

    def forward(self, x: Float[Tensor, "spot dim"]) -> Float[Tensor, "spot factor"]:
        """Return the shared factors."""
        return self.layers(x)


class EncoderTrunk(nn.Module):
    """From the pixels of a patch to shared factors, by an image network that is trained along.

    Parameters
    ----------
    backbone
        Maps normalised pixels (patch, 3, row, column) to a feature map (patch, dim, row, column), whose mean is taken, or to
        features (patch, dim).
    dim
        Number of features.
    mean, std
        Of the three colours, for pixels in [0, 1].
    width
        Number of shared factors; 0 hands the features themselves to the heads, as the paper does.
    """

    def __init__(
        self, backbone: nn.Module, dim: int, *, mean: Sequence[float], std: Sequence[float], width: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.project = nn.Linear(dim, width) if width else nn.Identity()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, x: UInt8[Tensor, "spot row column 3"]) -> Float[Tensor, "spot factor"]:
        """Return the shared factors of each patch."""
        pixels = (x.to(self.scale.dtype) * self.scale + self.shift).permute(0, 3, 1, 2)
        found = self.backbone(pixels)
        return self.project(found.mean(dim=(2, 3)) if found.ndim == 4 else found)


class SharedNetwork(nn.Module):
    """A trunk and the heads of all genes, primary genes first and auxiliary genes by rank.

    Parameters
    ----------
    trunk
        Maps inputs to (spot, factor).
    width
        Number of factors.
    n_genes
        Number of heads.
    """

    def __init__(self, trunk: nn.Module, width: int, n_genes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, n_genes)
        # A correlation does not see an offset: it would never get a gradient, which several processes wait for in vain.
        self.head.bias.requires_grad_(False)
        self.log_variance: nn.Parameter | None
        self.register_parameter("log_variance", None)  # of uncertainty weights, where they are used

    def forward(self, x: Tensor, n_genes: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors (spot, factor), and weight (gene, factor) and bias (gene,) of the first ``n_genes`` heads."""
        return self.trunk(x), self.head.weight[:n_genes], self.head.bias[:n_genes]

    def predict(self, x: Tensor, n_genes: int | None = None) -> Float[Tensor, "spot gene"]:
        """Predict the first ``n_genes`` genes (all by default); the heads of the others are not computed."""
        return F.linear(*self(x, n_genes))


def leading(weights: Mapping[str, Tensor], n_genes: int) -> dict[str, Tensor]:
    """Return named tensors of a :class:`SharedNetwork` (weights, moments) without the heads behind the first ``n_genes``."""
    return {name: one[:n_genes] if name.startswith("head.") else one for name, one in weights.items()}


def factors_with(
    network: SharedNetwork, weights: Mapping[str, Tensor], x: Tensor, n_genes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``forward`` gives with other ``weights`` than the network's own; differentiable by them."""
    return functional_call(network, dict(weights), (x, n_genes))
