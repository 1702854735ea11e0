"""Replays sets of reference vectors with the methods and refiners and compares every tensor.

Every tensor of a set is used: those that describe the model, parameters or inputs are loaded; all
others must be reproduced. Every constant is used too. What cannot be checked has not passed: a set
of an unknown case, half of a set, a set whose tensors are not those that it lists, numbers that are
not finite, and a constant that this project does not follow or use.
"""

import glob
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from core.finite import not_finite
from core.suggestions import did_you_mean
from core.tensor_files import first_line, read_safetensors
from experiments.verify.cocoop import replay_cocoop
from experiments.verify.constants import Constants, NotReplayableError
from experiments.verify.coop import replay_coop
from experiments.verify.ivlp import replay_ivlp
from experiments.verify.kgcoop import replay_kgcoop
from experiments.verify.maple import replay_maple
from experiments.verify.prograd import replay_prograd
from experiments.verify.promptkd import replay_promptkd, replay_textrefiner_kd
from experiments.verify.promptsrc import replay_promptsrc
from experiments.verify.sep import replay_sep
from experiments.verify.tcp import replay_tcp
from experiments.verify.text_refiner import replay_textrefiner
from experiments.verify.vectors import Named, Vectors, check_common

CASES: Mapping[str, Callable[[Vectors], Named]] = {
    "coop": replay_coop,
    "cocoop": replay_cocoop,
    "ivlp": replay_ivlp,
    "maple": replay_maple,
    "promptsrc": replay_promptsrc,
    "promptkd": replay_promptkd,
    "sep": replay_sep,
    "kgcoop": replay_kgcoop,
    "prograd": replay_prograd,
    "tcp": replay_tcp,
    "textrefiner": replay_textrefiner,
    "textrefiner_kd": replay_textrefiner_kd,
}

BAD_SET = (  # what a replay of wrong constants raises
    LookupError,
    ValueError,
    RuntimeError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
ENDINGS = (".json", ".safetensors")
GIVEN = ("clip.", "param.", "in.")  # tensors that a replay is given
FLOAT64_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 2e-7
ZERO_TOLERANCE = 1e-10  # where the recorded tensor is rounding noise around an exact zero


@dataclass(frozen=True)
class Difference:
    """The deviation of one tensor from its recorded value; ``allowed`` is the tolerance."""

    name: str
    difference: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Outcome:
    """The result of one set: "matched", "failed" or "not implemented".

    ``problem`` is set when it could not be compared at all, or not by all of its constants.
    """

    name: str
    status: str
    differences: tuple[Difference, ...] = ()
    problem: str = ""

    @property
    def ok(self) -> bool:
        return self.status == "matched"


def find_sets(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """The ``.json`` paths of all sets in a folder and below, of those too of which only one half is
    there.

    ``only`` names the sets to check. Raises ValueError where there is none, and for an unknown
    name.
    """
    by_name = {
        set_name(folder, path): path for path in sorted(_candidates(folder)) if _is_set(path)
    }
    if not by_name:
        raise ValueError(
            f"{folder} holds no reference vectors; a set is NAME.json with NAME.safetensors"
        )
    for name in only:
        if name not in by_name:
            near = did_you_mean(name, by_name) or f"; there are {', '.join(by_name)}"
            raise ValueError(f"{folder} holds no set {name!r}{near}")
    return [path for name, path in by_name.items() if not only or name in only]


def other_files(folder: Path) -> list[Path]:
    """JSON files that are certainly not sets: nothing in them or beside them is of one."""
    return sorted(path for path in _candidates(folder) if not _is_set(path))


def set_name(folder: Path, path: Path) -> str:
    """A set is named by its path in the folder without the ending."""
    return str(path.relative_to(folder).with_suffix(""))


def _candidates(folder: Path) -> set[Path]:
    """Every file with an ending of a set, in any letter case, as its ``.json``; hidden folders
    apart.
    """
    return {
        path.with_suffix(".json")
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _is_set(path: Path) -> bool:
    halves = {other.name for other in path.parent.glob(f"{glob.escape(path.stem)}.*")}
    return halves != {path.name} or _is_half(path)


def _is_half(path: Path) -> bool:
    """Whether a JSON file without tensors was a set's; in doubt it was."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return True
    named = path.stem.split("_", 1)[-1] in CASES
    return (
        named or not raw or not isinstance(raw, dict) or bool({"constants", "tensors"} & set(raw))
    )


def verify_set(path: Path, name: str = "") -> Outcome:
    """Replay one set, ``SOURCE_CASE.json``, and compare every recorded tensor."""
    name, tensors = name or path.stem, path.with_suffix(".safetensors")
    if lost := [half.name for half in (path, tensors) if not half.is_file()]:
        problem = f"{lost[0]} is missing; a set is both files, their endings in small letters"
        return Outcome(name, "failed", problem=problem)
    case = path.stem.split("_", 1)[-1]
    replay = CASES.get(case)
    if replay is None:
        known = f"not checked: no case {case!r}; the cases are {', '.join(CASES)}"
        return Outcome(name, "not implemented", problem=known)
    try:
        raw = json.loads(path.read_text())
        vectors = Vectors(name, raw["constants"], read_safetensors(tensors, "vectors"))
        if problem := _unfinished(vectors) or _unlisted(vectors, raw.get("tensors")):
            return Outcome(name, "failed", problem=problem)
        check_common(vectors)
        return _with_unused(_compare(vectors, dict(replay(vectors))), vectors.constants)
    except NotReplayableError as error:
        return Outcome(name, "failed", problem=str(error))
    except BAD_SET as error:
        return Outcome(name, "failed", problem=f"{type(error).__name__}: {first_line(error)}")


def _with_unused(outcome: Outcome, constants: Constants) -> Outcome:
    """An outcome that names the constants of the set which its replay knows nothing of.

    What was recorded is matched all the same: if such a constant mattered, a tensor would differ.
    """
    names = constants.unused()
    if not names or outcome.problem:
        return outcome
    return replace(outcome, problem=f"no replay of this case knows: {', '.join(names)}")


def _unlisted(vectors: Vectors, listed: object) -> str:
    """Why the tensors are not those that the JSON lists, by name, shape and number kind."""
    if not isinstance(listed, dict):
        return "its JSON lists no 'tensors', so that it may lack some; record the set again"
    there = vectors.tensors.keys()
    found = {"lacks": sorted(listed.keys() - there), "also holds": sorted(there - listed.keys())}
    words = [f"it {verb} {len(names)}, first {names[0]}" for verb, names in found.items() if names]
    for name in sorted(listed.keys() & there):
        tensor, about = vectors.tensors[name], listed[name]
        own = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for key, value in own.items():
            if isinstance(about, dict) and about.get(key, value) != value:
                words.append(f"{name} has {key} {value}, listed is {about[key]}")
    return f"its tensors are not those that it lists: {'; '.join(words[:2])}" if words else ""


def _unfinished(vectors: Vectors) -> str:
    """Why the recorded values cannot be compared with anything."""
    name = not_finite(vectors.tensors)
    if name is not None:
        return f"the recorded {name} is not finite, which matches nothing"
    if all(name.startswith(GIVEN) for name in vectors.tensors):
        return "it records inputs and parameters only, nothing to compare with"
    return ""


def _compare(vectors: Vectors, computed: Mapping[str, Tensor]) -> Outcome:
    expected = [k for k in vectors.tensors if not k.startswith(GIVEN) or k in computed]
    if absent := [k for k in expected if k not in computed]:
        return Outcome(vectors.name, "failed", problem=f"recorded but not computed: {absent}")
    differences = tuple(_difference(k, computed[k], vectors.tensors[k]) for k in sorted(expected))
    ok = all(d.ok for d in differences)
    return Outcome(vectors.name, "matched" if ok else "failed", differences)


def _difference(name: str, computed: Tensor, recorded: Tensor) -> Difference:
    """The largest absolute difference, with a tolerance relative to the largest recorded entry."""
    if computed.shape != recorded.shape:
        return Difference(f"{name} {tuple(computed.shape)}", float("inf"), 0.0)
    if not recorded.numel():
        return Difference(f"{name} (empty)", float("inf"), 0.0)
    if computed.is_floating_point() and not recorded.is_floating_point():
        kinds = f"{recorded.dtype} for {computed.dtype}".replace("torch.", "")
        return Difference(f"{name} ({kinds})", float("inf"), 0.0)
    if not recorded.is_floating_point():
        return Difference(name, float((computed.long() != recorded.long()).sum()), 0.0)
    tolerance = FLOAT64_TOLERANCE if recorded.dtype == torch.float64 else FLOAT32_TOLERANCE
    largest = float(recorded.abs().max())
    gap = (computed.detach().double() - recorded.double()).abs().nan_to_num(nan=float("inf"))
    floor = ZERO_TOLERANCE if largest < ZERO_TOLERANCE else 1e-12
    return Difference(name, float(gap.max()), tolerance * largest + floor)
