"""What makes a training faster: which bits stay, and what is said where something cannot be had."""

import json
import subprocess
import sys
import warnings
import weakref
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.common.devices import cpu_threads, threads_for
from plainfit.common.errors import ConfigError, NonFiniteError
from plainfit.models.networks import MLP, LogisticRegression, MnistCNN, ResNet
from plainfit.models.weights import load_model
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from plainfit.training.callbacks import (
    Averaging,
    BestWeights,
    GradientAccumulation,
    GradientClipping,
    LossScaling,
    NonFiniteGuard,
)
from plainfit.training.compiling import OneGraph
from plainfit.training.session import (
    KEPT,
    MIB,
    USUAL,
    find_glibc,
    kept_memory,
)
from small import batches, fit, mallinfo, network, plain, same, samples, sgd, taken

SINGLE = {"dtype": torch.float32}
needs_glibc = pytest.mark.skipif(
    not hasattr(find_glibc(), "mallinfo2"), reason="the C library is not glibc 2.33 or newer"
)
LIKE_A_STEP = """
import resource
from plainfit.training.session import kept_memory
from small import taken

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        [b"1" * 25_000_000 for _ in range(4)]  # 100 MB: more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for keep in (False, True):
    with kept_memory(keep):
        faults()
        print(faults(), taken())
"""
PEAK = """
import resource, sys
import torch
import torch.nn.functional as F
from torch import nn
import plainfit as pf

what, words = sys.argv[1], int(sys.argv[2])
model = nn.Sequential(nn.Embedding(words, 16), nn.Linear(16, words))
opt = torch.optim.SGD(model.parameters(), lr=0.1)

def loss_func(out, yb):
    return F.cross_entropy(out.flatten(0, 1), yb.flatten())

def loader():
    for _ in range(50):
        yield torch.randint(words, (8, 64)), torch.randint(words, (8, 64))

if what == "a loop":
    for xb, yb in loader():
        loss = loss_func(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        loss.item()
elif what == "a loop without gradients":
    with torch.no_grad():
        for xb, yb in loader():
            loss_func(model(xb), yb).item()
elif what == "validate":
    pf.validate(model, loss_func, loader())
else:
    pf.fit(1, model, loss_func, opt, loader, echo=None, keep_memory=what == "fit")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


# --- memory ---


@needs_glibc
def test_kept_memory_has_no_page_faults():
    command = [sys.executable, "-c", LIKE_A_STEP]
    output = subprocess.check_output(command, text=True, cwd=Path(__file__).parents[1])
    _, given_back, faults, kept = map(int, output.split())
    assert kept - given_back > 64 * MIB
    assert faults < 100  # otherwise 24,000 each time, where pages have 4 KiB


def test_kept_memory_without_glibc_does_nothing(monkeypatch):
    monkeypatch.setattr("plainfit.training.session.find_glibc", lambda: None)
    with kept_memory():
        assert torch.ones(2).sum() == 2


class Glibc:
    """What a training sets, and how often it gives memory back."""

    def __init__(self):
        self.options, self.trims = {}, 0

    def mallopt(self, parameter, value):
        self.options[parameter] = value
        return 1

    def malloc_trim(self, pad):
        self.trims += 1


def test_kept_memory_sets_thresholds_until_it_ends(monkeypatch):
    glibc = Glibc()
    monkeypatch.setattr("plainfit.training.session.find_glibc", lambda: glibc)
    with kept_memory():
        assert (glibc.options, glibc.trims) == (KEPT, 0)
    assert (glibc.options, glibc.trims) == (USUAL, 1)


def test_memory_changes_no_bits():
    models = network(), network()
    losses = [
        fit(model, sgd(model), batches(5, 5), keep_memory=keep).step_losses
        for model, keep in zip(models, (True, False), strict=True)
    ]
    assert losses[0] == losses[1]
    assert same(*models)


class Taken(pf.Callback):
    """The memory that is taken after each step, in bytes."""

    observer = True

    def __init__(self):
        self.after = []

    def on_step_end(self, context=None):
        self.after.append(taken())


@needs_glibc
def test_blocks_over_32_mib_go_back_at_once():
    """On the heap, each one freed was a hole too small for the next: twice a loop's memory."""
    with kept_memory():
        before = taken()
        block = torch.empty(mallinfo().fordblks + 48 * MIB, dtype=torch.uint8)  # fits in no hole
        during = taken()
        del block
        after = taken()
    assert during - before > 40 * MIB > 8 * MIB > after - before


@pytest.mark.parametrize("what", ["fit", "fit with a limit", "validate"])
def test_nothing_of_a_batch_is_held_while_the_next_one_is_read(what):
    """What is held lies between the large tensors of two steps, and keeps them apart."""
    refs, held = [], []

    def watched():
        for _ in range(3):
            refs[:] = []
            batch = torch.rand(4, 5), torch.rand(4, 1)
            refs.extend(map(weakref.ref, batch))
            yield batch
            del batch
            held.append([ref() is not None for ref in refs])

    def loss_func(out, yb):
        loss = F.mse_loss(out, yb)
        refs.extend([weakref.ref(out), weakref.ref(loss)])
        return loss

    class Watch(pf.Callback):
        def on_step_end(self, context):
            refs.append(weakref.ref(context.loss))

    model = nn.Linear(5, 1)
    if what == "validate":
        pf.validate(model, loss_func, watched())
    else:
        limit = {"max_steps": 4} if "limit" in what else {}
        fit(model, sgd(model), watched, epochs=1, loss_func=loss_func, callbacks=[Watch()], **limit)
    assert held == [[False] * (4 if what == "validate" else 5)] * 3


@needs_glibc
@pytest.mark.parametrize(
    "words",
    [
        8_000,
        pytest.param(2_000, marks=pytest.mark.soak),
        pytest.param(32_000, marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("what", ["fit", "fit without kept memory", "validate"])
def test_memory_does_not_grow_with_the_steps(what, words):
    """Small tensors kept from each step lay between the large ones: 1 batch of scores a step."""
    model = nn.Sequential(nn.Embedding(words, 16), nn.Linear(16, words))
    xb = torch.zeros(8, 64, dtype=torch.int64)
    watch, steps = Taken(), 26

    def loss_func(out, yb):
        return F.cross_entropy(out.flatten(0, 1), yb.flatten())

    def watched():
        for _ in range(steps):
            yield xb, xb
            watch.on_step_end()

    if what == "validate":
        pf.validate(model, loss_func, watched())
    else:
        keep = what == "fit"
        fit(model, sgd(model), [(xb, xb)] * steps, epochs=1, loss_func=loss_func,
            callbacks=[watch], keep_memory=keep)  # fmt: skip
    assert watch.after[-1] - watch.after[9] < 12 * xb.numel() * words * 4


@pytest.mark.soak
@needs_glibc
@pytest.mark.parametrize("words", [2_000, 8_000, 32_000])
def test_peak_memory_is_that_of_a_loop_by_hand(words):
    def peak(what):
        command = [sys.executable, "-c", PEAK, what, str(words)]
        run = partial(subprocess.run, command, capture_output=True, text=True, check=True)
        return median(int(run().stdout) for _ in range(3))  # of one loop, they differ by a tenth

    by_hand = peak("a loop")
    assert peak("fit") < 1.1 * by_hand
    assert peak("fit without kept memory") < 1.1 * by_hand
    assert peak("validate") < 1.1 * peak("a loop without gradients")


# --- threads ---


@pytest.mark.parametrize(
    ("model", "batch_size", "small"),
    [
        (LogisticRegression(), 64, True),  # 3 million operations
        (MLP(), 64, False),  # 42 million
        (MLP(), 16, True),  # 10 million
        (MnistCNN(), 64, False),  # 90 million
        (ResNet(), 64, False),
    ],
)
def test_small_steps_get_one_thread(model, batch_size, small):
    model.train()
    with cpu_threads(2):
        found = threads_for(model, torch.zeros(1, 1, 28, 28), batch_size)
    assert found == (1 if small else 2)
    assert model.training


def test_threads_are_put_back_and_recorded(tmp_path):
    before = torch.get_num_threads()
    out = tmp_path / "run"
    train(RunConfig(model="logistic", epochs=1, threads=2, out=out), echo=None)
    assert torch.get_num_threads() == before
    assert json.loads((out / "run.json").read_text())["fingerprint"]["threads"] == 2


# --- optimizers and layouts ---


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fused_is_torchs_fused(momentum):
    model, opt = pf.get_model("mlp", lr=0.1, momentum=momentum, input_shape=(4,), fused=True)
    other, _ = pf.get_model("mlp", input_shape=(4,))
    theirs = torch.optim.SGD(other.parameters(), lr=0.1, momentum=momentum, fused=True)
    dl = batches(8, 8, 3, **SINGLE)
    assert fit(model, opt, dl).step_losses == plain(other, theirs, dl)
    assert same(model, other)


def test_fused_rmsprop_is_refused():
    with pytest.raises(ConfigError, match="fused applies to sgd, adam and adamw only, got"):
        pf.get_model("mlp", optimizer="rmsprop", fused=True)


def test_channels_last_is_how_the_weights_lie():
    plain_model, _ = pf.get_model("cnn")
    model, _ = pf.get_model("cnn", channels_last=True)
    weight = model.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert same(model, plain_model)
    xb = torch.rand(3, 1, 28, 28)
    assert torch.allclose(model(xb), plain_model(xb), atol=1e-6)


# --- precision ---


def amp_loop(model, opt, dl, dtype, scaler=None, max_norm=None, epochs=2):
    """Mixed precision as torch's documentation writes it."""
    losses = []
    for _ in range(epochs):
        for xb, yb in dl:
            with torch.autocast("cpu", dtype=dtype):
                loss = F.cross_entropy(model(xb), yb)
            (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.unscale_(opt)
            if max_norm:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            scaler.step(opt) if scaler else opt.step()
            if scaler:
                scaler.update()
            opt.zero_grad()
            losses.append(loss.item())
    return losses


def test_bf16_is_torchs_autocast():
    ours, theirs, full = (network(torch.float32) for _ in range(3))
    dl = batches(8, 8, 3, **SINGLE)
    losses = fit(ours, sgd(ours), dl, precision="bf16").step_losses
    assert losses == amp_loop(theirs, sgd(theirs), dl, torch.bfloat16)
    assert same(ours, theirs)
    assert losses != fit(full, sgd(full), dl).step_losses  # so it did something


def test_fp16_is_torchs_scaler_with_clipping():
    ours, theirs = network(torch.float32), network(torch.float32)
    dl = batches(8, 8, 3, **SINGLE)
    options = {"precision": "fp16", "callbacks": [GradientClipping(0.5)]}
    losses = fit(ours, sgd(ours, momentum=0.9), dl, **options).step_losses
    scaler = torch.amp.GradScaler("cpu")
    opt = sgd(theirs, momentum=0.9)
    assert losses == amp_loop(theirs, opt, dl, torch.float16, scaler, max_norm=0.5)
    assert same(ours, theirs)


def test_a_scale_that_overflows_leaves_the_step_out_and_halves():
    ours, theirs = network(torch.float32), network(torch.float32)
    dl = batches(8, 8, **SINGLE)
    scaling = LossScaling()
    scaling.scale = 2.0**140  # beyond float32
    with pytest.raises(NonFiniteError, match="until epoch 1, step 0, down to a loss scale of"):
        fit(ours, sgd(ours), dl, epochs=1, callbacks=[scaling])  # no step was taken at all
    assert same(ours, theirs)
    assert scaling.scale == 2.0**138


@pytest.mark.parametrize("scale", [2.0**16, 2.0**20])
def test_a_training_whose_every_step_is_skipped_stops(scale):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.zero = nn.Linear(4, 3), nn.Parameter(torch.zeros(1))

        def forward(self, xb):  # a finite loss, with the derivative 0 * inf of the root
            return self.layer(xb) + (self.zero * 0).sqrt()

    model, scaling = Broken(), LossScaling()
    scaling.scale = scale
    steps = 30 if scale == 2.0**16 else 34  # until the scale is below 1e-4
    with pytest.raises(NonFiniteError, match=f"step {steps - 1}, down to a loss scale of 0.000122"):
        fit(model, sgd(model), batches(*[4] * 50, **SINGLE), epochs=1, callbacks=[scaling])


def test_a_scale_that_holds_doubles_and_is_kept(monkeypatch):
    monkeypatch.setattr("plainfit.training.callbacks.optimization.GROWTH_STEPS", 3)
    scaling, model = LossScaling(), network()
    fit(model, sgd(model), batches(5, 5), callbacks=[scaling])
    assert (scaling.scale, scaling.good_steps) == (2.0**17, 1)
    again = LossScaling()
    again.load_state_dict(scaling.state_dict())
    assert (again.scale, again.good_steps) == (2.0**17, 1)


def test_validation_is_in_the_same_precision():
    seen = []
    model = network(torch.float32)

    def loss_func(out, yb):
        seen.append((torch.is_grad_enabled(), out.dtype))
        return F.cross_entropy(out, yb)

    dl = batches(8, **SINGLE)
    fit(model, sgd(model), dl, dl, loss_func=loss_func, epochs=1, precision="bf16")
    assert seen == [(True, torch.bfloat16), (False, torch.bfloat16)]
    assert not torch.is_autocast_enabled("cpu")


def test_an_unknown_precision_is_named():
    model = network()
    with pytest.raises(ConfigError, match=r"'fp61'.*did you mean.*fp16"):
        fit(model, sgd(model), batches(5), precision="fp61")


# --- compile ---


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def compiler(request, monkeypatch):
    """A compiler that has compiled nothing yet: to calls of torch, or to C++.

    The second needs a C++ compiler, and 40 s where torch's cache is empty.
    """
    inductor = request.param == "inductor"
    if inductor and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch compiles vectorised code only, and ATEN_CPU_CAPABILITY=default has none")
    if not inductor:
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
    torch._dynamo.reset()


def train_compiled(model, dl, epochs=12, loss_func=F.cross_entropy, **options):
    """Train; return the losses and what is said, but that compiling begins."""
    lines = []
    options = {"compile": "step", "echo": lines.append, **options}
    history = pf.fit(epochs, model, loss_func, sgd(model), dl, None, **options)
    lines.remove("note   compiling: this takes some seconds")
    return history.step_losses, [line for line in lines if line.startswith("note")]


class Shared(nn.Module):
    """What one graph could get wrong: batch norm, a weight or a gradient for two, no gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight
        self.head.weight.requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.one, self.other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
        self.unused = nn.Parameter(torch.ones(3))
        self.double()

    def forward(self, xb):
        return self.head(self.norm(self.second(self.first(xb).tanh()))) + self.one + self.other


RAGGED = batches(8, 8, 8, 3)


@pytest.mark.usefixtures("compiler")
def test_compiled_losses_are_near_the_cost_is_said_and_a_resume_has_their_bits(tmp_path):
    ours, theirs, stopped = Shared(), Shared(), Shared()
    losses, notes = train_compiled(ours, RAGGED, epochs=9)
    expected = plain(theirs, sgd(theirs), RAGGED, epochs=9)
    assert losses == pytest.approx(expected, abs=1e-12)  # in float64
    (note,) = notes
    assert note.startswith("note   compiled in ")
    assert " ms instead of " in note
    train_compiled(stopped, RAGGED, epochs=4, checkpoint=tmp_path)
    resumed, _ = train_compiled(stopped, RAGGED, epochs=9, checkpoint=tmp_path, resume=True)
    assert resumed == losses
    assert same(ours, stopped)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "callbacks",
    [
        pytest.param(lambda: [GradientClipping(0.1)], id="clipping", marks=pytest.mark.soak),
        pytest.param(lambda: [GradientAccumulation(3)], id="accumulation"),
    ],
)
def test_compiled_gradients_are_autograds(callbacks):
    ours, theirs = Shared(), Shared()
    dl = batches(8, 8, 8, 8)
    options = {"callbacks": callbacks(), "schedule": "one-cycle"}
    losses, (note,) = train_compiled(ours, dl, epochs=8, **options)
    assert note.startswith("note   compiled in ")
    options = {"callbacks": callbacks(), "schedule": "one-cycle", "echo": None}
    expected = pf.fit(8, theirs, F.cross_entropy, sgd(theirs), dl, None, **options)
    assert losses == pytest.approx(expected.step_losses, abs=1e-12)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, rtol=0, atol=1e-9), name


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("ends", ["finished", "failed", "failed at once"])
def test_the_settings_of_the_compiler_are_as_before_afterwards(before, ends, monkeypatch):
    def compile(*_, **__):
        sys.path.append("of setuptools")  # which torch's compiler imports
        if ends == "failed at once":
            raise RuntimeError("the test")

    class Look(pf.Callback):
        def on_epoch_start(self, context):
            seen.append(torch._dynamo.config.trace_autograd_ops)
            if ends == "failed":
                raise RuntimeError("the test")

    seen, path = [], list(sys.path)
    model = network()
    monkeypatch.setattr(torch, "compile", compile)
    with torch._dynamo.config.patch(trace_autograd_ops=before):
        with suppress(RuntimeError):  # the first steps are not compiled: this needs no compiler
            fit(model, sgd(model), batches(5), epochs=1, compile="step", callbacks=[Look()])
        assert seen == [True]
        assert torch._dynamo.config.trace_autograd_ops is before
    assert sys.path == path


def test_graphs_on_a_gpu_draw_by_torchs_own_kernels_until_fit_ends():
    class Look(pf.Callback):
        def on_epoch_start(self, context):
            found.append(torch._inductor.config.fallback_random)
            OneGraph(nn.Linear(1, 1, device="meta"), F.mse_loss)
            found.append(torch._inductor.config.fallback_random)

    found, model = [], network()
    fit(model, sgd(model), batches(5), epochs=1, compile="step", callbacks=[Look()])
    assert [*found, torch._inductor.config.fallback_random] == [False, True, False]


class Texts(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, width), nn.Linear(width, 3)
        self.double()

    def forward(self, xb):
        return self.head(self.embed(xb).mean(1))


def texts(*lengths):
    g = torch.Generator().manual_seed(0)
    return [
        (torch.randint(20, (4, n), generator=g), torch.randint(3, (4,), generator=g))
        for n in lengths
    ]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "callbacks",
    [
        pytest.param([], id="gradients in the graph"),
        pytest.param([GradientAccumulation(2)], id="by autograd", marks=pytest.mark.soak),
    ],
)
def test_batches_of_many_shapes_share_a_graph(callbacks):
    ours, theirs = Texts(), Texts()
    dl = texts(*[5] * 10, *range(3, 9))
    losses, (note, done) = train_compiled(ours, dl, epochs=3, callbacks=callbacks)
    options = {"callbacks": callbacks, "epochs": 3}
    assert losses == pytest.approx(fit(theirs, sgd(theirs), dl, **options).step_losses, abs=1e-12)
    assert note == (
        "note   batches of more than 4 shapes: the others share a graph, and the last bits of a "
        "resumed training may differ"
    )
    assert done.startswith("note   compiled in ")


@pytest.mark.usefixtures("compiler")
@torch._dynamo.config.patch(recompile_limit=1)
def test_the_graphs_of_other_trainings_do_not_count():
    for width in (4, 5):
        _, (note,) = train_compiled(Texts(width), texts(5, 5, 5, 5), epochs=9)
        assert note.startswith("note   compiled in ")


@pytest.mark.usefixtures("compiler")
@torch._dynamo.config.patch(recompile_limit=1)
def test_too_many_graphs_of_one_training_go_on_without():
    ours, theirs = Texts(), Texts()
    dl = texts(5, 5, 5, 4)
    losses, (note,) = train_compiled(ours, dl, epochs=9)
    assert losses == pytest.approx(plain(theirs, sgd(theirs), dl, epochs=9), abs=1e-12)
    assert note.startswith("note   not compiled, goes on without: FailOnRecompileLimitHit: ")


@pytest.mark.parametrize("fails", ["compile", "forward", "backward"])
def test_any_failure_to_compile_goes_on_without(fails, monkeypatch):
    real, compiled = torch.compile, []

    def backend(graph, _):
        def compile(part, _):
            compiled.append(part)
            if len(compiled) == 1 + (fails == "backward"):
                raise OSError("the disk of the compiler is full")
            return make_boxed_func(part)

        return aot_autograd(fw_compiler=compile, bw_compiler=compile)(graph, _)

    def compile(*args, **options):
        if fails == "compile":
            raise RuntimeError("torch.compile is not supported here")
        return real(*args, **options, backend=backend)

    monkeypatch.setattr(torch, "compile", compile)
    ours, theirs = network(), network()
    dl = batches(7, 7)
    options = {"callbacks": [GradientAccumulation(2)]}  # with a backward pass by autograd
    losses, (note,) = train_compiled(ours, dl, **options)
    assert losses == fit(theirs, sgd(theirs), dl, epochs=12, **options).step_losses
    assert same(ours, theirs)
    assert note.startswith("note   not compiled, goes on without: ")


def test_a_loss_with_values_beside_it_is_no_graph():
    model = network()
    losses, (note,) = train_compiled(model, batches(7, 7), train_metrics=[pf.accuracy])
    theirs = network()
    assert losses == plain(theirs, sgd(theirs), batches(7, 7), epochs=12)
    assert note.endswith(
        "a graph gives the loss alone, and train_metrics or values by name are beside it"
    )


def test_a_training_that_could_not_be_compiled_is_ejected_as_it_was(monkeypatch, tmp_path):
    def compile(*args, **options):
        raise RuntimeError("torch.compile is not supported here")

    monkeypatch.setattr(torch, "compile", compile)
    model, opt = pf.get_model("mlp", input_shape=(4,), classes=3)
    dl = pf.get_data(*2 * [TensorDataset(*samples(20, torch.float32))], 5)[0]
    history = fit(model, opt, dl, epochs=4, compile="step")
    script = history.run.eject(tmp_path / "train.py", echo=None)
    assert "OneGraph" not in script.read_text()


@pytest.mark.usefixtures("compiler")
def test_an_error_of_the_model_is_none_of_the_compiler():
    dl = batches(*[5] * 11)
    dl.append((torch.zeros(5, 3, dtype=torch.float64), dl[0][1]))
    model = network()
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        train_compiled(model, dl)
    assert caught.value.__context__ is None


def compiled(model, where):
    if where == "model":
        return torch.compile(model)
    if where == "layer":
        model[0] = torch.compile(model[0])
    return model


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("where", ["model", "layer"])
def test_a_model_that_is_compiled_before_has_plain_names(where, tmp_path):
    """In the files of one half, which continue with a model that is not compiled, and back."""
    whole = network()
    options = {"callbacks": [Averaging(0.9), BestWeights(tmp_path / "best.safetensors")]}
    dl = batches(5, 5)
    losses = fit(whole, sgd(whole), dl, dl, epochs=6, **options).step_losses
    options["checkpoint"] = tmp_path
    for epochs, at in ((2, where), (4, ""), (6, where)):
        model = compiled(network(), at)
        found = fit(model, sgd(model), dl, dl, epochs=epochs, resume=epochs > 2, **options)
    assert found.step_losses == pytest.approx(losses, abs=1e-12)
    names = set(network().state_dict())
    assert set(load_file(tmp_path / "best.safetensors")) == names
    for path in tmp_path.glob("0*.safetensors"):
        assert not [name for name in load_file(path) if "_orig_mod" in name]
    for at in ("", where):
        loaded = compiled(network(), at)
        load_model(loaded, tmp_path / "best.safetensors")
        expected = whole.state_dict().values()
        for value, wanted in zip(loaded.state_dict().values(), expected, strict=True):
            assert torch.allclose(value, wanted, rtol=0, atol=1e-9)


@pytest.mark.soak
@pytest.mark.usefixtures("compiler")
def test_a_layer_that_is_thawed_is_trained_by_the_graph():
    model = network(torch.float32)
    first = next(model.parameters()).requires_grad_(False)
    before = first.clone()
    graph, opt = OneGraph(model, F.cross_entropy), sgd(model)
    for is_trained in (False, True):
        first.requires_grad_(is_trained)
        for xb, yb in batches(8, 8, **SINGLE):
            graph(xb, yb).backward()
            opt.step()
            opt.zero_grad()
        assert torch.equal(first, before) == (not is_trained)


class Breaks(nn.Module):
    """Decides by a value, which no graph can."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 3).double()

    def forward(self, xb):
        out = self.lin(xb)
        return out * 2 if float(out.detach().sum()) > 0 else out


@pytest.mark.usefixtures("compiler")
def test_a_model_that_breaks_the_graph_goes_on_without():
    torch.manual_seed(0)
    ours = Breaks()
    torch.manual_seed(0)
    theirs = Breaks()
    dl = batches(8, 8)
    losses, notes = train_compiled(ours, dl)
    assert losses == plain(theirs, sgd(theirs), dl, epochs=12)
    (note,) = notes
    assert note.startswith("note   not compiled, goes on without: ")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch uses what it has deprecated
def test_a_missing_compiler_goes_on_without():
    without = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    ours, theirs = network(), network()
    dl = batches(7, 7)
    with torch._inductor.config.patch(without):
        losses, notes = train_compiled(ours, dl)
    assert losses == plain(theirs, sgd(theirs), dl, epochs=12)
    (note,) = notes
    assert note.startswith("note   not compiled, goes on without: ")


# --- the guard that does not hold up an accelerator ---


def test_a_guard_that_looks_seldom_names_the_step():
    model = network()
    dl = batches(5, 5, 5, 5, 5)
    dl[2][0][1, 0] = float("nan")
    options = {"check_finite": False, "callbacks": [NonFiniteGuard(every=4)]}
    with pytest.raises(NonFiniteError, match=r"is nan in epoch 0, step 2; seen after step 3,"):
        fit(model, sgd(model), dl, **options)


@pytest.mark.parametrize("kind", ["tuple", "mapping"])
def test_several_inputs_are_compiled(kind, compiler):
    class Bilinear(nn.Bilinear):
        def forward(self, one, two):
            return super().forward(one, two)

    one, two, y = torch.randn(40, 3), torch.randn(40, 3), torch.randint(2, (40,))
    dl = list(zip(one.split(2), two.split(2), y.split(2), strict=True))
    if kind == "mapping":
        dl = [({"two": b, "one": a}, yb) for a, b, yb in dl]
    losses = []
    for compile in (False, True):
        torch.manual_seed(0)
        model = Bilinear(3, 3, 2)
        opt = sgd(model)
        lines = []
        history = pf.fit(
            1,
            model,
            F.cross_entropy,
            opt,
            dl,
            compile="step" if compile else False,
            echo=lines.append,
        )
        losses.append(history.step_losses)
    assert not any("not compiled" in line for line in lines)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
