"""Samples whose labels are most likely wrong, by confident learning, and equal samples.

A sample is judged by models that have not seen it. Source: C. Northcutt, L. Jiang and I. Chuang,
"Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70 (2021), 1373-1411.
"""

import csv
import hashlib
import io
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from plainfit.common.devices import cpu_threads, versions
from plainfit.common.errors import ConfigError, DataError, TrainingError, raised_as
from plainfit.common.seeding import stream
from plainfit.data.open_data import IMAGES, TABLE, kind_of
from plainfit.data.parts import group_numbers
from plainfit.data.splits import OF_IMAGE_FILES, DataSplits, labels_of, make_dataset
from plainfit.data.targets import CLASSIFICATION
from plainfit.runs import folder as runs
from plainfit.runs.inference import predict
from plainfit.runs.prepare import Say, completed, find_rate, prepare, threads_of
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import fitted, stoppers

RESULT, SAMPLES = "clean.json", "samples.csv"
COLUMNS = ("sample", "part", "label", "suggested", "suspect", "confidence")
BLOCK = 256  # samples read at once
UTF_8 = ("utf-8", "surrogateescape")  # a name of a file may be no text


class Judged(NamedTuple):
    """What confident learning says of samples."""

    suggested: Tensor
    """Classes, shape (samples,): the label, where nothing speaks against it."""
    is_suspect: Tensor
    """Whether a label is most likely wrong, shape (samples,)."""
    confidence: Tensor
    """The probability of the label, shape (samples,)."""
    thresholds: Tensor
    """The mean probability of a class among the samples labelled so, shape (classes,)."""
    joint: Tensor
    """How many samples of a label (row) are confidently of a class (column)."""


def judge(labels: Tensor, probabilities: Tensor) -> Judged:
    """Find labels that are most likely wrong.

    A sample counts as one of the class that is likeliest of those whose probability reaches the
    mean that it has among the samples labelled so; its label is suspect if it is another one.

    Args:
        labels: int64, shape (samples,).
        probabilities: of models that have not seen the sample, shape (samples, classes).

    >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9]])
    >>> judge(torch.tensor([0, 0, 0, 1, 1]), p).is_suspect.tolist()
    [False, False, True, False, False]
    """
    count = probabilities.shape[1]
    confidence = probabilities.gather(1, labels[:, None])[:, 0]
    sums = torch.zeros(count, dtype=probabilities.dtype).index_add(0, labels, confidence)
    thresholds = sums / labels.bincount(minlength=count)  # NaN without a sample: never reached
    reached = probabilities >= thresholds
    likeliest = probabilities.where(reached, torch.tensor(-1.0)).argmax(dim=1)
    is_confident = reached.any(dim=1)
    is_suspect = is_confident & (likeliest != labels)
    pairs = (labels * count + likeliest)[is_confident].bincount(minlength=count * count)
    suggested = likeliest.where(is_confident, labels)
    return Judged(suggested, is_suspect, confidence, thresholds, pairs.reshape(count, count))


def clean(config: RunConfig, folds: int = 5, *, echo: Say | None = print) -> Path:
    """Rank the samples of a dataset by how likely their labels are wrong; return the new folder.

    The training samples are cut into `folds` of whole classes and of equal samples together. For
    each fold, a model is trained on the others with the settings of `plainfit train`, and gives
    the probabilities of the fold; those of the validation samples, which no model trains on, are
    the mean over all. The test set is only searched for equal samples. The folder has `clean.json`
    and `samples.csv`, the most suspicious samples first.

    Raises:
        ConfigError: if there are fewer than two folds.
        DataError: if the data has no classes, or cannot be written with other labels.
        TrainingError: if a training has to stop.
    """
    say = echo or (lambda line: None)
    if not 2 <= folds <= 100:
        raise ConfigError(f"must be 2 to 100, got {folds}", field="folds")
    if os.path.exists(config.data):  # noqa: PTH110  # `digits` may be a name
        config = replace(config, data=os.path.abspath(config.data))  # noqa: PTH100
    kind = kind_of(config.data)
    data = completed(config).open_data()
    if data.task != CLASSIFICATION:
        raise DataError(f"labels that are classes can be ranked, and the task is {data.task}")
    if kind != TABLE and data.preprocessing not in OF_IMAGE_FILES:
        raise DataError(f"labels of images and tables can be ranked, and {config.data} is {kind}")
    equal = equal_samples(data)
    labels = labels_of(data.train)
    fold_of = draw_folds(labels, equal["train"], folds, config.seed)
    if config.out is not None and config.out.exists():
        runs.check_new(config.out)
    of_train, of_valid = torch.zeros(len(labels), len(data.classes)), list[Tensor]()
    for fold in range(folds):
        held = (fold_of == fold).nonzero().flatten()
        say(
            f"\nfold {fold + 1} of {folds}: {len(labels) - len(held):,} samples, {len(held):,} held"
        )
        with raised_as(TrainingError, "each fold must be trained"):
            of_train[held], of_this = probabilities(config, data, held, echo)
        of_valid.append(of_this)
    pooled = torch.cat([labels, labels_of(data.valid)])
    found = torch.cat([of_train, torch.stack(of_valid).mean(dim=0)])
    judged = judge(pooled, found)
    folder = config.out or runs.default_folder(config.data, "clean")
    runs.create_folder(folder)
    runs.write_whole(folder / SAMPLES, samples_text(config, data, judged, found).encode(*UTF_8))
    record = {
        "config": config.to_dict(),
        "kind": kind if kind in (IMAGES, TABLE) else "arrays",
        "classes": list(data.classes),
        "fingerprint": data.fingerprint,
        "folds": folds,
        "accuracy": float((found.argmax(dim=1) == pooled).double().mean()),
        "suspects": int(judged.is_suspect.sum()),
        "thresholds": judged.thresholds.nan_to_num(0.0).tolist(),
        "joint": judged.joint.tolist(),
        "equal": groups_of(config, data, equal),
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": versions(),
    }
    runs.write_whole(folder / RESULT, (json.dumps(record, indent=2) + "\n").encode())
    return folder


def probabilities(
    config: RunConfig, data: DataSplits, held: Tensor, echo: Say | None
) -> tuple[Tensor, Tensor]:
    """Train without some training samples; return probabilities of those, and of validation."""
    labels = labels_of(data.train)
    samples: Any = data.train.tensors[0] if isinstance(data.train, TensorDataset) else data.train
    is_held = torch.zeros(len(labels), dtype=torch.bool).index_fill(0, held, True)
    others = make_dataset(samples, labels, (~is_held).nonzero().flatten())
    parts = prepare(config, data=replace(data, train=others))
    with cpu_threads(threads_of(parts)):
        if config.lr == "auto":
            find_rate(parts, echo or (lambda line: None))
        fitted(parts, stoppers(parts.config), echo=echo)
        found = [
            predict(parts.model, part, output="probabilities", bs=2 * config.batch_size).cpu()
            for part in (make_dataset(samples, labels, held), data.valid)
        ]
    return found[0], found[1]


def equal_samples(data: DataSplits) -> dict[str, Tensor]:
    """Number the samples of each part, equal ones alike."""
    digests = []
    for part in data.parts().values():
        count = len(labels_of(part))
        for first in range(0, count, BLOCK):
            rows = list(range(first, min(first + BLOCK, count)))
            if isinstance(part, TensorDataset):
                block = part.tensors[0][rows]
            else:
                block = torch.stack([x for x, _ in part.__getitems__(rows)])  # type: ignore[attr-defined]
            for x in block.contiguous().numpy():
                digests.append(hashlib.blake2b(x.data, digest_size=16).hexdigest())
    numbers: dict[str, int] = {}
    codes = torch.tensor([numbers.setdefault(digest, len(numbers)) for digest in digests])
    return dict(zip(data.parts(), codes.split([*data.counts().values()]), strict=True))


def draw_folds(labels: Tensor, groups: Tensor, folds: int, seed: int) -> Tensor:
    """Deal out the samples of each class to the folds; groups stay together."""
    numbers = group_numbers(groups.numpy())
    firsts = torch.zeros(int(numbers.max()) + 1, dtype=torch.int64)
    firsts[numbers.flip(0)] = torch.arange(len(numbers)).flip(0)
    fold_of = torch.zeros_like(firsts)
    place = 0
    for label in range(int(labels.max()) + 1):
        of_class = (labels[firsts] == label).nonzero().flatten()
        order = of_class[torch.randperm(len(of_class), generator=stream(seed, "folds", label))]
        fold_of[order] = (torch.arange(len(order)) + place) % folds
        place += len(order)
    return fold_of[numbers]


def origins_of(config: RunConfig, data: DataSplits) -> dict[str, list[str]]:
    origins = data.origins()
    if not Path(config.data).is_dir():
        return origins
    return {part: [os.path.relpath(o, config.data) for o in of] for part, of in origins.items()}


def groups_of(
    config: RunConfig, data: DataSplits, equal: Mapping[str, Tensor]
) -> list[list[dict[str, str]]]:
    """Return the equal samples that are in several parts or have several labels, group by group."""
    groups = defaultdict[int, list[dict[str, str]]](list)
    origins = origins_of(config, data)
    for part, numbers in equal.items():
        labels = labels_of(data.parts()[part]).tolist()
        for number, origin, label in zip(numbers.tolist(), origins[part], labels, strict=True):
            one = {"sample": origin, "part": part, "label": data.classes[label]}
            groups[number].append(one)
    several = ("part", "label")
    return [g for g in groups.values() if any(len({one[n] for one in g}) > 1 for n in several)]


def samples_text(config: RunConfig, data: DataSplits, judged: Judged, found: Tensor) -> str:
    """Return all samples as CSV, the most suspicious first; those of the test set last."""
    names, text = data.classes, io.StringIO()
    origins = origins_of(config, data)
    parts = [part for part in ("train", "valid") for _ in origins[part]]
    labels = torch.cat([labels_of(data.train), labels_of(data.valid)]).tolist()
    samples = [*origins["train"], *origins["valid"]]
    keys = (judged.confidence.double() - judged.is_suspect.double()).argsort(stable=True).tolist()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"p({name})" for name in names)])
    rounded = found.double().tolist()
    for row in keys:
        suspect = int(judged.is_suspect[row])
        writer.writerow([
            samples[row], parts[row], names[labels[row]], names[int(judged.suggested[row])],
            suspect, *(f"{p:.5g}" for p in (float(judged.confidence[row]), *rounded[row])),
        ])  # fmt: skip
    if data.test is not None:
        for origin, label in zip(origins["test"], labels_of(data.test).tolist(), strict=True):
            empty = [""] * (1 + len(names))
            writer.writerow([origin, "test", names[label], names[label], 0, *empty])
    return text.getvalue()
