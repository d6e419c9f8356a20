"""A folder of images with torch alone: a data set like torchvision's `ImageFolder`, stock loaders.

python folder_stock.py FOLDER [--threads N]
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from folder_run import BATCH_SIZE, EPOCHS, LR, MOMENTUM, WORKERS, arguments, report
from PIL import Image
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset


class ImageFolder(Dataset):
    """Gray images and the number of their folder."""

    def __init__(self, root: Path) -> None:
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        self.samples = [
            (entry.path, number)
            for number, name in enumerate(classes)
            for entry in sorted(os.scandir(root / name), key=lambda entry: entry.name)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"), dtype=np.float32)
        return torch.from_numpy(pixels[None] / 255), label  # a fifth faster than dividing in torch


def main() -> None:
    """Train for some epochs, validating after each."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    more = {"num_workers": WORKERS, "persistent_workers": True}
    train_dl = DataLoader(
        ImageFolder(args.folder / "train"), batch_size=BATCH_SIZE, shuffle=True, **more
    )
    valid_dl = DataLoader(ImageFolder(args.folder / "valid"), batch_size=2 * BATCH_SIZE, **more)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 10, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    opt = optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    began, epochs = time.time(), []
    for _ in range(EPOCHS):
        model.train()
        for xb, yb in train_dl:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        right, total = 0.0, torch.zeros(())
        with torch.no_grad():
            for xb, yb in valid_dl:
                out = model(xb)
                total += F.cross_entropy(out, yb, reduction="sum")
                right += (out.argmax(1) == yb).sum()
        n = len(valid_dl.dataset)
        epochs.append({"at": time.time(), "loss": float(total) / n, "accuracy": float(right) / n})
    report(began, epochs)


if __name__ == "__main__":
    main()
