"""What the programs of `compare.py` on torch share: the model and the line of JSON."""

import argparse
import json
import os
import signal
from importlib.metadata import version

import torch
import torch.nn.functional as F
from compare_work import arguments, arrays, frames_of_library
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torch_parts import weights_hash


class Net(nn.Module):
    """Two layers and a dropout; counts its training steps, and the frames above the first."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 5))
        self.kill_at, self.steps, self.frames = args.kill_at, 0, 0

    def forward(self, xb: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.frames = self.frames or frames_of_library()
            if self.steps == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(xb)


def start(
    model_class: type[Net] = Net,
) -> tuple[argparse.Namespace, Net, TensorDataset, TensorDataset]:
    """Return the arguments, the model and both datasets."""
    args = arguments()
    x, y, x_valid, y_valid = map(torch.from_numpy, arrays(args.nan))
    torch.manual_seed(0)
    return args, model_class(args), TensorDataset(x, y), TensorDataset(x_valid, y_valid)


def report(model: Net, valid_ds: TensorDataset, valid_loss: float | None, *packages: str) -> None:
    """Print what was seen, the validation loss over the whole set beside the reported one."""
    model.eval()
    x, y = valid_ds.tensors
    with torch.no_grad():
        loss = F.cross_entropy(model.layers(x), y).item()
    line = {
        "frames": model.frames,
        "steps": model.steps,
        "weights": weights_hash(model),
        "finite": all(p.isfinite().all().item() for p in model.parameters()),
        "reported": valid_loss,
        "valid_loss": loss,
        "versions": {name: version(name) for name in packages},
    }
    print(json.dumps(line))
