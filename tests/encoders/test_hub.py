"""Hub encoders: what is asked of the libraries, what is made of their answers, and why weights may not be there.

timm is a stand-in module with small networks of its own, because it does not run beside every build of torch; transformers is the
real library, with a tiny model written by the test, where it is installed.
"""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from expressor.core.errors import DataError, FormatError, MissingExtra
from expressor.encoders import encoder, encoders


class TinyViT(nn.Module):
    """Like timm's vision transformers: ``forward_features`` gives class token, registers and patch tokens."""

    def __init__(self, dim, *, patch=56, registers=0, pool="token"):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.first = nn.Parameter(torch.randn(1 + registers, dim))
        self.num_prefix_tokens, self.pool = 1 + registers, pool

    def forward_features(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        first = self.first.expand(len(x), -1, -1) * patches.mean(dim=1, keepdim=True)
        return torch.cat([first, patches], dim=1)

    def forward(self, x):
        states = self.forward_features(x)
        return states[:, 0] if self.pool == "token" else states


@pytest.fixture
def timm(monkeypatch):
    """A stand-in that records its calls and builds what ``timm.makes`` says."""
    module = types.ModuleType("timm")
    module.calls, module.makes = [], lambda name: TinyViT(8)

    def create_model(name, **arguments):
        module.calls.append((name, arguments))
        made = module.makes(name)
        if isinstance(made, BaseException):
            raise made
        return made

    module.create_model = create_model
    module.data = types.SimpleNamespace(
        resolve_model_data_config=lambda model: {
            "input_size": (3, 112, 112),
            "mean": (0.5, 0.4, 0.3),
            "std": (0.2, 0.2, 0.1),
        }
    )
    module.layers = types.ModuleType("timm.layers")
    module.layers.SwiGLUPacked = type("SwiGLUPacked", (), {})
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.layers", module.layers)
    return module


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def normalised(card):
    x = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)


@pytest.mark.parametrize(
    ("name", "dim", "registers", "pool", "hub", "said"),
    [
        ("uni", 1024, 0, "token", "hf-hub:MahmoodLab/uni", {"init_values": 1e-5, "dynamic_img_size": True}),
        (
            "uni2_h",
            1536,
            8,
            "token",
            "hf-hub:MahmoodLab/UNI2-h",
            {"depth": 24, "num_heads": 24, "reg_tokens": 8, "embed_dim": 1536},
        ),
        ("virchow2", 1280, 4, "", "hf-hub:paige-ai/Virchow2", {}),
        (
            "h_optimus_0",
            1536,
            4,
            "token",
            "hf-hub:bioptimus/H-optimus-0",
            {"init_values": 1e-5, "dynamic_img_size": False},
        ),
    ],
)
def test_known_timm_models(timm, name, dim, registers, pool, hub, said):
    network = TinyViT(dim, registers=registers, pool=pool)
    timm.makes = lambda _: network
    model = encoder(name, device="cpu")
    ((asked, arguments),) = timm.calls
    assert asked == hub
    assert arguments["pretrained"] is True
    assert arguments["num_classes"] == 0
    assert said.items() <= arguments.items()
    if name in ("uni2_h", "virchow2"):
        assert arguments["mlp_layer"] is timm.layers.SwiGLUPacked
        assert arguments["act_layer"] is nn.SiLU
    with torch.inference_mode():
        states = network.forward_features(normalised(model.card))
    expected = states[:, 0]
    if name == "virchow2":  # class token beside the mean of the patch tokens, without the registers
        expected = torch.cat([states[:, 0], states[:, 5:].mean(dim=1)], dim=1)
    found = model(PIXELS)
    assert found.shape == (3, encoders()[name].dim)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(model.tokens(PIXELS), states[:, 1 + registers :].numpy(), atol=1e-4)


def test_any_timm_model_brings_its_own_preprocessing(timm):
    model = encoder("timm:some_net", device="cpu")
    assert timm.calls[0][0] == "some_net"
    card = model.card
    assert (card.name, card.input_px, card.mean, card.dim, card.tokens) == ("timm:some_net", 112, (0.5, 0.4, 0.3), 8, 4)
    encoder("timm:owner/net", device="cpu")
    encoder("timm:owner/net", device="cpu", revision="v2")
    assert [name for name, _ in timm.calls[1:]] == ["hf-hub:owner/net", "hf-hub:owner/net@v2"]


def test_maps_of_convolutional_models_become_tokens(timm):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 28, stride=28)

        def forward_features(self, x):
            return self.conv(x)

        def forward(self, x):
            return self.conv(x).mean(dim=(2, 3))

    timm.makes = lambda _: Net()
    model = encoder("timm:net", device="cpu")
    tokens = model.tokens(PIXELS[:, :112, :112])
    assert tokens.shape == (3, 16, 5)
    np.testing.assert_allclose(tokens.mean(axis=1), model(PIXELS[:, :112, :112]), atol=1e-5)


def test_the_weights_are_part_of_the_identity(timm):
    """A hub revision that moves, or a folder whose content changes, never meets old features."""
    torch.manual_seed(0)
    first = encoder("timm:net", device="cpu").identity
    second = encoder("timm:net", device="cpu").identity  # other random weights under the same name
    assert first != second
    network = TinyViT(8)
    timm.makes = lambda _: network
    assert encoder("timm:net", device="cpu").identity == encoder("timm:net", device="cpu").identity


def test_other_weights_than_the_record_says(timm):
    timm.makes = lambda _: TinyViT(7)
    with pytest.raises(
        FormatError,
        match=r"weights of 'uni' are not the expected ones; expected 1024 values a patch, got shape \(1, 7\)",
    ):
        encoder("uni", device="cpu")


class GatedRepoError(OSError):
    pass


class LocalEntryNotFoundError(OSError):
    pass


class RepositoryNotFoundError(OSError):
    pass


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("name", "error", "kind", "message"),
    [
        ("uni", GatedRepoError("Access is restricted"), DataError,
         r"weights of 'uni' are gated.*https://huggingface.co/MahmoodLab/uni.*CC-BY-NC-ND-4.0.*hf auth login"),
        ("virchow2", RuntimeError("403 Client Error: awaiting a review"), DataError, "weights of 'virchow2' are gated"),
        ("uni", caused(OSError("no"), LocalEntryNotFoundError("no file")), DataError,
         r"hub cannot be reached\. Load it once with a network\. It is gated: accept the terms"),
        ("h_optimus_0", ConnectionError("unreachable"), DataError,
         'hub cannot be reached. .*efficientnet_lite0.*"timm:/path/to/model"'),
        ("timm:nothing", RuntimeError("Unknown model (nothing)"), DataError, "there is no model 'nothing'"),
        ("timm:a/b", RepositoryNotFoundError("404"), DataError, "there is no model 'a/b'. Check the name at https://huggingface.co/a/b"),
        ("uni", ValueError("bad tensor"), FormatError, r"could not be loaded \(ValueError: bad tensor\)"),
    ],
)  # fmt: skip
def test_why_weights_are_not_there(timm, name, error, kind, message):
    timm.makes = lambda _: error
    with pytest.raises(kind, match=message):
        encoder(name, device="cpu")


def test_packages_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"'timm' is needed to load 'uni'.*expressor\[encoders\]"):
        encoder("uni")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"'transformers' is needed to load 'phikon'"):
        encoder("phikon")
    monkeypatch.setitem(sys.modules, "conch", None)
    with pytest.raises(MissingExtra, match=r"authors' package 'conch' is needed.*github.com/mahmoodlab/CONCH"):
        encoder("conch")


def test_conch_through_its_own_package(monkeypatch):
    class Conch(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(3, 512)

        def encode_image(self, x, *, proj_contrast, normalize):
            assert not proj_contrast
            assert not normalize
            return self.embed(x.mean(dim=(2, 3)))

    asked = []
    module = types.ModuleType("conch.open_clip_custom")
    module.create_model_from_pretrained = lambda *names: (asked.append(names), (Conch(), None))[1]
    package = types.ModuleType("conch")
    package.open_clip_custom = module
    monkeypatch.setitem(sys.modules, "conch", package)
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", module)
    model = encoder("conch", device="cpu")
    assert asked == [("conch_ViT-B-16", "hf_hub:MahmoodLab/conch")]
    assert model(np.zeros((1, 448, 448, 3), np.uint8)).shape == (1, 512)
    with pytest.raises(DataError, match="'conch' has no spatial tokens"):
        model.tokens(np.zeros((1, 448, 448, 3), np.uint8))


@pytest.fixture(scope="module")
def transformers():
    # Its import warns about what is not its business here.
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="transformers is not installed")


def write_model(transformers, folder, kind):
    torch.manual_seed(0)
    common = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
    if kind == "vit":
        network = transformers.ViTModel(transformers.ViTConfig(image_size=48, patch_size=16, **common))
    elif kind == "dinov2":
        network = transformers.Dinov2Model(transformers.Dinov2Config(image_size=56, patch_size=14, **common))
    elif kind == "registers":
        config = transformers.Dinov2WithRegistersConfig(image_size=56, patch_size=14, num_register_tokens=4, **common)
        network = transformers.Dinov2WithRegistersModel(config)
    else:
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        network = transformers.ResNetModel(config)
    network.eval().save_pretrained(folder)
    return network


@pytest.mark.parametrize(
    ("kind", "prefix", "px"), [("vit", 1, 48), ("dinov2", 1, 56), ("registers", 5, 56), ("resnet", 0, 224)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_models_from_a_folder(transformers, tmp_path, kind, prefix, px):
    network = write_model(transformers, tmp_path, kind)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.6, 0.7], "image_std": [0.1, 0.2, 0.3]}')
    model = encoder(f"hf:{tmp_path}", device="cpu")
    assert (model.card.input_px, model.card.mean, model.card.std) == (px, (0.5, 0.6, 0.7), (0.1, 0.2, 0.3))
    pixels = PIXELS[:, :px, :px]
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    with torch.inference_mode():
        states = network(pixel_values=x).last_hidden_state
    if kind == "resnet":
        tokens, pooled = states.flatten(2).transpose(1, 2), states.mean(dim=(2, 3))
    else:
        tokens, pooled = states[:, prefix:], states[:, 0]
    np.testing.assert_allclose(model(pixels), pooled.numpy(), atol=1e-4)
    np.testing.assert_allclose(model.tokens(pixels), tokens.numpy(), atol=1e-4)
    assert model.card.dim == pooled.shape[1]
    assert model.card.tokens == tokens.shape[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_offline(transformers, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"weights of 'phikon' are not in the local cache and the model hub cannot be reached"
    ):
        encoder("phikon")
