"""What a report finds out anew: it rebuilds the model, reopens the data and predicts."""

from dataclasses import dataclass, field

import torch
from torch import nn

from plainfit.common.errors import ModelError, PlainfitError, RunError
from plainfit.data.splits import DataSplits
from plainfit.models.build import Factory
from plainfit.models.summary import LayerRow, count_parameters, summarize
from plainfit.report import evaluation as ev
from plainfit.report import samples as sm
from plainfit.report.reading import RunLog
from plainfit.runs.folder import WEIGHTS, open_run


@dataclass
class Predictions:
    """The sections about predictions."""

    part: str
    figures: dict[str, float]
    scores: list[ev.ClassScore]
    mean: ev.ClassScore
    classes: int
    """How many there are, of which `scores` may be the worst."""
    confusion: list[tuple[str, list[ev.Cell]]]
    columns: list[str]
    wrong: list[sm.Sample]
    some: list[sm.Sample]


@dataclass
class Findings:
    """What could be found out, and why the rest could not."""

    layers: list[LayerRow] = field(default_factory=list)
    parameters: int | None = None
    predictions: Predictions | None = None
    no_layers: str = ""
    no_predictions: str = ""


def find_out(log: RunLog) -> Findings:
    """Rebuild the model, reopen the data, predict; go as far as that goes."""
    found = Findings()
    try:
        model, is_trained = rebuild(log)
        found.parameters = count_parameters(model)
        found.layers = summarize(model, log.record["data"]["input_shape"])
    except PlainfitError as error:
        found.no_layers = found.no_predictions = str(error)
        return found
    try:
        if not is_trained:
            raise RunError(
                f"the run has no {WEIGHTS} yet, which is written when it finishes; its state is "
                f"{log.record['state']}"
            )
        found.predictions = predict(model, reopen(log), log.record["config"]["batch_size"])
    except (PlainfitError, RuntimeError) as error:  # RuntimeError: torch's, such as of memory
        found.no_predictions = str(error)
    return found


def rebuild(log: RunLog) -> tuple[nn.Module, bool]:
    """Return the model, and whether it has the weights that the run ended with."""
    if (log.folder / WEIGHTS).exists():
        return open_run(log.folder).model, True
    with torch.random.fork_rng(devices=[]):  # building draws initial values
        return Factory(**log.record["model"]).build().eval(), False


def parameters_of(log: RunLog) -> int | None:
    """Return the number of a run's parameters; None if its model can no longer be built."""
    try:
        return count_parameters(rebuild(log)[0])
    except (ModelError, RunError):
        return None


def reopen(log: RunLog) -> DataSplits:
    """Open the data of a run again.

    Raises:
        DataError: if that cannot be done, or it is not what it was.
        ConfigError: if the settings are those of another version.
    """
    return open_run(log.folder).open_data()


def predict(model: nn.Module, data: DataSplits, batch_size: int) -> Predictions:
    """Predict the test set, or else the validation set, and gather what a page shows of it."""
    evaluation = ev.evaluate(model, data, batch_size)
    scores = ev.class_scores(evaluation, data.classes)
    shown = ev.classes_shown(scores)
    return Predictions(
        part={"valid": "validation set", "test": "test set"}[evaluation.part],
        figures=evaluation.figures,
        scores=shown,
        mean=ev.mean_scores(scores),
        classes=len(scores),
        confusion=ev.confusion_rows(evaluation, shown, len(scores)),
        columns=sm.column_names(data),
        wrong=sm.describe_samples(evaluation, data, sm.most_wrong(evaluation)),
        some=sm.describe_samples(evaluation, data, sm.evenly_spaced(evaluation)),
    )
