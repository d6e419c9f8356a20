"""A script validates as `fit` did where the loss does not count by samples."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import plainfit as pf
from ejecting import differing, run_here
from plainfit.common.errors import EjectError


def weighted(out, yb):
    return F.cross_entropy(out, yb, weight=torch.tensor([1.0, 10.0, 0.25]))


def doubled_sum(out, yb):
    return 2 * F.cross_entropy(out, yb, reduction="sum") / len(yb)


@pytest.mark.parametrize(
    ("loss_func", "ignored", "by_samples"),
    [
        (weighted, False, False),
        (partial(F.cross_entropy, ignore_index=2), False, False),
        (F.cross_entropy, True, False),
        (partial(F.cross_entropy, reduction="sum"), False, False),
        (F.cross_entropy, False, True),
        (doubled_sum, False, True),
    ],
)
def test_a_script_prints_the_same_validation_loss(tmp_path, capsys, loss_func, ignored, by_samples):
    g = torch.Generator().manual_seed(0)
    sets = [TensorDataset(torch.randn(n, 6, generator=g), torch.arange(n) % 3) for n in (36, 21)]
    if ignored:
        sets[1].tensors[1][:9] = -100  # the whole first batch
    model, opt = pf.get_model("mlp", input_shape=(6,), classes=3, device="cpu", lr=0.01)
    history = pf.fit(2, model, loss_func, opt, *pf.get_data(*sets, 4), echo=None)
    level = "data" if ignored else "loop"
    script = history.run.eject(tmp_path / "train.py", level=level, echo=None)
    text = script.read_text()
    assert ("LossWeights" not in text) == by_samples
    script.write_text(text.replace("valid_loss:11.4f", "valid_loss!r:30"))
    losses, weights = run_here(script)
    assert losses == history.step_losses
    assert not differing(weights, model.state_dict())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [float(row[2]) for row in rows] == [row["valid_loss"] for row in history]
    if not by_samples:
        with pytest.raises(EjectError, match="counts by the weights of labels or as a sum, and"):
            history.run.eject(tmp_path / "low.py", level="tensors", echo=None)
