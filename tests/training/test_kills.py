"""Killed at any time, within a save too, a training goes on to the bits it would have had."""

import itertools
import os
import random

import pytest

from killing import (
    WHEN,
    NaiveCheckpointing,
    finish,
    kill_at_times,
    kill_in_saves,
    killed_at,
    warm_up,
    watchful_workers,
)
from trainings import differences

SCENARIOS = list(itertools.product(("momentum", "adamw"), ("memory", "samples", "workers")))
CALLS = 60  # about as many writes, fsyncs, renames and unlinks as a training does


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The outcome of each scenario when nothing is killed, and the processor's seconds for it."""
    warm_up(tmp_path_factory.mktemp("warm"))
    outcomes = {}

    def of(optimizer, loader):
        if (optimizer, loader) not in outcomes:
            before = os.times()
            outcome = finish(tmp_path_factory.mktemp("whole"), optimizer=optimizer, loader=loader)
            seconds = os.times().children_user - before.children_user
            outcomes[optimizer, loader] = outcome, seconds
        return outcomes[optimizer, loader]

    with watchful_workers():
        yield of


def run_killed(tmp_path, reference, number, inside_saves):
    """Kill one training by the number's own dice; return how often, and what differs."""
    rng = random.Random(number)
    optimizer, loader = SCENARIOS[number % len(SCENARIOS)]
    options = {"optimizer": optimizer, "loader": loader}
    whole, seconds = reference(optimizer, loader)
    folder = tmp_path / str(number)
    folder.mkdir()
    if inside_saves:
        kills = kill_in_saves(folder, rng, CALLS, **options)
    else:
        kills = kill_at_times(folder, rng, seconds, **options)
    return kills, differences(whole, finish(folder, **options))


def run_many(tmp_path, reference, count, inside_saves):
    results = [run_killed(tmp_path, reference, n, inside_saves) for n in range(count)]
    kills = sum(kills for kills, _ in results)
    equal = sum(found == [] for _, found in results)
    print(f"\n{equal} of {count} trainings equal in every bit after {kills} kills")
    return kills, [found for _, found in results if found]


@pytest.mark.enable_socket
@pytest.mark.parametrize("inside_saves", [False, True], ids=["any time", "inside saves"])
def test_killed_at_random(tmp_path, reference, inside_saves):
    kills, unequal = run_many(tmp_path, reference, 3, inside_saves)
    assert unequal == []
    assert kills > 1


@pytest.mark.soak
@pytest.mark.enable_socket
@pytest.mark.parametrize("inside_saves", [False, True], ids=["any time", "inside saves"])
def test_killed_200_times_at_random(tmp_path, reference, inside_saves):
    kills, unequal = run_many(tmp_path, reference, 200, inside_saves)
    assert unequal == []
    assert kills > 200


def killed_at_every_call(tmp_path, reference, calls, moments=WHEN, **options):
    """Kill at each of these calls, at each moment of it; return the cases that differ or fail."""
    whole, _ = reference("momentum", "memory")
    wrong, points = [], 0
    for call, when in ((call, when) for call in calls for when in moments):
        folder = tmp_path / f"{call}-{when}"
        folder.mkdir()
        if not killed_at(folder, call, when, **options):  # there are no more calls
            break
        points += 1
        try:
            found = differences(whole, finish(folder, **options))
        except AssertionError as error:
            found = [str(error).strip().splitlines()[-1]]
        wrong += [f"call {call}, {when}: {found[0]}"] if found else []
        names = [path.name for path in (folder / "checkpoints").iterdir()]
        wrong += [f"left {name}" for name in names if name.startswith(".")]
    print(f"\n{points} points")
    return points, wrong


def test_killed_at_every_other_call_of_three_saves(tmp_path, reference):
    # The third save is the first that also removes an older checkpoint. Half of a call that is no
    # write is before it, and after a call is before the next one: the soak test has all moments.
    assert killed_at_every_call(tmp_path, reference, range(1, 16, 2), ["half"]) == (8, [])


@pytest.mark.soak
def test_killed_at_every_call_of_a_whole_training(tmp_path, reference):
    points, wrong = killed_at_every_call(tmp_path, reference, itertools.count(1))
    assert wrong == []
    assert points > 150


def test_the_naive_way_fails_the_same_test(tmp_path, reference):
    calls, moments = range(1, 5), ["half"]
    _, wrong = killed_at_every_call(tmp_path, reference, calls, moments, kind=NaiveCheckpointing)
    assert wrong
    assert any("half" in text for text in wrong)
