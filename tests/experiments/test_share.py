"""Several drivers on one study folder: every run is made once, whatever happens to the drivers."""

import errno
import json
import os
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments.run.experiment
import methods.zero_shot
import refiners.null_refiner
from core.store import read_record
from core.store.manifest import has_manifest
from core.store.names import RECORD_NAME, RERUN_SUFFIX, SHARE_FOLDER, TRAINING_NAME
from core.store.record import write_record
from experiments.study import members
from experiments.study import share as share_module
from experiments.study.claims import Claims
from experiments.study.driver import run_study
from experiments.study.holder import Holder
from experiments.study.lock import StudyLock
from experiments.study.members import Member, Watch, registered
from experiments.study.share import OneTracker, Sharing, run_shared_study
from experiments.study.status import study_status
from experiments.workers.jobs import Event, NoWorkersError
from experiments.workers.local import InlineExecutor
from tests.helpers.fake_runs import executions, fake_plan, fake_record, overtaken

FAKE = "tests.helpers.fake_runs:fake_run"
REGISTERED = (experiments.run.experiment, methods.zero_shot, refiners.null_refiner)
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")
ELSEWHERE = {"host": "elsewhere", "pid": 1, "process_start": "5", "boot": "b", "space": ""}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class ListTracker:
    """Writes down what it hears of."""

    def __init__(self):
        self.heard = []

    def finished(self, run_dir):
        self.heard.append(run_dir.name)

    def close(self, *, seconds=0.0):
        return ""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(share_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(share_module, "POLL_SECONDS", 0.01)


def run_shared(plan, folder, *, entry=FAKE, workers=1, lockstep=1, seconds=60.0, **options):
    share = Sharing(num_workers=lambda: workers, lockstep=lockstep, silent_seconds=seconds)
    executor = InlineExecutor(entry, lockstep=lockstep)
    return run_shared_study(plan, folder, executor, share=share, runtime=RUNTIME, **options)


def run_alone(plan, folder, *, entry=FAKE, **options):
    return run_study(plan, folder, InlineExecutor(entry), runtime=RUNTIME, **options)


def claims_of(folder, name, clock=None, seconds=60.0):
    found = Claims(folder, name, Watch(folder, seconds, **({"clock": clock} if clock else {})))
    found.look()
    return found


def list_driver(folder, name, beat="1", **who):
    drivers = folder / SHARE_FOLDER / "drivers"
    drivers.mkdir(parents=True, exist_ok=True)
    (drivers / f"{name}.json").write_text(json.dumps(ELSEWHERE | who))
    (drivers / f"{name}.beat").write_text(beat)


def payload(identity):
    return {"identity": identity, "variant": "ok", "factors": {}}


def test_one_shared_driver_does_what_a_lone_one_does(tmp_path):
    plan = fake_plan(["ok a", "ok b"])
    run_study(plan, tmp_path / "lone", InlineExecutor(FAKE), runtime=RUNTIME)
    outcome = run_shared(plan, tmp_path / "shared")
    assert (len(outcome.done), outcome.exit_code) == (8, 0)
    for cell in plan.runs:
        lone = (tmp_path / "lone" / cell.identity / RECORD_NAME).read_text()
        assert (tmp_path / "shared" / cell.identity / RECORD_NAME).read_text() == lone
    assert not (tmp_path / "shared" / SHARE_FOLDER).exists()
    again = run_shared(plan, tmp_path / "shared")
    assert (len(again.done), len(again.skipped)) == (0, 8)
    assert set(executions(tmp_path / "shared").values()) == {1}


@pytest.mark.parametrize("lockstep", [1, 4])
def test_drivers_side_by_side_make_every_run_once(tmp_path, lockstep):
    plan = fake_plan(["slow a", "slow b"], bundled=lockstep > 1)
    outcomes, trackers = {}, [ListTracker() for _ in range(3)]

    def drive(number):
        options = {"lockstep": lockstep, "tracker": trackers[number]}
        outcomes[number] = run_shared(plan, tmp_path, **options)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [outcomes[n].exit_code for n in range(3)] == [0, 0, 0]
    assert [len(outcomes[n].done) + len(outcomes[n].skipped) for n in range(3)] == [8, 8, 8]
    assert sum(len(outcomes[n].done) for n in range(3)) == 8
    assert min(len(outcomes[n].done) for n in range(3)) >= 1
    assert set(executions(tmp_path).values()) == {1}
    told = [set(tracker.heard) for tracker in trackers]
    assert sorted(map(len, told)) == [0, 0, 8]  # the first alone, of all runs


def test_of_many_who_take_over_one_succeeds(tmp_path):
    list_driver(tmp_path, "dead")
    assert claims_of(tmp_path, "dead").take("cell") == 1
    clocks = [Clock() for _ in range(8)]
    observers = [claims_of(tmp_path, f"d{n}", clocks[n]) for n in range(8)]
    for _ in range(6):
        for clock, observer in zip(clocks, observers, strict=True):
            clock.now += 14
            observer.look()
    assert all(observer.is_free("cell") for observer in observers)
    start, won = threading.Barrier(8), []

    def take(observer):
        start.wait()
        if observer.take("cell") == 2:
            won.append(observer.member_id)

    threads = [threading.Thread(target=take, args=(observer,)) for observer in observers]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1
    late = claims_of(tmp_path, "late")
    assert not late.is_free("cell") and late.owner("cell", 2) == won[0]


def test_silence_is_measured_on_the_observers_own_clock(tmp_path):
    list_driver(tmp_path, "a")
    clock = Clock()
    watch = Watch(tmp_path, 60, clock)
    watch.look()
    for beat in range(20):  # its counter moves: alive, whatever its clock or its dates say
        list_driver(tmp_path, "a", beat=str(beat))
        os.utime(tmp_path / SHARE_FOLDER / "drivers" / "a.beat", (0, 0))
        clock.now += 50
        watch.look()
        assert not watch.is_gone("a")
    clock.now += 10_000  # the observer stood still itself: that says little of the other
    watch.look()
    assert not watch.is_gone("a")
    for _ in range(4):
        clock.now += 15
        watch.look()
    assert watch.is_gone("a")
    list_driver(tmp_path, "a", beat="21")  # it was only suspended
    watch.look()
    assert not watch.is_gone("a")


def test_a_driver_that_slept_cannot_commit_what_another_has_taken(tmp_path):
    list_driver(tmp_path, "sleeper")
    sleeper = claims_of(tmp_path, "sleeper")
    assert sleeper.take("cell") == 1
    (tmp_path / SHARE_FOLDER / "drivers" / "sleeper.ended").write_text("early")
    other = claims_of(tmp_path, "other")
    assert other.take("cell") == 2
    assert not sleeper.confirm("cell", 1)
    assert other.confirm("cell", 2) and other.confirm("cell", 2)
    sleeper.look()
    assert not sleeper.holds("cell", 1)


def test_a_driver_that_slept_between_claim_and_commit_writes_nothing(tmp_path):
    """It had the right to commit, slept, and another one finished the run meanwhile."""
    target = tmp_path / "cell"
    first, second = claims_of(tmp_path, "first"), claims_of(tmp_path, "second")
    for claims, number, variant in ((first, 1, "ok first"), (second, 2, "ok second")):
        record = fake_record({**payload("0" * 12), "variant": variant})
        write_record(claims.run_dir("cell", number), record)
        (claims.run_dir("cell", number) / "weights").write_text(variant)
    assert second.publish("cell", 2, target, None)
    assert not first.publish("cell", 1, target, None)
    assert read_record(target).variant == (target / "weights").read_text() == "ok second"
    assert second.publish("cell", 2, target, None) is False  # nothing is left to publish


@pytest.mark.parametrize("kind", ["ok", "fail"])
def test_a_driver_that_wakes_when_all_is_done_writes_nothing(tmp_path, kind):
    plan = fake_plan([kind], datasets=["alpha"], seeds=[1])
    outcome = run_shared(plan, tmp_path, entry="tests.helpers.fake_runs:overtaken")
    assert (len(outcome.done), len(outcome.skipped), outcome.exit_code) == (0, 1, 0)
    assert read_record(tmp_path / plan.runs[0].identity).status == "finished"
    assert not (tmp_path / SHARE_FOLDER).exists()


def test_a_driver_that_wakes_while_it_writes_its_record_writes_nothing(tmp_path, monkeypatch):
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1])
    identity = plan.runs[0].identity

    def sleep_while_writing(run_dir, record):
        overtaken({"run_dir": run_dir, "identity": identity, "variant": "ok", "factors": {}}, None)
        raise FileNotFoundError(run_dir)

    monkeypatch.setattr(share_module, "write_record", sleep_while_writing)
    outcome = run_shared(plan, tmp_path)
    assert (len(outcome.done), len(outcome.skipped), outcome.exit_code) == (0, 1, 0)


def test_what_lies_in_the_way_is_replaced_only_where_it_is_what_was_seen(tmp_path):
    target = tmp_path / "cell"
    target.mkdir()
    (target / "leftover").touch()  # of a run that was interrupted
    claims = claims_of(tmp_path, "a")
    write_record(claims.run_dir("cell", 1), fake_record(payload("0" * 12)))
    assert claims.publish("cell", 1, target, None)
    assert [path.name for path in target.iterdir()] == [RECORD_NAME]
    old = (target / RECORD_NAME).read_bytes()
    write_record(claims.run_dir("cell", 3), fake_record(payload("0" * 12), "diverged"))
    assert not claims.publish("cell", 3, target, b"another")
    assert (target / RECORD_NAME).read_bytes() == old
    assert claims.publish("cell", 3, target, old)
    assert read_record(target).status == "diverged"


def test_a_run_taken_over_goes_on_from_what_the_lost_driver_has_kept(tmp_path):
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1])
    identity = plan.runs[0].identity
    list_driver(tmp_path, "dead")
    dead = claims_of(tmp_path, "dead")
    assert dead.take(identity) == 1
    run_dir = dead.run_dir(identity, 1)
    run_dir.mkdir(parents=True)
    (run_dir / TRAINING_NAME).write_text("epoch 7")
    (run_dir / ".half").write_text("half written")
    (tmp_path / SHARE_FOLDER / "drivers" / "dead.ended").write_text("early")
    assert run_shared(plan, tmp_path).exit_code == 0
    assert (tmp_path / identity / TRAINING_NAME).read_text() == "epoch 7"
    assert not (tmp_path / identity / ".half").exists()


def test_a_cell_that_takes_its_drivers_along_fails_in_the_end(tmp_path):
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1])
    for number in range(5):
        name = f"lost{number}"
        list_driver(tmp_path, name)
        lost = claims_of(tmp_path, name)
        lost.watch.gone |= {f"lost{n}" for n in range(number)}
        assert lost.take(plan.runs[0].identity) == number + 1
    outcome = run_shared(plan, tmp_path, seconds=1.0)
    assert len(outcome.failed) == 1
    assert "5 drivers were lost" in read_record(tmp_path / plan.runs[0].identity).message


def test_lone_and_shared_drivers_refuse_each_other(tmp_path):
    plan = fake_plan(["ok"])
    with StudyLock(tmp_path), pytest.raises(ValueError, match="without --share and works alone"):
        run_shared(plan, tmp_path)
    assert not (tmp_path / SHARE_FOLDER).exists()
    with Member(tmp_path):
        with pytest.raises(
            ValueError, match=f"process {os.getpid()} .*'grid --share' works beside it"
        ):
            run_study(plan, tmp_path, InlineExecutor(FAKE), runtime=RUNTIME, steal_lock=True)
        assert study_status_holder(tmp_path) == [os.getpid()]
    list_driver(tmp_path, "far")
    with pytest.raises(ValueError, match=r"on elsewhere.*--steal-lock.*'grid --share'"):
        run_study(plan, tmp_path, InlineExecutor(FAKE), runtime=RUNTIME)
    assert not executions(tmp_path)
    outcome = run_study(plan, tmp_path, InlineExecutor(FAKE), runtime=RUNTIME, steal_lock=True)
    assert outcome.exit_code == 0 and not (tmp_path / SHARE_FOLDER).exists()


def study_status_holder(folder):
    return [holder.pid for holder in registered(folder)]


def test_drivers_of_another_configuration_are_refused(tmp_path):
    run_shared(fake_plan(["ok"]), tmp_path)
    list_driver(tmp_path, "far")
    with pytest.raises(ValueError, match=r"on elsewhere.*4 cells are new.*same configuration"):
        run_shared(fake_plan(["ok", "ok b"]), tmp_path)
    assert len(registered(tmp_path)) == 1


def test_drivers_of_one_host_name_are_told_apart_by_what_they_see(tmp_path):
    """Machines and containers may share a host name: one that this process cannot see may live."""
    plan, me = fake_plan(["ok"]), Holder.current()
    there = {"host": me.host, "pid": 2**22 + 1, "process_start": "5", "boot": me.boot}
    for unseen in ({"space": "of another container"}, {"boot": "b", "space": me.space}):
        list_driver(tmp_path, "far", **there | {"space": me.space} | unseen)
        with pytest.raises(ValueError, match=r"process 4194305 on .*--steal-lock"):
            run_alone(plan, tmp_path)
        assert (tmp_path / SHARE_FOLDER).exists() and not executions(tmp_path)
    list_driver(tmp_path, "far", **there | {"space": me.space})
    assert run_alone(plan, tmp_path).exit_code == 0


def test_drivers_of_different_grids_that_come_at_the_same_moment_do_not_both_pass(
    tmp_path, monkeypatch
):
    """Also on a new study, which has no manifest yet; and a refusal leaves nothing."""
    study, real = tmp_path / "runs" / "study", share_module.refuse_holder
    barrier, refusals = threading.Barrier(2), []

    def meet(*words, **options):
        barrier.wait()
        real(*words, **options)

    def drive(variant):
        try:
            run_shared(fake_plan([variant]), study)
        except ValueError as error:
            refusals.append(str(error))

    monkeypatch.setattr(share_module, "refuse_holder", meet)
    threads = [threading.Thread(target=drive, args=(name,)) for name in ("ok", "ok b")]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert refusals and all("the same configuration" in text for text in refusals)
    assert not (study / SHARE_FOLDER).exists()
    assert len(refusals) == 1 or not any(path.is_file() for path in tmp_path.rglob("*"))
    monkeypatch.undo()
    new = tmp_path / "new"
    with Member(new, plan="another"), pytest.raises(ValueError, match="here the grid is another"):
        run_shared(fake_plan(["ok"]), new, steal_lock=True)
    assert not has_manifest(new)


def test_a_driver_of_another_grid_that_is_gone_elsewhere_is_struck_off(tmp_path):
    run_shared(fake_plan(["ok"]), tmp_path)
    list_driver(tmp_path, "far", plan="another")
    list_driver(tmp_path, "old")  # of an earlier version, and of the grid that is stored
    plan = fake_plan(["ok", "ok b"])
    with pytest.raises(ValueError, match="if they no longer exist, give --steal-lock"):
        run_shared(plan, tmp_path)
    outcome = run_shared(plan, tmp_path, steal_lock=True)
    assert outcome.exit_code == 0 and not (tmp_path / SHARE_FOLDER).exists()


def test_who_comes_while_the_last_driver_ends_keeps_what_they_share(tmp_path):
    claims = claims_of(tmp_path, "last")
    list_driver(tmp_path, "new")
    claims.remove()
    assert [driver.id for driver in members.listed_now(tmp_path)] == ["new"]
    claims.look()
    (tmp_path / f"{SHARE_FOLDER}-killed").mkdir()
    claims.remove()
    assert not list(tmp_path.iterdir())


def test_a_lone_driver_goes_on_where_shared_ones_have_stopped_and_the_reverse(tmp_path):
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1, 2])
    shared, alone = (cell.identity for cell in plan.runs)
    claims = claims_of(tmp_path, "dead")
    for number in (1, 2):
        claims.run_dir(shared, number).mkdir(parents=True)
        (claims.run_dir(shared, number) / TRAINING_NAME).write_text(f"claim {number}")
    (tmp_path / alone).mkdir()
    (tmp_path / alone / TRAINING_NAME).write_text("lone")
    folder = tmp_path.with_name("second")
    os.system(f"cp -r {tmp_path} {folder}")
    assert run_shared(plan, folder).exit_code == 0
    assert run_study(plan, tmp_path, InlineExecutor(FAKE), runtime=RUNTIME).exit_code == 0
    for study in (tmp_path, folder):
        assert (study / shared / TRAINING_NAME).read_text() == "claim 2"
        assert (study / alone / TRAINING_NAME).read_text() == "lone"


def test_a_failed_run_is_tried_again_and_its_record_replaced(tmp_path):
    plan = fake_plan(["refuse"], datasets=["alpha"], seeds=[1])
    assert len(run_shared(plan, tmp_path).failed) == 1
    before = read_record(tmp_path / plan.runs[0].identity)
    assert len(run_shared(plan, tmp_path).failed) == 1
    assert set(executions(tmp_path).values()) == {1}
    assert len(run_shared(plan, tmp_path, retry_failed=True).failed) == 1
    assert set(executions(tmp_path).values()) == {2}
    assert read_record(tmp_path / plan.runs[0].identity) == before


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_stale_run_is_replaced_and_its_record_kept(tmp_path, monkeypatch, status):
    kind = "ok" if status == "finished" else "refuse"
    plan = fake_plan([kind], datasets=["alpha"], seeds=[1])
    run_dir = tmp_path / plan.runs[0].identity
    write_record(run_dir, fake_record({**payload(run_dir.name), "variant": kind}))
    old = (run_dir / RECORD_NAME).read_text()
    (run_dir / "weights.safetensors").write_text("old")
    (run_dir / f"{RECORD_NAME}.stale").write_text("older")
    from experiments.run.stale import CodeCheck

    monkeypatch.setattr(CodeCheck, "changes", lambda *_: "the code of A")
    run_shared(plan, tmp_path)
    assert read_record(run_dir).status == status
    assert (run_dir / f"{RECORD_NAME}.stale").read_text() == "older"
    assert (run_dir / f"{RECORD_NAME}.stale-2").read_text() == old
    assert (run_dir / "weights.safetensors").exists() == (status == "failed")
    assert not list(tmp_path.glob(f"*{RERUN_SUFFIX}"))


def commit_elsewhere(claims, folder, identity):
    """Another driver tries a failed run again, which fails as before."""
    number = claims.latest.get(identity) or claims.take(identity)
    claims.run_dir(identity, number).mkdir(parents=True, exist_ok=True)
    before = (folder / identity / RECORD_NAME).read_bytes()
    (claims.run_dir(identity, number) / RECORD_NAME).write_bytes(before)
    assert claims.confirm(identity, number)
    assert claims.publish(identity, number, folder / identity, before)


class OtherDriver(ListTracker):
    """Commits its run when the first one is told."""

    def __init__(self, claims, folder, identity):
        super().__init__()
        self.commit = partial(commit_elsewhere, claims, folder, identity)

    def finished(self, run_dir):
        self.heard or self.commit()
        super().finished(run_dir)


def test_drivers_that_try_failed_runs_again_see_each_others(tmp_path):
    """The new records have the bytes of the old ones."""
    plan = fake_plan(["refuse"], datasets=["alpha"], seeds=[1, 2])
    assert len(run_shared(plan, tmp_path).failed) == 2
    mine, theirs = (cell.identity for cell in plan.runs)
    list_driver(tmp_path, "far", retries=True)
    far = claims_of(tmp_path, "far")
    assert far.take(theirs) == 1
    far.run_dir(theirs, 1).mkdir(parents=True)
    tracker = OtherDriver(far, tmp_path, theirs)
    outcome = run_shared(plan, tmp_path, retry_failed=True, tracker=tracker)
    assert (len(outcome.failed), outcome.exit_code) == (2, 1)
    assert executions(tmp_path) == {mine: 2, theirs: 1}
    assert set(tracker.heard) == {mine, theirs}


@pytest.mark.parametrize(
    ("retries", "alive", "runs"), [(True, True, 1), (False, True, 2), (True, False, 2)], ids=str
)
def test_what_one_driver_has_tried_again_another_that_joins_does_not(
    tmp_path, retries, alive, runs
):
    plan = fake_plan(["refuse"], datasets=["alpha"], seeds=[1])
    identity = plan.runs[0].identity
    run_shared(plan, tmp_path)
    list_driver(tmp_path, "far", retries=retries)
    commit_elsewhere(claims_of(tmp_path, "far"), tmp_path, identity)
    if not alive:
        (tmp_path / SHARE_FOLDER / "drivers" / "far.ended").write_text("early")
    assert len(run_shared(plan, tmp_path, retry_failed=True).failed) == 1
    assert executions(tmp_path) == {identity: runs}


def test_a_claim_is_confirmed_anew_where_its_driver_had_lost_an_earlier_one(tmp_path):
    a, b = claims_of(tmp_path, "a"), claims_of(tmp_path, "b")
    assert a.take("cell") == 1 and a.confirm("cell", 1)
    b.look()
    assert b.take("cell") == 3
    assert not a.confirm("cell", 1)
    a.look()
    assert a.take("cell") == 4 and a.confirm("cell", 4) and a.holds("cell", 4)


def order_removal(study, folder):
    study.with_name(f"{study.name}.remove").write_text(str(folder))


def test_runs_go_on_where_what_the_drivers_share_was_removed(tmp_path):
    plan, study = fake_plan(["ok"], datasets=["alpha"], seeds=[1, 2, 3]), tmp_path / "study"
    order_removal(study, study / SHARE_FOLDER)
    tracker = ListTracker()
    entry = "tests.helpers.fake_runs:robbed"
    outcome = run_shared(plan, study, entry=entry, tracker=tracker, workers=2)
    assert (len(outcome.done), outcome.exit_code) == (3, 0)
    assert sorted(tracker.heard) == sorted(cell.identity for cell in plan.runs)
    assert sum(executions(study).values()) in (4, 5)  # those in progress were begun again
    assert not (study / SHARE_FOLDER).exists()


@pytest.mark.parametrize("run", [run_shared, run_alone], ids=["shared", "lone"])
def test_a_study_folder_that_vanishes_is_not_made_again_half(tmp_path, run):
    plan, study = fake_plan(["ok"], datasets=["alpha"], seeds=[1, 2, 3]), tmp_path / "study"
    order_removal(study, study)
    outcome = run(plan, study, entry="tests.helpers.fake_runs:robbed")
    assert (len(outcome.done), len(outcome.left), outcome.exit_code) == (0, 3, 3)
    assert outcome.paused == f"the folder {study} has vanished: what is there now has no study.json"
    assert not list(study.glob(f"*/{RECORD_NAME}")) and not has_manifest(study)
    assert run(plan, study).exit_code == 0


def test_a_sign_of_life_does_not_make_a_study_again(tmp_path):
    with Member(tmp_path / "study") as member:
        os.rename(tmp_path / "study", tmp_path / "moved")
        with pytest.raises(FileNotFoundError):
            member.beat()
        assert not (tmp_path / "study").exists()


def test_a_file_that_cannot_be_written_on_a_full_disk_is_not_left_empty(tmp_path, monkeypatch):
    """An empty claim would belong to nobody: the finished run would be given up for it."""
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1, 2])
    real, refused = os.fsync, []

    def sync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith(".2") and not refused:
            refused.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        real(descriptor)

    monkeypatch.setattr(members.os, "fsync", sync)
    outcome = run_shared(plan, tmp_path)
    assert refused and (len(outcome.done), len(outcome.left)) == (1, 1)
    assert "no space left on device" in outcome.paused
    assert set(executions(tmp_path).values()) == {1}


def test_status_shows_who_shares_a_study_and_what_runs(tmp_path):
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1, 2])
    run_shared(plan, tmp_path)
    identity = plan.runs[0].identity
    os.system(f"rm -r {tmp_path / identity}")
    list_driver(tmp_path, "far")
    claims = claims_of(tmp_path, "far")
    claims.run_dir(identity, claims.take(identity)).mkdir(parents=True)
    status = study_status(tmp_path)
    assert status["holder"] == "process 1 on elsewhere"
    assert status["running"] == [plan.runs[0].label]


@pytest.mark.parametrize(
    ("end", "writes"), [("complete", False), ("early", True), ("", False)], ids=str
)
def test_the_mirror_is_written_by_who_ends_last_where_the_first_could_not(tmp_path, end, writes):
    list_driver(tmp_path, "first")
    first, tracker = claims_of(tmp_path, "first"), ListTracker()
    assert OneTracker(ListTracker(), first).leads
    other = OneTracker(tracker, claims_of(tmp_path, "other"))
    other.finished(tmp_path / "run")
    if end:
        (tmp_path / SHARE_FOLDER / "drivers" / "first.ended").write_text(end)
    other.close()
    assert tracker.heard == ([tmp_path.name] if writes else [])


class LossyExecutor(InlineExecutor):
    """Loses the first ``losses`` jobs in the middle, as an executor on other machines may."""

    def __init__(self, losses):
        super().__init__(FAKE)
        self.losses = losses
        self.folders = []

    def submit(self, job):
        self.folders.append(Path(job.payload["run_dir"]))
        super().submit(job)

    def poll(self, timeout):
        if not self.losses:
            return super().poll(timeout)
        self.losses -= 1
        job = self.queue.next(None, ())
        self.queue.forget(job.key)
        (self.folders[-1] / TRAINING_NAME).write_text(f"attempt {len(self.folders)}")
        return [Event(key=job.key, kind="lost", attempt=0, message="its node was lost")]


@pytest.mark.parametrize(("losses", "status"), [(2, "finished"), (5, "failed")])
def test_a_job_that_was_lost_runs_again_in_a_folder_of_its_own(tmp_path, losses, status):
    """What was thought lost may go on writing; the study sees nothing of it."""
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1])
    identity = plan.runs[0].identity
    executor = LossyExecutor(losses)
    share = Sharing(num_workers=lambda: 1)
    run_shared_study(plan, tmp_path, executor, share=share, runtime=RUNTIME)
    folders = executor.folders
    assert len(set(folders)) == len(folders) == min(losses + 1, 5)
    record = read_record(tmp_path / identity)
    assert record.status == status and ("its node was lost" in record.message) == (losses == 5)
    if losses < 5:  # the second attempt went on from the first one's checkpoint, and so on
        assert (tmp_path / identity / TRAINING_NAME).read_text() == f"attempt {losses}"
    assert len(list(tmp_path.glob(f"*/{RECORD_NAME}"))) == 1


def test_a_full_disk_pauses_a_shared_study_as_any_other(tmp_path, monkeypatch):
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1, 2, 3])
    real, numbers = Claims.take, []

    def full(self, key):
        if key != "mirror":
            numbers.append(key)
        if len(numbers) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "claims")
        return real(self, key)

    monkeypatch.setattr(Claims, "take", full)
    outcome = run_shared(plan, tmp_path)
    assert (len(outcome.done), len(outcome.left), outcome.exit_code) == (1, 2, 3)
    assert "no space left on device" in outcome.paused
    assert run_shared(plan, tmp_path).exit_code == 0
    assert set(executions(tmp_path).values()) == {1}


def test_a_study_pauses_when_all_that_ran_it_elsewhere_has_ended(tmp_path):
    plan = fake_plan(["ok"], datasets=["alpha"], seeds=[1])

    def none_left():
        raise NoWorkersError("the jobs have ended")

    executor, share = InlineExecutor(FAKE), Sharing(num_workers=none_left)
    outcome = run_shared_study(plan, tmp_path, executor, share=share, runtime=RUNTIME)
    assert (outcome.exit_code, outcome.paused) == (3, "the jobs have ended")
    assert run_shared(plan, tmp_path).exit_code == 0


@pytest.mark.parametrize("seconds", [0.5, float("nan"), float("inf"), -1.0])
def test_the_time_of_silence_is_checked(seconds):
    with pytest.raises(ValueError, match="--share-seconds must be at least 1"):
        Sharing(num_workers=lambda: 1, silent_seconds=seconds)
