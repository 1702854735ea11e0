"""PromptKD: recorded runs, kinds of teachers, regimes, short trainings, and what it refuses."""

import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.clip.backbone import load_clip, shared_clip
from core.clip.frozen import TowerlessCLIP
from core.config import config_from_text
from core.data.catalog import load_dataset
from core.seeding import Seeds
from core.store.record import write_record
from core.types import Batch, ClassNames, ImageFeatures
from experiments.run.data_inputs import read_data_inputs
from experiments.run.run import evaluate, reload, train
from experiments.run.runtime import Runtime
from experiments.verify.verify import verify_set
from methods.ivlp import IVLP
from methods.promptkd import KnownLogits, PromptKD
from methods.teachers import PublishedTeacher, RunTeacher, Teacher
from tests.helpers.paths import GOLDEN
from tests.helpers.preset_runs import few_test_images
from tests.helpers.tiny_clip import tokenizer
from tests.helpers.two_step_runs import (
    OFF,
    ON,
    built,
    check_recorded,
    logits_of,
    run_text,
    trained_logits,
    two_steps,
)

CLASSES = ClassNames(names=("cat", "sea_anemone", "dragonfly"))


@pytest.fixture(scope="module")
def clip():
    return load_clip("mosaic")


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory, cache_dir):
    """Stage 1: a run of IVLP without vision prompts, two steps long."""
    folder = tmp_path_factory.mktemp("teachers") / "run"
    with pytest.MonkeyPatch.context() as patch:
        few_test_images(patch)
        run_text(two_steps("IVLP", "IVLP.num_ctx_vision = 1"), folder, cache_dir)
    return folder


def build(clip, **settings):
    return PromptKD(clip, CLASSES, Seeds(1), **settings)


def pixels(clip, count=3, seed=5):
    images = torch.randn(count, 3, *clip.spec.image_size, generator=Seeds(seed).generator("images"))
    return Batch(labels=torch.zeros(count, dtype=torch.int64), pixels=images)


@pytest.mark.parametrize("name", ["public_promptkd", "public_textrefiner_kd"])
def test_matches_the_recorded_run(name):
    check_recorded(name)


def with_teacher_words(folder, name, words):
    """A set whose teacher's design has other words, and the tokens that belong to them."""
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    raw = json.loads((GOLDEN / f"{name}.json").read_text())
    raw["constants"]["teacher"]["design"]["ctx_init"] = words
    names = [one.replace("_", " ") for one in raw["constants"]["classes"]]
    ids = tokenizer(77)([f"{words or 'X X X X'} {one}." for one in names])
    rows = {int(token): row for row, token in enumerate(tensors["in.token_row_ids"])}
    index = [[rows.get(int(token), -1) for token in row] for row in ids]
    tensors |= {"in.token_ids": ids, "in.token_rows_index": torch.tensor(index)}
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(raw))
    return folder / f"{name}.json"


@pytest.mark.parametrize("words", ["", None, "one of my own"])
@pytest.mark.parametrize("name", ["public_promptkd", "public_textrefiner_kd"])
def test_the_words_of_the_teacher_are_read_from_the_set(tmp_path, name, words):
    assert len((words or "X X X X").split()) == 4
    outcome = verify_set(with_teacher_words(tmp_path, name, words))
    assert outcome.status == "matched", (
        outcome.problem,
        [d for d in outcome.differences if not d.ok],
    )


def test_a_set_that_does_not_record_the_words_of_the_teacher_has_the_released_ones(tmp_path):
    path = with_teacher_words(tmp_path, "public_promptkd", "a photo of a")
    path.write_text(path.read_text().replace(', "ctx_init": "a photo of a"', ""))
    assert "ctx_init" not in path.read_text()
    assert verify_set(path).status == "matched"


def test_a_run_trains_and_is_restored(tmp_path, cache_dir, monkeypatch, teacher_run):
    few_test_images(monkeypatch)
    settings = f"PromptKD.teacher = @RunTeacher\nRunTeacher.run = '{teacher_run}'"
    text = two_steps("PromptKD", settings)
    record = run_text(text, tmp_path / "run", cache_dir)
    assert (record.status, record.regime) == ("finished", "limited")
    width = 128
    head = 2 * (width * width + width) + 2 * width
    assert record.cost.trainable_parameters == 4 * 4 * width + head
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert log["loss"] == log["kd"] > 0
    again = reload(tmp_path / "run", Runtime(cache_dir=cache_dir))
    scores = tuple(evaluate(again, again.dataset, part) for part in again.scored_subsets())
    restored = logits_of(again)
    assert scores == record.evaluations
    assert torch.equal(restored, trained_logits(text, cache_dir)[0])


def test_a_refiner_that_is_off_changes_no_bit(cache_dir):
    plain, state = trained_logits(two_steps("PromptKD"), cache_dir)
    off, other = trained_logits(two_steps("PromptKD", refiner=OFF), cache_dir)
    assert torch.equal(plain, off)
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_trains_under_a_refiner_and_is_selected_on_base_classes(cache_dir):
    text = two_steps("PromptKD", "experiment.selection = 'val'", refiner=ON)
    assembly = built(text, cache_dir)
    log = []
    result = train(assembly, log.append)
    classes = assembly.model.method.classes
    assert set(log[-1]) >= {"kd", "semantic", "regularization"}
    assert len(result.scores) == 1
    assert classes.names == assembly.dataset.class_names


def test_unlabeled_images_of_both_halves_are_seen(cache_dir):
    assembly = built(two_steps("PromptKD"), cache_dir)
    assert assembly.trained_subset == "all"
    assert assembly.selected_subset == "base"
    assert assembly.model.method.classes.names == assembly.dataset.class_names
    whole = two_steps("PromptKD", "PromptKD.regime = 'transductive'")
    whole = whole.replace("experiment.shots = 2", "experiment.shots = 0")
    assembly = built(whole, cache_dir)
    assert assembly.model.method.regime == "transductive"
    assert len(assembly.dataset.train) == 32 * len(assembly.dataset.class_names)


def test_transductive_takes_no_few_shot_draw(cache_dir):
    text = two_steps("PromptKD", "PromptKD.regime = 'transductive'")
    with pytest.raises(ValueError, match=r"experiment.shots = 2; use 0, or the regime 'limited'"):
        built(text, cache_dir)


def test_the_teacher_sees_each_image_once(clip):
    method = build(clip)
    asked = []
    answer = method.teacher.logits

    def logits(batch, classes):
        asked.extend(batch.index.tolist())
        return answer(batch, classes)

    method.teacher.logits = logits
    batch = pixels(clip, count=4)
    first = [method.targets(_at(batch, places)) for places in ([3, 0], [0, 1, 2], [3, 2])]
    assert asked == [3, 0, 1, 2]
    torch.testing.assert_close(first[0][1], first[1][0])
    expected = answer(batch, CLASSES)
    torch.testing.assert_close(method.targets(_at(batch, [0, 1, 2, 3])), expected)
    method.begin_training([], 1)
    method.targets(_at(batch, [1]))
    assert asked[-1] == 1
    every = build(clip, teacher_logits="each_step")
    torch.testing.assert_close(every.targets(batch), expected)


def _at(batch, places):
    index = torch.tensor(places)
    return Batch(labels=batch.labels[index], pixels=batch.pixels[index], index=index)


def test_a_teacher_sees_each_fixed_view_once(clip):
    method, asked = build(clip), []
    answer = method.teacher.logits

    def logits(batch, classes):
        asked.extend(batch.positions)
        return answer(batch, classes)

    method.teacher.logits = logits
    batch = pixels(clip, count=4)
    index = torch.tensor([0, 1, 0, 1])
    views = replace(batch, index=index, positions=(0, 1, 2, 3))  # two views of two images
    expected = answer(views, CLASSES)
    for _ in range(2):
        torch.testing.assert_close(method.targets(views), expected)
    torch.testing.assert_close(method.targets(views.rows([3, 0])), expected[[3, 0]])
    assert asked == [0, 1, 2, 3]


def test_known_logits():
    known = KnownLogits()
    assert known.missing([2, 5]) == [0, 1]
    known.learn([2, 5], torch.tensor([[1.0, 2], [3, 4]]))
    assert known.missing([5, 1, 7]) == [1, 2]
    known.learn([1, 7], torch.tensor([[5.0, 6], [7, 8]]))
    expected = [[1, 2], [5, 6], [3, 4], [7, 8]]
    assert known.of([2, 1, 5, 7]).tolist() == expected
    later = KnownLogits()
    later.restore(known.state(), torch.device("cpu"))
    assert later.missing(range(8)) == [0, 3, 4, 6] and torch.equal(later.rows_NC, known.rows_NC)


def test_a_teacher_on_the_students_backbone_needs_no_second_image_pass(clip, monkeypatch):
    """The frozen features that a batch has are its own; those of another backbone's are not."""
    method, batch = build(clip), pixels(clip, count=4)
    assert method.reads_frozen == {"training"}
    expected = method.targets(batch)
    known = replace(batch, features=clip.encode_image(batch.pixels))
    passes = []
    encode = type(clip).encode_image

    def counting(self, *given, **options):
        passes.append(self)
        return encode(self, *given, **options)

    monkeypatch.setattr(type(clip), "encode_image", counting)
    torch.testing.assert_close(method.targets(known), expected)
    assert not passes
    method.teacher.shares_tower = False  # as with any other backbone
    assert not method.teacher.reads_frozen
    torch.testing.assert_close(method.targets(replace(known, index=None)), expected)
    wrong = replace(known, features=ImageFeatures(pooled=-known.features.pooled), index=None)
    torch.testing.assert_close(method.targets(wrong), expected)
    assert len(passes) == 2


def test_texts_are_the_teachers_and_encoded_once(clip, monkeypatch):
    method = build(clip)
    batch = pixels(clip)
    out = method(batch)
    torch.testing.assert_close(out.text.norm(dim=-1), torch.ones(3))
    monkeypatch.setattr(type(clip), "encode_texts", None)
    assert torch.equal(method(batch).text, out.text)


def test_nothing_of_the_teacher_trains(clip):
    method = build(clip).train()
    names = [name for name, p in method.named_parameters() if p.requires_grad]
    assert all(name.startswith(("vision_prompts.", "projector.")) for name in names)
    assert not any(module.training for module in method.teacher.modules())


def test_another_content_of_the_teachers_files_is_another_run(tmp_path, cache_dir, teacher_run):
    copy = tmp_path / "teacher"
    shutil.copytree(teacher_run, copy)

    def prints(folder):
        settings = f"PromptKD.teacher = @RunTeacher\nRunTeacher.run = '{folder}'"
        config = config_from_text(two_steps("PromptKD", settings))
        return read_data_inputs(config, Runtime(cache_dir=cache_dir)).fingerprints

    before = prints(copy)
    assert set(before) == {"dataset", "RunTeacher config.gin", "RunTeacher weights.safetensors"}
    assert before == prints(teacher_run)
    weights = load_file(copy / "weights.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, copy / "weights.safetensors")
    after = prints(copy)
    assert {key for key in before if before[key] != after[key]} == {
        "RunTeacher weights.safetensors"
    }


def test_a_run_teaches_what_it_says(clip, cache_dir, teacher_run):
    student = shared_clip("mosaic", None, "cpu", torch.float32)
    stage_one = reload(teacher_run, Runtime(cache_dir=cache_dir))
    expected = logits_of(stage_one)
    classes = stage_one.model.method.classes
    (batch,) = stage_one.source.evaluation(stage_one.dataset, stage_one.dataset.test[:7], 7)
    teacher = RunTeacher(student, CLASSES, run=str(teacher_run))
    torch.testing.assert_close(teacher.logits(batch, classes), expected)
    same = RunTeacher(student, CLASSES, run=str(teacher_run / "weights.safetensors"))
    assert torch.equal(same.texts(classes), teacher.texts(classes))


def test_refuses_runs_that_cannot_teach(clip, tmp_path):
    with pytest.raises(ValueError, match=r"is not a finished run: .*config.gin does not exist"):
        RunTeacher(clip, CLASSES, run=str(tmp_path))
    (tmp_path / "config.gin").write_text(two_steps("IVLP", refiner=ON))
    with pytest.raises(ValueError, match="used a refiner"):
        RunTeacher(clip, CLASSES, run=str(tmp_path))
    (tmp_path / "config.gin").write_text(two_steps("IVLP"))
    with pytest.raises(ValueError, match=r"weights.safetensors does not exist"):
        RunTeacher(clip, CLASSES, run=str(tmp_path))


CLOSED = [
    ("TaskRes", ""),
    ("CoOp", "CoOp.class_specific = True"),
    ("TipAdapterF", "experiment.num_views = 1"),
    ("LinearProbe", ""),
]


def land_run(folder, cache_dir, method, settings):
    """A run of a method on the 24 classes of mosaic/land; returns what it makes of them."""
    text = two_steps(method, f"experiment.protocol = 'few_shot'\n{settings}")
    text = text.replace("mosaic/vehicles", "mosaic/land")
    write_record(folder, run_text(text, folder, cache_dir))
    stage_one = reload(folder, Runtime(cache_dir=cache_dir))
    (batch,) = stage_one.source.evaluation(stage_one.dataset, stage_one.dataset.test[:7], 7)
    return stage_one.model.method.classes, batch, logits_of(stage_one)


@pytest.mark.parametrize(("method", "settings"), CLOSED)
def test_a_closed_set_teaches_its_own_classes_alone(
    tmp_path, cache_dir, monkeypatch, method, settings
):
    few_test_images(monkeypatch)
    folder = tmp_path / "run"
    classes, batch, expected = land_run(folder, cache_dir, method, settings)
    student = shared_clip("mosaic", None, "cpu", torch.float32)
    vehicles = load_dataset("mosaic/vehicles", root=None, cache_dir=cache_dir).class_names
    assert len(vehicles) == len(classes) == 24
    for names in (vehicles, CLASSES.names, (*classes.names[:-1], "tram")):
        others = ClassNames(names=names, template=classes.template)
        for clip in (student, TowerlessCLIP(student)):
            with pytest.raises(ValueError, match=r"cannot teach the student's classes: .*other"):
                RunTeacher(clip, others, run=str(folder))
    teacher = RunTeacher(student, classes, run=str(folder))
    torch.testing.assert_close(teacher.logits(batch, classes)[:7], expected[:7])
    with pytest.raises(ValueError, match="other classes"):
        teacher.texts(ClassNames(names=vehicles, template=classes.template))
    if method == "CoOp":
        return
    some = ClassNames(names=(classes.names[3], classes.names[1]), template=classes.template)
    pupil = RunTeacher(student, some, run=str(folder))
    torch.testing.assert_close(pupil.logits(batch, some)[:7], expected[:7, [3, 1]])
    for asked, columns in [(classes, list(range(24))), (some, [3, 1]), (classes, [*range(24)])]:
        torch.testing.assert_close(pupil.logits(batch, asked)[:7], expected[:7, columns])


def test_a_closed_set_without_a_record_is_refused(tmp_path, cache_dir, monkeypatch, clip):
    few_test_images(monkeypatch)
    land_run(tmp_path / "run", cache_dir, "TaskRes", "")
    (tmp_path / "run" / "record.json").unlink()
    with pytest.raises(ValueError, match=r"TaskRes scores only classes .* no record says which"):
        RunTeacher(clip, CLASSES, run=str(tmp_path / "run"))


def published(clip, path, **changes):
    """A file as the authors' code writes it, of an untrained IVLP; returns that too."""
    method = IVLP(clip, CLASSES, Seeds(3), num_ctx_text=4, depth_text=2, depth_vision=3)
    text, vision = method.text_prompts.prompts, method.vision_prompts.prompts
    blocks = "transformer.resblocks"
    state = {
        "prompt_learner.ctx": text[0],
        "prompt_learner.token_prefix": torch.zeros(3, 1, 128),
        f"text_encoder.{blocks}.1.VPT_shallow": text[1],
        "image_encoder.VPT": vision[0],
        f"image_encoder.{blocks}.2.VPT_shallow": vision[2],
        f"image_encoder.{blocks}.1.VPT_shallow": vision[1],
        "logit_scale": torch.zeros(()),
        **changes,
    }
    state = {name: value.detach() for name, value in state.items() if value is not None}
    torch.save({"state_dict": state, "epoch": 20}, path)
    return method


def test_a_published_file_teaches(clip, tmp_path):
    path = tmp_path / "model-best.pth.tar"
    method = published(clip, path)
    teacher = PublishedTeacher(clip, CLASSES, path=str(path), backbone="mosaic", weights=None)
    batch = pixels(clip)
    torch.testing.assert_close(teacher.logits(batch, CLASSES), method(batch).logits().detach())


def test_refuses_files_that_hold_no_teacher(clip, tmp_path):
    path = tmp_path / "model-best.pth.tar"
    open_file = partial(
        PublishedTeacher, clip, CLASSES, path=str(path), backbone="mosaic", weights=None
    )
    with pytest.raises(ValueError, match="does not exist"):
        open_file()
    published(clip, path, **{"prompt_learner.ctx": None})
    with pytest.raises(ValueError, match="not an IVLP or PromptSRC checkpoint"):
        open_file()
    published(clip, path, **{"prompt_learner.ctx": torch.zeros(4, 64)})
    with pytest.raises(ValueError, match=r"widths \(64, 128\), but mosaic has \(128, 128\)"):
        open_file()
    published(clip, path, **{"image_encoder.transformer.resblocks.1.VPT_shallow": None})
    with pytest.raises(ValueError, match=r"lacks 1 tensors, first 'image_encoder"):
        open_file()
    torch.save({"state_dict": SimpleNamespace()}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        open_file()


def test_a_teacher_must_see_the_same_images(clip):
    other = load_clip("mosaic")
    other.spec = replace(other.spec, image_size=(16, 16))
    with pytest.raises(ValueError, match="images of different size or normalization"):
        Teacher(other, build(clip).teacher.method)


def test_the_criterion(clip):
    teacher = torch.tensor([[1.0, 2, 3], [0, 0, 1]])
    student = torch.tensor([[0.0, 1, 5], [2, 1, 0]])
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum() / 6
    torch.testing.assert_close(build(clip, temperature=2.0).criterion(student, teacher), expected)
    rows = build(clip, temperature=2.0, kl_reduction="batchmean").criterion(student, teacher)
    torch.testing.assert_close(rows, 3 * expected)
    assert build(clip).criterion(teacher, teacher) == 0


def test_refuses_one_image_a_batch_and_too_much_depth(clip):
    method = build(clip)
    with pytest.raises(ValueError, match=r"batch of 1 image; set experiment.batch_size to 2"):
        method.train()(pixels(clip, count=1))
    assert method.eval()(pixels(clip, count=1)).image.shape == (1, 128)
    with pytest.raises(ValueError, match=r"PromptKD.depth_vision is 5, but .* has 4 blocks"):
        build(clip, depth_vision=5)
