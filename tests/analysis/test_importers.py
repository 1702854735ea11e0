"""Result folders of DomainBed and of Dassl, written as those programs write them."""

import itertools
import json

import pytest

from analysis.read.load import load_results


def domainbed_run(folder, name, algorithm, test, steps, *, trial=0, hparams=0, done=True, held=()):
    """``steps`` are (held-out accuracy of the training environments, accuracy on the test one)."""
    arguments = {
        "algorithm": algorithm, "dataset": "PACS", "test_envs": [test, *held],
        "trial_seed": trial, "hparams_seed": hparams, "seed": 123,
    }  # fmt: skip
    lines = []
    for step, (validation, score) in enumerate(steps):
        record = {"args": arguments, "step": 300 * step, "epoch": step, "loss": 1.0}
        for environment in range(3):
            own = environment == test
            record[f"env{environment}_in_acc"] = score if own else 0.99
            record[f"env{environment}_out_acc"] = 0.999 if own else validation
        lines.append(json.dumps(record))
    (folder / name).mkdir(parents=True)
    (folder / name / "results.jsonl").write_text("\n".join(lines) + "\n")
    if done:
        (folder / name / "done").write_text("done")


def test_a_sweep_of_domainbed_is_chosen_on_its_training_environments(tmp_path):
    sweep = tmp_path / "sweep"
    for trial, test in itertools.product((0, 1), (0, 1)):
        steps = [(0.8, 0.6), (0.9, 0.7 + trial / 9), (0.85, 0.99)]
        domainbed_run(sweep, f"e{trial}{test}", "ERM", test, steps, trial=trial)
        worse = [(0.7, 0.98)]
        domainbed_run(sweep, f"f{trial}{test}", "ERM", test, worse, trial=trial, hparams=1)
        domainbed_run(sweep, f"m{trial}{test}", "MIRO", test, [(0.9, 0.75)], trial=trial)
    domainbed_run(sweep, "unfinished", "ERM", 0, [(1.0, 1.0)], done=False)
    domainbed_run(sweep, "two", "ERM", 0, [(1.0, 1.0)], held=[1])
    results = load_results(sweep)
    assert results.variants == ("ERM", "MIRO") and results.datasets == ("PACS 0", "PACS 1")
    assert results.scores("ERM", "accuracy").tolist() == [[0.7, 0.7 + 1 / 9]] * 2
    assert {s.selection for s in results.settings.values()} == {"training-domain validation"}
    said = " ".join(results.notes)
    assert "runs without the file 'done' are left out: unfinished" in said
    assert "1 evaluations with several test environments" in said


def test_a_broken_sweep_is_refused_with_the_line(tmp_path):
    domainbed_run(tmp_path / "s", "a", "ERM", 0, [(0.8, 0.6)])
    (tmp_path / "s" / "a" / "results.jsonl").write_text('{"args": \n')
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1: not a line of JSON"):
        load_results(tmp_path / "s")
    (tmp_path / "s" / "a" / "done").unlink()
    with pytest.raises(ValueError, match="no finished run of DomainBed"):
        load_results(tmp_path / "s")


def dassl_log(
    path, trainer, dataset, seed, correct, total, *, subset="all", trained=True, end=True
):
    training = "epoch [1/50] batch [5/10] time 0.1 loss 1.2\n" * 2 if trained else ""
    early = "=> result\n* total: 10\n* correct: 1\n* accuracy: 10.0%\n"
    result = f"=> result\n* total: {total:,}\n* correct: {correct:,}\n* accuracy: 0.0%\n"
    path.parent.mkdir(parents=True)
    path.write_text(
        "***************\n** Arguments **\n***************\nbackbone: \nseed: 1\n"
        "************\n** Config **\n************\n"
        "DATALOADER:\n  NUM_WORKERS: 8\n"
        f"DATASET:\n  ALL_AS_UNLABELED: False\n  NAME: {dataset}\n  NUM_SHOTS: 16\n"
        f"  SUBSAMPLE_CLASSES: {subset}\n"
        f"INPUT:\n  SIZE: (224, 224)\nSEED: {seed}\nTRAINER:\n  COOP:\n    N_CTX: 16\n"
        f"  NAME: {trainer}\n"
        f"Loading trainer\n{training}{early}"
        + ("Finish training\nDeploy the last-epoch model\n" if trained and end else "")
        + (result if end else "")
    )


def test_logs_of_dassl_give_base_and_new_of_one_run(tmp_path):
    for seed in (1, 2):
        for trainer, gain in (("CoOp", 0), ("CoCoOp", 25)):
            for phase, subset in (("train_base", "base"), ("test_new", "new")):
                dassl_log(
                    tmp_path / "output" / phase / "pets" / trainer / f"seed{seed}" / "log.txt",
                    trainer, "OxfordPets", seed, 1500 + gain + seed, 2463, subset=subset,
                    trained=subset == "base",
                )  # fmt: skip
    dassl_log(tmp_path / "output" / "cut" / "log.txt", "CoOp", "OxfordPets", 3, 1, 2, end=False)
    (tmp_path / "output" / "log.txt").write_text("not of this program\n")
    results = load_results(tmp_path / "output")
    assert set(results.variants) == {"CoOp", "CoCoOp"} and results.datasets == ("OxfordPets",)
    assert results.metrics == ("base", "new", "hm") and results.planned_seeds == (1, 2)
    assert results.scores("CoOp", "base").tolist() == [[1501 / 2463, 1502 / 2463]]
    assert results.shots == (16,)
    assert "cut/log.txt has no final result, and is left out" in results.notes


def test_two_logs_of_one_run_are_refused(tmp_path):
    for name in ("a", "b"):
        dassl_log(tmp_path / "out" / name / "log.txt", "CoOp", "DTD", 1, 5, 10)
    with pytest.raises(ValueError, match="are the same run: CoOp, DTD, 1, 16, accuracy"):
        load_results(tmp_path / "out")
