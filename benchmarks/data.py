"""The data that all contenders are given: MNIST where it is found, else images like it."""

import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TRAIN, VALID, SIDE, CLASSES = 50_000, 10_000, 28, 10


def find_mnist(given: Path | None) -> Path | None:
    """Return the folder with MNIST's four files, or None; nothing is downloaded."""
    named = os.environ.get("PLAINFIT_MNIST")
    for folder in (given, Path(named) if named else None, ROOT.parent / "shared/data/mnist"):
        if folder and (folder / "train-images-idx3-ubyte.gz").is_file():
            return folder
    if given:
        raise SystemExit(f"--data-dir must hold MNIST's .gz files, and {given} does not")
    return None


def prepare(folder: Path, mnist: Path | None) -> str:
    """Write x_train.npy, y_train.npy, and so for valid and MNIST's test; return what data it is.

    Images are uint8 (samples, 28, 28), labels int64 (samples,).
    """
    parts = read_mnist(mnist) if mnist else synthetic(TRAIN, VALID)
    for part, (x, y) in parts.items():
        np.save(folder / f"x_{part}.npy", x)
        np.save(folder / f"y_{part}.npy", y)
    return "MNIST" if mnist else "synthetic images of MNIST's shape"


def read_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return MNIST in the tutorial's split."""
    import plainfit as pf

    sets = pf.open_data("mnist", data_dir=folder).parts()
    pairs = {part: dataset.tensors for part, dataset in sets.items()}
    return {part: (x.squeeze(1).numpy(), y.numpy()) for part, (x, y) in pairs.items()}


def synthetic(train: int, valid: int, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images that both models can learn: a coarse pattern for each class, and noise."""
    draw = np.random.default_rng(seed)
    patterns = draw.integers(0, 2, (CLASSES, 7, 7)).repeat(4, 1).repeat(4, 2) * 128

    def images(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = draw.integers(0, CLASSES, n)
        noise = draw.integers(0, 128, (n, SIDE, SIDE), dtype=np.uint8)
        return patterns.astype(np.uint8)[y] + noise, y

    return {"train": images(train), "valid": images(valid)}
