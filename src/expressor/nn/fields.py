"""Fields: networks from a place in space to values there (implicit neural representations).

:class:`Siren` is a network of sines, with the initialisation that keeps their arguments in range. :class:`FourierField` sees a
place through random sines and cosines of chosen bandwidth, and gives all genes in one pass: what a trunk makes of the place, times
a vector of each gene.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expressor.core.errors import DataError, check_range


class Sine(nn.Module):
    """A linear layer and the sine of ``omega`` times its result.

    Parameters
    ----------
    n_in, n_out
        Widths.
    omega
        Frequency, > 0.
    first
        The layer sees coordinates, and its weights are drawn from -1/n_in to 1/n_in; those of later layers from
        -sqrt(6/n_in)/omega to sqrt(6/n_in)/omega (Sitzmann et al. 2020, section 3.2).
    """

    def __init__(self, n_in: int, n_out: int, *, omega: float = 30.0, first: bool = False) -> None:
        super().__init__()
        self.omega, self.linear = omega, nn.Linear(n_in, n_out)
        with torch.no_grad():
            self.linear.weight.uniform_(-siren_bound(n_in, omega, first=first), siren_bound(n_in, omega, first=first))

    def forward(self, x: Float[Tensor, "obs dim"]) -> Float[Tensor, "obs output"]:
        """Return sin(omega (W x + b))."""
        return torch.sin(self.omega * self.linear(x))


def siren_bound(n_in: int, omega: float, *, first: bool) -> float:
    """Return the bound of the uniform distribution of which a sine layer's weights are drawn."""
    return 1.0 / n_in if first else math.sqrt(6.0 / n_in) / omega


class Siren(nn.Module):
    """Sine layers and a linear one at the end.

    Parameters
    ----------
    n_in, n_out
        Inputs and outputs.
    width
        Width of the sine layers.
    hidden
        Sine layers after the first.
    omega_first, omega
        Frequencies of the first and of the other layers.
    """

    def __init__(
        self, n_in: int, n_out: int = 1, *, width: int = 512, hidden: int = 12, omega_first: float = 30.0,
        omega: float = 30.0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_range(hidden, name="hidden", low=0, integer=True)
        layers: list[nn.Module] = [Sine(n_in, width, omega=omega_first, first=True)]
        layers += [Sine(width, width, omega=omega) for _ in range(hidden)]
        self.sines, self.last = nn.Sequential(*layers), nn.Linear(width, n_out)
        with torch.no_grad():
            bound = siren_bound(width, omega, first=False)
            self.last.weight.uniform_(-bound, bound)

    def forward(self, x: Float[Tensor, "obs dim"]) -> Float[Tensor, "obs output"]:
        """Return the outputs of each row."""
        return self.last(self.sines(x))


class FourierFeatures(nn.Module):
    """Sines and cosines of random projections of a place: sin(2 pi B x), cos(2 pi B x), B normal of sd ``bandwidth``.

    Parameters
    ----------
    n_axes
        Coordinates of a place.
    frequencies
        Rows of B; twice as many features.
    bandwidth
        Standard deviation of B, in cycles a unit of the coordinates: the larger, the finer the detail.
    """

    def __init__(self, n_axes: int, frequencies: int, bandwidth: float) -> None:
        super().__init__()
        self.projection: Tensor
        self.register_buffer("projection", torch.randn(n_axes, frequencies) * bandwidth)

    def forward(self, x: Float[Tensor, "point axis"]) -> Float[Tensor, "point dim"]:
        """Return the features, sines first."""
        angle = 2 * math.pi * (x @ self.projection)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class FourierField(nn.Module):
    """Values of many genes at a place: a trunk of the place's Fourier features, times a vector of each gene.

    Parameters
    ----------
    n_axes, n_conditions
        Coordinates of a place, and numbers that are known of it beside them.
    genes
        Number of genes, each with a vector that is learnt; or vectors that are given, (gene, dim), of which a linear map to the
        trunk's width is learnt, so that the field can be asked for genes it was not fitted on.
    frequencies, bandwidth
        See :class:`FourierFeatures`.
    width, depth
        Of the trunk; depth counts hidden layers, at least 1.
    dropout
        Share of hidden units that is dropped while training.
    """

    def __init__(
        self, n_axes: int, n_conditions: int, genes: int | Float[Tensor, "gene dim"], *, frequencies: int = 64,
        bandwidth: float = 0.6, width: int = 128, depth: int = 2, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        given = isinstance(genes, Tensor)
        size = min(genes.shape) if given else genes  # type: ignore[union-attr]
        for name, value in (("depth", depth), ("width", width), ("genes", size)):
            check_range(value, name=name, low=1, integer=True)
        self.features = FourierFeatures(n_axes, frequencies, bandwidth)
        widths = [2 * frequencies + n_axes + n_conditions] + [width] * depth
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths, widths[1:]):
            layers += [nn.Linear(n_in, n_out), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.vectors: Tensor | None
        self.register_buffer("vectors", genes.float() if given else None)  # type: ignore[union-attr]
        self.head = nn.Linear(genes.shape[1] if given else width, width + 1 if given else genes)  # type: ignore[union-attr, arg-type]

    def trunk(
        self, x: Float[Tensor, "point axis"], conditions: Float[Tensor, "point condition"]
    ) -> Float[Tensor, "point dim"]:
        """Return what the trunk makes of each place."""
        return self.layers(torch.cat([self.features(x), x, conditions], dim=1))

    def gene_vectors(
        self, vectors: Float[Tensor, "gene dim"] | None = None
    ) -> tuple[Float[Tensor, "gene factor"], Float[Tensor, " gene"]]:
        """Return each gene's vector and constant; those of the genes of the fit, or of ``vectors`` given for others.

        Raises
        ------
        DataError
            Vectors were given to a field that learnt its genes' vectors itself.
        """
        if self.vectors is None:
            if vectors is not None:
                raise DataError("this field learnt a vector for each gene of its fit and can take no other",
                                fix="Fit it with vectors of the genes.")  # fmt: skip
            return self.head.weight, self.head.bias
        mapped = self.head(self.vectors if vectors is None else vectors)
        return mapped[:, :-1], mapped[:, -1]

    def forward(
        self, x: Float[Tensor, "point axis"], conditions: Float[Tensor, "point condition"]
    ) -> Float[Tensor, "point gene"]:
        """Return the values of all genes of the fit."""
        vectors, constants = self.gene_vectors()
        return self.trunk(x, conditions) @ vectors.T + constants
