"""How a folder of images is recognized, what is refused, and what is said of it."""

import json
import os

import pytest
from PIL import Image

from core.clip.tokenizer import Tokenizer
from core.data.folder import find_layout, read_folder
from core.data.part_names import part_name

CLASSES = ("cat", "dog", "owl")


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(path.name.encode()) % 256
    Image.new("RGB", (4, 4), (shade, len(path.parent.name), 9)).save(path, format="PNG")


def make(root, *parts, classes=CLASSES, count=10):
    """Class folders with images below each part of a tree."""
    for part in parts:
        for name in classes:
            for n in range(count):
                save(root / part / name / f"{n}.png")
    return root


def settings(folder, **values):
    (folder / "refinelab.json").write_text(json.dumps(values))


def counts(dataset):
    return [len(dataset.split(part)) for part in ("train", "val", "test")]


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "valid", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALIDATION", "TEST"),
        ("training", "validation", "testing"),
        ("trn", "dev", "tst"),
        ("train", "val", "eval"),
        ("train_set", "val_set", "test_set"),
        ("TrainSet", "ValSet", "TestSet"),
        ("trainset", "valset", "testset"),
        ("train-images", "val-images", "test-images"),
        ("images_train", "images_val", "images_test"),
        ("cars_train", "cars_val", "cars_test"),
        ("01_train", "02_val", "03_test"),
        ("train2017", "val2017", "test2017"),
        ("trains", "vals", "tests"),
        ("training data", "validation data", "held-out data"),
    ],
)
def test_parts_in_every_usual_spelling(tmp_path, folders):
    dataset = read_folder(make(tmp_path, *folders, count=2))
    assert dataset.class_names == CLASSES and counts(dataset) == [6, 6, 6]
    assert dataset.train[0].path == f"{folders[0]}/cat/0.png"
    assert f"train/val/test folders ({', '.join(folders)})" in dataset.reading.layout
    assert dataset.reading.split_settings == frozenset()
    two = read_folder(make(tmp_path / "two", folders[2], folders[0], count=2))
    assert counts(two) == [6, 0, 6] and "train/test folders" in two.reading.layout


@pytest.mark.parametrize("name", ["trainer", "steamtrain", "contest", "validity", "cat", "2017"])
def test_names_that_are_no_parts(name):
    assert part_name(name) is None


def test_class_names_that_hold_the_word_of_a_part_are_classes(tmp_path):
    names = ("bus", "crash test", "steam_train", "train")
    dataset = read_folder(make(tmp_path, "", classes=names))
    assert dataset.class_names == names and dataset.reading.notes == ()


def test_a_wrapper_is_read_through_and_said(tmp_path):
    inner = read_folder(make(tmp_path / "a", "data/images") / "data" / "images")
    found = read_folder(tmp_path / "a")
    assert found.class_names == CLASSES and found.fingerprint == inner.fingerprint
    assert any("data/images/ is the only folder" in note for note in found.reading.notes)
    make(tmp_path / "b", "Images/train", "Images/test")
    (tmp_path / "b" / "annotations").mkdir()
    (tmp_path / "b" / "annotations" / "boxes.xml").write_text("")
    (tmp_path / "b" / "__MACOSX").mkdir()
    found = read_folder(tmp_path / "b")
    assert found.class_names == CLASSES and counts(found) == [30, 0, 30]
    make(tmp_path / "c" / "deep", "images")
    rows = [[f"{name}/0.png", n, name] for n, name in enumerate(CLASSES)]
    split = {"train": rows, "val": [], "test": rows}
    (tmp_path / "c" / "deep" / "split_zhou_C.json").write_text(json.dumps(split))
    found = read_folder(tmp_path / "c")
    assert counts(found) == [3, 0, 3] and "split file" in found.reading.layout


def test_folders_of_annotations_are_set_aside_and_named(tmp_path):
    make(tmp_path / "a", "images")
    save(tmp_path / "a" / "annotations" / "trimaps" / "1.png")
    make(tmp_path / "b", "images/train", "images/test")
    save(tmp_path / "b" / "labels" / "train" / "1.png")
    make(tmp_path / "c", "train", "test")
    (tmp_path / "c" / "docs").mkdir()
    for name, folder in (("a", "annotations"), ("b", "labels"), ("c", "docs")):
        found = read_folder(tmp_path / name)
        assert found.class_names == CLASSES
        assert f"{folder}/: not class folders" in found.reading.ignored
    masks = make(tmp_path / "d", "images", "masks")
    with pytest.raises(ValueError, match=r"folders \(images, masks\) hold the same folders"):
        read_folder(masks)
    named = read_folder(make(tmp_path / "e", "", classes=("labels", "photos", "cups")))
    assert named.class_names == ("cups", "labels", "photos")


@pytest.mark.parametrize("name", ["docs", "labels", "Code", "scripts", "meta"])
def test_a_class_named_like_annotations_is_never_dropped(tmp_path, name):
    classes = tuple(sorted(("photos", "pictures", name)))
    make(tmp_path, "", classes=classes)
    with pytest.raises(ValueError, match=rf"'{name}' holds images, like photos, pictures"):
        read_folder(tmp_path)
    settings(tmp_path, ignore=[name])
    assert read_folder(tmp_path).class_names == ("photos", "pictures")
    settings(tmp_path, layout="classes")
    assert read_folder(tmp_path).class_names == classes


def test_files_directly_in_a_part_are_counted(tmp_path):
    make(tmp_path, "train", "test")
    save(tmp_path / "train" / "loose.png")
    (tmp_path / "test" / "labels.csv").write_text("")
    text = "\n".join(read_folder(tmp_path).reading.ignored)
    assert "1 image directly in" in text and "first loose.png" in text
    assert "labels.csv: files in" in text


def test_an_empty_class_says_what_is_there(tmp_path):
    make(tmp_path, "")
    (tmp_path / "yak").mkdir()
    (tmp_path / "yak" / "1.heic").write_text("")
    with pytest.raises(ValueError, match=r"class folder 'yak' .*, but 1 \.heic; add images"):
        read_folder(tmp_path)
    (tmp_path / "flat").mkdir()
    save(tmp_path / "flat" / "1.png")
    with pytest.raises(ValueError, match=r"no class folders \(1 image directly in it\)"):
        read_folder(tmp_path / "flat")


@pytest.mark.parametrize("folder", ["train", "Training", "test", "val", "train_set", "cars_train"])
def test_one_part_alone_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match=rf"has {folder}/ but no .*/; add it beside"):
        read_folder(make(tmp_path, folder))
    assert read_folder(tmp_path / folder).class_names == CLASSES  # the way out that it names


def test_two_parts_without_training_or_test_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"has Train/ and Val/ but no test/; rename .*\"test\": \"Val\""
    ):
        read_folder(make(tmp_path / "a", "Train", "Val"))
    settings(tmp_path / "a", parts={"train": "Train", "test": "Val"})  # the other way out
    assert counts(read_folder(tmp_path / "a")) == [30, 0, 30]
    with pytest.raises(
        ValueError, match=r"testing/ and valid/ but no train/; .*\"train\": \"valid\""
    ):
        read_folder(make(tmp_path / "b", "valid", "testing"))
    with pytest.raises(ValueError, match="'eval' and 'test' both mean the test part"):
        read_folder(make(tmp_path / "c", "train", "test", "eval"))


def test_what_looks_like_parts_or_domains_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"hold the same folders \(cat, dog, owl"):
        read_folder(make(tmp_path / "a", "photo", "sketch"))
    with pytest.raises(ValueError, match="hold the same folders"):
        read_folder(make(tmp_path / "b", "fold1", "fold2", "fold3"))
    with pytest.raises(ValueError, match=r"the class folders hold parts \(cat/test"):
        read_folder(make(tmp_path / "c", *CLASSES, classes=("train", "test")))
    make(tmp_path / "d", "train", "test")
    make(tmp_path / "d", "", classes=("extra",))
    with pytest.raises(ValueError, match=r"'extra' \(1 such folders\) holds images too"):
        read_folder(tmp_path / "d")
    make(tmp_path / "e", "", classes=("bird", "fish"))
    make(tmp_path / "e", "train")
    with pytest.raises(ValueError, match="'train' looks like a part"):
        read_folder(tmp_path / "e")
    for part in ("train", "test"):
        save(tmp_path / "f" / part / "1.png")
    with pytest.raises(ValueError, match="holds images directly"):
        read_folder(tmp_path / "f")


@pytest.mark.parametrize(
    "tree",
    [
        {"fold1": "ab", "fold2": "bc", "fold3": "cd"},
        {"fold1": "ab", "fold2": "bc", "fold3": "cd", "fold4": "ef"},
        {"learn": "ab", "check": "a"},
        {"real": "ab", "sketch": "AB"},
        {"real": ["caf\u00e9", "tea"], "sketch": ["cafe\u0301", "Tea"]},
    ],
)
def test_folders_that_share_half_of_their_folders_are_no_classes(tmp_path, tree):
    for outer, names in tree.items():
        make(tmp_path, outer, classes=names, count=6)
    save(tmp_path / next(iter(tree)) / "cover.png")  # a stray image changes nothing
    with pytest.raises(ValueError, match="hold the same folders"):
        read_folder(tmp_path)
    settings(tmp_path, layout="classes")
    assert read_folder(tmp_path).class_names == tuple(sorted(tree))


@pytest.mark.parametrize(
    "tree",
    [
        {"cat": ["train", "test"], "dog": ["train"]},
        {"cat": ["train", "test"], "dog": [""]},
        {"cat": ["train"], "dog": ["test"]},
        {"w/train": "ab", "w/test": "ab", "w2/train": "ab"},
    ],
)
@pytest.mark.parametrize("stray", [False, True])
def test_class_folders_that_hold_parts_are_refused(tmp_path, tree, stray):
    for outer, names in tree.items():
        make(tmp_path, outer, classes=names, count=6)
    if stray:
        save(tmp_path / next(iter(tree)).partition("/")[0] / "cover.png")
    with pytest.raises(ValueError, match="the class folders hold parts"):
        read_folder(tmp_path)
    settings(tmp_path, layout="classes")
    assert len(read_folder(tmp_path).class_names) == 2


@pytest.mark.parametrize(
    "tree",
    [
        {"cat": ["images"], "dog": ["images"]},
        {"cat": ["full"], "dog": ["full"], "owl": ["full"]},
        {"cat": ["images", "crops"], "dog": ["images"]},
        {"animals": ["cat", "dog", "other"], "things": ["cup", "car", "other"]},
        {"rail": ["train", "tram"], "school": ["pupil", "test"]},
        {"cat": ["train"], "dog": ["train"]},
    ],
)
def test_folders_in_class_folders_are_read(tmp_path, tree):
    for outer, names in tree.items():
        make(tmp_path, outer, classes=names, count=4)
    assert read_folder(tmp_path).class_names == tuple(sorted(tree))


@pytest.mark.parametrize(
    "places",
    [
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train/images", "test/images"),
        ("train/a/b", "test/c"),
        ("train", "test/test"),
    ],
)
def test_a_wrapper_inside_a_part_is_read_through_and_said(tmp_path, places):
    found = read_folder(make(tmp_path, *places, count=2))
    assert found.class_names == CLASSES and counts(found) == [6, 0, 6]
    assert found.train[0].path == f"{places[0]}/cat/0.png"
    assert any(f"{places[1]}/ is the only folder of images in" in n for n in found.reading.notes)


def test_a_class_folder_is_no_wrapper_of_a_part(tmp_path):
    make(tmp_path, "train", "test", classes=("cat",), count=2)
    make(tmp_path / "test" / "cat", "", classes=("deep",), count=2)
    make(tmp_path, "train", classes=("dog",), count=2)
    (tmp_path / "test" / "cat" / "0.png").unlink()
    (tmp_path / "test" / "cat" / "1.png").unlink()
    assert read_folder(tmp_path).class_names == ("cat", "dog")


def test_a_flat_part_beside_class_folders_is_refused(tmp_path):
    make(tmp_path, "train", count=2)
    make(tmp_path, "val", "test", classes=("images",), count=2)
    with pytest.raises(ValueError, match=r"(val|test)/images holds images directly; expected"):
        read_folder(tmp_path)


def test_an_empty_validation_part_is_left_out_and_said(tmp_path):
    make(tmp_path, "train", "test", count=2)
    (tmp_path / "valid" / "cat").mkdir(parents=True)
    (tmp_path / "valid" / ".gitkeep").write_text("")
    found = read_folder(tmp_path)
    assert counts(found) == [6, 0, 6] and "train/test folders" in found.reading.layout
    assert any("valid/ is empty and is left out" in note for note in found.reading.notes)
    (tmp_path / "valid" / "cat" / "1.heic").write_text("")
    with pytest.raises(ValueError, match=r"class folder 'cat' .*, but 1 \.heic"):
        read_folder(tmp_path)


@pytest.mark.parametrize("folder", ["unlabeled", "Unlabelled", "seg_pred/seg_pred"])
def test_images_without_labels_beside_the_parts_are_left_out_and_said(tmp_path, folder):
    save(make(tmp_path, "seg_train", "seg_test") / folder / "1.png")
    found = read_folder(tmp_path)
    assert counts(found) == [30, 0, 30]
    assert f"{folder.partition('/')[0]}/: not class folders" in found.reading.ignored


@pytest.mark.parametrize("name", ["_annotations.coco.json", "split.json", "refinelab.json"])
def test_a_json_in_a_part_is_refused_with_the_line_to_write(tmp_path, name):
    make(tmp_path, "train", "test")
    (tmp_path / "train" / name).write_text(split_of(tmp_path) if name == "split.json" else "{}")
    with pytest.raises(ValueError, match=rf"train/{name} is not read: ") as refused:
        read_folder(tmp_path)
    assert str(tmp_path / "split_zhou_X.json") in str(refused.value) or name != "split.json"
    settings(tmp_path, ignore=[name])
    assert counts(read_folder(tmp_path)) == [30, 0, 30]


def test_settings_declare_what_cannot_be_recognized(tmp_path):
    tree = make(tmp_path / "a", "fold1", "fold2", "fold3")
    settings(tree, parts={"train": "fold1", "test": "fold3"}, ignore=["fold2"])
    found = read_folder(tree)
    assert counts(found) == [30, 0, 30] and "train/test folders (fold1, fold3)" in str(
        found.reading.layout
    )
    assert "fold2: by refinelab.json" in found.reading.ignored
    settings(tree, parts={"train": "fold1", "test": "fold4"})
    with pytest.raises(ValueError, match="parts names the folder 'fold4', which is not in"):
        read_folder(tree)
    settings(tree, layout="classes")
    assert read_folder(tree).class_names == ("fold1", "fold2", "fold3")
    settings(tree, layout="classes", ignore=["fold9"])
    with pytest.raises(ValueError, match="ignore names 'fold9', which is not in"):
        read_folder(tree)


def test_a_single_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has a single class, 'cat'; .* give the folder"):
        read_folder(make(tmp_path / "a", "", classes=("cat",)))
    make(tmp_path / "b", "train", "test", classes=("images",))
    with pytest.raises(ValueError, match=r"single class, 'images'; .*<part>/<class>/<image>"):
        read_folder(tmp_path / "b")
    make(tmp_path / "c", "", classes=("images",), count=3)
    rows = [[f"images/{n}.png", 0, "only"] for n in range(3)]
    split = {"train": rows, "val": rows, "test": rows}
    (tmp_path / "c" / "split_zhou_C.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match="single class, 'only'"):
        read_folder(tmp_path / "c")


def split_of(folder):
    rows = [[f"{name}/0.png", n, name] for n, name in enumerate(CLASSES)]
    return json.dumps({"train": rows, "val": [], "test": rows})


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("split.json", "split", "mv split.json split_zhou_X.json"),
        ("split_Pets.json", "split", "mv split_Pets.json split_zhou_Pets.json"),
        ("Split_Zhou_Pets.JSON", "split", "split_zhou_Pets.json"),
        ("pets.json", "split", "mv pets.json split_zhou_pets.json"),
        ("my split.json", "split", "mv 'my split.json' split_zhou_mysplit.json"),
        ("refinelabs.json", "{}", "mv refinelabs.json refinelab.json"),
        ("names.json", '{"cat": "big cat"}', '{"class_names": {"<folder>": "<name>"'),
        ("other.json", "[1]", '{"ignore": ["other.json"]}'),
        ("broken.json", "{", '{"ignore": ["broken.json"]}'),
        ("coco.json", '{"train": [], "images": []}', '"train": [["<path>", <label>'),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_json_that_is_not_read_is_refused_with_the_line_to_write(
    tmp_path, name, content, advice, wrapped
):
    tree = make(tmp_path / "pets", "images" if wrapped else "")
    (tree / name).write_text(split_of(tree) if content == "split" else content)
    with pytest.raises(ValueError, match="is not read: ") as refused:
        read_folder(tree)
    assert advice in str(refused.value) and "\n" not in str(refused.value)
    settings(tree, ignore=[name])
    found = read_folder(tree)
    assert found.class_names == CLASSES and f"{name}: by refinelab.json" in found.reading.ignored
    (tree / "refinelab.json").unlink()
    if content == "split":
        (tree / name).rename(tree / "split_zhou_X.json")  # what the advice says
        assert "split file" in read_folder(tree).reading.layout


def test_a_split_file_above_the_images_under_another_name_is_refused(tmp_path):
    tree = make(tmp_path / "pets", "images")
    (tree / "split_Pets.json").write_text(split_of(tree))
    with pytest.raises(ValueError, match=r"mv split_Pets\.json split_zhou_Pets\.json"):
        read_folder(tree / "images")


@pytest.mark.parametrize("name", ["split_zhou_Pets.json", "split_Pets.json", "pets.json"])
def test_a_split_file_in_a_folder_that_is_left_out_is_refused(tmp_path, name):
    tree = make(tmp_path / "pets", "images")
    (tree / "splits").mkdir()
    (tree / "splits" / "other.json").write_text("[")
    (tree / "splits" / name).write_text(split_of(tree))
    with pytest.raises(ValueError, match=r"beside the images; mv .* .*/split_zhou_[Pp]ets\.json"):
        read_folder(tree)
    (tree / "splits" / name).rename(tree / "split_zhou_Pets.json")
    assert "split file" in read_folder(tree).reading.layout


def test_what_is_ignored_is_counted_by_reason(tmp_path):
    plain = read_folder(make(tmp_path, "")).fingerprint
    for name in ("a.heic", "b.HEIC", "c.avif", "d.svg"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    for name in ("notes.txt", "._0.png", "Thumbs.db", ".DS_Store", "desktop.ini", "README"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "cat" / "0.png").write_bytes(b"x")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "labels.csv").write_text("")
    save(tmp_path / "loose.png")
    os.symlink(tmp_path / "cat", tmp_path / "owl" / "again")
    found = read_folder(tmp_path)
    text = "\n".join(found.reading.ignored)
    assert found.fingerprint == plain
    for line in (
        "2 .heic, 1 .avif, 1 .svg: image formats that are not read",
        "1 without suffix, 1 .txt: not images",
        "__MACOSX: left by an operating system",
        "4 hidden or system files",
        "annotations/: not class folders",
        "which belong to no class, first loose.png",
        "labels.csv: files beside the images",
        "1 link to folders below a class folder",
    ):
        assert line in text, line


@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_a_pipe_is_not_waited_for(tmp_path, parts):
    make(tmp_path, *parts)
    pipe = tmp_path / parts[0] / "cat" / "pipe.png"
    os.mkfifo(pipe)
    for _ in range(2):  # then a broken link
        with pytest.raises(
            ValueError, match=r"1 of \d+ images cannot be read, .*pipe\.png"
        ) as told:
            read_folder(tmp_path)
        assert "split file" not in str(told.value)
        pipe.unlink()
        pipe.symlink_to(tmp_path / "absent.png")


def test_jfif_is_read(tmp_path):
    make(tmp_path, "")
    before = read_folder(tmp_path).fingerprint
    save(tmp_path / "cat" / "new.JFIF")
    found = read_folder(tmp_path)
    paths = [item.path for part in ("train", "val", "test") for item in found.split(part)]
    assert "cat/new.JFIF" in paths and found.fingerprint != before


def test_classes_of_one_part_only(tmp_path):
    make(tmp_path, "train", "test", count=2)
    make(tmp_path, "train", classes=("yak",))
    notes = read_folder(tmp_path).reading.notes
    assert "1 class of 4 without test images: no folder in test/, first yak" in notes
    make(tmp_path, "test", classes=("Yak",))
    with pytest.raises(ValueError, match=r"class 'Yak' .*no folder in train/; 'yak' there differs"):
        read_folder(tmp_path)


def test_nested_folders_and_a_part_of_a_larger_tree_are_noted(tmp_path):
    make(tmp_path, "train", "test")
    make(tmp_path / "train" / "cat", "", classes=("deep",))
    found = read_folder(tmp_path / "train")
    assert any("1 class folder of 3 holds folders, first cat/" in n for n in found.reading.notes)
    assert any("test/ beside it is not read" in note for note in found.reading.notes)


def test_classes_that_differ_in_the_form_of_an_accent_are_told_apart(tmp_path):
    make(tmp_path, "train", classes=("caf\u00e9", "tea"))
    make(tmp_path, "test", classes=("cafe\u0301", "tea"))
    with pytest.raises(ValueError, match=r"only in the Unicode form .*'caf\\xe9'"):
        read_folder(tmp_path)


@pytest.mark.parametrize("twin", ["Red_Car", "red-car", "RED  car", "red_car"])
def test_names_that_are_one_prompt_are_noted(tmp_path, twin):
    dataset = read_folder(make(tmp_path, "", classes=("red car", twin, "owl")))
    assert [note for note in dataset.reading.notes if "differ only in case" in note]
    assert not read_folder(make(tmp_path / "x", "", classes=("redcar", "red car"))).reading.notes


@pytest.mark.parametrize(
    ("one", "twin"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("a&amp;b", "a&b"),
        ("it\u2019s", "it's"),
        ("\ufb01sh", "fish"),
        ("\uff26ish", "fish"),
    ],
)
def test_names_that_the_tokenizer_makes_one_are_noted(tmp_path, one, twin):
    notes = read_folder(make(tmp_path, "", classes=(one, twin, "owl"))).reading.notes
    assert any("differ only in the spelling of their characters" in note for note in notes)
    encode = Tokenizer().encode
    assert encode(one) == encode(twin)  # why they are one prompt


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb"])
def test_a_control_character_in_a_class_name_is_refused(tmp_path, name):
    tree = make(tmp_path / "a", "", classes=(name, "owl"))
    with pytest.raises(ValueError, match="holds a control character") as told:
        read_folder(tree)
    assert "\n" not in str(told.value)
    rows = [["owl/0.png", 0, "owl"], ["owl/1.png", 1, name]]
    split = {"train": rows, "val": [], "test": rows}
    (tree / "split_zhou_X.json").write_text(json.dumps(split), encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"train\[1\].*holds a control character"):
        read_folder(tree)


def test_a_split_file_may_begin_with_a_byte_order_mark(tmp_path):
    tree = make(tmp_path, "")
    (tree / "split_zhou_X.json").write_text(split_of(tree), encoding="utf-8-sig")
    assert counts(read_folder(tree)) == [3, 0, 3]


@pytest.mark.parametrize("name", ["classes.txt", "labels.csv", "Class.txt"])
def test_a_file_that_seems_to_name_the_classes_is_told(tmp_path, name):
    (make(tmp_path, "") / name).write_text("")
    told = read_folder(tmp_path).reading.ignored
    assert any(f"{name} is not read: names of the classes are read from" in line for line in told)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("Birds", "did you mean 'birds'"),
        ("bird", "did you mean 'birds'"),
        ("Birds/train", "did you mean 'birds'"),
        ("caf\u00e9", "accents in another Unicode form"),
    ],
)
def test_a_folder_of_another_spelling_is_suggested(tmp_path, typed, hint):
    for name in ("birds", "cafe\u0301"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="does not exist") as told:
        read_folder(tmp_path / typed)
    assert hint in str(told.value)


def test_names_that_mean_parts_are_in_the_line_to_write(tmp_path):
    make(tmp_path, "train_a", "test_b")
    with pytest.raises(ValueError, match=r'{"train": "train_a", "test": "test_b"}'):
        read_folder(tmp_path)


def test_names_that_say_nothing_are_noted(tmp_path):
    wnids = read_folder(make(tmp_path / "a", "", classes=("n01440764", "n01443537")))
    numbers = read_folder(make(tmp_path / "b", "", classes=("0", "1", "10")))
    for dataset in (wnids, numbers):
        assert any("name the classes in classnames.txt" in n for n in dataset.reading.notes)


@pytest.mark.parametrize(
    "text",
    [
        "n1 big cat\nn2 dog, small\nn 3 night owl\n",
        "n1\tbig cat\nn2\tdog, small\nn 3\tnight owl\n",
        'n1,big cat\r\nn2,"dog, small"\r\n\r\nn 3,night owl',
        'folder,name\n"n1","big cat"\nn2,"dog, small"\n"n 3","night owl"\n',
        "Class ID\tClass Name\nn1\tbig cat\nn2\tdog, small\nn 3\tnight owl\n",
        "\ufeffn 3  night owl\nn2 dog, small\nn1 big cat",
    ],
)
@pytest.mark.parametrize("place", ["plain", "wrapped", "parts"])
@pytest.mark.parametrize("name", ["classnames.txt", "Class_Names.CSV"])
def test_classnames_file(tmp_path, text, place, name):
    parts = {"plain": [""], "wrapped": ["images"], "parts": ["train", "test"]}[place]
    make(tmp_path, *parts, classes=("n1", "n2", "n 3"))
    (tmp_path / name).write_text(text, newline="")
    dataset = read_folder(tmp_path)
    assert dataset.class_names == ("night owl", "big cat", "dog, small")  # in the folders' order
    assert dataset.reading.ignored == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a one\nb two", r"no name for the class folder 'a b' \(1 of 3"),
        ("a one\nb two\nc three\na b four", r"txt:3: 'c three' must be a class folder"),
        ("a one\na\tuno\nb two\na b\tx", r"txt:2: class folder 'a' is there twice"),
        ("a b four\na one\nb two", r"txt:1: 'a b four' fits the class folders .*by a TAB"),
        ("a\nb\n", r"txt:1: 'a' must be a class folder"),
        ("bb two\na one", r"txt:1: 'bb two' .*did you mean 'b'"),
        ("", "no name for the class folder"),
        ("a\tone\textra\nb\ttwo\na b\tthree", r"txt:1: .* has 3 columns; keep two"),
    ],
)
def test_wrong_classnames_files(tmp_path, text, message):
    make(tmp_path, "", classes=("a", "b", "a b"))
    (tmp_path / "classnames.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_class_names_in_the_settings(tmp_path):
    make(tmp_path, "")
    settings(tmp_path, class_names={"owl": "night owl", "cat": " big cat ", "dog": "dog"})
    assert read_folder(tmp_path).class_names == ("big cat", "dog", "night owl")
    (tmp_path / "classnames.txt").write_text("cat x\ndog y\nowl z")
    with pytest.raises(ValueError, match="both name the classes; keep one"):
        read_folder(tmp_path)
    (tmp_path / "classnames.txt").unlink()
    settings(tmp_path, class_names={"owl": "night owl", "cat": "x", "dogs": "dog"})
    with pytest.raises(ValueError, match=r"no class folder 'dogs' .*did you mean 'dog'"):
        read_folder(tmp_path)
    settings(tmp_path, class_names={"owl": "night owl"})
    with pytest.raises(ValueError, match="no name for the class folder 'cat'"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"templat": "a {}"}', r"unknown key 'templat'; known: .*did you mean 'template'"),
        ('{"Template": "a {}"}', "did you mean 'template'"),
        ('{"template": 3}', r"template must be text with one \{\}"),
        ('{"template": null}', "template must be text"),
        ('{"template": "a photo."}', "template must be text"),
        ('{"template": "{} and {}"}', "template must be text"),
        ('{"template": "{} {x}"}', "template must be text"),
        ('{"template": "{}}"}', "template must be text"),
        ('{"template": "a {}", "template": "b {}"}', "'template' is there twice"),
        ('{"class_names": ["cat"]}', "class_names must map"),
        ('{"class_names": {"cat": 1}}', "the name of 'cat' must be non-empty text"),
        ('{"class_names": {"cat": " "}}', "the name of 'cat' must be non-empty text"),
        ('{"parts": {"train": "a"}}', "parts must name the folders of train and test"),
        ('{"parts": {"train": "a", "test": "b", "tset": "c"}}', "parts must name"),
        ('{"parts": {"train": "a", "test": "a"}}', "parts must name different folders"),
        ('{"parts": {"train": "../a", "test": "b"}}', "parts must name folders beside"),
        ('{"layout": "parts"}', 'layout can only be "classes"'),
        ('{"ignore": "x"}', "ignore must be a list"),
        ('{"source": 1}', "source must be text"),
        ("[]", "must be a JSON object"),
        ("{", "must be a JSON object"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    make(tmp_path, "")
    (tmp_path / "refinelab.json").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_folder(tmp_path)
    assert "\n" not in str(refused.value)


def test_settings_beside_a_split_file(tmp_path):
    make(tmp_path, "images")
    (tmp_path / "split_zhou_X.json").write_text(split_of(tmp_path))
    (tmp_path / "notes.json").write_text("{}")
    settings(tmp_path, template="a {}, drawn")
    found = read_folder(tmp_path)
    assert found.template == "a {}, drawn"
    text = "\n".join(found.reading.ignored)
    assert "27 images not listed in split_zhou_X.json, first cat/1.png" in text
    assert "notes.json: files beside the images" in text
    settings(tmp_path, class_names={"cat": "x"})
    with pytest.raises(ValueError, match="class_names has no effect beside the split file"):
        read_folder(tmp_path)
    settings(tmp_path)
    settings(tmp_path / "images")
    assert find_layout(tmp_path).kind == "split"


def test_a_class_folder_that_is_not_utf8_is_refused(tmp_path):
    make(tmp_path, "")
    os.rename(os.fsencode(tmp_path / "cat"), os.fsencode(tmp_path) + b"/c\xe9t")
    with pytest.raises(ValueError, match=r"class name 'c\\xe9t' is not UTF-8"):
        read_folder(tmp_path)
