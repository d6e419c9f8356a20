"""What a user finds who looks inside: readable frames, and the operation that went wrong."""

import subprocess
import sys

LOOK = """
import torch, torch.nn.functional as F
from torch import nn, optim
import plainfit as pf

def loss_func(out, yb):
    breakpoint()
    return F.cross_entropy(out, yb)

model = nn.Linear(2, 2)
data = [(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))]
pf.fit(1, model, loss_func, optim.SGD(model.parameters(), lr=0.1), data, None)
"""

# The square root's gradient at 0 is infinite, and times 0 it is NaN, while the loss is finite.
BROKEN = """
import torch
from torch import nn

class Root(nn.Module):
    def __init__(self, in_features, classes):
        super().__init__()
        self.lin = nn.Linear(in_features, classes)

    def forward(self, xb):
        out = self.lin(xb.flatten(1))
        return out + (out * 0).sqrt() * 0
"""


def test_a_breakpoint_lands_two_readable_frames_below_fit(tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    done = subprocess.run(
        [sys.executable, "look.py"], cwd=tmp_path, input="where\nup\np xb.shape\nup\n"
        "p context.step, model\nquit\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "-> loss = loss_func(model(xb), yb)" in done.stdout
    assert "-> loss, n = loss_batch(step_model, step_loss, context.xb" in done.stdout
    assert "torch.Size([4, 2])" in done.stdout
    assert "(0, Linear(in_features=2, out_features=2, bias=True))" in done.stdout


def test_detect_anomaly_names_the_operation(tmp_path):
    (tmp_path / "nets.py").write_text(BROKEN)
    command = [sys.executable, "-m", "plainfit", "train", "--model", "nets:Root", "--epochs", "1"]
    for options, says in (
        (["--detect-anomaly"], "Function 'SqrtBackward0' returned nan values"),
        ([], "the parameter lin.weight holds such values since an earlier step"),
    ):
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback (most recent" not in done.stderr.splitlines()[-1]
