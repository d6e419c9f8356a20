"""The trials of a study: where they are stored, and which one this process works on next.

A study is a journal in its folder, or a database.
"""

import os
import re
import socket
import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from plainfit.common.errors import ConfigError, RunError, raised_as
from plainfit.common.files import JOURNAL, FileLock
from plainfit.common.seeding import seed_at
from plainfit.tuning.space import Choices, Spec

QUEUE = ".queue.lock"  # held while a trial is taken
DESCRIPTION = "plainfit"  # the attribute of a study that holds its `StudyConfig`
WORKER, FOLDER = "worker", "folder"  # attributes of a trial
WORKER_LOCK = re.compile(r"\.[^/]+-\d+-[0-9a-f]{8}\.lock")  # a free one is removed
BEAT, SILENCE = 60, 300  # seconds: between two heartbeats in a database; without one until death
TAIL = 2**16  # bytes at the end of a journal that hold its last line


def is_held(path: Path) -> bool:
    """Return whether another process holds a lock; remove a free one.

    Never call this for a lock of this process: the call would release it.
    """
    lock = FileLock(path)
    if not path.exists():
        return False
    if not lock.acquire(wait=False):
        return True
    path.unlink(missing_ok=True)
    lock.release()
    return False


class JournalLock(FileLock, JournalFileOpenLock):
    """A journal's lock that ends with its process; Optuna's outlives a killed one by 30 s."""

    def __init__(self, journal: Path) -> None:
        super().__init__(journal.with_name(".journal.lock"))
        self.journal = journal

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock, and drop a last line that was cut off: the next one would join it."""
        super().acquire()
        with self.journal.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            tail = file.read()
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
        return True


class Journal(JournalFileBackend):
    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        what = f"{self._file_path} must be writable (the same call continues the study then)"
        with raised_as(RunError, what):
            super().append_logs(logs)


def whole_study(folder: Path) -> AbstractContextManager[None]:
    """Raise what Optuna raises on damaged lines of a journal, in many ways, as one error."""
    return raised_as(RunError, f"the study in {folder} must be whole and writable")


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    if url is None:
        path = folder / JOURNAL
        if path.is_symlink():
            raise RunError(f"{path} must be a file, and is a link to {path.readlink()}")
        with raised_as(RunError, f"{path} must be a study's journal"):
            return JournalStorage(Journal(str(path), lock_obj=JournalLock(path)))
    from sqlalchemy.exc import SQLAlchemyError

    with heartbeats_allowed():
        try:
            return RDBStorage(
                url,
                heartbeat_interval=BEAT,
                grace_period=SILENCE,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(
                    inherit_intermediate_values=True
                ),
            )
        except (SQLAlchemyError, StorageInternalError, ImportError) as error:
            why = str(error.__cause__ or error).partition("\n")[0]
            raise ConfigError(
                "must be the URL of an existing database, such as "
                f"postgresql://USER@HOST/NAME; {why}",
                field="storage",
            ) from error


@contextmanager
def heartbeats_allowed() -> Iterator[None]:
    # Optuna warns that heartbeats are experimental, and that they need `optimize`, in whose place
    # `Queue.alive` sends them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        yield


def study_name(folder: Path, url: str | None) -> str:
    return "study" if url is None else folder.resolve().name  # a database holds many studies


def distribution_of(spec: Spec) -> BaseDistribution:
    if isinstance(spec, Choices):
        return CategoricalDistribution(spec.values)
    if isinstance(spec.low, int):
        return optuna.distributions.IntDistribution(spec.low, int(spec.high), spec.log)
    return optuna.distributions.FloatDistribution(spec.low, spec.high, spec.log)


def folder_of(trial: optuna.Trial | FrozenTrial) -> str:
    # A trial that was started again keeps its folder, in a study of someone else too.
    name = str(trial.user_attrs.get(FOLDER))
    return name if name.isdecimal() else f"{trial.number:04d}"


@dataclass
class Queue:
    """The trials of a study, as one of its processes takes them.

    Every process holds a lock as long as it lives, and its trials carry the name of the lock. So a
    trial that is running while its lock is free was left behind: it waits again, with its number,
    settings, values and folder. In a database, which is for machines that do not see each other's
    locks, a trial without a heartbeat for `SILENCE` seconds fails, and starts again with the same
    settings.
    """

    study: optuna.Study
    storage: BaseStorage
    space: dict[str, Spec]
    folder: Path
    seed: int
    """Of the settings that are drawn."""

    def __post_init__(self) -> None:
        self.distributions = {name: distribution_of(spec) for name, spec in self.space.items()}
        self.lock = FileLock(self.folder / QUEUE)
        self.worker = f".{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"

    @contextmanager
    def joined(self) -> Iterator[None]:
        path = self.folder / self.worker
        with FileLock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def take(self, trials: int) -> optuna.Trial | None:
        """Take and return the next trial; None if there are `trials` already.

        One process at a time takes one, so that no trial is taken twice and none is one too many.
        """
        with whole_study(self.folder), self.lock, heartbeats_allowed():
            self.recover()
            known = self.study.get_trials(deepcopy=False)
            if not any(trial.state == TrialState.WAITING for trial in known):
                if len({folder_of(trial) for trial in known}) >= trials:
                    return None
                self.draw(known)
            trial = self.study.ask(self.distributions)
            trial.set_user_attr(WORKER, self.worker)
            trial.set_user_attr(FOLDER, folder_of(trial))
            return trial

    def recover(self) -> None:
        if isinstance(self.storage, RDBStorage):
            optuna.storages.fail_stale_trials(self.study)
            return
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            worker = str(trial.user_attrs.get(WORKER))
            if not WORKER_LOCK.fullmatch(worker) or not is_held(self.folder / worker):
                self.put_back(trial)

    def draw(self, known: Sequence[FrozenTrial]) -> None:
        """Add a trial with new settings.

        A copy of the study draws them, so that they are stored at once or not at all, and the
        generator is seeded by the trial's number: what a study tries does not depend on when it was
        stopped. Machines that share a database may draw at the same time, so their seed is random.
        """
        alone = not isinstance(self.storage, RDBStorage)
        seed = seed_at(self.seed, "trial", len(known)) % 2**32 if alone else None
        copy = optuna.create_study(
            study_name=self.study.study_name,
            direction=self.study.direction,
            pruner=self.study.pruner,
            sampler=optuna.samplers.TPESampler(seed=seed),
        )
        copy.add_trials(known)
        params = copy.ask(self.distributions).params
        waiting = optuna.create_trial(
            state=TrialState.WAITING, params=params, distributions=self.distributions
        )
        self.study.add_trial(waiting)

    def put_back(self, trial: optuna.Trial | FrozenTrial) -> None:
        self.storage.set_trial_state_values(self.id_of(trial), TrialState.WAITING)

    def id_of(self, trial: optuna.Trial | FrozenTrial) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, trial.number)

    @contextmanager
    def alive(self, trial: optuna.Trial) -> Iterator[None]:
        storage = self.storage
        if not isinstance(storage, RDBStorage):
            yield
            return
        over, number = threading.Event(), self.id_of(trial)

        def beat() -> None:
            while True:
                with suppress(StorageInternalError):  # the database may come back
                    storage.record_heartbeat(number)
                if over.wait(BEAT):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
