"""The recorded vectors of published implementations match, and an altered one does not."""

import functools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.verify.verify import find_sets, verify_set
from main import main
from tests.helpers.paths import GOLDEN

CASES = ("public_coop", "public_textrefiner")


@functools.cache
def tensors_of(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def altered(folder, name, tensor, change):
    """A copy of a set with one tensor changed in place."""
    tensors = {key: value.clone() for key, value in tensors_of(name).items()}
    change(tensors[tensor])
    save_file(tensors, folder / f"{name}.safetensors")
    shutil.copy(GOLDEN / f"{name}.json", folder)
    return folder / f"{name}.json"


def command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["main.py", "verify", *map(str, words)])
    return main()


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_tensor_is_reproduced(name):
    outcome = verify_set(GOLDEN / f"{name}.json")
    assert outcome.status == "matched", outcome
    compared = {d.name for d in outcome.differences}
    given = {k for k in tensors_of(name) if k.startswith(("clip.", "param.", "in."))}
    assert compared >= tensors_of(name).keys() - given
    assert all(d.difference <= 1e-5 for d in outcome.differences)


def by_one_millionth(tensor):
    row = int(tensor.abs().argmax())
    tensor.view(-1)[row] *= 1 + 1e-6


def by_one(tensor):
    tensor.view(-1)[0] += 1


def to_another_label(tensor):
    tensor.view(-1)[0] = (tensor.view(-1)[0] + 1) % 2


ALTERED = [
    ("public_coop", "end.generic.out1.logits", by_one_millionth),
    ("public_coop", "middle.csc.grad1.ctx", by_one_millionth),
    ("public_coop", "front.generic.after3.ctx", by_one_millionth),
    ("public_coop", "param.ctx.generic", by_one_millionth),
    ("public_coop", "in.images", by_one),
    ("public_coop", "in.labels", to_another_label),
    ("public_coop", "in.token_ids", by_one),
    ("public_coop", "in.eot", by_one),
    ("public_coop", "clip.text.proj", by_one),
    ("public_kgcoop", "loss2.text_consistency", by_one_millionth),
    ("public_kgcoop", "out1.cosine", by_one_millionth),
    ("public_kgcoop", "param.ctx", by_one_millionth),
    ("public_kgcoop", "in.handmade_token_ids", by_one),
    ("public_maple", "out1.prompt_vision1", by_one_millionth),
    ("public_maple", "param.couple2.weight", by_one_millionth),
    ("public_maple", "grad1.prompt_text2", by_one_millionth),
    ("public_tcp", "out1.class_prompt", by_one_millionth),
    ("public_tcp", "out1.block_input_prompt", by_one_millionth),
    ("public_tcp", "param.meta.fc1.bias", by_one_millionth),
    ("public_prograd", "conflict.grad2.ctx", by_one_millionth),
    ("public_prograd", "conflict.out1.gradient_cosine", by_one_millionth),
    ("public_prograd", "agree.loss3.kl", by_one_millionth),
    ("public_prograd", "in.labels.conflict", to_another_label),
    ("public_textrefiner", "cache3.after", by_one_millionth),
    ("public_textrefiner", "out1.read_weights", by_one_millionth),
    ("public_textrefiner", "loss2.semantic", by_one_millionth),
    ("public_textrefiner", "param.cache", by_one_millionth),
    ("public_textrefiner", "in.eval_images", by_one),
    ("public_textrefiner", "in.labels", to_another_label),
    ("public_textrefiner", "out1.topk_index", by_one),
]


@pytest.mark.parametrize(("name", "tensor", "change"), ALTERED)
def test_an_altered_vector_is_noticed(tmp_path, name, tensor, change):
    outcome = verify_set(altered(tmp_path, name, tensor, change))
    assert outcome.status == "failed"
    assert outcome.problem or any(not d.ok for d in outcome.differences)


def test_the_command_says_what_differs_and_ends_with_1(tmp_path, monkeypatch, capsys):
    altered(tmp_path, "public_coop", "end.generic.out1.logits", by_one_millionth)
    (tmp_path / "other_future.json").write_text("{}")
    (tmp_path / "other_future.safetensors").write_bytes(b"")
    assert command(monkeypatch, tmp_path) == 1
    shown = capsys.readouterr().out
    assert "DIFFERS" in shown and "81 of 82 tensors match" in shown
    assert "other_future: not implemented" in shown


def test_json_holds_every_difference_and_ends_with_0(monkeypatch, capsys):
    assert command(monkeypatch, GOLDEN, "--json") == 0
    found = {case["name"]: case for case in json.loads(capsys.readouterr().out)}
    assert {name: found[name]["status"] for name in CASES} == dict.fromkeys(CASES, "matched")
    logits = found["public_coop"]["tensors"]["end.generic.out1.logits"]
    assert logits["ok"] and 0 <= logits["difference"] <= logits["allowed"]


@pytest.mark.parametrize("damage", ["torn", "missing tensor", "no constants", "not JSON"])
def test_a_damaged_set_fails_with_one_line(tmp_path, damage):
    path = altered(tmp_path, "public_coop", "in.labels", lambda tensor: None)
    weights = path.with_suffix(".safetensors")
    if damage == "torn":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "missing tensor":
        left = {k: v for k, v in load_file(weights).items() if k != "clip.text.proj"}
        save_file(left, weights)
    else:
        path.write_text('{"constants": {}}' if damage == "no constants" else "{")
    outcome = verify_set(path)
    assert outcome.status == "failed" and outcome.problem and "\n" not in outcome.problem


def test_a_tensor_that_nothing_computes_fails(tmp_path):
    path = altered(tmp_path, "public_coop", "in.labels", lambda tensor: None)
    tensors = load_file(path.with_suffix(".safetensors")) | {"out9.surprise": torch.zeros(2)}
    save_file(tensors, path.with_suffix(".safetensors"))
    assert "out9.surprise" in verify_set(path).problem


def test_a_case_nobody_implements_has_not_passed(tmp_path, monkeypatch, capsys):
    (tmp_path / "hidden_telepathy.json").write_text("{}")
    (tmp_path / "hidden_telepathy.safetensors").write_bytes(b"")
    assert command(monkeypatch, tmp_path) == 1
    assert "hidden_telepathy: not implemented" in capsys.readouterr().out


def copied(folder, name, *, to=None, ends=("json", "safetensors")):
    """A copy of a set, or of half of it, under another name."""
    for end in ends:
        shutil.copy(GOLDEN / f"{name}.{end}", folder / f"{to or name}.{end}")


@pytest.mark.parametrize("end", ["json", "safetensors"])
def test_half_a_set_has_not_passed(tmp_path, monkeypatch, capsys, end):
    copied(tmp_path, "public_coop")
    copied(tmp_path, "public_ivlp", ends=(end,))
    assert command(monkeypatch, tmp_path) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "public_coop: matched" in shown and "public_ivlp: failed public_ivlp." in shown
    assert "is missing; a set is both files" in shown
    assert command(monkeypatch, tmp_path, "--only", "public_coop") == 0
    assert command(monkeypatch, tmp_path, "--only", "public_cop") == 2
    assert "did you mean 'public_coop'?" in capsys.readouterr().err


def test_what_is_not_a_set_is_named(tmp_path, monkeypatch, capsys):
    copied(tmp_path, "public_coop")
    (tmp_path / "statistics.json").write_text('{"t": 1.5}')
    assert command(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().err == "statistics.json is not a set of vectors: not checked\n"


@pytest.mark.parametrize("name", ["public_cop", "public", "public_coop_old"])
def test_a_renamed_set_has_not_passed(tmp_path, monkeypatch, capsys, name):
    copied(tmp_path, "public_coop", to=name)
    assert command(monkeypatch, tmp_path) == 1
    assert f"{name}: not implemented" in capsys.readouterr().out


def test_a_set_under_the_name_of_another_case_fails(tmp_path):
    copied(tmp_path, "public_coop", to="public_sep")
    assert verify_set(tmp_path / "public_sep.json").status == "failed"


def test_a_set_without_some_of_its_tensors_has_not_passed(tmp_path):
    path = altered(tmp_path, "public_coop", "in.labels", lambda tensor: None)
    left = {k: v for k, v in tensors_of("public_coop").items() if "logits" not in k}
    save_file(left, path.with_suffix(".safetensors"))
    assert "its tensors are not those that it lists: it lacks" in verify_set(path).problem
    given = {k: v for k, v in left.items() if k.startswith(("clip.", "in.", "param."))}
    save_file(given, path.with_suffix(".safetensors"))
    unlisted = {k: v for k, v in json.loads(path.read_text()).items() if k != "tensors"}
    path.write_text(json.dumps(unlisted))
    outcome = verify_set(path)
    assert outcome.status == "failed" and "nothing to compare with" in outcome.problem


@pytest.mark.parametrize("listed", [None, "x", []])
def test_a_set_without_the_list_of_its_tensors_has_not_passed(tmp_path, listed):
    path = altered(tmp_path, "public_coop", "in.labels", lambda tensor: None)
    left = {k: v for k, v in tensors_of("public_coop").items() if not k.startswith("middle.csc")}
    save_file(left, path.with_suffix(".safetensors"))
    raw = json.loads(path.read_text())
    raw = {k: v for k, v in raw.items() if k != "tensors"} | (
        {} if listed is None else {"tensors": listed}
    )
    path.write_text(json.dumps(raw))
    outcome = verify_set(path)
    assert outcome.status == "failed" and "lists no 'tensors'" in outcome.problem


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
@pytest.mark.parametrize("relisted", [True, False])
def test_values_of_another_number_kind_match_nothing(tmp_path, dtype, relisted):
    path = altered(tmp_path, "public_coop", "in.labels", lambda tensor: None)
    raw, given = json.loads(path.read_text()), ("clip.", "param.", "in.")
    changed = {
        k: v if k.startswith(given) else v.to(dtype) for k, v in tensors_of("public_coop").items()
    }
    save_file(changed, path.with_suffix(".safetensors"))
    if relisted:
        for name, tensor in changed.items():
            raw["tensors"][name]["dtype"] = str(tensor.dtype).removeprefix("torch.")
        path.write_text(json.dumps(raw))
    outcome = verify_set(path)
    assert outcome.status == "failed"
    if relisted:
        kept = [d.name for d in outcome.differences if d.ok]
        assert all(name.startswith(given) for name in kept), kept
    else:
        assert "has dtype" in outcome.problem


def test_sets_in_subfolders_are_checked_and_other_letter_cases_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "deeper" / "more").mkdir(parents=True)
    copied(tmp_path, "public_coop")
    copied(tmp_path / "deeper" / "more", "public_coop")
    assert command(monkeypatch, tmp_path) == 0
    assert "deeper/more/public_coop: matched" in capsys.readouterr().out
    altered(tmp_path / "deeper", "public_coop", "param.ctx.generic", by_one)
    assert command(monkeypatch, tmp_path, "--only", "deeper/public_coop") == 1
    for half in ("json", "safetensors"):
        (tmp_path / f"public_coop.{half}").rename(tmp_path / f"public_coop.{half.upper()}")
    capsys.readouterr()
    assert command(monkeypatch, tmp_path, "--only", "public_coop") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "public_coop.json is missing; a set is both files, their endings in small" in shown


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["end.generic.out1.logits", "param.ctx.generic", "clip.text.proj"])
def test_what_is_not_finite_matches_nothing(tmp_path, name, value):
    outcome = verify_set(
        altered(tmp_path, "public_coop", name, lambda t: t.view(-1)[:1].fill_(value))
    )
    assert outcome.status == "failed" and f"the recorded {name} is not finite" in outcome.problem


def test_a_folder_without_vectors_is_bad_input(tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, tmp_path) == 2
    assert "holds no reference vectors" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no reference vectors"):
        find_sets(tmp_path / "nowhere")
