"""Rounds: every contender once, each in a process of its own, the order turned from round to round.

So that a machine that gets slower or faster meanwhile does the same to all of them.
"""

import json
import os
import resource
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from contenders import Contender
from environments import python_of

PEERS = Path(__file__).resolve().parent / "peers"
TIME_LIMIT = 600  # seconds for one contender
# A run is disturbed if other processes used more than this many cores meanwhile: with as many
# threads as cores, every small operation waits for the core that is shared.
DISTURBED = 0.1
TRIES = 3
BATCH_SIZE = 64
# The accuracy a training must reach to count: it has learned. Both are below what is usual, 0.91
# and 0.94: with its rate of 0.5 the logistic regression has had 0.89 after an epoch, and the CNN
# can lose classes for good, when a ReLU of its last layer dies.
BOUNDS = {"logistic": 0.85, "cnn": 0.50}


class FailedError(Exception):
    """A contender that could not run; the message is one line."""


def run_once(
    contender: Contender, model: str, data: Path, epochs: int, seed: int
) -> dict[str, Any]:
    """Run a contender and return its line of JSON.

    Raises:
        FailedError: if it fails, takes too long or prints no such line.
    """
    command = [
        python_of(contender.environment), *contender.command(model),
        "--data", data, "--model", model,
        "--epochs", epochs, "--batch-size", BATCH_SIZE, "--seed", seed,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            list(map(str, command)),
            cwd=PEERS,
            env=os.environ | {"BENCHMARK_STARTED": repr(time.time())},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=True,
        )
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        raise FailedError(last_line(error.stderr)) from error
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"took more than {TIME_LIMIT} s") from error
    except (IndexError, ValueError) as error:
        raise FailedError(f"printed no line of JSON: {last_line(done.stdout)}") from error
    return result


def run_undisturbed(*what: Any) -> dict[str, Any]:
    """Do `run_once`, again if it was disturbed; return the run that was disturbed the least."""
    runs = []
    for _ in range(TRIES):
        busy, own, start = busy_seconds(), children_seconds(), time.time()
        result = run_once(*what)
        others = max(0.0, busy_seconds() - busy - (children_seconds() - own))
        runs.append(result | {"others_cores": round(others / (time.time() - start), 3)})
        if runs[-1]["others_cores"] <= DISTURBED:
            break
    return min(runs, key=lambda run: run["others_cores"])


def busy_seconds() -> float:
    """Return the seconds that all cores have worked since the start of the system; 0 if unknown."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """Return the seconds that the processes we started, and that have ended, have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")


def turned(names: list[str], by: int) -> list[str]:
    """Return the names, beginning `by` places later."""
    by %= max(len(names), 1)
    return names[by:] + names[:by]


def play(
    contenders: dict[str, Contender],
    models: Iterable[str],
    data: Path,
    rounds: Iterable[int],
    epochs: dict[str, int],
) -> Iterator[dict[str, Any]]:
    """Yield one record for each contender, model and round: its figures, or `failed`, the reason.

    A contender that fails once is left out of later rounds of that model.
    """
    failed: set[tuple[str, str]] = set()
    for number in rounds:
        for model in models:
            names = [n for n, c in contenders.items() if model in c.models]
            for name in turned(names, number * 3):
                if (name, model) in failed:
                    continue
                record: dict[str, Any] = {"contender": name, "model": model, "round": number}
                try:
                    figures = run_undisturbed(contenders[name], model, data, epochs[model], number)
                    if figures["accuracy"] < BOUNDS[model]:
                        raise FailedError(f"has not learned: accuracy {figures['accuracy']:.3f}")
                    yield record | figures
                except FailedError as error:
                    failed.add((name, model))
                    yield record | {"failed": str(error)}
