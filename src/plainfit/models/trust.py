"""Whose code may run: a run or a saved estimator names its model, and may come from a stranger.

Such a name is imported only if it is one of plainfit's models or of torch's layers, or if its
source was trusted before: what trains on this machine is, and what the user says. The user's state
folder keeps hashes of such sources, with their paths, as direnv keeps those of its files
(docs/decisions/0030-trusted-code.md). The name is called only if it is known to return a module.
"""

import ast
import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from plainfit.common.errors import ModelError, TrustError
from plainfit.models.build import MODELS, MOVED, current_folder_on_path, resolve, target_name
from plainfit.models.text import PretrainedText
from plainfit.models.weights import timm_model

OURS = {target_name(PretrainedText), *map(target_name, [*MODELS.values(), timm_model])}
TORCH = ("torch.nn.", "torch.nn:")
SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)  # in Python's own order
LIBRARIES = {
    Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib", "purelib", "platlib")
}
trusted_now: set[str] = set()  # as a state folder may be read-only


@dataclass(frozen=True)
class Code:
    """The source of a `module:name`, found without importing anything."""

    target: str
    root: Path
    """The folder that Python would import the module from."""
    hashes: dict[str, str]
    """SHA-256 of the module, of the packages around it, and of all that these import from the same
    folder (of an installed library only the first two), by path from there."""

    @property
    def sha256(self) -> str:
        """The hash of the whole source, wherever it lies."""
        return digest(json.dumps(sorted(self.hashes.items())).encode())

    @property
    def key(self) -> str:
        return digest("\0".join((self.target, str(self.root), self.sha256)).encode())

    def is_trusted(self) -> bool:
        return self.key in trusted_now or (trusted_folder() / self.key).is_file()

    def trust(self) -> None:
        """Remember this source, in this place, and that this name returns a module."""
        trusted_now.add(self.key)
        with suppress(OSError):
            trusted_folder().mkdir(parents=True, exist_ok=True)
            content = {"target": self.target, "folder": str(self.root), "sha256": self.hashes}
            (trusted_folder() / self.key).write_text(json.dumps(content, indent=2) + "\n", "utf-8")

    def holds(self, module: Any) -> bool:
        file = getattr(module, "__file__", None)
        return file is not None and Path(file).resolve() in (
            (self.root / name).resolve() for name in self.hashes
        )

    def __str__(self) -> str:
        first, *more = self.hashes
        others = f" and {len(more)} more files" if more else ""
        return f"{self.root / first}{others} (SHA-256 {self.sha256[:16]})"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def trusted_folder() -> Path:
    import platformdirs

    return platformdirs.user_state_path("plainfit") / "trusted"


def renamed(target: str) -> str:
    module, colon, name = target.partition(":")
    return f"{MOVED.get(module, module)}{colon}{name}"


def code_of(target: str) -> Code | None:
    """Return the source of a `module:name`; None for built-in models and for `__main__`.

    The program itself needs no trust: it is running.

    Raises:
        ModelError: if there is no such module, or no file of it.
    """
    module = renamed(target).partition(":")[0]
    is_built_in = target in MODELS or renamed(target) in OURS or target.startswith(TORCH)
    if is_built_in or module == "__main__":
        return None
    for root in roots_of(module.partition(".")[0]):
        if files := files_of(module, root):
            hashes = {str(path.relative_to(root)): digest(path.read_bytes()) for path in files}
            return Code(renamed(target), root.resolve(), hashes)
    raise ModelError(
        f"the module {module!r} must be a file that Python can import from here, and it is missing "
        "or part of Python itself; run this where the model was trained"
    )


def roots_of(package: str) -> list[Path]:
    """Return the folders that hold a top-level module or package; several for a namespace."""
    try:
        with current_folder_on_path():
            spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or ())
    if not places and spec.has_location and spec.origin is not None:
        places = [spec.origin]
    return [Path(place).parent for place in places]


def files_of(module: str, root: Path) -> list[Path]:
    """Return the files that run when a module is imported from a folder, its own ones first."""
    found: dict[Path, None] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop(0)
        files = [path for path in along(name, root) if path not in found]
        found |= dict.fromkeys(files)
        if root not in LIBRARIES:
            for path in files:
                waiting += imports_of(path, root)
    return list(found)


def along(name: str, root: Path) -> Iterator[Path]:
    """Yield the files of a module and of the packages around it, the module's last."""
    folder = root
    for part in name.split("."):
        folder = folder / part
        places = (folder / "__init__", folder)
        files = (place.with_name(place.name + end) for place in places for end in SUFFIXES)
        if (path := next((path for path in files if path.is_file()), None)) is not None:
            yield path
        if not folder.is_dir():
            return


def imports_of(path: Path, root: Path) -> Iterator[str]:
    if path.suffix not in SOURCE_SUFFIXES:
        return
    package = ".".join(path.parent.relative_to(root).parts)
    with suppress(SyntaxError, ValueError, ImportError):  # then its import fails, and says so
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package)
                yield from (f"{base}.{alias.name}" for alias in node.names)


def remember(target: str) -> dict[str, Any] | None:
    """Trust what has built a model here; return its source as a record keeps it, if it has one."""
    try:
        code = code_of(target)
    except ModelError:  # made within a function, say: no other process can build it
        return None
    if code is None:
        return None
    code.trust()
    return {"sha256": code.sha256, "files": code.hashes}


def trusted(
    target: str, code: Code | None, *, trust_code: bool = False, builds_model: bool = True
) -> Callable[..., Any]:
    """Import what a record names, if its source is trusted; return the class or function.

    Args:
        target: a built-in model's name, or `module:name`.
        code: its source, as `code_of` finds it.
        trust_code: trust its source from now on, whatever it is.
        builds_model: whether it has to be known to return a module.

    Raises:
        TrustError: if its source is not trusted; it was not imported.
        ModelError: if it is missing, or not known to return a module; it was not called.
    """
    is_known = code is not None and code.is_trusted()
    if code is not None and not (is_known or trust_code):
        raise TrustError(target, str(code))
    with from_source(code):
        found = resolve(target)
    if target in MODELS:
        return found
    name, module = target_name(found), sys.modules.get(renamed(target).partition(":")[0])
    if name != renamed(target) or (code is not None and not code.holds(module)):
        raise ModelError(
            f"{target} must be defined in that module, and is {name} of "
            f"{getattr(module, '__file__', None)}: it is not called"
        )
    if builds_model and not (is_known or returns_module(found)):
        raise ModelError(
            f"{target} must be a subclass of torch.nn.Module, or a function that is annotated to "
            "return one (-> nn.Module): it is not called"
        )
    if code is not None and not is_known:
        code.trust()
    return found


def returns_module(found: Any) -> bool:
    kind = found
    if inspect.isfunction(found):
        try:
            kind = get_type_hints(found).get("return")
        except (NameError, TypeError, AttributeError, SyntaxError):  # an annotation of its own
            return False
    return isinstance(kind, type) and issubclass(kind, nn.Module)


@contextmanager
def from_source(code: Code | None) -> Iterator[None]:
    """Have Python compile what was hashed: `__pycache__` beside it may hold anything."""
    before = sys.pycache_prefix
    if code is not None:
        sys.pycache_prefix = str(trusted_folder().with_name("pycache"))
    try:
        yield
    finally:
        sys.pycache_prefix = before
