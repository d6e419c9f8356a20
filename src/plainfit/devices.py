"""Where a model runs, and what its bits depend on."""

import os
import platform
import sys
from typing import Any

import torch
from torch import nn

import plainfit
from plainfit.errors import ConfigError, unknown_name

# Each of these changes which kernels run, and with them the last bits of a result.
ISA_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)


def pick_device(name: str = "auto") -> torch.device:
    """Turn a device name into a device that is there.

    Args:
        name: `auto` (the accelerator if there is one, else the CPU), or any name that torch
            knows: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`...

    Raises:
        ConfigError: if torch does not know the name, or this machine has no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["auto", "cpu", *([accelerator.type] if accelerator else [])]
        raise ConfigError(f"{unknown_name('device', name, there)} (on this machine)") from error
    if device.type == "meta":
        raise ConfigError("device 'meta' holds no values: choose cpu or an accelerator")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Return what the bits of a run depend on besides its code, seed and data.

    Equal losses are promised between two runs whose fingerprints are equal.
    """
    return {
        "torch": torch.__version__,
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "isa_variables": {name: os.environ[name] for name in ISA_VARIABLES if name in os.environ},
        "threads": torch.get_num_threads(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
    }


def versions() -> dict[str, str]:
    """Return the versions of plainfit and of what it stands on, for `run.json`."""
    import numpy as np

    return {
        "plainfit": plainfit.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
    }
