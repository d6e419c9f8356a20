"""Devices, threads, and what the bits of a run depend on."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from plainfit.common import __version__
from plainfit.common.errors import ConfigError, unknown_name

SMALL_STEP = 20e6  # floating-point operations; in smaller steps a second thread gains nothing
# Each of these decides which kernels run, and with them the last bits of a result.
ISA_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
# Kernels whose float32 may be rounded to fewer bits, with torch's default. The older settings of
# it, such as `allow_tf32`, cannot be read where a program uses these.
PRECISIONS = {
    "cuda.matmul": "ieee",
    "cudnn.conv": "tf32",
    "cudnn.rnn": "tf32",
    "mkldnn.conv": "ieee",
    "mkldnn.matmul": "ieee",
    "mkldnn.rnn": "ieee",
}


def pick_device(name: str = "auto") -> torch.device:
    """Turn a name that torch knows, or `auto` (the accelerator, else the CPU), into a device."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return own_device(accelerator or torch.device("cpu"))
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["auto", "cpu", *([accelerator.type] if accelerator else [])]
        raise ConfigError(f"{unknown_name('device', name, there)} (on this machine)") from error
    if accelerator is not None and device == torch.device(accelerator.type):
        return own_device(device)
    if device.type == "meta":
        raise ConfigError("device 'meta' holds no values: choose cpu or an accelerator")
    return device


def own_device(device: torch.device) -> torch.device:
    """Return the one of several devices that belongs to this process of a training."""
    if device.type == "cpu" or "LOCAL_RANK" not in os.environ:
        return device
    index = int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count()
    return torch.device(device.type, index)


def device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def bf16_pays(device: torch.device) -> bool:
    """Return whether bfloat16 beats float32; on Intel's CPUs that needs AMX (docs/log.md)."""
    read: Any = getattr(torch.cpu, "get_capabilities", dict)  # since torch 2.12
    known = read() if device.type == "cpu" else {}
    names = ["amx_bf16", "bf16"] + ["avx512_bf16"] * ("Intel" not in known.get("cpu_name", ""))
    return not known or any(known.get(name) for name in names)


def threads_for(model: nn.Module, sample: Any, batch_size: int) -> int:
    """Return how many threads of the CPU should train a model: one if its steps are small.

    This is a rule and not a measurement, since the bits depend on the number of threads. In a
    small step a second thread gains nothing, and every operation waits for it when the machine is
    busy (docs/decisions/0011-fast.md). Other models get torch's own number of threads.

    `sample` is a batch of one. The operations are those of the matrix products and convolutions,
    times three, as a backward pass takes about two forward ones (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1).
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(sample)
    except AssertionError:  # of the counter, as with DeBERTa-v2
        return torch.get_num_threads()
    finally:
        model.train(was_training)
    is_small = 3 * counter.get_total_flops() * batch_size < SMALL_STEP
    return 1 if is_small else torch.get_num_threads()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Return what the bits of a run depend on besides its code, seed and data."""
    names = [f"{kernel}.fp32_precision" for kernel in PRECISIONS]
    precisions = {name: attrgetter(name)(torch.backends) for name in names}
    return {
        "torch": torch.__version__,
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "isa_variables": {name: os.environ[name] for name in ISA_VARIABLES if name in os.environ},
        "threads": torch.get_num_threads(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        **{name: value.replace("none", "ieee") for name, value in precisions.items()},
    }


def differing(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what differs between two fingerprints, of which an older one has fewer facts."""
    return "; ".join(
        f"{name} was {then[name]}, is {value}"
        for name, value in now.items()
        if name in then and then[name] != value
    )


def versions() -> dict[str, str]:
    import numpy as np

    return {
        "plainfit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
    }
