"""A study that is killed at any time loses no trial, leaves none running, and ends as it would."""

import itertools
import os
import random
import shutil
import signal
import time

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed")

import plainfit as pf
from killing import WHEN, die_at, ended, forked
from plainfit.tuning.storage import open_storage
from plainfit.tuning.trials import RunTraining

SPACE = {"lr": "log:1e-3..1", "model": ["logistic", "mlp"], "batch_size": (32, 256)}
FIXED = {"epochs": 2}


def search(folder, trials, **options):
    training = RunTraining("valid_loss")
    return pf.tune(SPACE, training, folder=folder, fixed=FIXED, trials=trials, echo=None, **options)


def outcomes(study):
    """Return what must not depend on when a study was killed."""
    return [(t.number, t.state, t.settings, t.value, t.intermediate_values) for t in study.trials]


def weights(study):
    return [(trial.folder / "model.safetensors").read_bytes() for trial in study.trials]


def finished(folder):
    """Return the trials that have ended, by number, as the journal has them."""
    if not (folder / "study.jsonl").exists():
        return {}
    storage = open_storage(folder, None)
    if not storage.get_all_studies():
        return {}
    trials = storage.get_all_trials(storage.get_study_id_from_name("study"))
    return {t.number: (t.state, t.params, t.values) for t in trials if t.state.is_finished()}


def kill_and_go_on(folder, rng, kills, seconds, trials):
    """Kill a study N times, each after a random time; then let it end, and return it."""
    alive = 0
    for _ in range(kills):
        before = finished(folder)
        child = forked(lambda: search(folder, trials), folder.with_suffix(".txt"))
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(child, signal.SIGKILL)
        code = ended(child)
        after = finished(folder)
        assert {number: after.get(number) for number in before} == before, "a trial is lost"
        assert code in (0, -signal.SIGKILL), folder.with_suffix(".txt").read_text()
        alive += code != 0
    assert alive > 0
    return search(folder, trials)


def check_kills(tmp_path, kills, seconds, trials):
    began = time.perf_counter()
    rng = random.Random(kills)
    reference = search(tmp_path / "whole", trials)  # nobody kills it
    study = kill_and_go_on(tmp_path / "study", rng, kills, seconds, trials)
    assert study.count("running") == study.count("waiting") == 0
    assert outcomes(study) == outcomes(reference)
    assert weights(study) == weights(reference)
    print(f"\n{kills} kills, {len(study.trials)} trials equal, {time.perf_counter() - began:.0f} s")


def test_killed_at_random(tmp_path):
    check_kills(tmp_path, 3, 0.3, 3)


@pytest.mark.soak
def test_killed_50_times_at_random(tmp_path, study_page):
    check_kills(tmp_path, 50, 0.2, 12)


@pytest.mark.soak
def test_killed_at_every_write_and_fsync_of_two_trials(tmp_path, study_page):
    whole = search(tmp_path / "whole", 2)
    for call in itertools.count(1):
        folder = tmp_path / str(call)

        def work(call=call, folder=folder):
            die_at(call, WHEN[call % len(WHEN)])
            search(folder, 2)

        code = ended(forked(work, folder.with_suffix(".txt")))
        if code == 0:  # there are no more calls
            break
        assert code == -signal.SIGKILL, folder.with_suffix(".txt").read_text()
        study = search(folder, 2)
        assert (outcomes(study), weights(study)) == (outcomes(whole), weights(whole)), call
        shutil.rmtree(folder)
    print(f"\n{call - 1} points")
    assert call > 60
