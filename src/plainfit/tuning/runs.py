"""A trial of `plainfit tune` as an ordinary run, in a folder of its own."""

import math
import shutil
from pathlib import Path
from typing import Any

from plainfit.runs.assembly import assemble, check_outputs
from plainfit.runs.folder import RECORD, read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train
from plainfit.training.history import monitored
from plainfit.tuning.reporting import PRUNED, Report
from plainfit.tuning.space import Choices, Spec


class RunTraining:
    """What `tune` calls for each trial: train a run, or go on with it, and return its figure.

    Args:
        monitor: a column of the run's history.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor

    def __call__(self, *, seed: int, report: Report, folder: Path, **settings: Any) -> float:
        """Train; `settings` are those of `RunConfig`, as `to_dict` gives them."""
        if not (folder / RECORD).exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it began
            config = RunConfig.from_dict(settings, seed=seed, out=folder)
            train(config, echo=None, callbacks=[report])
        elif read_record(folder)["state"] != "finished":
            resume(folder, echo=None, callbacks=[report])
        record = read_record(folder)
        report.pruned = record["stopped"] == PRUNED
        return monitored(record["last"], self.monitor) if record["last"] else math.nan


def try_all(fixed: dict[str, Any], specs: dict[str, Spec]) -> None:
    """Check data and models before a study is begun: each choice, with the first of the others.

    Raises:
        PlainfitError: if a run cannot be made of them.
    """
    first = {name: spec.samples[0] for name, spec in specs.items()}
    tries = [{name: v} for name, spec in specs.items() if isinstance(spec, Choices)
             for v in spec.samples[1:]]  # fmt: skip
    for changes in [{}, *tries]:
        parts = assemble(RunConfig.from_dict(fixed | first | changes))
        check_outputs(parts.model, parts.valid_dl, len(parts.data.classes))
