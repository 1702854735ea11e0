"""One name for each dataset, whatever was typed."""

import pytest

from core.data.catalog import load_dataset
from core.data.dataset_names import canonical_name, one_name_each, require_below_root
from tests.helpers.picture_trees import class_tree


@pytest.fixture
def root(tmp_path):
    """A data root with two folders of one last name, and one folder outside."""
    class_tree(tmp_path / "data/v1/birds", 1)
    class_tree(tmp_path / "data/v2/birds", 2)
    class_tree(tmp_path / "out/birds", 3)
    return tmp_path / "data"


SPELLINGS = [
    "folder/v1/birds",
    "folder/v1/birds/",
    "folder/v1//birds",
    "folder/./v1/birds/.",
    "folder/v1/../v1/birds",
    "folder/v2/../v1/birds/",
    "folder/../data/v1/birds",
    "folder/{root}/v1/birds",
    "folder/{root}/./v2/../v1/birds/",
    "folder/{root}/../data/v1/birds",
    "folder/~/data/v1/birds",
    "folder/link",
    "folder/{alias}/v1/birds",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_folder_is_one_name(root, monkeypatch, spelling):
    (root / "link").symlink_to("v1/birds")
    alias = root.parent / "alias"
    alias.symlink_to(root)
    monkeypatch.setenv("HOME", str(root.parent))
    name = spelling.format(root=root, alias=alias)
    for place in (root, alias):
        assert canonical_name(name, place) == "folder/v1/birds"
        assert load_dataset(name, root=place, cache_dir=root).name == "folder/v1/birds"
    monkeypatch.chdir(root)
    assert canonical_name(name, None) == "folder/v1/birds"


def test_a_folder_outside_is_called_by_its_path_and_a_link_to_it_keeps_its_name(root):
    outside = root.parent / "out/birds"
    for name in (f"folder/{outside}", f"folder/{outside}/", f"folder/{root}/../out/birds"):
        assert canonical_name(name, root) == f"folder/{outside}"
    (root / "linked").symlink_to(outside)
    assert canonical_name("folder/linked", root) == "folder/linked"
    names = ["folder/linked", f"folder/{outside}", "folder/v1/birds"]
    assert one_name_each(names, root) == {
        "folder/linked": "folder/linked",
        f"folder/{outside}": "folder/linked",
        "folder/v1/birds": "folder/v1/birds",
    }


@pytest.mark.parametrize("folder", ["v1/birds", "v2/birds", "../out/birds"])
def test_folders_of_one_last_name_have_different_names(root, folder):
    places = ["v1/birds", "v2/birds", "../out/birds"]
    names = {place: canonical_name(f"folder/{root / place}", root) for place in places}
    assert len(set(names.values())) == 3
    assert load_dataset(names[folder], root=root, cache_dir=root).name == names[folder]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("mosaic/shapes/", "mosaic/shapes"),
        ("mosaic//shapes", "mosaic/shapes"),
        ("./caltech101", "caltech101"),
        ("caltech101", "caltech101"),
        ("folder/", "folder/"),
        ("", ""),
    ],
)
def test_other_names(tmp_path, name, canonical):
    assert canonical_name(name, tmp_path) == canonical


@pytest.mark.parametrize(
    "name", ["folder/../out/birds", "folder/v1/../../out/birds", "folder/..", "folder/../../etc"]
)
def test_a_relative_name_cannot_leave_the_data_root(root, name):
    with pytest.raises(ValueError, match="leaves the data root") as caught:
        load_dataset(name, root=root, cache_dir=root)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_configuration_of_others_names_nothing_outside_the_data_root(root):
    assert require_below_root("folder/v1/birds/", root) == "folder/v1/birds"
    assert require_below_root(f"folder/{root}/v1/birds", root) == "folder/v1/birds"
    assert require_below_root("caltech101", root) == "caltech101"
    for name in (f"folder/{root.parent}/out/birds", "folder//etc", "folder/~"):
        with pytest.raises(ValueError, match="outside the data root"):
            require_below_root(name, root)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("v1/birds", "folder/v1/birds"),
        ("./v1/birds/", "folder/v1/birds"),
        ("Folder/v1/birds", "folder/v1/birds"),
        ("FOLDER/gone", "folder/gone"),
        ("folder\\v1\\birds", "folder/v1/birds"),
        ("{root}/v2/birds", "folder/v2/birds"),
        ("{root}/../out/birds", "folder/{out}/birds"),
        ("/no/such/pets", "folder//no/such/pets"),
        ("../pets", "folder/../pets"),
    ],
)
def test_an_unknown_dataset_that_is_a_path_gets_the_name_of_the_folder(root, typed, shown):
    with pytest.raises(ValueError, match="unknown dataset") as caught:
        load_dataset(typed.format(root=root), root=root, cache_dir=root)
    assert f"is named {shown.format(out=root.parent / 'out')!r}" in str(caught.value)
    assert "\n" not in str(caught.value)
