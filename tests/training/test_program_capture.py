"""Steps by calls of one function, as a captured CUDA graph takes them: here that function runs.

What is left to a GPU is the capture itself, which `benchmarks/gpu.py` checks.
"""

import pytest
import torch
import torch.nn.functional as F
from test_programs import BATCH, CASES, LOADERS, arrays, is_program, made, same, sgd, train
from torch import nn
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.common.errors import NonFiniteError
from plainfit.training.callbacks.stopping import NonFiniteGuard
from plainfit.training.hooks import Callback, Context
from plainfit.training.program import Replay, Steps, check_place
from plainfit.training.ranges import why_not
from plainfit.training.tracing import TracedStep, UntraceableError, options_of, traced


@pytest.fixture(autouse=True)
def replayed(monkeypatch):
    make = lambda steps, arguments, echo: (Replay(steps, arguments), "here")  # noqa: E731
    monkeypatch.setattr("plainfit.training.ranges.compiled", make)


def small():
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.1), nn.Linear(10, 10)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize(
    ("build", "name"),
    [(small, "all of them"), (small, "values")]
    + [pytest.param(made, name, marks=pytest.mark.soak) for name in CASES],
)
def test_replays_are_what_a_loop_over_the_graph_is(build, name, monkeypatch):
    def loop(goes_on, step, carried):
        while goes_on(*carried):
            carried = step(*carried)
        return carried

    monkeypatch.setattr("plainfit.training.program.while_loop", loop)
    make, options = CASES[name]
    found = []
    for program in (Replay.__call__, lambda replay, *arguments: replay.steps(*arguments)):
        monkeypatch.setattr(Replay, "__call__", program)
        opt = make(model := build())
        given = {k: v() if k == "callbacks" else v for k, v in options.items()}
        if callable(schedule := given.get("schedule")):
            given["schedule"] = schedule(opt)
        history, notes = train(model, opt, "epoch", epochs=2, **given)
        assert is_program(notes)
        found.append((history, model))
    (ours, model), (loop, other) = found
    assert ours.step_losses == loop.step_losses
    assert same(model, other)
    columns = ours[-1].keys() - {"seconds", "samples_per_second"}
    assert [ours[-1][name] for name in columns] == [loop[-1][name] for name in columns]


class StopAt8(Callback):
    in_program, every_steps = "after", 8

    def on_step_end(self, context):
        if context.global_step == self.every_steps:
            context.stop = "here"


@pytest.mark.parametrize("name", ["in order", pytest.param("augmented", marks=pytest.mark.soak)])
def test_a_replay_goes_on_where_it_was_stopped(name, tmp_path):
    """The batches are gathered from memory, or stacked by the range."""

    def trained(**options):
        model = small()
        opt, dl = torch.optim.Adam(model.parameters()), LOADERS[name]()
        return model, train(model, opt, "epoch", dl=dl, epochs=2, **options)[0].step_losses

    whole, losses = trained()
    assert len(trained(checkpoint=tmp_path, callbacks=[StopAt8()])[1]) == 8
    resumed, again = trained(checkpoint=tmp_path, resume=True)
    assert again == losses
    assert same(resumed, whole)


def test_the_guard_of_an_accelerator_sees_a_loss_before_its_update():
    """It looks at every 100th step there, and a range at each."""

    def trained(compile, guard):
        model = small().apply(lambda part: setattr(part, "p", 0.0))
        x, y = arrays()
        dl = pf.get_data(TensorDataset(x, y), None, BATCH)[0]
        x[dl.order()[3 * BATCH + 5]] = torch.nan  # read in step 3
        with pytest.raises(NonFiniteError) as caught:
            train(model, sgd(model), compile, dl=dl, callbacks=[guard], check_finite=False)
        return str(caught.value), model[1].weight

    (eager, theirs), (message, ours) = (
        trained(False, NonFiniteGuard()),
        trained("epoch", NonFiniteGuard(100)),
    )
    assert message == eager
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def graph_of(model, opt, device="meta", callbacks=()):
    """Return the graph of a step; `meta`, which has no values, is in place of a GPU."""
    context = Context(model, opt, [], callbacks, 1, 5, F.cross_entropy)
    step = TracedStep(context, F.cross_entropy, None)
    batch = torch.zeros(16, 8, 8, device=device), torch.zeros(16, dtype=int, device=device)
    for callback in callbacks:
        callback.on_fit_start(context)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    opt.step()
    opt.zero_grad()
    slots = [*options_of(opt), *step.numbers]
    return traced(step, step.modules(), opt, slots, batch)


@pytest.mark.parametrize("name", ["all of them", "momentum", "RMSprop", "Adagrad", "Adadelta"])
def test_all_of_a_step_is_on_its_device(name):
    """Also where the optimizer counts its steps on the CPU."""
    make, options = CASES[name]
    model = small().float().to("meta")
    callbacks = options.get("callbacks", list)()
    check_place(graph_of(model, make(model), callbacks=callbacks), torch.device("meta"))


def test_numbers_that_are_drawn_on_another_device_are_refused():
    """A replay would keep those of the capture."""

    class Noisy(nn.Linear):
        def forward(self, xb):
            return super().forward(xb.flatten(1)) * torch.rand(())

    model = Noisy(64, 10, device="meta")
    graph = graph_of(model, torch.optim.SGD(model.parameters()))
    with pytest.raises(UntraceableError, match=r"a step on meta computes on cpu too \(rand\)"):
        check_place(graph, torch.device("meta"))


def test_an_operation_that_changes_a_tensor_unsaid_is_refused():
    library = torch.library.Library("plainfit_test", "DEF")
    library.define("count(Tensor x) -> Tensor")  # which would be `Tensor(a!) x`
    library.impl("count", lambda x: x.add_(1).clone(), "CPU")
    library.impl("count", lambda x: x.clone(), "Meta")

    class Counts(nn.Linear):
        def forward(self, xb):
            return super().forward(xb.flatten(1)) + 0 * torch.ops.plainfit_test.count(self.seen)

    model = Counts(64, 10)
    model.register_buffer("seen", torch.zeros(()))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    graph = graph_of(model, opt, "cpu")
    trained, fixed = [each.detach() for each in model.parameters()], [model.seen.clone()]
    columns, numbers = (
        [torch.rand(16, 8, 8), torch.zeros(16, dtype=int)],
        torch.zeros(1, 1).double(),
    )
    rows, end = torch.arange(16).view(1, -1), torch.tensor(0)
    replay = Replay(Steps(graph, 3, True), (trained, fixed, columns, rows, numbers, end, end))
    replay.check(fixed)
    replay.step()
    with pytest.raises(UntraceableError, match="an operation changes a tensor"):
        replay.check(fixed)


def test_norms_are_not_cudnns_which_changes_its_means_unsaid():
    class Look(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (F.batch_norm, F.instance_norm):
                seen.append(torch.backends.cudnn.enabled)
            return func(*args, **kwargs or {})

    seen = []
    norms = nn.BatchNorm1d(8), nn.InstanceNorm1d(8, track_running_stats=True)
    model = nn.Sequential(*norms, small().float()).to("meta")
    with Look():
        graph_of(model, torch.optim.SGD(model.parameters()), "meta")
    assert seen == [True, True, False, False]
    assert torch.backends.cudnn.enabled


def test_recurrent_layers_of_cudnn_are_no_program(monkeypatch):
    monkeypatch.setattr("plainfit.training.ranges.device_of", lambda model: torch.device("cuda"))
    model = nn.Sequential(nn.LSTM(3, 2))
    context = Context(model, torch.optim.SGD(model.parameters()), LOADERS["in order"](), [], 1, 5)
    assert why_not(context) == "the layer 0 has random numbers of cuDNN's own"
