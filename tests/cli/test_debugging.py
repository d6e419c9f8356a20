"""A breakpoint in a loss function: the frames above it are readable."""

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
