"""Compiled programs that are kept: whole, the user's own, of the same key, and not too many."""

import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.data import TensorDataset

import plainfit as pf
from plainfit.training import program_cache
from plainfit.training.program import Steps, key_of
from plainfit.training.program_cache import danger, folder, keep, load, name, programs, prune

LOADED = program_cache.loaded
KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and files that are no native code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(program_cache, "loaded", Path.read_bytes)
    return tmp_path / "cache" / "plainfit" / "programs"


def kept(data=b"code", key=KEY):
    assert keep(key, data) == ""
    return folder() / name(key, data)


def mode(path):
    return oct(path.stat().st_mode & 0o777)


# --- whole, and the user's own ---


def test_what_is_kept_is_loaded_and_private(cache):
    before = os.umask(0)
    try:
        path = kept()
    finally:
        os.umask(before)
    assert path.parent == cache
    assert load(KEY) == b"code"
    assert load(OTHER) is None
    assert [mode(each) for each in (path, cache, cache.parent)] == ["0o600", "0o700", "0o700"]


@pytest.mark.parametrize("damage", ["shorter", "empty", "altered", "of another key"])
def test_a_damaged_file_is_not_loaded_and_is_replaced(damage):
    path = kept(b"machine code")
    if damage == "of another key":
        path = path.rename(path.with_name(path.name.replace(KEY, OTHER)))
    else:
        path.write_bytes({"shorter": b"machine", "empty": b"", "altered": b"machine Code"}[damage])
    assert load(path.name[:64]) is None or damage == "of another key"
    kept(b"machine code", path.name[:64])
    assert load(path.name[:64]) == b"machine code"
    assert len(programs()) == 1


def given_away(path, monkeypatch):
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)


@pytest.mark.parametrize("what", ["file", "folder", "parent"])
@pytest.mark.parametrize("change", ["another's", 0o770, 0o707])
def test_what_others_can_change_is_neither_loaded_nor_written(what, change, monkeypatch):
    path = kept()
    at = {"file": path, "folder": path.parent, "parent": path.parents[2]}[what]
    if change == "another's":
        given_away(at, monkeypatch)
    else:
        at.chmod(change)
    assert load(KEY) is None
    assert path.exists()
    if what != "file":
        said = "belongs to another user" if change == "another's" else f"(chmod go-w {at})"
        assert said in keep(OTHER, b"more")
        assert [each for each, _ in programs()] == [path]


def test_links_are_followed_to_a_place_of_ones_own_only(cache, tmp_path, monkeypatch):
    path = kept()
    (tmp_path / "linked").symlink_to(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "linked"))
    assert load(KEY) == b"code"
    elsewhere = path.rename(tmp_path / path.name)
    path.symlink_to(elsewhere)
    assert load(KEY) is None


def test_a_folder_where_all_delete_only_their_own_is_safe():
    path = kept()
    path.parents[2].chmod(0o1777)  # as /tmp
    assert load(KEY) == b"code"
    assert danger(path) == ""


def test_a_relative_folder_is_not_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folder().is_relative_to(tmp_path / "home")
    monkeypatch.setattr(platformdirs, "user_cache_path", Path)  # as before 4.4 of platformdirs
    assert load(KEY) is None
    assert "must be absolute" in keep(KEY, b"code")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert keep(KEY, b"code") == "the cache folder cannot be written to (File exists)"
    assert load(KEY) is None


def test_a_full_disk_leaves_nothing(cache):
    kept()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        why = keep(OTHER, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert why == "the cache folder cannot be written to (File too large)"
    assert len(list(cache.iterdir())) == 1
    assert load(KEY) == b"code"


# --- how many ---


def test_what_was_used_longest_ago_goes_first():
    for i, key in enumerate("abc"):
        os.utime(kept(bytes(10), key * 64), (1000 + i,) * 2)
    assert load(KEY) is not None  # which is used now
    prune(25)
    assert [path.name[0] for path, _ in programs()] == ["c", "a"]
    prune(9)
    assert programs() == []


def test_processes_that_compile_the_same_at_once():
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda i: keep(KEY, bytes([i]) * 100_000), range(8))) == {""}
    assert len(load(KEY)) == 100_000
    assert len(list(folder().iterdir())) == 8


# --- the key ---


def key(scale=2.0, c=(1.0, 2.0), dtype=torch.float32, strides=(3, 1), stacked=False, lay=(1,)):
    """The key of a program that multiplies, over batches of these strides."""
    constant = torch.empty_strided((2,), lay).copy_(torch.tensor(c))
    column = torch.empty_strided((4, 3), strides, dtype=dtype)

    def step(tensors, numbers, batch):
        return [tensors[0] * scale * constant.sum() + batch.sum(), batch.sum()]

    own = [torch.zeros((), dtype=dtype)]
    tracing = {"tracing_mode": "fake", "_allow_non_fake_inputs": True}
    graph = make_fx(step, **tracing)(own, torch.zeros(1), column)
    return key_of(Steps(graph, 1, not stacked), (own, [column]))


def test_the_key_has_what_machine_code_depends_on(monkeypatch):
    keys = [
        key(),
        key(scale=3.0),
        key(c=(1.0, 2.5)),
        key(c=(1.0, -0.0)),
        key(c=(1.0, 0.0)),
        key(lay=(2,)),
        key(dtype=torch.float64),
        key(strides=(1, 4)),
        key(stacked=True),
    ]
    with torch._inductor.config.patch({"cpp.simdlen": 0}):
        keys.append(key())
    with torch._inductor.config.patch({"cpp.cxx": (None, "clang++")}):
        keys.append(key())
    for setting, value in (
        ("torch.__version__", "2.99"),
        ("torch.get_num_threads", lambda: 77),
        ("torch.backends.cpu.get_cpu_capability", lambda: "AVX9"),
        ("plainfit.training.program_cache.processor", lambda: "flags: fast"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(setting, value)
            keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


@pytest.mark.soak
def test_the_key_is_the_same_in_another_process(tmp_path):
    code = "import test_program_cache as test; print(test.key())"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert found.stdout == key() + "\n"


# --- by fit ---


def train(compile="epoch", echo=None, **options):
    """Return the losses and the notes."""
    torch.manual_seed(0)
    x = torch.randn(50, 4)
    dl = pf.get_data(TensorDataset(x, (x[:, 0] > 0).long()), None, 10)[0]
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 2))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    lines = []
    options["echo"] = echo or lines.append
    history = pf.fit(4, model, F.cross_entropy, opt, dl, compile=compile, **options)
    return history, [line for line in lines if line.startswith("note")]


def test_without_a_compiler_one_line_says_so(tmp_path, capfd):
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)}):
        history, notes = train()
    assert notes == [
        "note   nothing is compiled: there is no C++ compiler (install g++, or name one in CXX)"
    ]
    assert history.step_losses == train(compile=False)[0].step_losses
    assert history.run.compile == ""
    assert capfd.readouterr() == ("", "")


COMPILING = "note   compiling the steps of an epoch as one program: the first time takes a minute"
ARE = "note   the steps of an epoch are one program, compiled "
STOPPED = """
import sys
from test_program_cache import train

train(checkpoint=sys.argv[1], echo=lambda line: print(line, file=sys.stderr, flush=True))
"""

ALONE = """
import subprocess
from test_program_cache import train

subprocess.Popen = None  # torch's own way to load would start some, for a second
print(*train()[1], sep="\\n")
"""


class Clear(pf.Callback):
    in_program = "after"

    def on_epoch_end(self, context):
        program_cache.clear()


@pytest.mark.soak
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch compiles vectors only"
)
def test_a_real_program_is_stopped_resumed_kept_and_cleared(cache, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(program_cache, "loaded", LOADED)
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "checkpoints")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr.readline() == f"{COMPILING}\n"
        time.sleep(8)  # while C++ is compiled
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.stderr.read() == ""
    assert time.monotonic() - began < 10  # one second, on an idle machine
    assert process.returncode == 143
    assert not list(tmp_path.glob("plainfit-*"))

    resumed, notes = train(checkpoint=tmp_path / "checkpoints", resume=True)
    assert notes[0] == COMPILING
    assert notes[1].startswith(f"{ARE}in ")
    assert notes[1].endswith(" s, kept for the next time")
    found = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=env)
    assert (found.stdout, found.stderr) == (f"{ARE}before\n", "")
    whole, notes = train(callbacks=[Clear()])
    assert notes == [f"{ARE}before"]
    assert programs() == []
    assert whole.step_losses == resumed.step_losses
    assert whole.step_losses == pytest.approx(train(compile=False)[0].step_losses, rel=1e-5)
    assert "plainfit" not in os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    assert capfd.readouterr() == ("", "")
