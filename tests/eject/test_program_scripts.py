"""Scripts whose epochs are one program, as in `fit(compile="epoch")`: its operations, its bits.

The programs run here without a compiler, which `test_a_program_that_is_compiled` has.
"""

import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, load_file
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import TensorDataset

import plainfit as pf
from ejecting import code_lines, differing, names_of
from plainfit.common.errors import EjectError
from plainfit.eject import eject_run, verify
from plainfit.eject.verify import outcome_of
from plainfit.models.weights import weights_to_bytes
from plainfit.runs.folder import read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from plainfit.training.callbacks import (
    Averaging,
    GradientAccumulation,
    GradientClipping,
    Unfreezing,
)
from plainfit.training.hooks import Callback

SAMPLES, BATCH = 90, 16
VALID = 16 * 2 * BATCH + 9  # so many that the validation is a program, too


@pytest.fixture(autouse=True)
def few_batches_are_enough(monkeypatch):
    monkeypatch.setattr("plainfit.training.program_validation.FEWEST", 16)


@pytest.fixture
def graphs(monkeypatch):
    """The code of the graphs of trainings and of scripts, whose programs Python runs."""

    def loop(goes_on, step, carried):
        while goes_on(*carried):
            carried = step(*carried)
        return carried

    def export(steps, inputs, strict):
        found.append(operations(steps.graph))
        return steps

    def compiled(steps, *_):
        found.append(operations(steps.graph))
        return steps, "here"

    found = []
    monkeypatch.setattr("plainfit.training.program.while_loop", loop)
    monkeypatch.setattr("plainfit.training.ranges.compiled", compiled)
    monkeypatch.setattr(sys.modules["torch._higher_order_ops.while_loop"], "while_loop", loop)
    monkeypatch.setattr("torch.export.export", export)
    for name in ("aoti_compile_and_package", "aoti_load_package"):
        monkeypatch.setattr(f"torch._inductor.{name}", lambda steps: steps)
    return found


def operations(graph):
    """Return the operations of a graph in their order, with the numbers that they take."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    return [f"{n.target} {[a for a in n.args if isinstance(a, int | float)]}" for n in calls]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.lin = nn.Linear(144, 10)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, xb):
        if self.training:
            self.calls += 1
        out = F.relu(self.norm(self.conv(xb))).flatten(1)
        return self.lin(F.dropout(out, 0.1, self.training))


def sets(kind=TensorDataset, valid=33):
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(256, (n, 1, 8, 8), generator=generator).byte() for n in (SAMPLES, valid)
    ]
    labels = [torch.randint(10, (len(x),), generator=generator) for x in images]
    given = images if kind is pf.ImageDataset else [x.float() / 256 for x in images]
    return [kind(x, y) for x, y in zip(given, labels, strict=True)]


class Stop(Callback):
    observer, in_program, every_steps = True, "after", 9

    def on_step_end(self, context):
        if context.global_step == self.every_steps:
            context.stop = "here"


def trained(
    compile, make, kind=TensorDataset, data=None, loss_func=F.cross_entropy, valid=33, **options
):
    """Return the history and the weights of a training that begins as all others."""
    torch.manual_seed(0)
    model = Net()
    opt = make(model)
    if "scheduler" in options:
        options["schedule"] = options.pop("scheduler")(opt)
    loaders = pf.get_data(*sets(kind, valid), BATCH, **data or {})
    history = pf.fit(
        2, model, loss_func, opt, *loaders,
        **{"compile": compile, "metrics": [pf.accuracy], "echo": None} | options,
    )  # fmt: skip
    return history, load(weights_to_bytes(model))


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)


def adam(model):
    return optim.Adam(model.parameters(), lr=1e-3)


def grouped(model):
    groups = [{"params": model.conv.parameters(), "weight_decay": 0.1}]
    groups += [{"params": [*model.norm.parameters(), *model.lin.parameters()], "lr": 0.01}]
    return optim.AdamW(groups, lr=1e-3, weight_decay=0.0)


def frozen(model):
    model.conv.requires_grad_(False)
    return optim.RMSprop(model.parameters(), momentum=0.5)


CASES = {
    "one-cycle": (sgd, {"schedule": "one-cycle"}),
    "clipping": (adam, {"schedule": "one-cycle", "callbacks": [GradientClipping(0.5)]}),
    "bytes": (
        frozen,
        {
            "kind": pf.ImageDataset,
            "scheduler": lambda opt: StepLR(opt, 1),
            "metrics": ["perplexity"],  # which the script leaves out
        },
    ),
    "stacked": (
        grouped,
        {
            "data": {"augment": "translate=0.1", "drop_last": True},
            "precision": "bf16",
            "callbacks": [Stop()],
            "loss_func": nn.CrossEntropyLoss(torch.linspace(0.5, 2, 10)),
        },
    ),
}


@pytest.mark.parametrize(
    "name",
    # The next test has a script with one-cycle.
    [pytest.param("one-cycle", marks=pytest.mark.soak), "clipping", "bytes", "stacked"],
)
def test_the_script_of_a_program_has_its_operations_and_bits(name, graphs, tmp_path):
    make, options = CASES[name]
    history, weights = trained("epoch", make, valid=VALID, **options)
    assert history.run.compile == "epoch"
    assert history.run.valid_program
    script = names_of(history.run.eject(tmp_path / "train.py", echo=None))
    assert script["losses"] == history.step_losses
    assert not differing(load_file(tmp_path / "model.safetensors"), weights)
    assert script["valid_loss"] == history[-1]["valid_loss"]
    assert script.get("valid_accuracy") == history[-1].get("accuracy")
    assert len(graphs) == 4
    # The script's has the choice of the batch, too, and a detach less.
    (*theirs, _), own = graphs[0], graphs[2]
    start = own.index(theirs[0])
    assert own[start : start + len(theirs)] == theirs


def test_the_script_of_a_run(graphs, tmp_path):
    config = RunConfig(
        epochs=1, batch_size=8, model="mlp", schedule="one-cycle", compile="epoch",
        out=tmp_path / "run",
    )  # fmt: skip
    train(config, echo=None)
    eject_run(config.out, tmp_path / "train.py")
    script, record = names_of(tmp_path / "train.py"), read_record(config.out)
    outcome = outcome_of(config.out, record)
    assert script["losses"] == outcome.losses
    assert not differing(load_file(tmp_path / "model.safetensors"), outcome.weights)
    assert record["compiled_validation"]
    assert script["valid_loss"] == record["last"]["valid_loss"]
    assert len(graphs) == 4


def as_program(history):
    """Say of a training that its epochs were programs: no script runs one before its first step."""
    history.run.compile = "epoch"
    return history.run


def test_the_script_of_a_program_is_not_much_longer(tmp_path):
    history, _ = trained(False, sgd)
    eager = code_lines(history.run.eject(tmp_path / "eager.py", echo=None))
    assert code_lines(as_program(history).eject(tmp_path / "train.py", echo=None)) - eager <= 75
    history.run.valid_program = True
    both = history.run.eject(tmp_path / "train.py", force=True, echo=None)
    assert code_lines(both) - eager <= 80


def loss_and_value(out, yb):
    return F.cross_entropy(out, yb), {"size": out.square().mean()}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"callbacks": [Averaging(0.9)]}, "Averaging"),
        ({"callbacks": [GradientAccumulation(2)]}, "GradientAccumulation"),
        ({"callbacks": [Unfreezing([["conv", "norm"], ["lin"]])]}, "Unfreezing"),
        ({"loss_func": loss_and_value}, "values beside the loss"),
    ],
)
def test_what_a_script_has_no_program_with(options, reason, tmp_path):
    history, _ = trained(False, sgd, **options)
    with pytest.raises(EjectError, match=f"no program with {reason}; train with compile='step'"):
        as_program(history).eject(tmp_path / "train.py", echo=None)
    assert not [*tmp_path.iterdir()]


def test_a_script_has_no_program_on_a_gpu(tmp_path):
    history, _ = trained(False, sgd)
    history.run.fingerprint["device"] = "cuda"
    with pytest.raises(EjectError, match="no program with the device cuda; train with"):
        as_program(history).eject(tmp_path / "train.py", echo=None)


def test_metrics_of_the_batches_are_a_part_of_the_program(graphs, tmp_path):
    history, _ = trained("epoch", sgd, train_metrics=["accuracy"])
    with pytest.raises(EjectError, match="this training had train_metrics with compile='epoch'"):
        history.run.eject(tmp_path / "train.py", echo=None)


class Grows(Callback):
    in_program, factor = "within", 0

    def on_epoch_start(self, context):
        self.factor += 1

    def on_loss(self, context):
        context.loss = context.loss * self.factor


def test_programs_for_a_part_of_the_steps_are_no_script(graphs, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    history, _ = trained("epoch", sgd, callbacks=[Grows()])
    with pytest.raises(EjectError, match="this training had a program for a part of its steps"):
        history.run.eject(tmp_path / "train.py", echo=None)


def test_a_program_is_of_level_loop(tmp_path):
    history, _ = trained(False, sgd)
    with pytest.raises(EjectError, match="the lowest level that works is loop"):
        as_program(history).eject(tmp_path / "train.py", level="data", echo=None)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["clipping", "bytes", "stacked"])
def test_a_program_that_is_compiled(name, tmp_path, monkeypatch):
    def run_alone(script, *arguments):
        figures = 'repr((valid_loss, globals().get("valid_accuracy")))'
        told = f"Path({str(tmp_path / 'figures')!r}).write_text({figures})\n"
        script.write_text(script.read_text() + told)
        return verify.run_alone(script, *arguments)

    monkeypatch.setattr("plainfit.eject.run.run_alone", run_alone)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make, options = CASES[name]
    history, _ = trained("epoch", make, valid=VALID, **options)
    assert history.run.compile == "epoch"
    assert history.run.valid_program
    lines = []
    history.run.eject(tmp_path / "train.py", verify=True, echo=lines.append)
    steps = len(history.step_losses)
    assert lines[0].endswith(f"{steps} losses are equal and 9 tensors are equal, bit for bit")
    figures = history[-1]["valid_loss"], history[-1].get("accuracy")
    assert (tmp_path / "figures").read_text() == repr(figures)
