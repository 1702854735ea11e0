"""The cache of decoded evaluation crops: the same pixels, once, whatever happens to the files."""

import logging
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import crops as module
from core.data.crops import CropCache, CropReader
from core.data.dataset import Dataset, Item
from core.data.folder import FolderReader
from core.data.pixels import load_pixels
from core.data.transforms import EvalTransform
from core.data.validation_only import RestrictedReader
from tests.helpers.image_features import SPEC, noise_dataset

VIEW = EvalTransform(SPEC)
GB = 10**9
FORMS = {
    "wide.png": ((31, 9), "RGB"), "tall.png": ((7, 40), "RGB"), "exact.png": ((6, 6), "RGB"),
    "smaller.png": ((3, 4), "RGB"), "gray.png": ((9, 9), "L"), "alpha.png": ((9, 12), "RGBA"),
    "palette.png": ((20, 11), "P"), "deep.png": ((12, 12), "I;16"), "lossy.jpg": ((33, 21), "RGB"),
    "cmyk.jpg": ((15, 21), "CMYK"),
}  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    """Images of every form that is read, in a folder."""
    root = tmp_path / "images"
    root.mkdir()
    random = np.random.default_rng(0)
    for name, (size, mode) in FORMS.items():
        noise = random.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        if mode == "I;16":
            image = Image.fromarray(noise[..., 0].astype(np.uint16) * 255)
        else:
            image = Image.fromarray(noise).convert("RGB").convert(mode)
        image.save(root / name)
    items = tuple(Item(name, 0) for name in FORMS)
    return Dataset(
        name="t/forms", class_names=("a",), template="{}", train=items, val=(), test=(),
        reader=FolderReader(root=root), content="c",
    )  # fmt: skip


@pytest.fixture
def opened(monkeypatch):
    """The paths that are read from files."""
    paths, read = [], FolderReader.read
    monkeypatch.setattr(FolderReader, "read", lambda s, path: paths.append(path) or read(s, path))
    return paths


def cache(tmp_path, view=VIEW, **options):
    return CropCache(tmp_path / "crops", view, **{"limit_bytes": GB, **options})


def shards(tmp_path):
    return sorted((tmp_path / "crops").glob("*/*.crops"))


@pytest.mark.parametrize("squash", [False, True])
def test_pixels_are_those_of_the_files_bit_for_bit(dataset, tmp_path, squash):
    view = EvalTransform(replace(SPEC, squash=squash))
    expected = load_pixels(dataset, dataset.train, view)
    for _ in range(2):
        kept = cache(tmp_path, view).holding(dataset, dataset.train)
        assert isinstance(kept.reader, CropReader) and kept.fingerprint == dataset.fingerprint
        assert torch.equal(load_pixels(kept, dataset.train, view), expected)


def test_an_image_is_decoded_once_whatever_the_run_and_the_normalization(dataset, tmp_path, opened):
    cache(tmp_path).holding(dataset, dataset.train[:4])
    assert sorted(opened) == sorted(item.path for item in dataset.train[:4])
    kept = cache(tmp_path).holding(dataset, dataset.train)
    assert sorted(opened) == sorted(item.path for item in dataset.train)
    load_pixels(kept, dataset.train, VIEW)
    other = EvalTransform(replace(SPEC, image_mean=(0.1, 0.2, 0.3)))
    load_pixels(cache(tmp_path, other).holding(dataset, dataset.train), dataset.train, other)
    assert len(opened) == len(FORMS)
    for change in ({"content": "d"}, {"name": "t/other"}):
        cache(tmp_path).holding(replace(dataset, **change), dataset.train)
    cache(tmp_path, code="other code").holding(dataset, dataset.train)
    cache(tmp_path, EvalTransform(replace(SPEC, squash=True))).holding(dataset, dataset.train)
    assert len(opened) == 5 * len(FORMS)  # whatever may change a pixel is in the key


def test_a_file_that_changed_is_decoded_again_whatever_the_fingerprint_says(dataset, tmp_path):
    """Kept under the fingerprint of before, changed pixels would come back with the old file."""
    item = dataset.train[0]
    file = dataset.reader.root / item.path
    before, right = file.read_bytes(), load_pixels(dataset, [item], VIEW)
    Image.new("RGB", (40, 30), "red").save(file)
    wrong = load_pixels(cache(tmp_path).holding(dataset, [item]), [item], VIEW)
    file.write_bytes(before)
    for _ in range(2):
        kept = cache(tmp_path).holding(dataset, [item])
        assert torch.equal(load_pixels(kept, [item], VIEW), right)
    Image.new("RGB", (40, 30), "red").save(file)  # while it is in use
    assert torch.equal(load_pixels(kept, [item], VIEW), wrong)
    assert not torch.equal(wrong, right)


def test_what_is_not_asked_for_is_read_from_its_file(dataset, tmp_path, opened):
    kept = cache(tmp_path).holding(dataset, dataset.train[:2])
    opened.clear()
    pixels = load_pixels(kept, dataset.train[:3], VIEW)
    assert opened == [dataset.train[2].path]
    assert torch.equal(pixels, load_pixels(dataset, dataset.train[:3], VIEW))


def test_images_that_are_no_files_or_have_no_fingerprint_are_not_kept(dataset, tmp_path):
    rendered, unknown = noise_dataset(), replace(dataset, content="")
    for one in (rendered, unknown):
        assert cache(tmp_path).holding(one, one.train) is one
    assert shards(tmp_path) == []


def test_what_a_search_must_not_see_stays_refused(dataset, tmp_path):
    cache(tmp_path).holding(dataset, dataset.train)  # by an earlier run
    allowed = frozenset(item.path for item in dataset.train[:2])
    hidden = replace(dataset, reader=RestrictedReader(dataset.reader, allowed))
    kept = cache(tmp_path).holding(hidden, dataset.train[:2])
    load_pixels(kept, dataset.train[:2], VIEW)
    with pytest.raises(ValueError, match="withheld from the search"):
        load_pixels(kept, dataset.train[2:3], VIEW)


def flip(file):
    data = bytearray(file.read_bytes())
    data[-5] ^= 16
    file.write_bytes(data)


def flip_head(file):
    data = bytearray(file.read_bytes())
    data[20] ^= 16
    file.write_bytes(data)


DAMAGE = {
    "pixels": flip,
    "list": flip_head,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "empty": lambda file: file.write_bytes(b""),
    "length": lambda file: file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_dropped_and_decoded_again(dataset, tmp_path, damage, caplog):
    expected = load_pixels(dataset, dataset.train, VIEW)
    cache(tmp_path).holding(dataset, dataset.train)
    (file,) = shards(tmp_path)
    whole = file.read_bytes()
    DAMAGE[damage](file)
    with caplog.at_level(logging.WARNING):
        kept = cache(tmp_path).holding(dataset, dataset.train)
        assert torch.equal(load_pixels(kept, dataset.train, VIEW), expected)
    assert "is damaged" in caplog.text and "\n" not in caplog.records[0].getMessage()
    kept = cache(tmp_path).holding(dataset, dataset.train)
    assert torch.equal(load_pixels(kept, dataset.train, VIEW), expected)
    assert shards(tmp_path) == [file] and file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["pixels", "truncated", "empty", "gone"])
def test_a_shard_that_is_damaged_while_it_is_used_costs_only_the_cache(dataset, tmp_path, damage):
    expected = load_pixels(dataset, dataset.train, VIEW)
    kept = cache(tmp_path).holding(dataset, dataset.train)
    load_pixels(kept, dataset.train[:1], VIEW)
    (file,) = shards(tmp_path)
    (DAMAGE | {"gone": lambda file: file.unlink()})[damage](file)
    assert torch.equal(load_pixels(kept, dataset.train, VIEW), expected)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_no_file_stays_open(dataset, tmp_path, monkeypatch):
    """A set of test images has hundreds of shards; a process may open about a thousand files."""
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    before = len(os.listdir("/proc/self/fd"))
    kept = cache(tmp_path).holding(dataset, dataset.train)
    load_pixels(kept, dataset.train, VIEW)
    assert len(shards(tmp_path)) == len(FORMS)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_limit_is_kept_and_told_once(dataset, tmp_path, opened, caplog):
    one = 3 * 6 * 6
    small = cache(tmp_path, limit_bytes=3 * one)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert small.holding(dataset, dataset.train).reader.read("exact.png").size == (6, 6)
    assert len(caplog.records) == 1
    assert "set experiment.crop_cache_gb" in caplog.text and shards(tmp_path) == []
    roomy = cache(tmp_path, limit_bytes=20 * one + 2000)
    roomy.holding(dataset, dataset.train)
    assert len(shards(tmp_path)) == 1
    opened.clear()
    kept = small.holding(dataset, dataset.train)  # what is there is used
    load_pixels(kept, dataset.train, VIEW)
    assert opened == []


def test_a_folder_that_cannot_be_written_costs_only_the_cache(dataset, tmp_path, caplog):
    (tmp_path / "crops").write_text("")
    kept = cache(tmp_path).holding(dataset, dataset.train)
    expected = load_pixels(dataset, dataset.train, VIEW)
    assert torch.equal(load_pixels(kept, dataset.train, VIEW), expected)
    assert "decoded images are not kept" in caplog.text


def test_a_full_disk_costs_only_the_cache(dataset, tmp_path, monkeypatch, caplog):
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    kept = cache(tmp_path).holding(dataset, dataset.train)
    expected = load_pixels(dataset, dataset.train, VIEW)
    assert torch.equal(load_pixels(kept, dataset.train, VIEW), expected)
    assert "are free" in caplog.text and shards(tmp_path) == []


def test_an_unreadable_image_is_named_and_the_others_are_kept(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 3 * 6 * 6 * 2)
    (tmp_path / "images" / "cmyk.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cmyk\.jpg is not in a format"):
        cache(tmp_path).holding(dataset, dataset.train)
    assert len(shards(tmp_path)) == 4  # the shards before it


def fill(place, dataset, die_after):
    """Fill the cache; with ``die_after`` be killed before so many shards are complete."""
    module.SHARD_BYTES = 3 * 6 * 6
    written, rename = [], os.replace

    def replace_or_die(source, target):
        if str(target).endswith(".crops"):
            if len(written) == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(target)
        rename(source, target)

    os.replace = replace_or_die
    CropCache(place / "crops", VIEW, limit_bytes=GB).holding(dataset, dataset.train)


def test_processes_share_it_and_a_killed_one_leaves_whole_shards_only(dataset, tmp_path, opened):
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=fill, args=(tmp_path, dataset, 3))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL and len(shards(tmp_path)) == 3
    both = [fork.Process(target=fill, args=(tmp_path, dataset, None)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert len(shards(tmp_path)) == len(FORMS)  # every image once
    kept = cache(tmp_path).holding(dataset, dataset.train)
    pixels = load_pixels(kept, dataset.train, VIEW)
    assert opened == [] and torch.equal(pixels, load_pixels(dataset, dataset.train, VIEW))
