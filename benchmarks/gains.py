"""What augmentation gives: accuracy on MNIST's test set, on all of it and on 1,000 images."""

import statistics
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from results import save_section
from torch.utils.data import Dataset

import plainfit as pf
from data import find_mnist

SEEDS = 5
# Images, epochs, batch size, and what they are augmented by.
WORK = {
    "1,000 images": (1000, 60, 64, ["none", "light", "standard", "strong", "strong,mixup"]),
    "50,000 images": (50_000, 4, 128, ["none", "warp=0.5"]),
}
TEXT = """\
Accuracy on MNIST's 10,000 test images after training, {seeds} seeds: mean, lowest and highest. The
network is `compact` of width 16, trained as the preset `fast` does it (learning rate 0.2,
one-cycle, Nesterov momentum, weight decay 5e-4, labels smoothed by 0.1, bfloat16): 60 epochs in
batches of 64 on the first 100 images of each class, and 4 epochs in batches of 128 on all. "Wins"
counts the seeds that end higher than the same seed without augmentation."""


def measure(data: Path, quick: bool, folder: Path) -> Path:
    """Measure, and write the section."""
    seeds = range(1 if quick else SEEDS)
    scores = {
        f"{size}, {augment}": [accuracy(size, augment, seed) for seed in seeds]
        for size, (_, _, _, augments) in WORK.items()
        for augment in augments
    }
    return save(scores, folder)


def accuracy(size: str, augment: str, seed: int) -> float:
    """Train once; return the accuracy on the test set."""
    n, epochs, batch_size, _ = WORK[size]
    train_ds, test_ds = sets(n)
    train_dl, test_dl = pf.get_data(train_ds, test_ds, batch_size, seed=seed, augment=augment)
    model, opt = pf.get_model(
        "compact", lr=0.2, nesterov=True, weight_decay=5e-4, seed=seed, device="cpu",
        channels_last=True, arguments={"width": 16},
    )  # fmt: skip
    loss = partial(F.cross_entropy, label_smoothing=0.1)
    pf.fit(
        epochs, model, loss, opt, train_dl, None, schedule="one-cycle", precision="bf16", echo=None
    )
    return pf.validate(model, loss, test_dl, metrics=[pf.accuracy])["accuracy"]


def sets(n: int) -> tuple[Dataset, Dataset]:
    """Return so many training images, the same number of each class, and the test images."""
    folder = find_mnist(None)
    if folder is None:
        raise SystemExit("the gains of augmentation are measured on MNIST; give its folder")
    splits = pf.open_data("mnist", data_dir=folder)
    images, labels = splits.train.tensors
    if n < len(labels):
        rows = torch.cat([(labels == label).nonzero().flatten()[: n // 10] for label in range(10)])
        images, labels = images[rows], labels[rows]
    return pf.ImageDataset(images, labels), splits.test


def save(scores: dict[str, list[float]], folder: Path) -> Path:
    """Write the section."""
    rows = []
    for name, own in scores.items():
        base = next(scores[f"{size}, none"] for size in WORK if name.startswith(size))
        wins = "" if own is base else f"{sum(a > b for a, b in zip(own, base, strict=True))}"
        cells = (f"{value:.4f}" for value in (statistics.mean(own), min(own), max(own)))
        rows.append([name, *cells, wins])
    return save_section(
        "gains",
        "What augmentation gives",
        TEXT.format(seeds=len(own)),
        ["", "accuracy", "lowest", "highest", f"wins of {len(own)}"],
        rows,
        raw=scores,
        folder=folder,
    )
