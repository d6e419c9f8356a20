"""Nested values and tensors as the bytes of one safetensors file, and back; no pickle anywhere.

Tensors go into the file under readable names. Everything around them goes into its metadata as
JSON, with a marker where a tensor stands:

    {"$tensor": name, "stride": [...], "device": "..."}    both only where they are not the usual
    {"$tuple": [...]}    {"$pairs": [[key, value], ...]}   tuples; dicts with other keys than text
"""

import json
import math
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import CheckpointError

FORMAT = "plainfit-checkpoint-1"
MARKS = {"$tensor", "$tuple", "$pairs"}


def to_bytes(state: dict[str, Any]) -> bytes:
    """Return nested dicts, lists, tuples, tensors, numbers, texts and None as a safetensors file.

    Tensors of the same memory are stored once.

    Raises:
        CheckpointError: if something else is in it; it is named.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tree = pack(state, "", tensors, {})
    return save(tensors, metadata={"format": FORMAT, "state": json.dumps(tree)})


def from_bytes(data: bytes) -> dict[str, Any]:
    """Return what `to_bytes` was given; tensors on the CPU, with their strides.

    Raises:
        CheckpointError: if the bytes are anything but such a file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
        state = unpack(json.loads(metadata["state"]), load(data))
        if not isinstance(state, dict):
            raise TypeError("it holds no dict")
    except (
        SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError,
        RecursionError, OverflowError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"a checkpoint must be a whole file of plainfit: {type(error).__name__}: {error}"
        ) from error
    return state


def pack(value: Any, name: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """Return a value as JSON takes it, its tensors put into `tensors` under names of their path."""
    if isinstance(value, Tensor):
        return pack_tensor(value, name, tensors, seen)
    if value is None or isinstance(value, bool | str | int | float):
        return value
    below = f"{name}/" if name else ""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not MARKS & value.keys():
            return {k: pack(v, f"{below}{k}", tensors, seen) for k, v in value.items()}
        return {
            "$pairs": [
                [pack(k, name, tensors, seen), pack(v, f"{below}{k}", tensors, seen)]
                for k, v in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        parts = [pack(v, f"{below}{i}", tensors, seen) for i, v in enumerate(value)]
        return {"$tuple": parts} if isinstance(value, tuple) else parts
    raise CheckpointError(
        f"a checkpoint holds tensors, numbers, texts, lists and dicts, and {name} is a "
        f"{type(value).__name__}; leave it out of state_dict, or turn it into those"
    )


def pack_tensor(value: Tensor, name: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """Put a tensor into `tensors`, unless one of the same memory is there; return its marker."""
    value = value.detach()
    shape = tuple(value.shape)
    same = (value.data_ptr(), value.device, value.dtype, shape, value.stride())
    if not value.numel() or same not in seen:
        seen[same] = name
        # A copy of its own: safetensors refuses tensors that share memory, and views.
        tensors[name] = value.to("cpu", memory_format=torch.contiguous_format, copy=True)
    marker: dict[str, Any] = {"$tensor": seen[same] if value.numel() else name}
    if not value.is_contiguous():
        marker["stride"] = list(value.stride())
    if value.device.type != "cpu":
        marker["device"] = str(value.device)
    return marker


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value that `pack` was given."""
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
    """Return the tensor with the strides that it had, on its device where that is there."""
    if "stride" in marker:
        stride = marker["stride"]
        span = sum((n - 1) * abs(step) for n, step in zip(tensor.shape, stride, strict=True)) + 1
        if span > 2 * math.prod(tensor.shape):  # a view into much more than itself
            stride = None
        if stride is not None:
            laid_out = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype)
            tensor = laid_out.copy_(tensor)
    device = torch.device(marker.get("device", "cpu"))
    if device.type == "cpu":
        return tensor
    here = torch.accelerator.current_accelerator(check_available=True)
    return tensor.to(device) if here is not None and here.type == device.type else tensor
