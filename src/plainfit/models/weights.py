"""A model's weights: files, downloads, and the layers before a new head."""

import hashlib
import importlib
import json
import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from plainfit.common.errors import DownloadError, ModelError, raised_as
from plainfit.common.files import download

# Trained on ImageNet; the hex digits begin the file's SHA-256:
# https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
PUBLISHED = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
}
HUB = "hf:"
COUNTS = "num_batches_tracked"  # which checkpoints from before torch 0.4.1 do not have
COMPILED = "_orig_mod."  # in the names of a module within torch.compile
MAX_NAMES = 6


def plain_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors by the names that they have in a model that is not compiled."""
    return {name.replace(COMPILED, ""): value for name, value in tensors.items()}


def whole(value: Any, is_kept: bool = True) -> Any:
    """Return a tensor as a whole, where processes have parts of it; all of them have to ask.

    One that does not keep it gets None.
    """
    if not hasattr(value, "full_tensor"):
        return value
    found = value.full_tensor()
    return found.clone() if is_kept else None


class Uncompiled:
    """The state of a model by its plain names; loads it by either form of them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self, is_kept: bool = True) -> dict[str, Any]:
        return {n: whole(v, is_kept) for n, v in plain_names(self.model.state_dict()).items()}

    def load_state_dict(self, weights: Mapping[str, Any], strict: bool = True) -> Any:
        names = {name.replace(COMPILED, ""): name for name in self.model.state_dict()}
        own = {names.get(name, name): value for name, value in plain_names(weights).items()}
        found = self.model.load_state_dict(own, strict)
        return [[name.replace(COMPILED, "") for name in part] for part in found]


def load_model(model: nn.Module, path: Path) -> None:
    """Load the file that `weights_to_bytes` made, whether parts of the model are compiled or not.

    Raises:
        RuntimeError, SafetensorError, OSError: if it does not fit the model, or cannot be read.
    """
    from safetensors.torch import load_model as load

    is_compiled = any(COMPILED in name for name in model.state_dict())
    load(Uncompiled(model) if is_compiled else model, str(path))  # type: ignore[arg-type]


def weights_to_bytes(
    model: nn.Module, metadata: Mapping[str, str] | None = None, is_kept: bool = True
) -> bytes:
    """Return parameters and buffers, tied ones once, as the file that `save_model` writes.

    Where processes have parts of them, all have to ask; one that does not keep it gets nothing.
    """
    from safetensors.torch import _remove_duplicate_names, save

    tensors = Uncompiled(model).state_dict(is_kept)
    if not is_kept:
        return b""
    tied: dict[str, str] = {}
    for kept, others in _remove_duplicate_names(tensors).items():
        tied |= dict.fromkeys(others, kept)
    own = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in tied}
    return save(own, {**tied, **(metadata or {})} or None)


def load_body(model: nn.Module, weights: Mapping[str, Tensor], head: str) -> None:
    """Load weights into all layers but the head.

    Where the first convolution takes one channel and its weights are for several, they are summed:
    its output for a gray image then is that for the same image in every channel.
    """
    if weights.keys().isdisjoint(model.state_dict()):  # saved within a DataParallel
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    own, given = (
        {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{head}.")}
        for tensors in (model.state_dict(), weights)
    )
    if not own:
        raise ModelError(
            f"fine-tuning keeps the layers before the head, and {type(model).__name__} has none: "
            "train it from scratch"
        )
    stem = next((name for name, tensor in own.items() if tensor.dim() == 4), None)
    if stem in given and own[stem].shape[1] == 1 and given[stem].dim() == 4:
        given[stem] = given[stem].sum(1, keepdim=True)
    loaded = [n for n, t in own.items() if n in given and given[n].shape == t.shape]
    skipped = [
        f"{name} {tuple(tensor.shape)}" + (f" for {tuple(own[name].shape)}" if name in own else "")
        for name, tensor in given.items()
        if name not in loaded
    ]
    missing = [name for name in own if name not in given and not name.endswith(COUNTS)]
    if skipped or missing or not loaded:
        raise ModelError(
            f"the weights must fit the body of {type(model).__name__}: {listed('loaded', loaded)}; "
            f"{listed('skipped', skipped)}; {listed('missing', missing)}; name the architecture "
            "they were trained in with model and model_args"
        )
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(given[name])


def listed(what: str, names: list[str]) -> str:
    """
    >>> listed("missing", ["fc.weight", "fc.bias"])
    '2 missing (fc.weight, fc.bias)'
    """
    more = ", ..." if len(names) > MAX_NAMES else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:MAX_NAMES])}{more})" if names else "")


def read_weights(source: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        path = downloaded(PUBLISHED.get(source, source))
        if path.suffix == ".safetensors":
            return plain_names(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise ModelError(f"the file of weights must exist, and {source} does not") from error
        why = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"{source} must be a whole file of weights, as safetensors or torch.save(state_dict) "
            f"write it, with tensors only: {why}"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ModelError(f"{source} must hold a state_dict, tensors by name, and does not")
    return plain_names(found)


def downloaded(source: str) -> Path:
    if source.startswith(HUB):
        url, wanted = on_hub(source), ""
        name = source.removeprefix(HUB).replace("/", "--") + ".safetensors"
    elif "://" in source:
        url, name = source, source.rpartition("/")[2]
        wanted = Path(name).stem.rpartition("-")[2]
        if len(wanted) < 8 or not set(wanted) <= set("0123456789abcdef"):
            raise DownloadError(
                "the name of a download must end with 8 or more hex digits of its SHA-256, such as "
                f"resnet18-f37072fd.pth, got {name}; or download it yourself and give its path"
            )
    else:
        return Path(source)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name  # where torchvision looks, too
    if not path.exists():
        wanted = wanted or hub_hash(on_hub(source, "raw"))
        download(
            [url],
            path,
            lambda got: sha256_of(got).startswith(wanted) or None,
            place="the variable TORCH_HOME",
            otherwise="download it elsewhere, and give its path",
        )
    return path


def on_hub(source: str, kind: str = "resolve") -> str:
    """Return the URL of a repository's weights on the Hub or, with `raw`, of their pointer."""
    home = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{home}/{source.removeprefix(HUB)}/{kind}/main/model.safetensors"


def hub_hash(url: str) -> str:
    """Return the SHA-256 in the Git LFS pointer of a large file on the Hub.

    The format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    try:
        with urlopen(url, timeout=30) as answer:
            pointer = answer.read(1024).decode()
        return str(re.findall(r"^oid sha256:([0-9a-f]{64})$", pointer, re.MULTILINE)[0])
    except (OSError, ValueError, IndexError) as error:
        raise DownloadError(
            f"{url} must exist, public, with a SHA-256 ({error}); download the weights elsewhere, "
            "and give their path"
        ) from error


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def timm_model(
    name: str, classes: int | None = 1000, channels: int = 3, pretrained: bool = False
) -> nn.Module:
    """Return a model of timm; `classes=None` keeps the number that its weights have."""
    try:
        import timm
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"timm:NAME needs timm and torchvision, and importing them failed ({error}): "
            "pip install 'plainfit[timm]'"
        ) from error
    options = {} if classes is None else {"num_classes": classes}
    with raised_as(ModelError, f"timm must have {name!r}, with weights"):
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, in_chans=channels, **options
        )
    return model


@contextmanager
def transformers_for(source: str) -> Iterator[Any]:
    """Give the package transformers, without its warnings and progress bars."""
    what = f"{source} must be a text model (which needs pip install 'plainfit[text]') or its folder"
    with raised_as(ModelError, what):
        package: Any = importlib.import_module("transformers")
        log = package.utils.logging
        has_bars = log.is_progress_bar_enabled()
        try:
            logging.disable(logging.CRITICAL)
            log.disable_progress_bar()
            yield package
        finally:
            logging.disable(logging.NOTSET)
            if has_bars:
                log.enable_progress_bar()


def text_tokenizer(source: str) -> str:
    with transformers_for(source) as package:
        config, found = (
            kind.from_pretrained(source.removeprefix(HUB), trust_remote_code=False)
            for kind in (package.AutoConfig, package.AutoTokenizer)
        )
    padding = found.pad_token_id
    if not found.is_fast or padding is None or padding != config.pad_token_id:
        raise ModelError(
            f"{source} must have a tokenizer.json with a padding token, whose number is the "
            f"pad_token_id of its config.json, got {padding} and {config.pad_token_id}"
        )
    tokens, side = found.backend_tokenizer, found.padding_side
    positions = getattr(config, "max_position_embeddings", 512)  # as most models have
    tokens.enable_truncation(min(found.model_max_length, positions))
    tokens.enable_padding(direction=side, pad_id=padding, pad_token=found.pad_token)
    return str(tokens.to_str())


def text_model(
    source: str, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    with transformers_for(source) as package:
        model, info = package.AutoModelForSequenceClassification.from_pretrained(
            source.removeprefix(HUB),
            **arguments,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model.config.num_labels = 2  # as by default, so that the names of its classes are left out
    config = json.loads(model.config.to_json_string())
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    body = f"{model.base_model_prefix}."
    return config, weights, sorted(n for n in info["missing_keys"] if n.startswith(body))
