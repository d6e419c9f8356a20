"""The loop of a script: the facts that fill in `templates/loop.py.jinja`."""

import math
from textwrap import wrap
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from plainfit.common.errors import EjectError
from plainfit.data.batches import batch_size
from plainfit.eject.data import DataText
from plainfit.eject.lifting import Lifter
from plainfit.eject.optimizer import OptimizerText, same, scheduler_text
from plainfit.eject.recipe import Recipe
from plainfit.eject.source import literal, place, rendered
from plainfit.eject.values import expression, named
from plainfit.training import callbacks as cb
from plainfit.training.callbacks.optimization import FIRST_SCALE, GROWTH_STEPS, parameters_of
from plainfit.training.compiling import DTYPES, PLAIN_STEPS, gradients_in_graph
from plainfit.training.history import HEADINGS, SHAPES, WIDTH, heading_line
from plainfit.training.metrics import is_streaming, metric_name
from plainfit.training.schedules import Schedule
from plainfit.training.tracing import OPTIONS, options_of

# The callbacks that the template has statements for, by the name that they have in it.
TRANSFORMERS = {
    "accumulation": cb.GradientAccumulation,
    "averaging": cb.Averaging,
    "clipping": cb.GradientClipping,
    "keeps_best": cb.EarlyStopping,  # with `restore_best`
    "one_batch": cb.OverfitOneBatch,
    "rates": cb.LearningRate,
    "scaling": cb.LossScaling,
    "scheduler": cb.TorchScheduler,
    "unfreezing": cb.Unfreezing,
}
LIMITS = {  # why a callback limits how far down a script can go, and the lowest level
    "scheduler": (
        "a scheduler of torch takes an optimizer of torch, and level optim has its own",
        "data",
    ),
    "unfreezing": (
        "frozen layers need torch.nn's `eval` and `requires_grad_`, and level tensors has modules "
        "of its own",
        "layers",
    ),
}
NO_PROGRAM = ("accumulation", "averaging", "unfreezing")
"""Callbacks that a script has no program with."""
NO_SHARDS = ("scaling",)
"""Callbacks that a script has no batches in pieces with."""
STOPPERS = (cb.EarlyStopping, cb.TimeLimit)  # EPOCHS and STOP say when they stopped


class LoopText:
    def __init__(self, recipe: Recipe, data: DataText, lifter: Lifter) -> None:
        self.recipe = recipe
        self.data = data
        self.lifter = lifter
        self.callbacks = by_name(recipe.callbacks)
        is_validated = recipe.valid_dl is not None
        self.loss_column = "valid_loss" if is_validated else "train_loss"
        self.metrics = [m for m in recipe.metrics if is_validated and not is_streaming(m)]
        observers = [type(c) for c in recipe.callbacks if getattr(c, "observer", False)]
        self.left_out = [o.__name__ for o in observers if not o.__module__.startswith("plainfit.")]
        self.left_out += [metric_name(metric) for metric in recipe.metrics if is_streaming(metric)]
        loss = expression(recipe.loss_func, lifter)
        name = loss if loss.replace(".", "").isidentifier() else "loss_func"
        self.loss = [f"loss_func = {loss}"] if name == "loss_func" else []
        """The lines that make the loss, before the model: they may draw numbers."""
        is_module = isinstance(recipe.loss_func, nn.Module)
        is_of_torch = type(recipe.loss_func).__module__ == nn.CrossEntropyLoss.__module__
        if is_module and recipe.device != "cpu":
            self.loss[0] += ".to(DEVICE)"
        is_cut = recipe.shards and not data.train.is_stock  # its batches are the numbers of rows
        self.facts: dict[str, Any] = {
            **dict.fromkeys(TRANSFORMERS),
            **self.callbacks,
            "compile": recipe.compile == "step",
            "counts_samples": recipe.counts_samples,
            "counts_steps": recipe.stop is not None
            or recipe.compile == "step"
            or "rates" in self.callbacks,
            "gradients_in_graph": gradients_in_graph(recipe.callbacks),
            "loss_func": name,
            "loss_has_modes": is_module and not is_of_torch and recipe.loss_func.training,
            "misses_losses": any(map(math.isnan, recipe.outcome.losses)),
            "parameters": self.parameters(),
            "size": self.size("len(yb)"),
            "buffers": self.buffers(),
            "program": recipe.compile == "epoch",
            "shards": recipe.shards,
            "stops": recipe.stop is not None,
            "train_size": self.size("len(batch)" if is_cut else "len(yb)"),
            "valid_model": self.valid_model(),
            "valid_program": recipe.valid_program,
            "validates": is_validated,
            **data.batches(),
            **self.forward(name),
            **self.program(),
            **self.rates(),
            **self.scheduler(),
            **self.table(),
        }

    def limits(self) -> list[EjectError]:
        found = [EjectError(*LIMITS[k]) for k in sorted(self.callbacks.keys() & LIMITS.keys())]
        is_program = self.recipe.compile == "epoch"
        if not is_program and not self.recipe.shards:
            return found
        without = NO_PROGRAM if is_program else NO_SHARDS
        others = [TRANSFORMERS[name].__name__ for name in without if name in self.callbacks]
        others += [f"the device {self.recipe.device}"] * (self.recipe.device != "cpu")
        others += ["a batch_size of your own"] * (self.recipe.batch_size is not batch_size)
        if is_program:
            others += ["values beside the loss"] * self.recipe.has_values
            others += ["batches whose labels are all ignored"] * self.facts["misses_losses"]
        what = "program" if is_program else "batches in pieces"
        instead = "compile='step'" if is_program else "whole batches (shards=1)"
        return found + [
            EjectError(f"a script has no {what} with {name}; train with {instead}")
            for name in others
        ]

    def settings(self, optimizer: OptimizerText) -> list[str]:
        facts = {"data": self.data, "optimizer": optimizer, "recipe": self.recipe}
        scales = {"first_scale": FIRST_SCALE, "growth_steps": GROWTH_STEPS}
        return rendered("settings.py.jinja", {**self.facts, **facts, **scales})

    def validation(self) -> list[str]:
        joined = "torch.cat(outputs), torch.cat(targets)"
        if not self.recipe.joins_tensors:
            counts = "sizes" if self.recipe.counts_samples else "watch.sizes"
            joined = f"join(outputs, {counts}), join(targets, {counts})"
        metrics = [f"float({expression(m, self.lifter)}({joined}))" for m in self.metrics]
        returns = f"tuple[{', '.join(['float'] * (1 + len(metrics)))}]" if metrics else "float"
        validate = {**self.facts, "metrics": metrics, "returns": returns}
        lines = rendered("validate.py.jinja", validate)
        if self.recipe.compile == "epoch":
            lines += ["", "", *rendered("program.py.jinja", self.facts)]
        if self.recipe.shards:
            lines += ["", "", *rendered("shards.py.jinja", self.facts)]
        return lines

    def lines(self) -> list[str]:
        return rendered("loop.py.jinja", self.facts)

    def forward(self, loss_func: str) -> dict[str, Any]:
        recipe = self.recipe
        part = "[0]" if recipe.has_values else ""
        loss = f"{loss_func}(model({self.data.given}), yb){part}"
        if recipe.compile == "step":
            loss = f"compiled(xb, yb) if step >= {PLAIN_STEPS} else {loss}"
        autocast = ""
        if recipe.precision != "fp32":
            dtype = DTYPES[recipe.precision]
            autocast = f"torch.autocast({literal(recipe.device)}, dtype={dtype})"
        return {"forward": loss, "loss_part": part, "autocast": autocast}

    def program(self) -> dict[str, Any]:
        recipe = self.recipe
        slots = [name for _, name in options_of(SimpleNamespace(param_groups=recipe.groups))]
        used = tuple(name for name in OPTIONS if name in slots)
        test = ' if k == "lr" or group[k]' * (len(slots) < len(used) * len(recipe.groups))
        options = f"{{k: group[k] for k in {literal(used)}{test}}} for group in opt.param_groups"
        frozen = [p for p in recipe.model.parameters() if not p.requires_grad]
        trained = "(p for p in model.parameters() if p.requires_grad)"
        own = f"*{trained if frozen else 'model.parameters()'}"
        others = ["*model.buffers()"] * bool([*recipe.model.buffers()])
        if isinstance(loss := recipe.loss_func, nn.Module):
            others += ["*loss_func.parameters()"] * bool([*loss.parameters()])
            others += ["*loss_func.buffers()"] * bool([*loss.buffers()])
        is_forced = any(g.get("foreach") or g.get("fused") for g in recipe.groups)
        return {
            "batch": "x_train[rows], y_train[rows]" if self.data.gathers else "xb, yb",
            "options": f"[{options}]",
            "own": ", ".join([own, *others]),
            "valid_own": ", ".join(["*model.parameters()", *others]),
            "width": 2 - recipe.counts_samples + 2 * len(self.metrics),
            "frozen": bool(frozen),
            "plain": ' | {"foreach": False, "fused": False}' * is_forced,
        }

    def buffers(self) -> str:
        """Return the list of tensors that a piece of a batch may change; empty without any."""
        parts = {"model": self.recipe.model, "loss_func": self.recipe.loss_func}
        own = {n: [*p.buffers()] for n, p in parts.items() if isinstance(p, nn.Module)}
        text = ", ".join(f"*{name}.buffers()" for name, buffers in own.items() if buffers)
        if any(buffer.dtype == torch.bool for buffers in own.values() for buffer in buffers):
            return f"[b for b in ({text},) if b.dtype != torch.bool]"
        return f"[{text}]" if text else ""

    def size(self, usual: str) -> str:
        own = self.recipe.batch_size
        return usual if own is batch_size else f"{expression(own, self.lifter)}(xb, yb)"

    def valid_model(self) -> str:
        averaging = self.callbacks.get("averaging")
        if averaging is None:
            return "model"
        is_always_averaged = averaging.start == 0 and self.recipe.stop is None
        return "averaged.module" if is_always_averaged else "valid_model"

    def rates(self) -> dict[str, Any]:
        facts = {"schedule": "", "later_schedules": "", "momentum": ""}
        if "rates" not in self.callbacks:
            return facts
        schedule, groups = self.callbacks["rates"].schedule, self.recipe.groups
        momentum = momentum_moved(schedule, groups, len(self.recipe.outcome.losses))
        if not momentum["momentum"]:
            self.lifter.unused.add("momentum")
        first, *later = (self.recipe.schedules or {0: schedule}).items()
        if not isinstance(schedule, Schedule) and hasattr(schedule, "__qualname__"):
            facts["schedule_name"] = named(schedule, self.lifter)
        else:
            facts["schedule_name"] = "schedule"
            facts["schedule"] = expression(first[1], self.lifter)
        texts = [f"{step}: {expression(schedule, self.lifter)}" for step, schedule in later]
        rates = {group["lr"] for group in groups}
        own_rate = 'group.setdefault("initial_lr", group["lr"])'
        return {
            **facts,
            **momentum,
            "later_schedules": f"{{{', '.join(texts)}}}" if later else "",
            "base_rate": "LR" if len(rates) == 1 else own_rate,
        }

    def scheduler(self) -> dict[str, str]:
        if "scheduler" not in self.callbacks:
            return {}
        scheduler = self.callbacks["scheduler"].scheduler
        is_plateau = isinstance(scheduler, ReduceLROnPlateau)
        return {
            "new_scheduler": scheduler_text(scheduler, self.lifter),
            "scheduler_steps_with": self.loss_column if is_plateau else "",
        }

    def table(self) -> dict[str, Any]:
        names = [metric_name(metric) for metric in self.metrics]
        # A name of their own for the values: a metric's function may have its name.
        values = [
            self.lifter.name_for(f"valid_{n}" if n.isidentifier() else f"valid_metric_{at}", "")
            for at, n in enumerate(names)
        ]
        valid = {"valid_loss": "valid_loss", **dict(zip(names, values, strict=True))}
        columns = {
            "epoch": "epoch",
            "train_loss": "train_loss",
            **(valid if self.recipe.valid_dl is not None else {}),
            "seconds": "time.perf_counter() - started",
            "samples_per_second": "sum(sizes) / trained",
        }
        heading, cells = heading_line(dict.fromkeys(columns)), []
        for column, value in columns.items():
            width = max(WIDTH, len(HEADINGS.get(column, column)))
            cells.append(f"{{{value}:{width}{SHAPES.get(column, '.4f')}}}")
        return {
            "keeps_best": self.keeps_best({"train_loss": "train_loss", **valid}),
            "table_heading": [literal(heading)]
            if len(heading) < 90
            else [literal(heading_line({column: None})) for column in columns],
            "table_rows": [*wrap(" ".join(cells[:-2]), 84), " ".join(cells[-2:])],
            "valid_values": ", ".join(valid.values()),
        }

    def keeps_best(self, values: dict[str, str]) -> dict[str, str] | None:
        if (stopping := self.callbacks.get("keeps_best")) is None:
            return None
        column = stopping.best.monitor or self.loss_column
        if column not in values:
            raise EjectError(
                f"a script restores the best weights by {', '.join(values)}, and this training did "
                f"by {column!r}, which it cannot compute; monitor one of them"
            )
        is_low = stopping.best.mode != "max"
        test = "-math.inf < {0} < best_value" if is_low else "best_value < {0} < math.inf"
        worst = "math.inf" if is_low else "-math.inf"
        return {"value": values[column], "test": test.format(values[column]), "worst": worst}

    def parameters(self) -> str:
        own, mine = self.recipe.model.parameters(), parameters_of(self.recipe.opt)
        if same(own, mine):
            return "model.parameters()"
        return '[p for group in opt.param_groups for p in group["params"]]'


def by_name(callbacks: list[Any]) -> dict[str, Any]:
    names = {kind: name for name, kind in TRANSFORMERS.items()}
    found: dict[str, Any] = {}
    for callback in callbacks:
        kind = type(callback)
        if kind in STOPPERS and not getattr(callback, "restore_best", False):
            continue
        name = names.get(kind)
        if name is None and not getattr(callback, "observer", False):
            raise EjectError(
                f"{place(kind)}: a script cannot repeat what the callback {kind.__name__} does to "
                "the training; if it changes nothing, say so by `observer = True` in its class"
            )
        if name in found:
            raise EjectError(f"a script has at most one {kind.__name__}, and the training had more")
        if name == "scaling" and "clipping" in found:
            raise EjectError(
                "a script divides the gradients by the scale before it clips them, and here "
                "GradientClipping came before LossScaling; pass LossScaling first"
            )
        if name is not None:
            found[name] = callback
    return found


def momentum_moved(schedule: Any, groups: list[dict[str, Any]], steps: int) -> dict[str, str]:
    has_momentum = [bool(group.get("momentum")) for group in groups]
    has_betas = "betas" in groups[0]
    of_step = getattr(schedule, "momentum", lambda step: None)
    is_moved = [of_step(step) is not None for step in range(steps)]
    if not any(is_moved) or not (has_betas or any(has_momentum)):
        return {"momentum": "", "momentum_test": ""}
    tests = [] if all(is_moved) else ["momentum is not None"]
    if has_betas:
        update = 'group["betas"] = (momentum, *group["betas"][1:])'
    else:
        update = 'group["momentum"] = momentum'
        if not all(has_momentum):
            tests.append('group.setdefault("initial_momentum", group.get("momentum"))')
    return {"momentum": update, "momentum_test": " and ".join(tests)}
