"""`--inline`: fewer arguments, layers where they are used, the same bits."""

import pytest
from test_runs import run

from eject.modules import MODULES
from eject.running import differing
from eject.running import run as run_text
from eject.scripts import LAYERS
from ejecting import differing as differing_tensors
from ejecting import run_here
from plainfit.eject import eject_run
from plainfit.eject.outcome import outcome_of
from plainfit.eject.rungs import lower
from plainfit.runs.folder import read_record

SETTINGS = {
    "logistic": {"model": "logistic"},
    "mlp": {"model": "mlp", "model_args": "dropout=0.2", "schedule": "one-cycle", "clip": 1.0},
    "cnn": {"model": "cnn", "average": 0.9},
    "resnet": {"model": "resnet", "model_args": "blocks=(1,), width=4", "optimizer": "adamw"},
    "compact": {"model": "compact", "model_args": "width=4, blocks=1"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_built_in_models_keep_their_bits(name, tmp_path):
    folder, script = tmp_path / "run", tmp_path / "train.py"
    run(folder, **SETTINGS[name])
    outcome = outcome_of(folder, read_record(folder))
    for rung in ("loop", "layers", "tensors"):
        eject_run(folder, script, rung=rung, inline=True, force=True)
        losses, weights = run_here(script)
        assert losses == outcome.losses
        assert differing_tensors(weights, outcome.weights) == []


@pytest.mark.parametrize("name", [*LAYERS, *MODULES])
def test_layers_and_modules_of_users_keep_their_bits(name):
    text = (LAYERS | MODULES)[name]
    losses, state = run_text(text)
    for rung in ("data", "layers", "tensors"):
        again, final = run_text(lower(text, rung, inline=True))
        assert again == losses
        assert not differing(final, state)


NET = """
class Net(nn.Module):
    def __init__(self, width, act=0.5):
        super().__init__()
        self.a = nn.Linear(12, width)
        self.drop = nn.Dropout(act)
        self.b = nn.Linear(width, 4, bias=False)

    def forward(self, xb):
        return self.b(self.drop(F.relu(self.a(xb + 1))))
"""


def test_what_it_looks_like():
    from eject.scripts import VECTORS, script

    text = lower(script(NET, "Net(8)", data=VECTORS), "layers", inline=True)
    assert "model = Net()" in text
    assert "F.dropout(" in text
    assert "F.linear(xb + 1, self.a.weight, self.a.bias)" in text
    assert "class Dropout" not in text
    assert "def forward(self, input)" not in text
