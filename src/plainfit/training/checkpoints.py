"""Checkpoint files: `STEP-SHA256.safetensors`, of which the newest valid one wins; no pickle.

Tensors go into a safetensors file under readable names. Everything around them goes into its
metadata as JSON, with a marker where a tensor stands:

    {"$tensor": name, "stride": [...], "device": "..."}    both only where they are not the default
    {"$parts": name, "shape": [...], "dtype": "...", "dim": 0}    one that processes have parts of
    {"$tuple": [...]}    {"$pairs": [[key, value], ...]}   tuples; dicts with keys that are no text

Each process writes its parts to a file of its own, `STEP-SHA256.part`. The checkpoint lists these
files and is written last, so it is there only if all of them are.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plainfit.common.errors import CheckpointError, raised_as
from plainfit.common.files import write_whole
from plainfit.models.weights import sha256_of
from plainfit.training.processes import Processes

FORMAT, WITH_PARTS = "plainfit-checkpoint-1", "plainfit-checkpoint-2"
MARKS = {"$tensor", "$parts", "$tuple", "$pairs"}
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.(safetensors|part)")


@dataclass(frozen=True)
class InParts:
    """A tensor in the files of the processes that had parts of it; read when it is asked for."""

    paths: list[Path]
    name: str
    shape: torch.Size
    dtype: torch.dtype
    dim: int  # along which it is divided

    def part(self, number: int, count: int) -> Tensor:
        begin, end = self.bounds(number, count)
        pieces = []
        for place, path in enumerate(self.paths):
            first, last = self.bounds(place, len(self.paths))
            if max(first, begin) < min(last, end):
                rows = slice(max(first, begin) - first, min(last, end) - first)
                found = part_file(path).get_slice(self.name)
                pieces.append(found[(slice(None),) * self.dim + (rows,)])
        empty = [0 if d == self.dim else size for d, size in enumerate(self.shape)]
        return torch.cat(pieces or [torch.empty(empty, dtype=self.dtype)], self.dim)

    def bounds(self, number: int, count: int) -> tuple[int, int]:
        """Return where a part begins and ends; the last ones may be shorter, or empty.

        As `torch.chunk` does, and so torch's `Shard`.
        """
        total = self.shape[self.dim]
        size = -(-total // count)
        return min(number * size, total), min((number + 1) * size, total)


@lru_cache
def part_file(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, "pt")  # which reads all names: 5 ms of 4,000 tensors


def save(
    folder: Path, step: int, state: dict[str, Any], processes: Processes | None = None
) -> Path | None:
    """Write a checkpoint, read it back to check it, and return its path.

    Where processes have parts of its tensors, all of them have to call this; the path is None but
    for the first.

    Raises:
        OSError, CheckpointError: if that fails, of a part on every process.
    """
    tensors: dict[str, Any] = {}
    tree = pack(state, "", tensors, {})
    own = {n: tensors.pop(n).to_local() for n in [*tensors] if hasattr(tensors[n], "to_local")}
    metadata = {"format": FORMAT}
    if processes is not None:
        files = save_parts(folder, step, own, processes)
        if processes.rank:
            return None
        metadata = {"format": WITH_PARTS, "files": json.dumps(files)}
    metadata["state"] = json.dumps(tree)
    return save_file(folder, f"{step:012d}-{{}}.safetensors", tensors, metadata)


def save_parts(folder: Path, step: int, own: dict[str, Tensor], processes: Processes) -> list[str]:
    """Write what each process has, and return the names of their files."""
    name, why = "", ""
    try:
        name = save_file(folder, f"{step:012d}-{{}}.part", own, {}).name
    except (OSError, CheckpointError) as error:
        why = str(error)
    names, reasons = zip(*processes.gather((name, why)), strict=True)
    is_seen = all((folder / each).is_file() for each in names)
    reasons += ("" if is_seen else "the first one does not see their files: share the folder",)
    if found := next(filter(None, reasons), ""):
        raise CheckpointError(f"every process must write its part, and {found}")
    return [*names]


def save_file(folder: Path, name: str, tensors: dict[str, Tensor], metadata: Any) -> Path:
    """Write a file with its SHA-256 in its name, and check it."""
    parts, digest = to_parts(tensors, metadata), hashlib.sha256()
    for part in parts:
        digest.update(part)
    path = folder / name.format(digest.hexdigest())
    write_whole(path, *parts)
    try:
        check_sha256(path, sha256_of(path))
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
            return path, from_bytes(data, folder)
        except (CheckpointError, OSError) as error:
            report(f"{error}; trying the one before")
    return None


def prune(folder: Path, keep: int, best_step: int) -> None:
    """Remove all checkpoints but the `keep` newest and the one of the step `best_step`."""
    there = listed(folder)
    kept = [path for path in there if path in there[-keep:] or int(path.name[:12]) == best_step]
    steps = {path.name[:12] for path in kept}
    parts = [path for path in folder.glob("*.part") if NAME.fullmatch(path.name)]
    parts = [path for path in parts if path.name[:12] not in steps]
    for path in [path for path in there if path not in kept] + parts:
        with suppress(OSError):  # the folder has become read-only
            path.unlink()


def to_bytes(state: dict[str, Any]) -> bytes:
    """Turn dicts, lists, tuples, tensors, numbers, texts and None into a safetensors file."""
    tensors: dict[str, Tensor] = {}
    tree = pack(state, "", tensors, {})
    return b"".join(to_parts(tensors, {"format": FORMAT, "state": json.dumps(tree)}))


def to_parts(tensors: dict[str, Tensor], metadata: dict[str, str]) -> list[bytes | memoryview]:
    """Return a file in parts: its header, and the memory of each tensor, not a copy of it."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts: list[bytes | memoryview] = []
    end = 0
    for name in sorted(tensors, key=lambda name: -tensors[name].element_size()):  # so aligned
        tensor = tensors[name].cpu().contiguous().resolve_conj()
        begin, end = end, end + tensor.nbytes
        entry = {"dtype": TYPES[tensor.dtype], "shape": [*tensor.shape]}
        header[name] = entry | {"data_offsets": [begin, end]}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *parts]


@raised_as(CheckpointError, "a checkpoint must be a whole file of plainfit")
def from_bytes(data: bytes, folder: Path | None = None) -> dict[str, Any]:
    """Return the state that `to_bytes`, or `save`, was given; parts are in files of a folder."""
    from safetensors.torch import load

    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    if metadata["format"] not in (FORMAT, FORMAT if folder is None else WITH_PARTS):
        raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
    paths = []
    if folder is not None:
        for name in json.loads(metadata.get("files", "[]")):
            if not NAME.fullmatch(name):
                raise ValueError(f"a part must be a file beside it, and one is {name!r}")
            paths.append(folder / name)
            check_sha256(paths[-1], sha256_of(paths[-1]))
    state = unpack(json.loads(metadata["state"]), load(data), paths)
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
    own = value.to_local() if hasattr(value, "to_local") else value
    shape = tuple(value.shape)
    same = (own.data_ptr(), own.device, own.dtype, shape, own.stride())
    if not own.numel() or same not in seen:
        seen[same] = name
        if value.dtype not in TYPES:
            raise CheckpointError(
                f"a checkpoint holds tensors of the types of safetensors, and {name} has "
                f"{value.dtype}; turn it into one of {', '.join(TYPES.values())}"
            )
        tensors[name] = value
    stored = seen[same] if own.numel() else name
    if own is not value:
        [placement] = value.placements  # type: ignore[attr-defined]  # of fully_shard: a division
        dtype = TYPES[value.dtype]
        return {"$parts": stored, "shape": [*shape], "dtype": dtype, "dim": placement.dim}
    marker: dict[str, Any] = {"$tensor": stored}
    if not value.is_contiguous():
        marker["stride"] = list(value.stride())
    if value.device.type != "cpu":
        marker["device"] = str(value.device)
    return marker


def unpack(value: Any, tensors: dict[str, Tensor], paths: list[Path]) -> Any:
    if isinstance(value, list):
        return [unpack(part, tensors, paths) for part in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return unpack_tensor(value, tensors[value["$tensor"]])
    if "$parts" in value:
        [dtype] = [own for own, name in TYPES.items() if name == value["dtype"]]
        return InParts(paths, value["$parts"], torch.Size(value["shape"]), dtype, value["dim"])
    if "$tuple" in value:
        return tuple(unpack(part, tensors, paths) for part in value["$tuple"])
    if "$pairs" in value:
        pairs = value["$pairs"]
        return {unpack(k, tensors, paths): unpack(v, tensors, paths) for k, v in pairs}
    return {key: unpack(part, tensors, paths) for key, part in value.items()}


def unpack_tensor(marker: dict[str, Any], tensor: Tensor) -> Tensor:
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
