"""Checkpoint files: `STEP-SHA256.safetensors`, of which the newest valid one wins; no pickle.

Tensors go into a safetensors file under readable names. Everything around them goes into its
metadata as JSON, with a marker where a tensor stands:

    {"$tensor": name, "stride": [...], "device": "..."}    both only where they are not the default
    {"$tuple": [...]}    {"$pairs": [[key, value], ...]}   tuples; dicts with keys that are no text
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plainfit.common.errors import CheckpointError, raised_as
from plainfit.common.files import write_whole

FORMAT = "plainfit-checkpoint-1"
MARKS = {"$tensor", "$tuple", "$pairs"}
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.safetensors")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint, read it back to check it, and return its path."""
    parts, digest = to_parts(state), hashlib.sha256()
    for part in parts:
        digest.update(part)
    path = folder / f"{step:012d}-{digest.hexdigest()}.safetensors"
    write_whole(path, *parts)
    try:
        with path.open("rb") as file:  # piece by piece: the state may be large
            check_sha256(path, hashlib.file_digest(file, "sha256").hexdigest())
    except CheckpointError:
        path.unlink()
        raise
    return path


def check_sha256(path: Path, found: str) -> None:
    wanted = path.stem.rpartition("-")[2]
    if found != wanted:
        raise CheckpointError(
            f"{path.name} must have the SHA-256 in its name, and has {found[:12]}...: it is damaged"
        )


def listed(folder: Path) -> list[Path]:
    there = folder.glob("*.safetensors")
    found = [path for path in there if NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: (path.name[:12], path.stat().st_mtime_ns))


def newest(folder: Path, report: Callable[[str], object]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest valid checkpoint and its state, or None; report each damaged one."""
    for path in reversed(listed(folder)):
        try:
            data = path.read_bytes()
            check_sha256(path, hashlib.sha256(data).hexdigest())
            return path, from_bytes(data)
        except (CheckpointError, OSError) as error:
            report(f"{error}; trying the one before")
    return None


def prune(folder: Path, keep: int, best_step: int) -> None:
    """Remove all checkpoints but the `keep` newest and the one of the step `best_step`."""
    for path in listed(folder)[:-keep]:
        if int(path.name[:12]) != best_step:
            with suppress(OSError):  # the folder has become read-only
                path.unlink()


def to_bytes(state: dict[str, Any]) -> bytes:
    """Turn dicts, lists, tuples, tensors, numbers, texts and None into a safetensors file."""
    return b"".join(to_parts(state))


def to_parts(state: dict[str, Any]) -> list[bytes | memoryview]:
    """Return such a file in parts: its header, and the memory of each tensor, not a copy of it."""
    tensors: dict[str, Tensor] = {}
    tree = pack(state, "", tensors, {})
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "state": json.dumps(tree)}}
    parts: list[bytes | memoryview] = []
    end = 0
    for name in sorted(tensors, key=lambda name: -tensors[name].element_size()):  # so aligned
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        entry = {"dtype": TYPES[tensor.dtype], "shape": [*tensor.shape]}
        header[name] = entry | {"data_offsets": [begin, end]}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *parts]


@raised_as(CheckpointError, "a checkpoint must be a whole file of plainfit")
def from_bytes(data: bytes) -> dict[str, Any]:
    """Return the state that `to_bytes` was given."""
    from safetensors.torch import load

    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
    state = unpack(json.loads(metadata["state"]), load(data))
    if not isinstance(state, dict):
        raise TypeError("it holds no dict")
    return state


def check_state(value: Any, name: str) -> None:
    """Refuse what no checkpoint can hold, without a copy of its tensors."""
    if isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            check_state(key, name)
            check_state(part, f"{name}/{key}")
    elif not isinstance(value, Tensor):
        pack(value, name, {}, {})


def pack(value: Any, name: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """Return a value for JSON; its tensors go into `tensors`, named by their path."""
    if isinstance(value, Tensor):
        return pack_tensor(value, name, tensors, seen)
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, bool | str | int | float):
        return value
    below = f"{name}/" if name else ""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not MARKS & value.keys():
            return {k: pack(v, f"{below}{k}", tensors, seen) for k, v in value.items()}
        parts = [
            [pack(k, name, tensors, seen), pack(v, f"{below}{k}", tensors, seen)]
            for k, v in value.items()
        ]
        return {"$pairs": parts}
    if isinstance(value, list | tuple):
        parts = [pack(v, f"{below}{i}", tensors, seen) for i, v in enumerate(value)]
        return {"$tuple": parts} if isinstance(value, tuple) else parts
    raise CheckpointError(
        f"a checkpoint holds tensors, numbers, texts, lists and dicts, and {name} is a "
        f"{type(value).__name__}; leave it out of state_dict, or turn it into those"
    )


def pack_tensor(value: Tensor, name: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    value = value.detach()
    shape = tuple(value.shape)
    same = (value.data_ptr(), value.device, value.dtype, shape, value.stride())
    if not value.numel() or same not in seen:
        seen[same] = name
        if value.dtype not in TYPES:
            raise CheckpointError(
                f"a checkpoint holds tensors of the types of safetensors, and {name} has "
                f"{value.dtype}; turn it into one of {', '.join(TYPES.values())}"
            )
        tensors[name] = value.cpu().contiguous().resolve_conj()
    marker: dict[str, Any] = {"$tensor": seen[same] if value.numel() else name}
    if not value.is_contiguous():
        marker["stride"] = list(value.stride())
    if value.device.type != "cpu":
        marker["device"] = str(value.device)
    return marker


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [unpack(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return unpack_tensor(value, tensors[value["$tensor"]])
    if "$tuple" in value:
        return tuple(unpack(part, tensors) for part in value["$tuple"])
    if "$pairs" in value:
        return {unpack(k, tensors): unpack(v, tensors) for k, v in value["$pairs"]}
    return {key: unpack(part, tensors) for key, part in value.items()}


def unpack_tensor(marker: dict[str, Any], tensor: Tensor) -> Tensor:
    """Return the tensor with its strides, and on its device if this machine has it."""
    if "stride" in marker:
        stride = marker["stride"]
        span = sum((n - 1) * abs(step) for n, step in zip(tensor.shape, stride, strict=True)) + 1
        if span <= 2 * math.prod(tensor.shape):  # no view into much more than itself
            laid_out = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype)
            tensor = laid_out.copy_(tensor)
    device = torch.device(marker.get("device", "cpu"))
    if device.type == "cpu":
        return tensor
    here = torch.accelerator.current_accelerator(check_available=True)
    return tensor.to(device) if here is not None and here.type == device.type else tensor
