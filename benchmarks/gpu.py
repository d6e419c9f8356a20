"""Check and time plainfit on a GPU: at most 8 minutes, without a network.

It prints PASS or FAIL for each promise, then a table of speed and memory; the exit code is 1 if
something failed. Each part is a process with a limit of its own, as a GPU that has failed in one
process goes on failing there.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import plainfit as pf
from data import find_mnist, prepare, synthetic
from plainfit.common.errors import EjectError, NonFiniteError
from plainfit.data.pieces import Shards
from plainfit.training import pairwise

HERE = Path(__file__).resolve().parent
FORMS = {"epoch": "epoch", "eager": False, "step": "step"}
MODELS = ("mlp", "cnn", "logistic", "conv")  # with dropout and Adam; momentum; plain; batch norm
PEERS = ("keras", "jax", "lightning")
LIMITS = {"checks": 140, "speed": 70}  # seconds of a part
FAILED = 3  # the exit code of a part that has printed what failed
SHARDS = 8  # of a batch in pieces
EPOCHS, STEPS = 4, 10  # of a check; an epoch has a smaller batch besides
HEAD = "|  | way | µs/step | peak MiB | first epoch, s |\n| --- | --- | ---: | ---: | ---: |"
Outcomes = Iterator[tuple[str, bool, str]]


def built(name: str, device: str) -> tuple[nn.Module, Any]:
    """Return a model and its optimizer, of the same seed each time."""
    torch.manual_seed(0)
    if name in ("logistic", "cnn"):
        lr, momentum = {"logistic": (0.5, 0.0), "cnn": (0.1, 0.9)}[name]
        return pf.get_model(name, lr=lr, momentum=momentum, device=device)
    if name == "mlp":
        hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 512), nn.ReLU()]
        model = nn.Sequential(nn.Flatten(), *hidden, nn.Dropout(0.2), nn.Linear(512, 10))
        return model, torch.optim.Adam(model.to(device).parameters())
    first = [nn.Conv2d(1, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
    second = [nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()]
    model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3136, 10)).to(device)
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


class StopAt(pf.Callback):
    """Stop after a step, as a time limit does."""

    in_program, every_steps = "after", 15

    def on_step_end(self, context: Any) -> None:
        """Stop there."""
        if context.global_step == self.every_steps:
            context.stop = "here"


class Work:
    """Trainings in one form, on the same data."""

    def __init__(self, args: argparse.Namespace, form: str) -> None:
        self.args, self.form, self.device = args, form, args.device
        self.bs = 16 if args.tiny else 64
        read = [np.load(args.data / f"{n}_train.npy") for n in "xy"] if not args.tiny else None
        x, y = map(torch.from_numpy, read or synthetic(200, 1)["train"])
        self.all = x.unsqueeze(1).float().div_(256), y
        self.few = tuple(each[: STEPS * self.bs + 5] for each in self.all)
        self.models = args.models if form == "epoch" else args.models[:2]  # compiling takes long
        self.notes = ""

    def loader(self, data: Any) -> Any:
        """Return the batches, in the same order each time."""
        return pf.get_data(TensorDataset(*data), None, self.bs)[0]

    def train(self, made: Any, data: Any = None, epochs: int = EPOCHS, **options: Any) -> Any:
        """Train a model, or one of this name; return the history."""
        self.model, opt = built(made, self.device) if isinstance(made, str) else made
        torch.manual_seed(1)
        lines: list[str] = []
        options = {"loss_func": F.cross_entropy, "echo": lines.append, **options}
        options |= {"opt": opt, "train_dl": self.loader(data or self.few)}
        history = pf.fit(epochs, self.model, compile=FORMS[self.form], **options)
        self.notes = " ".join(line for line in lines if line.startswith("note"))
        return history

    def bits(self, name: str, **options: Any) -> tuple[Any, ...]:
        """Train; return what two equal trainings have in common."""
        losses = self.train(name, **options).step_losses
        return losses, [v.cpu().numpy().tobytes() for v in self.model.state_dict().values()]


def check_bits(work: Work) -> Outcomes:
    """Check the form, that two trainings have the same bits, and one that was resumed."""
    for name in work.models:
        whole = work.bits(name)
        failures = ("not compiled", "cannot be", "nothing is compiled")
        yield f"{name} in this form", not any(f in work.notes for f in failures), work.notes
        begin, end = (statistics.mean(part) for part in (whole[0][:STEPS], whole[0][-STEPS:]))
        yield f"{name} learns", end < begin, f"{begin:.3f} to {end:.3f}"
        yield f"{name} twice, the same bits", whole == work.bits(name), ""
        with tempfile.TemporaryDirectory() as folder:
            work.train(name, checkpoint=folder, callbacks=[StopAt()])
            resumed = work.bits(name, checkpoint=folder, resume=True)
        yield f"{name} resumed within an epoch, the same bits", whole == resumed, ""


def check_float64(work: Work) -> Outcomes:
    """Check the losses in float64 by a loop by hand."""
    data = work.few[0].double(), work.few[1]
    for name in (name for name in work.models if name != "mlp"):  # which draws its dropout
        model, opt = built(name, work.device)
        losses = work.train((model.double(), opt), data, epochs=2).step_losses
        model, opt = built(name, work.device)
        dl = work.loader(data)
        theirs = by_hand(model.double(), opt, [batch for _ in range(2) for batch in dl]).tolist()
        most = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
        yield f"{name} in float64, as by hand", most < 1e-9, f"differs by {most:.1e}"


def check_guard(work: Work) -> Outcomes:
    """Check that a NaN stops the training; in eager steps on a GPU, some steps later."""
    data = work.few[0].clone(), work.few[1]
    data[0][work.loader(data).order()[5 * work.bs]] = torch.nan
    try:
        work.train(work.models[0], data, epochs=1)
        text = "no error"
    except NonFiniteError as error:
        text = str(error)
    expected = "step 5 (" if work.form == "epoch" else "epoch 0, step "
    yield "a NaN stops the training", expected in text, text


def check_dropout(work: Work) -> Outcomes:
    """Check that the zeros of masks are half, and spread from step to step as if independent."""
    layers = nn.Flatten(), nn.Linear(784, 500), nn.Dropout(0.5)
    model = nn.Sequential(*layers).to(work.device)
    made = model, torch.optim.SGD(model.parameters(), lr=0.0)
    zeros = lambda out, yb: (out == 0).double().mean() + 0 * out.sum()  # noqa: E731
    shares = work.train(made, epochs=12, loss_func=zeros).step_losses
    shares = [share for i, share in enumerate(shares) if i % (STEPS + 1) < STEPS]
    expected = 0.5 / (500 * work.bs) ** 0.5
    mean = (statistics.mean(shares) - 0.5) / expected * len(shares) ** 0.5
    spread = statistics.stdev(shares) / expected
    yield "masks", abs(mean) < 4 and 0.7 < spread < 1.4, f"mean {mean:+.2f}, spread {spread:.2f}"


def check_eject(work: Work) -> Outcomes:
    """Check a script by running it; one of a program is refused on a GPU."""
    for name in () if work.args.tiny else work.models[:2]:
        history, lines = work.train(name), []
        with tempfile.TemporaryDirectory() as folder:
            try:
                history.run.eject(Path(folder, "train.py"), verify=True, echo=lines.append)
            except EjectError as error:
                lines = [f"refused: {error}"]
        is_refused = lines[0].startswith("refused: ")
        as_it_should = work.form == "epoch" and "no program with the device" in lines[0]
        yield f"{name} as a script", as_it_should or not is_refused, " ".join(lines)


def check_processes(work: Work) -> Outcomes:
    """Check batches in pieces, and the exchange between processes with one of them, on NCCL."""
    if work.form != "eager":
        return
    for name in work.models:
        one, other = (work.bits(name, shards=SHARDS) for _ in range(2))
        yield f"{name} in {SHARDS} pieces twice, the same bits", one == other, ""
    backend = "gloo" if work.device == "cpu" else "nccl"
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(f"{folder}/store", 1)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            torch.manual_seed(2)
            rows = torch.randn(SHARDS, 1001, device=work.device)
            expected = pairwise.root({(0, n): [row] for n, row in enumerate(rows)}, SHARDS)[0]
            owned = [[(0, number) for number in range(SHARDS)]]
            found = pairwise.exchanged([*rows], owned, SHARDS, Shards(SHARDS))
            total = rows.sum(0)
            dist.all_reduce(total)
        finally:
            dist.destroy_process_group()
    yield f"the exchange on {backend}, the same bits", torch.equal(found, expected), ""
    yield f"all_reduce on {backend}", torch.equal(total, rows.sum(0)), ""


CHECKS = (check_bits, check_float64, check_guard, check_dropout, check_eject, check_processes)


def checks(args: argparse.Namespace, form: str) -> int:
    """Print the outcomes in a form; return how many failed."""
    work, failed = Work(args, form), 0
    torch.backends.cudnn.deterministic = True  # by default, two runs of torch itself may differ
    for check in CHECKS:
        try:
            for name, passed, text in check(work):
                failed += not passed
                print(f"{'PASS' if passed else 'FAIL'}  {form}: {name}  {text[:300]}", flush=True)
        except Exception as error:
            failed += 1
            text = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"FAIL  {form}: {check.__name__}  {text[:300]}", flush=True)
    return failed


def by_hand(model: nn.Module, opt: Any, batches: Any) -> Tensor:
    """Train by the plainest loop, which waits for nothing; return the losses."""
    losses, device = [], next(model.parameters()).device
    for xb, yb in batches:
        loss = F.cross_entropy(model(xb.to(device)), yb.to(device))
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def speed(args: argparse.Namespace, name: str) -> int:
    """Print a row for each way to train a model, with the data on the device."""
    work, epochs = Work(args, "eager"), 4 if args.quick or args.tiny else 8
    x, y = data = tuple(each.to(args.device) for each in work.all)
    for way in ("loop by hand", *args.forms):
        if args.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        if way in FORMS:
            work.form = way
            seconds = [row["seconds"] for row in work.train(name, data, epochs).epochs]
        else:
            (model, opt), seconds = built(name, args.device), []
            for _ in range(epochs):
                began = time.perf_counter()
                order = torch.randperm(len(x), device=args.device).split(work.bs)
                by_hand(model, opt, ((x[rows], y[rows]) for rows in order)).tolist()
                seconds.append(time.perf_counter() - began)
        step = statistics.median(seconds[2:]) / -(-len(x) // work.bs) * 1e6
        peak = "" if args.device == "cpu" else f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
        row = (name, way, f"{step:.1f}", peak, f"{seconds[0]:.2f}")
        print(f"| {' | '.join(row)} |", flush=True)
    return 0


def peer(args: argparse.Namespace, name: str, model: str, limit: float) -> None:
    """Print the row of another library's program in `peers`, if that library is there."""
    command = [sys.executable, HERE / "peers" / f"{name}_.py", "--data", args.data]
    command += ["--model", model, "--epochs", "4"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        line = json.loads(done.stdout.splitlines()[-1])
        first, *later = (epoch["train_seconds"] for epoch in line["epochs"])
        row = f"{statistics.median(later) / line['steps'] * 1e6:.1f} |  | {first:.2f}"
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        is_there = importlib.util.find_spec(name)
        row = f"{type(error).__name__ if is_there else 'not installed'} |  | "
    print(f"| {model} | {name} | {row} |", flush=True)


def run(args: argparse.Namespace, kind: str, of: str, end: float) -> int:
    """Run a part, in a process of its own if it is not a tiny one; return whether it failed."""
    if args.tiny or args.part:
        return int({"checks": checks, "speed": speed}[kind](args, of) > 0)
    limit = max(1.0, min(LIMITS[kind], end - time.perf_counter()))
    command = [sys.executable, __file__, "--part", kind, of, "--data", args.data]
    command += ["--device", args.device, "--forms", ",".join(args.forms)]
    command += ["--models", ",".join(args.models), *["--quick"] * args.quick]
    try:
        code = subprocess.run(command, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        code = "the limit of time"
    if code not in (0, FAILED):
        print(f"FAIL  {kind} {of}: ended by {code}", flush=True)
    return int(code != 0)


def main(argv: list[str] | None = None) -> int:
    """Run all parts within the time; return 1 if one failed."""
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs, no peers")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="little data, all in this process")
    parser.add_argument("--forms", type=names, default=list(FORMS), help=",".join(FORMS))
    parser.add_argument("--models", type=names, default=list(MODELS), help=",".join(MODELS))
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; `--device cpu --tiny` tries this program itself")
    if args.part:
        return FAILED * run(args, *args.part, 0)
    end, failed = time.perf_counter() + 470, 0
    with tempfile.TemporaryDirectory() as folder:
        args.data = Path(folder)
        data = "few" if args.tiny else prepare(args.data, find_mnist(None))
        on = "the CPU" if args.device == "cpu" else torch.cuda.get_device_name()
        print(f"torch {torch.__version__} on {on}, data: {data}", flush=True)
        failed += sum(run(args, "checks", form, end) for form in args.forms)
        print(HEAD, flush=True)
        failed += sum(run(args, "speed", name, end) for name in args.models)
        for name, model in product(() if args.quick or args.tiny else PEERS, ("logistic", "cnn")):
            peer(args, name, model, max(1.0, min(40.0, end - time.perf_counter())))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
