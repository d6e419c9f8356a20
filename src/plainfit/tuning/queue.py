"""Which trial this process works on next: one that was left behind, or a new one."""

import os
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from plainfit.common.seeding import seed_at
from plainfit.tuning import storage as places
from plainfit.tuning.locks import FileLock, is_held

QUEUE = ".queue.lock"  # held while a trial is taken; where it is, there is a study
WORKER, FOLDER = "worker", "folder"  # attributes of a trial


def folder_of(trial: optuna.Trial | FrozenTrial) -> str:
    """Return the name of a trial's folder; one that was begun again elsewhere keeps it."""
    return str(trial.user_attrs.get(FOLDER, f"{trial.number:04d}"))


class Queue:
    """The trials of a study, as one of its processes takes them.

    Every process holds a lock as long as it lives, and its trials carry the lock's name. So a
    trial that runs while its lock is free was left behind, and waits again: under its number, with
    its settings, figures and folder. In a database, which is for machines that do not see each
    other's locks, a trial that has given no sign of life for `SILENCE` seconds is failed, and begun
    again with the same settings.

    Args:
        study: Optuna's.
        storage: where it is written down.
        distributions: what is searched.
        folder: of the study.
        seed: of the settings that are drawn.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        distributions: Mapping[str, BaseDistribution],
        folder: Path,
        seed: int,
    ) -> None:
        self.study = study
        self.storage = storage
        self.distributions = dict(distributions)
        self.folder = folder
        self.seed = seed
        self.lock = FileLock(folder / QUEUE)
        self.worker = f".{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of the study's processes."""
        path = self.folder / self.worker
        with FileLock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def take(self, trials: int) -> optuna.Trial | None:
        """Return the next trial, which is now this process's; None if there are `trials` of them.

        One process at a time takes one, so that none is taken twice, nor one too many drawn.
        """
        with self.lock, places.signs_of_life():
            self.recover()
            known = self.study.get_trials(deepcopy=False)
            if not any(trial.state == TrialState.WAITING for trial in known):
                if len({folder_of(trial) for trial in known}) >= trials:
                    return None
                self.draw(known)
            trial = self.study.ask(self.distributions)
            trial.set_user_attr(WORKER, self.worker)
            if FOLDER not in trial.user_attrs:
                trial.set_user_attr(FOLDER, f"{trial.number:04d}")
            return trial

    def recover(self) -> None:
        """Let those wait again that were left behind."""
        if isinstance(self.storage, RDBStorage):
            optuna.storages.fail_stale_trials(self.study)
            return
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            worker = trial.user_attrs.get(WORKER)
            if worker is None or not is_held(self.folder / worker):
                self.put_back(trial)

    def draw(self, known: Sequence[FrozenTrial]) -> None:
        """Add a trial with settings of its own.

        They are drawn in a copy of the study, to be written down at once or not at all, and by a
        generator of the trial's number: what a study tries does not depend on when it was stopped.
        Machines that share a database may draw at the same time, so they draw from the clock.
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
        drawn = copy.ask(self.distributions)
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING, params=drawn.params, distributions=self.distributions
            )
        )

    def put_back(self, trial: optuna.Trial | FrozenTrial) -> None:
        """Let a trial wait, as far as it has come."""
        self.storage.set_trial_state_values(self.id_of(trial), TrialState.WAITING)

    def id_of(self, trial: optuna.Trial | FrozenTrial) -> int:
        """Return a trial's number among those of all studies of the storage."""
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, trial.number)

    @contextmanager
    def alive(self, trial: optuna.Trial) -> Iterator[None]:
        """Give signs of life for a trial, where they are asked for."""
        storage = self.storage
        if not isinstance(storage, RDBStorage):
            yield
            return
        over, number = threading.Event(), self.id_of(trial)

        def beat() -> None:
            while True:
                with suppress(StorageInternalError):  # a database that is away comes back
                    storage.record_heartbeat(number)
                if over.wait(places.BEAT):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
