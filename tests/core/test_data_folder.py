"""Reading trees on disk, writing them, and opening pictures of every odd kind."""

import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.data.catalog import load_dataset
from core.data.dataset import Dataset, Item
from core.data.digits import load_digits
from core.data.export import export_dataset
from core.data.folder import find_layout, read_folder
from core.data.images import open_rgb
from core.data.splits import SplitFractions


def save(path, color=(10, 20, 30), size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def tree(tmp_path):
    """Three classes of ten pictures, code point order B a b, with things to ignore."""
    root = tmp_path / "pets"
    for c, name in enumerate(("a_cat", "B dog", "bird")):
        for n in range(10):
            save(root / name / f"{n}.PNG", (c * 50, n * 20, 7))
    (root / "a_cat" / "notes.txt").write_text("no image")
    (root / "a_cat" / ".hidden.png").write_bytes(b"")
    (root / ".cache").mkdir()
    (root / "README.md").write_text("stray file")
    return root


def write_split(folder, name, train, val=(), test=()):
    file = folder / f"split_zhou_{name}.json"
    file.write_text(json.dumps({"train": train, "val": list(val), "test": list(test)}))
    return file


def test_class_tree(tree):
    before = sorted(tree.rglob("*"))
    dataset = read_folder(tree)
    assert dataset.class_names == ("B dog", "a_cat", "bird")
    assert dataset.name == f"folder/{tree}" and dataset.template == "a photo of a {}."
    assert [len(dataset.split(s)) for s in ("train", "val", "test")] == [15, 6, 9]
    listed = [i.path for s in ("train", "val", "test") for i in dataset.split(s)]
    assert len(set(listed)) == 30 and all(path.endswith(".PNG") for path in listed)
    assert dataset.reader.read("bird/3.PNG").getpixel((0, 0)) == (100, 60, 7)
    assert sorted(tree.rglob("*")) == before  # nothing is written into the tree
    assert read_folder(tree) == dataset
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    assert read_folder(tree, split_seed=1).train != dataset.train
    sizes = read_folder(tree, fractions=SplitFractions(train=0.6, val=0.0, test=0.4))
    assert (len(sizes.train), len(sizes.val), len(sizes.test)) == (18, 0, 12)
    assert "class folders" in find_layout(tree).describe()


def test_content_notices_a_changed_picture_of_the_same_size_and_survives_copying(tree, tmp_path):
    first = read_folder(tree).content
    import shutil

    assert read_folder(shutil.copytree(tree, tmp_path / "copy")).content == first
    file = tree / "bird" / "3.PNG"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    assert read_folder(tree).content != first


def test_part_folders(tmp_path):
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        for name in ("x", "y"):
            for n in range(count):
                save(tmp_path / part / name / "deep" / f"{n}.jpg")
    dataset = read_folder(tmp_path)
    assert dataset.class_names == ("x", "y")
    assert dataset.train[3] == Item("train/y/deep/0.jpg", 1)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (6, 2, 4)
    assert "train/val/test folders" in find_layout(tmp_path).describe()
    save(tmp_path / "test" / "z" / "1.jpg")
    with pytest.raises(ValueError, match=r"class 'z' .* has no folder in train/"):
        read_folder(tmp_path)


def test_train_and_val_without_test(tmp_path):
    for part in ("train", "val"):
        save(tmp_path / part / "x" / "1.jpg")
    with pytest.raises(ValueError, match="no test/"):
        read_folder(tmp_path)


def test_split_file_beside_and_above_the_images(tmp_path):
    home = tmp_path / "eurosat"
    for n in range(4):
        save(home / "2750" / "River" / f"r{n}.dat.jpg", (n, 0, 0))
    (home / "other").mkdir()
    rows = [[f"River/r{n}.dat.jpg", n % 2, ["Big River", "Sea"][n % 2]] for n in range(4)]
    rows[2][1] = "0"  # numeric text is a label too
    split_file = write_split(home, "EuroSAT", rows[2:], rows[:1], rows[1:2])
    for given in (home, home / "2750"):
        dataset = read_folder(given)
        assert dataset.train == (Item("River/r2.dat.jpg", 0), Item("River/r3.dat.jpg", 1))
        assert dataset.class_names == ("Big River", "Sea")
        assert dataset.template == "a centered satellite photo of {}."
        assert dataset.reader.read("River/r3.dat.jpg").size == (9, 7)
        assert str(split_file) in find_layout(given).describe()
    (home / "refinelab.json").write_text('{"template": "from above: {}."}')
    assert read_folder(home).template == "from above: {}."
    assert read_folder(home, template="{}").template == "{}"
    (home / "refinelab.json").write_text('{"template": "no place"}')
    with pytest.raises(ValueError, match=r"template must be text with one \{\}"):
        read_folder(home)
    (home / "refinelab.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"refinelab\.json must be a JSON object"):
        read_folder(home)


def test_missing_files_are_counted_and_the_first_is_named(tmp_path):
    save(tmp_path / "images" / "a" / "1.jpg")
    rows = [[f"a/{n}.jpg", 0, "a"] for n in range(1, 4)]
    write_split(tmp_path, "X", rows)
    with pytest.raises(
        ValueError, match=r"2 of 3 listed images are missing or unreadable, first a/2\.jpg"
    ):
        read_folder(tmp_path)
    (tmp_path / "images" / "a" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"none of the 3 files .* first a/1\.jpg"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["a.jpg", 0], r"train\[0\] must be \[path, label, class name\]"),
        (["a.jpg", -1, "x"], "label must be an integer of at least 0, got -1"),
        (["a.jpg", True, "x"], "label must be an integer of at least 0, got True"),
        (["a.jpg", 1.0, "x"], "label must be an integer"),
        (["a.jpg", 0, ""], "class name must be non-empty UTF-8 text"),
        (["../a.jpg", 0, "x"], "path must be relative and stay in the image folder"),
        (["/etc/a.jpg", 0, "x"], "path must be relative"),
        (["a.jpg", 1, "x"], r"labels must be 0\.\.1 without gaps, 0 is missing"),
    ],
)
def test_malformed_split_entries(tmp_path, entry, message):
    write_split(tmp_path, "X", [entry])
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_malformed_split_files(tmp_path):
    file = write_split(tmp_path, "X", [["a", 0, "x"], ["b", 0, "y"]])
    with pytest.raises(ValueError, match="label 0 is named 'y' and 'x'"):
        read_folder(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_folder(tmp_path)
    file.write_text('{"train": []}')
    with pytest.raises(ValueError, match="lists train, val and test"):
        read_folder(tmp_path)
    write_split(tmp_path, "X", [])
    with pytest.raises(ValueError, match="lists no images"):
        read_folder(tmp_path)
    write_split(tmp_path, "Y", [])
    with pytest.raises(ValueError, match=r"2 split files .*keep exactly one"):
        read_folder(tmp_path)


def test_folder_errors(tree, tmp_path):
    with pytest.raises(ValueError, match="does not exist or is not a folder"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="has no class folders"):
        read_folder(tmp_path / "bare")
    (tree / "zebra").mkdir()
    (tree / "zebra" / "list.csv").write_text("")
    with pytest.raises(ValueError, match=r"class folder 'zebra' \(1 in all\) has no image"):
        read_folder(tree)


def picture(mode, color):
    return Image.new(mode, (4, 4), color)


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (picture("L", 77), "png", (77, 77, 77)),
        (picture("1", 1), "png", (255, 255, 255)),
        (picture("RGBA", (9, 8, 7, 0)), "png", (9, 8, 7)),  # alpha is dropped, not blended
        (picture("LA", (50, 3)), "png", (50, 50, 50)),
        (picture("CMYK", (0, 255, 255, 0)), "tiff", (255, 0, 0)),
        (picture("RGB", (3, 4, 5)), "webp", None),
        (Image.fromarray(np.full((4, 4), 257 * 90, np.uint16)), "png", (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), "tiff", (255, 255, 255)),
    ],
)
def test_odd_pixel_formats(tmp_path, image, suffix, expected):
    file = tmp_path / f"x.{suffix}"
    image.save(file)
    opened = open_rgb(file)
    assert opened.mode == "RGB" and opened.size == (4, 4)
    if expected is not None:
        assert set(opened.get_flattened_data()) == {expected}


def test_palette_with_transparency_shows_its_colors_without_a_warning(tmp_path, recwarn):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([1, 2, 3, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=bytes([255, 0]))
    assert open_rgb(tmp_path / "p.png").getpixel((1, 1)) == (40, 50, 60)
    assert not recwarn.list


def test_exif_orientation_is_ignored_and_an_animation_gives_its_first_frame(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter on display
    Image.new("RGB", (8, 4)).save(tmp_path / "e.jpg", exif=exif)
    assert open_rgb(tmp_path / "e.jpg").size == (8, 4)
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_rgb(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_unreadable_pictures_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, format={"jpg": "JPEG", "png": "PNG"}[suffix])
        file = tmp_path / f"cut.{suffix}"
        file.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(
            ValueError, match=rf"cut\.{suffix} cannot be read \(.*truncated.*replace"
        ):
            open_rgb(file)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.jpg is not in a format that Pillow"):
        open_rgb(tmp_path / "text.jpg")
    with pytest.raises(ValueError, match=r"gone\.jpg does not exist"):
        open_rgb(tmp_path / "gone.jpg")
    Image.new("F", (2, 2)).save(tmp_path / "f.tiff")
    with pytest.raises(ValueError, match=r"f\.tiff .*pixel mode 'F' has no defined white"):
        open_rgb(tmp_path / "f.tiff")


def small_digits() -> Dataset:
    """A few digits with a validation item that is also a test item, and a name to escape."""
    digits = load_digits()
    keep = {name: [i for i in digits.split(name) if i.label < 3][::40] for name in ("train", "val")}
    test = (*[i for i in digits.test if i.label < 3][::30], keep["val"][0])
    train, val = tuple(keep["train"]), tuple(keep["val"])
    return replace(digits, class_names=("zéro", "one", 't/w"o'), train=train, val=val, test=test)


def test_export_reads_back_the_same(tmp_path):
    dataset = small_digits()
    seen = []
    (tmp_path / "out").mkdir()  # an empty folder is fine
    out = export_dataset(dataset, tmp_path / "out", lambda done, total: seen.append((done, total)))
    back = read_folder(out)
    for part in ("train", "val", "test"):
        assert back.split(part) == dataset.split(part)
    assert back.class_names == dataset.class_names and back.template == dataset.template
    paths = {i.path for part in ("train", "val", "test") for i in dataset.split(part)}
    assert seen[-1] == (len(paths), len(paths)) and len(seen) == len(paths)
    for path in paths:
        assert back.reader.read(path).tobytes() == dataset.reader.read(path).tobytes()
    text = (out / "split_zhou_SklearnDigits.json").read_text()
    assert text.startswith('{\n    "train": [\n        [\n            "zero/')
    assert text.endswith("]\n    ]\n}") and "z\\u00e9ro" in text and ", " not in text
    assert [p.name for p in tmp_path.iterdir()] == ["out"]  # no partial folder stays behind


def test_export_refuses_everything_but_itself(tmp_path):
    dataset = small_digits()
    out = export_dataset(dataset, tmp_path / "out")
    stamp = {f: f.stat().st_mtime_ns for f in out.rglob("*")}
    assert export_dataset(dataset, out) == out
    assert {f: f.stat().st_mtime_ns for f in out.rglob("*")} == stamp
    with pytest.raises(ValueError, match="different data"):
        export_dataset(replace(dataset, test=dataset.test[1:]), out)
    with pytest.raises(ValueError, match="listing or template"):
        export_dataset(replace(dataset, template="{}"), out)
    picture = next(out.rglob("*.png"))
    data = picture.read_bytes()
    picture.write_bytes(data[:-1] + b"x")
    with pytest.raises(ValueError, match="an image was changed"):
        export_dataset(dataset, out)
    picture.unlink()
    with pytest.raises(ValueError, match="is missing or does not belong"):
        export_dataset(dataset, out)
    with pytest.raises(ValueError, match="is a file; give a folder"):
        export_dataset(dataset, out / "refinelab.json")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"not empty .* choose an empty folder"):
        export_dataset(dataset, tmp_path / "full")


def test_export_errors_leave_nothing(tmp_path):
    dataset = small_digits()
    with pytest.raises(ValueError, match=r"class 'four' \(1 in all\) has no image"):
        export_dataset(replace(dataset, class_names=(*dataset.class_names, "four")), tmp_path / "o")
    with pytest.raises(ValueError, match="stay in the image folder"):
        export_dataset(replace(dataset, train=(Item("../x.png", 0),)), tmp_path / "o")
    with pytest.raises(IndexError):
        export_dataset(replace(dataset, train=(Item("zero/9999.png", 0),)), tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


def test_catalog_reads_folders_below_the_root(tree, tmp_path):
    by_name = load_dataset("folder/pets", root=tmp_path, cache_dir=tmp_path)
    by_path = load_dataset(f"folder/{tree}", root=tmp_path, cache_dir=tmp_path)
    assert by_name == by_path and by_name.name == "folder/pets"
    elsewhere = load_dataset(f"folder/{tree}", root=tmp_path / "other", cache_dir=tmp_path)
    assert elsewhere.name == f"folder/{tree}" and elsewhere.fingerprint == by_name.fingerprint
    with pytest.raises(ValueError, match=r"data folder .*cats does not exist"):
        load_dataset("folder/cats", root=tmp_path, cache_dir=tmp_path)
