"""Broken and odd benchmark trees: each gives its one clear line, or the documented behavior."""

import json
import shutil

import numpy as np
import pytest
from scipy.io import savemat

from core.data.benchmarks.definitions import BENCHMARKS
from core.data.benchmarks.read_benchmark import MissingImagesError
from core.data.catalog import load_dataset
from core.data.fewshot import few_shot

DTD, PETS = "split_zhou_DescribableTextures.json", "split_zhou_OxfordPets.json"
WNID = "n01440764"


def write(name, content):
    """Replaces a file; text, or bytes as they are."""

    def change(home):
        data = content if isinstance(content, bytes) else content.encode()
        (home / name).write_bytes(data)

    return change


def append(name, line):
    def change(home):
        with (home / name).open("a") as file:
            file.write(line + "\n")

    return change


def cut(name, share):
    """A file that was not downloaded to its end."""

    def change(home):
        data = (home / name).read_bytes()
        (home / name).write_bytes(data[: int(len(data) * share)])

    return change


def remove(name):
    def change(home):
        path = home / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def rename(name, other):
    return lambda home: (home / name).rename(home / other)


def copy(name, other):
    return lambda home: shutil.copyfile(home / name, home / other)


def both(*changes):
    def change(home):
        for one in changes:
            one(home)

    return change


def dead_link(name):
    def change(home):
        (home / name).unlink()
        (home / name).symlink_to("nowhere")

    return change


def folder_for(name):
    def change(home):
        (home / name).unlink()
        (home / name).mkdir()

    return change


def edit(name, how):
    """Changes a JSON file with a function on its content."""

    def change(home):
        content = json.loads((home / name).read_text())
        made = how(content)
        (home / name).write_text(json.dumps(made if isinstance(made, dict) else content))

    return change


def keep(folder, number):
    """Only the first images of a class folder."""

    def change(home):
        for path in sorted((home / folder).iterdir())[number:]:
            path.unlink()

    return change


def first_image(folder, change):
    """A change of the first image below a folder."""

    def apply(home):
        image = min(path for path in (home / folder).rglob("*") if path.is_file())
        change(image.relative_to(home).as_posix())(home)

    return apply


def put(name, entry):
    """A row of the training list, in front."""
    return edit(name, lambda split: split["train"].insert(0, entry))


def mat(name, **content):
    return lambda home: savemat(home / name, content)


def relabeled(split):
    for part in split.values():
        for row in part:
            row[1] += row[1] >= 3


BROKEN = [
    # (set, whether it keeps its split file, the damage, what the line says)
    ("dtd", True, lambda home: shutil.rmtree(home), r"dtd of dtd does not exist; check the name"),
    ("caltech101", True, lambda home: home.rename(home.parent / "caltech101"),
     r"caltech-101 of caltech101 does not exist; rename or link .*/caltech101 to it"),
    ("dtd", True, remove("images"), r"dtd/images of dtd does not exist; complete the download"),
    ("dtd", True, both(remove("images"), write("images", "file")), r"dtd/images of dtd does not"),
    ("eurosat", True, rename("2750", "EuroSAT_RGB"), r"2750 .* rename or link .*/EuroSAT_RGB to"),
    ("imagenet_sketch", True, rename("images", "sketch"), r"rename or link .*/sketch to it"),
    # split files
    ("dtd", True, write(DTD, "{oops"), r"split file .*DescribableTextures\.json cannot be read"),
    ("dtd", True, cut(DTD, 0.7), r"split file .* cannot be read"),
    ("dtd", True, write(DTD, b"\xff\xfe\x00"), r"split file .* cannot be read"),
    ("dtd", True, edit(DTD, lambda s: s.pop("val")), r"lists train, val and test"),
    ("dtd", True, edit(DTD, lambda s: {k: [] for k in s}), r"lists no images"),
    ("dtd", True, edit(DTD, lambda s: s["test"][4].pop()), r"test\[4\] must be \[path, label, cl"),
    ("dtd", True, put(DTD, ["banded/a.jpg", 0, "striped"]), r"label 0 is named .*; keep one"),
    ("dtd", True, put(DTD, ["zigzagged/zigzagged_0002.jpg", 0, "banded"]), r"the labels . and ."),
    ("dtd", True, edit(DTD, relabeled), r"labels must be 0\.\.7 without gaps, 3 is missing"),
    ("dtd", True, put(DTD, ["../../x.jpg", 0, "banded"]), r"must be relative and stay in"),
    ("dtd", True, dead_link(DTD), r"split file .* is a dead link or not a file"),
    ("dtd", True, folder_for(DTD), r"split file .* is a dead link or not a file"),
    # listed images
    ("dtd", True, first_image("images/frilly", remove),
     r"1 of 271 listed images are missing or unreadable, first frilly/frilly_0002\.jpg; complete"),
    ("dtd", True, remove("images/frilly"), r"43 of 271 listed images .* correct split_zhou_Descri"),
    ("dtd", True, first_image("images/frilly", dead_link), r"1 of 271 listed images are missing"),
    ("dtd", True, first_image("images/frilly", folder_for), r"1 of 271 listed images are missing"),
    ("oxford_pets", False, rename("images/Bengal_113.jpg", "images/bengal_113.jpg"),
     r"first Bengal_113\.jpg; the folder has .bengal_113\.jpg., names must match exactly"),
    ("ucf101", False, rename("UCF-101-midframes/Yo_Yo", "UCF-101-midframes/YoYo"),
     r"31 of \d+ listed images are missing .* correct its lists"),
    # official lists
    ("oxford_pets", False, append("annotations/test.txt", "Bengal_3 4 1"), r"test\.txt:52 must be"),
    ("oxford_pets", False, append("annotations/test.txt", "Bengal_3 0 1 1"), r"a class from 1"),
    ("oxford_pets", False, append("annotations/test.txt", ""), r"test\.txt:52 is an empty line"),
    ("oxford_pets", False, write("annotations/trainval.txt", ""), r"trainval\.txt is empty"),
    ("oxford_pets", False, remove("annotations/test.txt"), r"test\.txt does not exist; complete"),
    ("oxford_pets", False, append("annotations/test.txt", "Sphynx_3 4 1 1"), r"label 3 is"),
    ("oxford_pets", False, append("annotations/test.txt", "../../etc_3 4 1 1"), r"stay in the"),
    ("stanford_cars", False, write("devkit/cars_train_annos.mat", "hello " * 99),
     r"cars_train_annos\.mat is not a readable MATLAB file"),
    ("stanford_cars", False, cut("devkit/cars_train_annos.mat", 0.5), r"not a readable MATLAB"),
    ("stanford_cars", False, copy("devkit/cars_meta.mat", "devkit/cars_train_annos.mat"),
     r"cars_train_annos\.mat has no variable 'annotations', only \['class_names'\]"),
    ("stanford_cars", False, copy("devkit/cars_test_annos.mat", "cars_test_annos_withlabels.mat"),
     r"has no field 'class'; the test classes are in"),
    ("stanford_cars", False, mat("devkit/cars_meta.mat", class_names=np.array(["A 1"], object)),
     r"has class \d, .*cars_meta\.mat names 1"),
    ("stanford_cars", False, remove("cars_test_annos_withlabels.mat"), r"withlabels\.mat does not"),
    ("stanford_cars", False, mat("devkit/cars_train_annos.mat", annotations=np.ones(3)),
     r"'annotations' has no field 'fname'"),
    ("oxford_flowers", False, mat("imagelabels.mat", labels=np.array(["a"])), r"row of class numb"),
    ("oxford_flowers", False, write("cat_to_name.json", "{"), r"cat_to_name\.json cannot be read"),
    ("oxford_flowers", False, edit("cat_to_name.json", lambda names: names.pop("3")),
     r"imagelabels\.mat has class 3, .* does not name it"),
    ("fgvc_aircraft", True, append("images_variant_val.txt", "0000001 Spitfire"),
     r"images_variant_val\.txt:31: variant 'Spitfire' is not in"),
    ("fgvc_aircraft", True, append("variants.txt", "Yak-42"), r"class 'Yak-42' is there twice"),
    ("fgvc_aircraft", True, write("variants.txt", b"caf\xe9\n"), r"variants\.txt cannot be read"),
    ("sun397", False, append("Training_01.txt", "a/abbey/sun_x.jpg"), r"is in no class of"),
    ("sun397", False, append("Training_01.txt", "/z/zoo/sun_x.jpg"), r"'/z/zoo/sun_x\.jpg' is in"),
    ("sun397", False, append("ClassName.txt", "/a/abbey"), r"class '/a/abbey' is there twice"),
    ("ucf101", False, append("ucfTrainTestlist/testlist01.txt", "Dance/v_x.avi"), r"not a clip of"),
    ("ucf101", False, append("ucfTrainTestlist/testlist01.txt", "YoYo/v_x.mp4"), r"not a clip of"),
    ("ucf101", False, append("ucfTrainTestlist/classInd.txt", "9 YoYo"), r"and a new action, got"),
    # splits that cannot be created
    ("dtd", False, keep("images/banded", 3), r"'banded' has 3 image\(s\), too few .* needs 4"),
    ("dtd", False, keep("images/banded", 0), r"images/banded has no images; complete the download"),
    ("dtd", False, lambda home: (home / "images/banded/banded").mkdir(), r"one level too deep"),
    ("dtd", False, both(remove("images"), lambda home: (home / "images").mkdir()),
     r"dtd/images has no class folders; expected"),
    ("fgvc_aircraft", True, write("images_variant_train.txt", "9999999 Yak-42\n"),
     r"1 of \d+ listed images are missing .* first 9999999\.jpg"),
    ("ucf101", False, write("ucfTrainTestlist/trainlist01.txt", "YoYo/v_a.avi 7\n"),
     r"class 'Yo_Yo' has 1 image\(s\), too few for cutting off 20 percent"),
    # ImageNet and its variants
    ("imagenet", True, remove("classnames.txt"), r"classnames\.txt does not exist; copy it there"),
    ("imagenet", True, append("classnames.txt", f"{WNID} again"), r"wnid n01440764 is there twice"),
    ("imagenet", True, append("classnames.txt", "n99"), r"txt:1001 must be a wnid, a blank and a"),
    ("imagenet", True, write("classnames.txt", f"{WNID} tench\n"), r"\(5 in all\) is not in c"),
    ("imagenet", True, remove("images/val"), r"images/val has no class folders; expected"),
    ("imagenet", True, both(remove("images/val"), lambda home: (home / "images/val").mkdir(),
     write("images/val/ILSVRC2012_val_00000001.JPEG", "")), r"sorted into wnid folders first"),
    ("imagenet", True, remove(f"images/val/{WNID}"),
     r"'n01440764' \(1 in all\) is in train and not in val; labels would shift"),
    ("imagenet", True, remove(f"images/train/{WNID}"), r"is in val and not in train"),
    ("imagenet", True, keep(f"images/train/{WNID}", 0), r"train/n01440764 has no images"),
    ("imagenet", True, first_image("images/train/n01608432", dead_link), r"1 of \d+ listed images"),
    ("imagenet_a", True, lambda home: (home / "imagenet-a/more").mkdir(), r"'more' \(1 in all\)"),
    ("imagenetv2", True, remove("imagenetv2-matched-frequency-format-val/657"),
     r"class folder '657' \(1 in all\) is missing; folders 0 to 999 are needed"),
    ("imagenetv2", True, cut("classnames.txt", 0.5), r"ImageNetV2 needs 1000|must be a wnid"),
]  # fmt: skip


def test_there_are_enough_of_them():
    assert len(BROKEN) >= 40 and {case[0] for case in BROKEN} >= set(BENCHMARKS) - {
        "food101", "imagenet_r"
    }  # fmt: skip


@pytest.mark.parametrize(("name", "splits", "damage", "message"), BROKEN)
def test_a_broken_tree_gives_one_clear_line(copied, tmp_path, name, splits, damage, message):
    root = copied(name, splits=splits)
    load_dataset(name, root=root, cache_dir=tmp_path / "cache")  # whole before, index or not
    damage(root / BENCHMARKS[name].folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(name, root=root, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, MissingImagesError):
        assert caught.value.first.startswith(BENCHMARKS[name].image_folder)
        assert 0 < caught.value.count <= caught.value.total


# Odd trees that are read: what the documentation promises.


def read(name, root, tmp_path):
    return load_dataset(name, root=root, cache_dir=tmp_path / "cache")


def test_unicode_and_blanks_in_names(copied, tmp_path):
    root = copied("dtd", splits=False)
    images = root / "dtd" / "images"
    (images / "banded").rename(images / "ge ströift 縞")
    for n, path in enumerate(sorted((images / "frilly").iterdir())):
        path.rename(path.with_name(f"Rüsche Nr. {n}.JPG"))
    dataset = read("dtd", root, tmp_path)
    assert dataset.class_names[1] == "frilly" and dataset.class_names[2] == "ge ströift 縞"
    item = next(item for item in dataset.train if item.label == 2)
    assert dataset.reader.read(item.path).mode == "RGB"
    (copy_of_split,) = (tmp_path / "cache" / "splits").glob("*/*.json")
    text = copy_of_split.read_text()
    assert text.isascii() and not text.endswith("\n")
    shutil.copyfile(copy_of_split, root / "dtd" / DTD)
    again = read("dtd", root, tmp_path)
    assert again.train == dataset.train and again.class_names == dataset.class_names


def test_names_that_are_no_utf8(copied, tmp_path):
    import os

    root = copied("dtd", splits=False)
    folder = os.fsencode(root / "dtd" / "images" / "banded")
    os.rename(os.path.join(folder, b"banded_0002.jpg"), os.path.join(folder, b"band\xe9.jpg"))
    dataset = read("dtd", root, tmp_path)
    (odd,) = [i for i in (*dataset.train, *dataset.val, *dataset.test) if "band\udce9" in i.path]
    assert dataset.reader.read(odd.path).mode == "RGB" and dataset.fingerprint


def test_links_to_folders_and_images_are_followed(copied, trees, tmp_path):
    root = copied("dtd")
    plain = read("dtd", root, tmp_path)
    images, elsewhere = root / "dtd" / "images", tmp_path / "elsewhere"
    shutil.move(images / "frilly", elsewhere / "frilly")
    (images / "frilly").symlink_to(elsewhere / "frilly")
    one = images / plain.train[0].path
    shutil.move(one, elsewhere / "one.jpg")
    one.symlink_to(elsewhere / "one.jpg")
    assert read("dtd", root, tmp_path) == plain
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "dtd").symlink_to(root / "dtd")
    linked = read("dtd", tmp_path / "linked", tmp_path)
    assert linked.train == plain.train and linked.fingerprint == plain.fingerprint


def test_classes_with_fewer_images_than_shots_are_taken_whole(trees, tmp_path):
    dataset = read("dtd", trees, tmp_path)
    drawn = few_shot(dataset, shots=16, seed=1)
    counts = [sum(item.label == label for item in drawn.train) for label in range(7)]
    assert counts == [16, 16, 16, 16, 10, 16, 16]  # "stained" has ten


def test_the_split_file_is_the_only_source(copied, trees, tmp_path):
    root = copied("oxford_pets")
    shutil.rmtree(root / "oxford_pets" / "annotations")
    (root / "oxford_pets" / "images" / "Unlisted_1.jpg").write_bytes(b"")
    found, plain = read("oxford_pets", root, tmp_path), read("oxford_pets", trees, tmp_path)
    assert (found.train, found.val, found.test) == (plain.train, plain.val, plain.test)


def test_names_of_a_split_file_are_taken_as_they_are(copied, tmp_path):
    root = copied("eurosat")
    name = "split_zhou_EuroSAT.json"

    def spell(split):
        return {part: [[p, str(n), c.lower()] for p, n, c in split[part]] for part in split}

    edit(name, spell)(root / "eurosat")
    assert read("eurosat", root, tmp_path).class_names[0] == "annual crop land"


def test_an_empty_val_list_is_allowed(copied, tmp_path):
    root = copied("dtd")
    edit(DTD, lambda split: split.update(val=[]))(root / "dtd")
    dataset = read("dtd", root, tmp_path)
    assert dataset.val == () and few_shot(dataset, shots=1, seed=1).val == ()


@pytest.mark.parametrize("name", ["imagenet_sketch", "imagenet_a", "imagenet_r", "food101"])
def test_plain_and_hidden_things_beside_class_folders_are_ignored(name, copied, trees, tmp_path):
    root = copied(name)
    if name == "food101":
        (root / "food-101" / "split_zhou_Food101.json").unlink()
    images = root / BENCHMARKS[name].image_folder
    before = read(name, root, tmp_path)
    (images / "checksums.md5").write_text("")
    (images / ".cache").mkdir()
    one = next(path for path in images.iterdir() if path.is_dir() and path.name[0] != ".")
    (one / ".hidden.jpg").write_bytes(b"")
    assert read(name, root, tmp_path) == before


def test_imagenetv2_takes_folders_0_to_999_only(copied, trees, tmp_path):
    root = copied("imagenetv2")
    shutil.copytree(
        root / BENCHMARKS["imagenetv2"].image_folder / "7",
        root / BENCHMARKS["imagenetv2"].image_folder / "1000",
    )
    assert read("imagenetv2", root, tmp_path).test == read("imagenetv2", trees, tmp_path).test


def test_line_ends_of_windows(copied, bare_trees, tmp_path):
    root = copied("oxford_pets", splits=False)
    for file in (root / "oxford_pets" / "annotations").glob("*.txt"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    plain = read("oxford_pets", bare_trees, tmp_path)
    assert read("oxford_pets", root, tmp_path).train == plain.train


def test_a_broken_picture_is_named_when_it_is_opened(copied, tmp_path):
    root = copied("dtd")
    dataset = read("dtd", root, tmp_path)
    broken = root / "dtd" / "images" / dataset.train[0].path
    broken.write_bytes(broken.read_bytes()[:300])
    assert read("dtd", root, tmp_path).train == dataset.train  # reading opens no picture
    with pytest.raises(ValueError, match=f"image {broken} cannot be read"):
        dataset.reader.read(dataset.train[0].path)
