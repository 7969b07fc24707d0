"""What the network eats: scaled image features or patches, and expression in the order of the heads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from scipy.linalg import eigh
from torch import Tensor, nn

from expressor.core.errors import DataError, check_range
from expressor.data import keys
from expressor.data.images import open_image
from expressor.data.patches import HestPatches, Patches, PatchSpec
from expressor.data.spatial import check_spatial, image_path, microns_per_pixel, section_of, sections
from expressor.encoders.registry import EncoderCard, encoder, encoder_card

_DENSE_BYTES = 2**29


@dataclass(frozen=True)
class FeatureScaler:
    """Standardises features and turns them to their principal components, as learnt on the fit part.

    Features come in blocks, one an encoder; each block's variances add up to the same, so that an encoder does not count for more
    because it gives more numbers.

    All components are divided by the spread of the first one: they keep their relative sizes, so that weak directions stay
    weak, and the network sees numbers of a known size.

    Attributes
    ----------
    mean, spread
        (dim,), of the features; the spread also holds the weight of their block.
    components
        (dim, component), orthonormal, strongest first; divided by the first one's spread.
    """

    mean: np.ndarray
    spread: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, n_components: int, blocks: Sequence[int] = ()) -> "FeatureScaler":
        """Learn from features (spot, dim); at most ``n_components`` components are kept.

        Parameters
        ----------
        features
            (spot, dim).
        n_components
            >= 1.
        blocks
            Number of features of each block, in their order; one block by default.

        Raises
        ------
        DataError
            All features are constant, so that there is nothing to predict from.
        """
        check_range(n_components, name="components", low=1, integer=True)
        features = features.astype(np.float64)
        mean, spread = features.mean(0), features.std(0)
        varies = spread > 1e-8 * np.maximum(np.abs(mean), 1e-30)
        if not varies.any():
            raise DataError("all image features are constant", got=f"{features.shape[1]} features of {len(features)} spots",
                            fix="Check that patches show the tissue.")  # fmt: skip
        spread = np.where(varies, spread, np.inf)
        start = 0
        for size in blocks:
            part = slice(start, start := start + size)
            spread[part] *= np.sqrt(max(int(varies[part].sum()), 1))
        scaled = (features - mean) / spread
        # Of the two Gram matrices that have the same eigenvalues the smaller is taken apart, and only its upper end.
        wide = scaled.shape[1] > scaled.shape[0]
        gram = (scaled @ scaled.T if wide else scaled.T @ scaled) / len(scaled)
        n = min(n_components, len(gram))
        values, vectors = eigh(gram, subset_by_index=(len(gram) - n, len(gram) - 1))
        kept = np.argsort(-values, kind="stable")[: int((values > 1e-10 * values.max()).sum())]
        values, vectors = values[kept], vectors[:, kept]
        if wide:
            vectors = scaled.T @ vectors / np.sqrt(len(scaled) * values)
        # A component and its negative are equally right: the largest loading shall be positive.
        strongest = np.abs(vectors).argmax(0)
        vectors = vectors * np.sign(vectors[strongest, np.arange(len(kept))])
        return cls(mean, spread, vectors / np.sqrt(values[0]))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return float32 (spot, component)."""
        return (((features.astype(np.float64) - self.mean) / self.spread) @ self.components).astype(np.float32)


class Targets:
    """Expression in the order of the heads; batches of it are made dense, the whole only where it is small.

    Parameters
    ----------
    values
        float32 CSR (spot, gene), primary genes first, auxiliary genes by rank.
    n_primary
        Number of primary genes.
    """

    def __init__(self, values: sparse.csr_matrix, n_primary: int) -> None:
        self.values, self.n_primary = values, n_primary
        small = values.shape[0] * values.shape[1] * 4 <= _DENSE_BYTES
        self._dense: np.ndarray | None = values.toarray() if small else None
        self._leading: tuple[int, sparse.csr_matrix] = (values.shape[1], values)

    @property
    def n_genes(self) -> int:
        """Number of all genes."""
        return self.values.shape[1]

    def dense(self, rows: np.ndarray, n_genes: int) -> Tensor:
        """Return the first ``n_genes`` genes of some spots, float32 (spot, gene)."""
        if self._dense is not None:
            return torch.from_numpy(self._dense[rows, :n_genes])
        if self._leading[0] != n_genes:
            self._leading = (n_genes, self.values[:, :n_genes])
        return torch.from_numpy(self._leading[1][rows].toarray())

    def primary(self, rows: np.ndarray) -> np.ndarray:
        """Return the primary genes of some spots, float32 (spot, gene)."""
        return self.values[rows][:, : self.n_primary].toarray()


class LazyBatches(Sequence[dict[str, Tensor]]):
    """Batches that are made when they are asked for.

    Parameters
    ----------
    parts
        Rows of each batch.
    make
        ``(position, rows) -> batch``.
    """

    def __init__(self, parts: Sequence[np.ndarray], make: Callable[[int, np.ndarray], dict[str, Tensor]]) -> None:
        self.parts, self.make = parts, make

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, position: int) -> dict[str, Tensor]:  # type: ignore[override]
        return self.make(position, self.parts[position])


def encoder_names(encoder: str | Sequence[str]) -> tuple[str, ...]:
    """Return one or several names as a tuple."""
    return (encoder,) if isinstance(encoder, str) else tuple(encoder)


def cut_patches(adata: AnnData, card: EncoderCard, patch_um: float | None) -> np.ndarray:
    """Cut the patch of every spot, uint8 (spot, px, px, 3), at the size that the encoder was made for or ``patch_um``.

    Raises
    ------
    DataError
        An image is missing or contradicts the coordinates.
    """
    return np.concatenate([one for _, one in iterate_patches(adata, card, patch_um)])[_back(adata)]


def iterate_patches(
    adata: AnnData, card: EncoderCard, patch_um: float | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of ``adata`` and their patches, some at a time, section by section."""
    check_spatial(adata)
    spec = PatchSpec(size_um=card.patch_um if patch_um is None else patch_um, px=card.input_px)
    labels = section_of(adata).to_numpy()
    for section in sections(adata):
        rows = np.flatnonzero(labels == section)
        before = str(adata.uns[keys.SPATIAL][section].get(keys.METADATA, {}).get("patches", ""))
        if before:
            yield from _in_parts(rows, HestPatches(before).named(adata.obs_names[rows].to_numpy()))
            continue
        with open_image(image_path(adata, section), um_per_px=microns_per_pixel(adata, section)) as image:
            yield from _in_parts(rows, Patches(image, adata.obsm[keys.SPATIAL][rows], spec))


def _in_parts(rows: np.ndarray, patches: Patches | HestPatches) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    start = 0
    for part in patches.batches(64):
        yield rows[start : start + len(part)], part
        start += len(part)


def _back(adata: AnnData) -> np.ndarray:
    """Return where each spot stands in the order of sections."""
    return np.argsort(np.argsort(section_of(adata).to_numpy(), kind="stable"), kind="stable")


def augment(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """Flip each patch in either direction and turn it by 90 degrees, each with probability 1/2; (patch, px, px, 3)."""
    for flips, change in zip(
        rng.random((3, len(patches))) < 0.5,
        (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.transpose(1, 2)),
    ):
        chosen = torch.from_numpy(flips).view(-1, 1, 1, 1)
        patches = torch.where(chosen, change(patches), patches)
    return patches


def backbone_of(name: str, *, pretrained: bool) -> tuple[nn.Module, EncoderCard]:
    """Return the trainable network of an encoder and its card.

    Parameters
    ----------
    name
        An encoder with a torch network that maps pixels to a map or a vector of features.
    pretrained
        False where the weights are going to be replaced.

    Raises
    ------
    DataError
        The encoder is not such a network.
    """
    if name.startswith("precomputed:"):
        raise DataError(
            f"{name!r} cannot be trained along", fix='Use trunk="features", or name an encoder that sees the images.'
        )
    card = encoder_card(name)
    if name == "efficientnet_lite0":
        from expressor.encoders import efficientnet

        return (efficientnet.load_network() if pretrained else efficientnet.EfficientNetLite0()), card
    loaded = encoder(name, device="cpu")
    network = getattr(loaded, "network", None)
    if not isinstance(network, nn.Module):
        raise DataError(f"the encoder {name!r} is not a network that can be trained along", fix='Use trunk="features".')
    with torch.no_grad():
        found = network(torch.zeros(1, 3, card.input_px, card.input_px))
    if not isinstance(found, Tensor) or found.ndim not in (2, 4) or found.shape[1] != card.dim:
        raise DataError(
            f"the network of {name!r} gives no plain features", expected=f"a tensor (patch, {card.dim}) or a map of them",
            fix='Use trunk="features".',
        )  # fmt: skip
    return network, card
