"""predictions.json: what it holds, how small it is, and what is told of a damaged one."""

import base64
import json
import random
import struct

import numpy as np
import pytest

from core.store import (
    CorrectImages,
    PredictedClasses,
    read_predictions,
    write_correct_images,
    write_predictions,
    write_record,
)
from core.store.predictions import CONFIDENCE_STEPS
from core.store.record import Evaluation, RunRecord
from tests.helpers.study_folders import FIELDS

NAMES = ("cat", "dog", "newt")
LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
PREDICTED = [0, 1, 0, 1, 0, 2, 2, 0, 1, 2]
CONFIDENCES = [65535, 0, 1, 40000, 30000, 256, 255, 65534, 12345, 54321]


def made(**changes):
    given = {
        "target": "all",
        "test_list": "abc",
        "class_names": NAMES,
        "labels": LABELS,
        "predicted": PREDICTED,
        "confidences": CONFIDENCES,
    }
    return PredictedClasses(**(given | changes))


@pytest.fixture
def folder(tmp_path):
    """A finished run with all three files."""
    scored = Evaluation(
        target="all",
        dataset="source",
        classes="all",
        class_names=NAMES,
        correct=(2, 1, 3),
        total=(3, 2, 5),
    )
    bits = np.packbits(np.equal(LABELS, PREDICTED)).tobytes()
    images = CorrectImages(target="all", test_list="abc", num_images=len(LABELS), bits=bits)
    write_correct_images(tmp_path, [images])
    write_predictions(tmp_path, [made()])
    write_record(tmp_path, RunRecord(**{**FIELDS, "identity": "x"}, evaluations=(scored,)))
    return tmp_path


def test_what_is_written_is_read(folder):
    (found,) = read_predictions(folder).values()
    assert (found.target, found.test_list, found.class_names) == ("all", "abc", NAMES)
    assert [list(v) for v in (found.labels, found.predicted, found.confidences)] == [
        LABELS,
        PREDICTED,
        CONFIDENCES,
    ]
    assert found.num_images == 10


def test_lists_are_little_endian_in_two_bytes(folder):
    (raw,) = json.loads((folder / "predictions.json").read_text())["targets"]
    numbers = struct.unpack("<10H", base64.b64decode(raw["confidences"]))
    assert list(numbers) == CONFIDENCES


@pytest.mark.parametrize("num_images", [0, 1, 7, 8, 9, 16, 1001])
def test_bits_are_those_of_correct_images(num_images):
    rng = random.Random(num_images)
    labels = [rng.randrange(3) for _ in range(num_images)]
    predicted = [rng.randrange(3) for _ in range(num_images)]
    found = made(labels=labels, predicted=predicted, confidences=[0] * num_images)
    assert found.bits == np.packbits(np.equal(labels, predicted)).tobytes()


def test_imagenet_takes_less_than_half_a_megabyte(tmp_path):
    rng, size = random.Random(0), 50_000
    lists = {
        name: [rng.randrange(1000) for _ in range(size)] for name in ("labels", "predicted")
    } | {"confidences": [rng.randrange(CONFIDENCE_STEPS + 1) for _ in range(size)]}
    names = tuple(f"class number {i} of many" for i in range(1000))
    write_predictions(tmp_path, [made(class_names=names, **lists)])
    assert (tmp_path / "predictions.json").stat().st_size < 500_000


def test_more_classes_than_two_bytes_can_name(tmp_path, folder):
    names = tuple(map(str, range(70_000)))
    write_predictions(tmp_path, [made(class_names=names, labels=[69_999] * 10)])
    (raw,) = json.loads((tmp_path / "predictions.json").read_text())["targets"]
    assert struct.unpack("<10I", base64.b64decode(raw["labels"])) == (69_999,) * 10


def test_a_run_without_the_file_has_no_predictions(folder, tmp_path):
    (folder / "predictions.json").unlink()
    assert read_predictions(folder) == {} == read_predictions(tmp_path / "nothing")


BROKEN = {
    "not JSON": lambda raw: None,
    "another version": lambda raw: raw | {"schema_version": 9},
    "a field is missing": lambda raw: raw["targets"][0].pop("labels") and raw,
    "not base64": lambda raw: raw["targets"][0].update(labels="?") or raw,
    "half a number": lambda raw: raw["targets"][0].update(labels="AAAA") or raw,
    "a shorter list": lambda raw: raw["targets"][0].update(labels="AAA=") or raw,
    "an unknown class": lambda raw: raw["targets"][0].update(class_names=["cat"]) or raw,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_file_is_named(folder, how):
    path = folder / "predictions.json"
    raw = BROKEN[how](json.loads(path.read_text()))
    path.write_text("{" if raw is None else json.dumps(raw))
    with pytest.raises(ValueError, match=r"predictions.json cannot be read: .*; rerun the run"):
        read_predictions(folder)


@pytest.mark.parametrize(
    "other",
    [
        {"predicted": [1, 0, 0, 1, 0, 2, 2, 0, 1, 2]},  # as many correct, on other images
        {"labels": [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]},
        {"class_names": ("cat", "dog", "eft")},
        {"test_list": "abd"},
        {"target": "base"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_file_of_another_run_is_told(folder, other):
    write_predictions(folder, [made(**other)])
    with pytest.raises(ValueError, match="contradicts the record"):
        read_predictions(folder)


def test_a_list_cut_short_is_told(folder):
    lists = {"labels": LABELS[:9], "predicted": PREDICTED[:9], "confidences": CONFIDENCES[:9]}
    write_predictions(folder, [made(**lists)])
    with pytest.raises(ValueError, match="contradicts the record"):
        read_predictions(folder)
