"""The feature cache: nothing computed twice, never a stale answer, and what happens when the disk or a file goes bad."""

import errno
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from expressor.core.errors import DataError
from expressor.data.images import open_image
from expressor.data.patches import Patches, PatchSpec
from expressor.encoders import FeatureCache, encode, encoder
from expressor.encoders import cache as cache_module
from expressor.encoders.cache import open_cache
from expressor.encoders.descriptor import CARD

PICTURE = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((300, 300))
)
CENTRES = np.random.default_rng(1).uniform(20, 280, (60, 2))


class CountingEncoder:
    """Mean colour of a patch; remembers how many patches it was given."""

    def __init__(self, name="counting", revision="1", extra="none"):
        self.card = replace(CARD, name=name, revision=revision, dim=3, input_px=16)
        self.identity = (name, revision, extra)
        self.seen = 0

    def __call__(self, pixels):
        self.seen += len(pixels)
        return pixels.mean(axis=(1, 2), dtype=np.float32)

    def tokens(self, pixels):
        self.seen += len(pixels)
        return pixels.reshape(len(pixels), -1, 3).astype(np.float32)[:, :4]


def cut(picture=PICTURE, centres=CENTRES, um_per_px=1.0, size_um=16.0):
    return Patches(open_image(picture, um_per_px=um_per_px), centres, PatchSpec(size_um=size_um, px=16))


@pytest.fixture
def warnings_of(caplog):
    with caplog.at_level(logging.WARNING, logger="expressor"):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_nothing_is_computed_twice(tmp_path):
    model, patches = CountingEncoder(), cut()
    expected = encode(patches, CountingEncoder())
    np.testing.assert_array_equal(encode(patches, model, cache=tmp_path), expected)
    assert model.seen == 60
    np.testing.assert_array_equal(encode(patches, model, cache=tmp_path), expected)
    assert model.seen == 60
    # A subset, another order, repeats: all known. Some new ones: only those are computed.
    rows = np.array([5, 3, 3, 59, 0])
    np.testing.assert_array_equal(encode(patches.take(rows), model, cache=tmp_path), expected[rows])
    assert model.seen == 60
    more = np.concatenate([CENTRES[10:20], CENTRES[:4] + 1.5, CENTRES[40:]])
    np.testing.assert_array_equal(
        encode(cut(centres=more), model, cache=tmp_path), encode(cut(centres=more), CountingEncoder())
    )
    assert model.seen == 64


@given(asked=st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=20), max_size=5), batch_size=st.integers(1, 9))
def test_any_history_of_questions_gives_the_same_answers(tmp_path_factory, asked, batch_size):
    folder, patches, model = tmp_path_factory.mktemp("cache"), cut(), CountingEncoder()
    expected = encode(patches, CountingEncoder())
    for rows in asked:
        rows = np.array(rows, dtype=int)
        np.testing.assert_array_equal(
            encode(patches.take(rows), model, cache=folder, batch_size=batch_size), expected[rows]
        )
    assert model.seen <= sum(map(len, asked))


def test_keys_with_zeros_are_told_apart(tmp_path):
    keys = np.zeros((4, 16), dtype=np.uint8)
    keys[1, 0] = keys[2, 15] = keys[3, 7] = 1
    store = FeatureCache(tmp_path)
    for row in range(4):
        assert store.write({"a": 1}, keys[[row]], np.full((1, 2), row, np.float32))
    found, features = store.read({"a": 1}, keys[[3, 0, 2, 1]])
    assert found.all()
    np.testing.assert_array_equal(features[:, 0], [3, 0, 2, 1])
    other = np.zeros((1, 16), dtype=np.uint8)
    other[0, 8] = 1
    assert not store.read({"a": 1}, other)[0].any()


def test_interrupted_work_is_kept(tmp_path, monkeypatch):
    """What was saved before an error is not computed again."""
    monkeypatch.setattr("expressor.encoders.encoding._SAVE_EVERY", 16)

    class Breaking(CountingEncoder):
        def __call__(self, pixels):
            if self.seen >= 40:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    with pytest.raises(KeyboardInterrupt):
        encode(cut(), Breaking(), cache=tmp_path, batch_size=8)
    model = CountingEncoder()
    np.testing.assert_array_equal(encode(cut(), model, cache=tmp_path, batch_size=8), encode(cut(), CountingEncoder()))
    assert model.seen == 60 - 32


def different(**changes):
    changed = PICTURE.copy()
    changed[150, 150] ^= 1
    others = {
        "picture": lambda: (cut(changed), CountingEncoder()),
        "scale": lambda: (cut(um_per_px=1.1), CountingEncoder()),
        "size": lambda: (cut(size_um=15.0), CountingEncoder()),
        "name": lambda: (cut(), CountingEncoder(name="other")),
        "revision": lambda: (cut(), CountingEncoder(revision="2")),
        "preprocessing": lambda: (cut(), CountingEncoder(extra="mean 0.5")),
    }
    return others


@pytest.mark.parametrize("what", [*different()])
def test_whatever_changes_is_computed_anew(tmp_path, what):
    encode(cut(), CountingEncoder(), cache=tmp_path)
    patches, model = different()[what]()
    encode(patches, model, cache=tmp_path)
    assert model.seen == 60


def test_tokens_and_vectors_are_kept_apart(tmp_path):
    model = CountingEncoder()
    assert encode(cut(), model, cache=tmp_path).shape == (60, 3)
    assert encode(cut(), model, cache=tmp_path, pooled=False).shape == (60, 4, 3)
    assert model.seen == 120


def test_an_edited_image_file_is_never_answered_from_the_past(tmp_path):
    """Same path, same size, same time stamp: other bytes are other features."""
    path = tmp_path / "x.png"
    colours = [(200, 10, 10), (10, 200, 10)]
    found = []
    for colour in colours:
        Image.new("RGB", (64, 64), colour).save(path, compress_level=0)
        os.utime(path, ns=(10**18, 10**18))
        code = f"""
            import numpy as np
            from expressor.data.images import open_image
            from expressor.data.patches import Patches, PatchSpec
            from expressor.encoders import encode
            with open_image({str(path)!r}, um_per_px=1.0) as image:
                patches = Patches(image, np.array([[32.0, 32.0]]), PatchSpec(size_um=16.0, px=16))
                print(encode(patches, "colour", cache={str(tmp_path / "cache")!r})[0, :1].tolist())
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout)[0])
    assert found == pytest.approx([200 / 255, 10 / 255], abs=1e-6)


def entries(folder):
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("way", ["truncated", "empty", "flipped", "header", "swapped", "foreign"])
def test_damaged_entries_are_replaced(tmp_path, warnings_of, way):
    expected = encode(cut(), CountingEncoder(), cache=tmp_path)
    (path,) = entries(tmp_path)
    whole = path.read_bytes()
    if way == "swapped":  # a sound entry of another encoder under this name
        encode(cut(), CountingEncoder(name="other"), cache=tmp_path / "elsewhere")
        path.write_bytes(entries(tmp_path / "elsewhere")[0].read_bytes())
    else:
        flipped = bytearray(whole)
        flipped[-5] ^= 4  # the payload: still a valid file
        path.write_bytes(
            {
                "truncated": whole[: len(whole) // 2],
                "empty": b"",
                "flipped": bytes(flipped),
                "header": b"\xff" * 8 + whole[8:],
                "foreign": b"PK\x03\x04" + bytes(500),
            }[way]
        )
    model = CountingEncoder()
    np.testing.assert_array_equal(encode(cut(), model, cache=tmp_path), expected)
    assert model.seen == 60
    assert any("are damaged" in message and "computed anew" in message for message in warnings_of())
    np.testing.assert_array_equal(encode(cut(), model, cache=tmp_path), expected)
    assert model.seen == 60  # the replacement is sound


@pytest.mark.parametrize("times", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_damage_gives_a_wrong_feature(tmp_path, times):
    patches = cut()
    expected = encode(patches, CountingEncoder(), cache=tmp_path)
    (path,) = entries(tmp_path)
    whole, rng = path.read_bytes(), np.random.default_rng(times)
    for _ in range(times):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        if rng.random() < 0.2:
            data = data[: rng.integers(len(data))]
        path.write_bytes(bytes(data))
        np.testing.assert_array_equal(encode(patches, CountingEncoder(), cache=tmp_path), expected)


def test_a_full_disk_leaves_a_warning_and_earlier_entries(tmp_path, monkeypatch, warnings_of):
    first = encode(cut(), CountingEncoder(), cache=tmp_path)
    kept = {path: path.read_bytes() for path in entries(tmp_path)}

    def full(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = FeatureCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.os, "replace", full)
        for _ in range(2):
            found = encode(cut(centres=CENTRES + 1), CountingEncoder(), cache=store)
            np.testing.assert_array_equal(found, encode(cut(centres=CENTRES + 1), CountingEncoder()))
    assert warnings_of() == [
        f"features are not cached: {tmp_path} cannot be written (the disk is full); computing on without"
    ]
    assert {path: path.read_bytes() for path in entries(tmp_path)} == kept
    assert not list(tmp_path.rglob(".partial*"))
    model = CountingEncoder()
    np.testing.assert_array_equal(encode(cut(), model, cache=store), first)
    assert model.seen == 0  # what is there is still read


def test_a_real_size_limit_of_the_system(tmp_path):
    """The kernel refuses the write half way: a warning, the features, and no torn entry."""
    code = f"""
        import logging, resource, sys
        import numpy as np
        from expressor.encoders.cache import FeatureCache
        logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
        keys = np.random.default_rng(0).integers(0, 256, (1000, 16), dtype=np.uint8)
        store = FeatureCache({str(tmp_path)!r})
        assert store.write({{"a": 1}}, keys[:10], np.ones((10, 4), np.float32))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        assert not store.write({{"a": 1}}, keys, np.zeros((1000, 64), np.float32))
        found, features = FeatureCache({str(tmp_path)!r}).read({{"a": 1}}, keys)
        assert found.sum() == 10 and (features[:10] == 1).all()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "cannot be written (the disk is full); computing on without" in done.stdout
    assert len(entries(tmp_path)) == 1
    assert not list(tmp_path.rglob(".partial*"))


def test_a_read_only_folder_is_read_and_not_written(tmp_path, monkeypatch, warnings_of):
    encode(cut(), CountingEncoder(), cache=tmp_path)

    def denied(*given, **named):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Root may write anywhere, so the refusal is simulated where the file is made.
    monkeypatch.setattr(cache_module.tempfile, "mkstemp", denied)
    model = CountingEncoder()
    encode(cut(), model, cache=tmp_path)
    assert model.seen == 0
    encode(cut(centres=CENTRES + 2), model, cache=tmp_path)
    assert model.seen == 60
    assert warnings_of() == [
        f"features are not cached: {tmp_path} cannot be written (Permission denied); computing on without"
    ]


def write_many(folder, worker, rounds):
    """One process: the same and its own patches, over and over."""
    for one in range(rounds):
        rows = np.random.default_rng([worker, one]).permutation(60)[:25]
        patches = cut().take(rows)
        found = encode(patches, CountingEncoder(), cache=folder, batch_size=7)
        np.testing.assert_array_equal(found, encode(patches, CountingEncoder()))


def test_processes_share_a_folder(tmp_path, warnings_of):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(tmp_path, worker, 12)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    model = CountingEncoder()
    np.testing.assert_array_equal(encode(cut(), model, cache=tmp_path), encode(cut(), CountingEncoder()))
    assert model.seen == 0
    assert not warnings_of()
    assert not list(tmp_path.rglob(".partial*"))


def test_a_killed_writer_leaves_no_torn_entry(tmp_path):
    code = f"""
        import os, signal
        import numpy as np
        from expressor.encoders import cache
        keys = np.zeros((5, 16), np.uint8)
        real = os.replace
        cache.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        cache.FeatureCache({str(tmp_path)!r}).write({{"a": 1}}, keys, np.ones((5, 4), np.float32))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -9
    assert not entries(tmp_path)
    found, features = FeatureCache(tmp_path).read({"a": 1}, np.zeros((5, 16), np.uint8))
    assert not found.any()
    assert features is None


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path / "all"))
    assert open_cache("auto").folder == tmp_path / "all" / "features"
    monkeypatch.delenv("EXPRESSOR_CACHE")
    assert open_cache("auto").folder.name == "features"
    assert open_cache(None) is None
    store = FeatureCache(tmp_path)
    assert open_cache(store) is store
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the feature cache .*file is a file"):
        FeatureCache(tmp_path / "file")


def test_clearing_removes_entries_and_nothing_else(tmp_path):
    store = FeatureCache(tmp_path)
    encode(cut(), CountingEncoder(), cache=store)
    (tmp_path / "mine.txt").write_text("keep")
    assert store.clear() == 1
    assert not entries(tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_an_empty_question(tmp_path):
    none = cut(centres=np.empty((0, 2)))
    assert encode(none, CountingEncoder()).shape == (0, 3)
    assert encode(none, CountingEncoder(), cache=tmp_path).shape == (0, 3)


def test_the_descriptor_through_the_cache(tmp_path):
    model = encoder("colour")
    plain = encode(cut(), model)
    np.testing.assert_array_equal(encode(cut(), "colour", cache=tmp_path), plain)
    np.testing.assert_array_equal(encode(cut(), model, cache=tmp_path), plain)
    (path,) = entries(tmp_path)
    head = path.read_bytes()
    about = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    assert json.loads(about["group"])["encoder"][0] == "colour"  # what an entry is can be read from the entry
