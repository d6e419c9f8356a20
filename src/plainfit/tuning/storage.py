"""Where the trials of a study are written down: a journal in its folder, or a database."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
    RetryHeartbeatStaleTrialCallback,
)
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from plainfit.common.errors import ConfigError, RunError
from plainfit.tuning.locks import FileLock

JOURNAL = "study.jsonl"
DESCRIPTION = "plainfit"  # the attribute of a study that says what it is about
BEAT, SILENCE = 60, 300  # seconds between two signs of life in a database; until one counts as dead
TAIL = 2**16  # bytes of a journal in which its last line begins


class JournalLock(JournalFileOpenLock):
    """A journal's lock that ends with its process; that of a killed one would hold for 30 s."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.lock = FileLock(journal.with_name(".journal.lock"))

    def acquire(self) -> bool:
        """Take the lock, and drop a last line that was cut off: the next would be joined to it."""
        self.lock.acquire()
        with self.journal.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            tail = file.read()
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        self.lock.release()


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Open, or make, the journal of a study in its folder, or the database at a URL.

    Raises:
        RunError: if the journal cannot be read or written.
        ConfigError: if there is no such database, or what reads it is not installed.
    """
    if url is None:
        path = folder / JOURNAL
        try:
            return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise RunError(f"{path} must be a study's journal: {error!r}") from error
    from sqlalchemy.exc import SQLAlchemyError

    with signs_of_life():
        try:
            return RDBStorage(
                url,
                heartbeat_interval=BEAT,
                grace_period=SILENCE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
                    inherit_intermediate_values=True
                ),
            )
        except (SQLAlchemyError, StorageInternalError, ImportError) as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise ConfigError(
                "--storage must be the URL of a database that is there, such as "
                f"postgresql://USER@HOST/NAME; {reason}"
            ) from error


@contextmanager
def signs_of_life() -> Iterator[None]:
    """Use Optuna's heartbeat without its warnings: that it may change, that it needs `optimize`.

    It is tested here, and `Queue.alive` gives the signs that `optimize` would.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        yield


def study_name(folder: Path, url: str | None) -> str:
    """Return the study's name: in a database, which has many, that of its folder."""
    return "study" if url is None else folder.resolve().name


def read_description(folder: Path, url: str | None) -> dict[str, Any] | None:
    """Return what a study is about, as it was described when it began; None if there is none.

    Raises:
        RunError: if the journal cannot be read.
        ConfigError: if there is no such database, or it has another's study of that name.
    """
    if url is None and not (folder / JOURNAL).exists():
        return None
    storage, name = open_storage(folder, url), study_name(folder, url)
    try:
        study = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    found: dict[str, Any] | None = storage.get_study_user_attrs(study).get(DESCRIPTION)
    if found is None and storage.get_n_trials(study):
        raise ConfigError(
            f"the study {name!r} must be plainfit's, and is not; choose another --out"
        )
    return found
