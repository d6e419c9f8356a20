"""Where a trained body comes from: a run, a file of weights, a published ResNet, timm."""

import hashlib
import inspect
import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from plainfit.common.errors import ConfigError, DownloadError, ModelError, near_miss
from plainfit.common.files import download
from plainfit.models.body_weights import load_body
from plainfit.models.build import Factory, arguments_for, known_arguments, resolve
from plainfit.models.transfer import find_head
from plainfit.runs import folder as runs

# Trained on ImageNet; the hex digits begin the file's SHA-256:
# https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py
PUBLISHED = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
}
FILES = (".safetensors", ".pt", ".pth")
HUB, HUB_NAME = "hf:", re.compile(r"hf:[\w.-]+/[\w.-]+")
TIMM, TIMM_MODEL = "timm:", "plainfit.runs.pretrained:timm_model"
Weights = dict[str, Tensor]


def is_run(source: str | Path) -> bool:
    """Return whether a source is a folder, which must be a run."""
    return Path(source).is_dir()


def says_its_model(source: str) -> bool:
    """Return whether a source names its architecture itself, as a file of weights does not."""
    return is_run(source) or source in PUBLISHED or source.startswith(TIMM)


def model_name(source: str, model: str | None) -> str:
    """Return what a source's architecture is called; `model` is what the user calls it, if at all.

    Raises:
        ConfigError: if the source is unknown, or says its architecture itself, or does not.
    """
    if not says_its_model(source):
        if not (source.endswith(FILES) or HUB_NAME.fullmatch(source)):
            raise ConfigError(
                "a source must be a run folder, a .safetensors, .pt or .pth file or its URL, "
                f"{', '.join(PUBLISHED)}, hf:OWNER/NAME or timm:NAME, got {source!r}"
                f"{near_miss(source, PUBLISHED)}"
            )
        if model is None:
            raise ConfigError(
                f"a file of weights does not say what it is the weights of: name the architecture "
                f"of {source} by --model, such as resnet18"
            )
        return model
    if model is not None:
        raise ConfigError(f"--model is for files of weights, and {source} has a model of its own")
    if is_run(source):
        return str(runs.read_record(Path(source))["config"]["model"])
    return source.removeprefix(TIMM)


def new_model(
    source: str | Path,
    model: str | None = None,
    arguments: dict[str, Any] | None = None,
    *,
    input_shape: Sequence[int],
    classes: int,
    seed: int = 0,
) -> nn.Module:
    """Return a model with a source's body and a new head, on the CPU.

    Args:
        source: a run folder; a file of weights, or the URL of one that has the beginning of its
            SHA-256 in its name; `resnet18`, `resnet34`, `resnet50`; `timm:NAME`;
            `hf:OWNER/NAME`, whose `model.safetensors` is fetched.
        model: the architecture, for a file, URL or `hf:`: what `get_model` takes.
        arguments: for it, by name.
        input_shape: of one new sample.
        classes: the number of the new head's outputs.
        seed: of the new head.

    Raises:
        PlainfitError: if the source cannot be read or does not fit.
    """
    source = str(source)
    name = model_name(source, model)
    if is_run(source):
        run = runs.read_run(Path(source))
        factory, weights = Factory(**run.record["model"]), run.model.state_dict()
    elif source.startswith(TIMM):
        factory = Factory(TIMM_MODEL, {"name": name, "channels": 3}, seed)
        weights = timm_model(name, classes=None, pretrained=True).state_dict()
    else:
        target = resolve(name)
        home = f"{target.__module__}:{target.__qualname__}"
        factory = Factory(home, known_arguments(target, arguments or {}), seed)
        weights = read_weights(source)
    return with_new_head(factory, weights, input_shape, classes, seed)


def with_new_head(
    factory: Factory, weights: Weights, input_shape: Sequence[int], classes: int, seed: int
) -> nn.Module:
    """Build what a factory builds for other classes, with these weights in its body."""
    target = resolve(factory.target)
    if "classes" not in inspect.signature(target).parameters:
        raise ModelError(
            f"the head is made anew by a parameter `classes`, and {factory.target} has none; add "
            "it, or give plainfit.fine_tune the built model"
        )
    # It keeps its own size of input, unless the new samples have another number of channels.
    found = arguments_for(target, input_shape, classes)
    factory = replace(factory, arguments=factory.arguments | found, seed=seed, loaded=True)
    model = factory.call(target)
    load_body(model, weights, find_head(model, torch.zeros(1, *input_shape), classes))
    model.plainfit_factory = factory  # type: ignore[assignment]  # as get_model leaves it
    return model


def begun_model(factory: Factory, path: Path) -> nn.Module:
    """Build a model and give it the weights that its training began with."""
    from safetensors.torch import load_model

    model = factory.build()
    load_model(model, str(path))
    model.plainfit_factory = factory  # type: ignore[assignment]
    return model


def read_weights(source: str) -> Weights:
    """Read weights by name from a file, a URL or a published checkpoint; on the CPU.

    Raises:
        ModelError: if there are none, or a `.pt` file holds more than tensors.
        DownloadError: if it cannot be had, or is not what its name says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        path = downloaded(PUBLISHED.get(source, source))
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise ModelError(f"the file of weights must be there, and {source} is not") from error
        why = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"{source} must be a whole file of weights, as safetensors or torch.save(state_dict) "
            f"write it, with tensors only: {why}"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ModelError(f"{source} must hold tensors by name, a state_dict, and holds others")
    return dict(found)


def downloaded(source: str) -> Path:
    """Return a file, got from its URL or the Hub if need be and checked against its SHA-256."""
    if source.startswith(HUB):
        url, wanted = on_hub(source), ""
        name = source.removeprefix(HUB).replace("/", "--") + ".safetensors"
    elif "://" in source:
        url, name = source, source.rpartition("/")[2]
        wanted = Path(name).stem.rpartition("-")[2]
        if len(wanted) < 8 or not set(wanted) <= set("0123456789abcdef"):
            raise DownloadError(
                "a download is checked: its name must end with 8 digits or more of its SHA-256, "
                f"such as resnet18-f37072fd.pth, got {name}; or fetch it and give its path"
            )
    else:
        return Path(source)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name  # where torchvision looks, too
    if not path.exists():
        wanted = wanted or hub_hash(on_hub(source, "raw"))
        download(
            [url],
            path,
            lambda got: True if sha256_of(got).startswith(wanted) else None,
            place="the variable TORCH_HOME",
            otherwise="fetch it where there is a network, and give its path",
        )
    return path


def on_hub(source: str, kind: str = "resolve") -> str:
    """Return the URL of a repository's weights on the Hub or, as `raw`, of their pointer."""
    home = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{home}/{source.removeprefix(HUB)}/{kind}/main/model.safetensors"


def hub_hash(url: str) -> str:
    """Return the SHA-256 in a pointer of Git LFS, which is how the Hub keeps large files.

    Its form: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md

    Raises:
        DownloadError: if there is none.
    """
    try:
        with urlopen(url, timeout=30) as answer:
            pointer = answer.read(1024).decode()
        return str(re.findall(r"^oid sha256:([0-9a-f]{64})$", pointer, re.MULTILINE)[0])
    except (OSError, ValueError, IndexError) as error:
        raise DownloadError(
            f"{url} must be there, public, with a SHA-256 ({error}); fetch the weights where there "
            "is a network, and give their path"
        ) from error


def sha256_of(path: Path) -> str:
    """Return a file's hash as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def timm_model(
    name: str, classes: int | None = 1000, channels: int = 3, pretrained: bool = False
) -> nn.Module:
    """Return a model of timm; `classes=None` for as many as its weights are for.

    Raises:
        ModelError: if timm is not there or cannot be imported, or has no such model.
    """
    try:
        import timm
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"timm:NAME needs timm and torchvision, and importing them failed ({error}): "
            "pip install 'plainfit[timm]'"
        ) from error
    options = {} if classes is None else {"num_classes": classes}
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, in_chans=channels, **options
        )
    except Exception as error:  # of timm, the network or its hub: for the user in one line
        raise ModelError(
            f"timm must have {name!r}, with weights: {type(error).__name__}: {error}"
        ) from error
    return model
