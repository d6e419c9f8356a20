"""Files are written whole or not at all, and nothing else is touched; commands for a shell."""

import os
import secrets
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_model
from torch import nn

from plainfit.common import files
from plainfit.common.errors import command
from plainfit.models.weights import weights_to_bytes


@pytest.mark.parametrize(
    "name",
    [
        ".env-prod.tmpl",
        ".notes-2026.tmp.md",
        ".run-4711.tmp.json",
        ".plainfit-notes.tmp",
        ".plainfit-0123456789abcdef.tmp.png",
        "x.plainfit-0123456789abcdef.tmp",
        ".plainfit-0123456789ABCDEF.tmp",
        ".plainfit-0123456789abcdef.tmp\n",
    ],
)
def test_files_of_others_stay(tmp_path, name):
    (tmp_path / name).write_text("precious")
    (tmp_path / ".plainfit-0123456789abcdef.tmp").write_text("left by a killed process")
    files.remove_temporary(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_content_is_synced_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls = []

    def counted(name):
        real = getattr(os, name)

        def replacement(*arguments):
            is_file = name != "fsync" or stat.S_ISREG(os.fstat(arguments[0]).st_mode)
            calls.append(name if is_file else f"{name} of the folder")
            return real(*arguments)

        monkeypatch.setattr(os, name, replacement)

    for name in ("write", "fsync", "replace"):
        counted(name)
    files.write_whole(tmp_path / "report.html", b"new")
    assert calls == ["write", "fsync", "replace", "fsync of the folder"]


def test_a_link_that_is_there_already_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    for target in (tmp_path / "precious", tmp_path / "missing"):
        (tmp_path / "precious").write_text("precious")
        link = tmp_path / f".plainfit-{'0' * 16}.tmp"
        link.symlink_to(target)
        with pytest.raises(FileExistsError):
            files.write_whole(tmp_path / "report.html", b"new")
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(OSError, match="symbolic link"):
            files.append(link, b"new")
        link.unlink()
        assert [path.name for path in tmp_path.iterdir()] == ["precious"]
        assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_under_the_name_itself_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "report.html").symlink_to("precious")
    files.write_whole(tmp_path / "report.html", b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "report.html").read_bytes() == b"new"


def test_names_as_long_as_a_file_system_takes(tmp_path):
    for name in ("x" * 255, "x" + "." + "y" * 253):
        files.write_whole(tmp_path / name, b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"


def test_weights_are_the_file_that_safetensors_writes(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("row", self.first.weight.detach()[1])
            self.register_buffer("turned", nn.Conv2d(2, 3, 3).weight.detach().transpose(0, 1))

    for model, metadata in ((Tied(), None), (Tied(), {"facts": "{}"}), (nn.Linear(2, 2), None)):
        save_model(model, str(tmp_path / "theirs"), dict(metadata) if metadata else None)
        ours, theirs = weights_to_bytes(model, metadata), (tmp_path / "theirs").read_bytes()
        assert sorted(ours) == sorted(theirs)  # names in the metadata come in any order
        assert ours[-100:] == theirs[-100:]


def test_parts_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 4)
    for parts in ([], [b""], [b"abcd"], [b"a", b"", memoryview(b"bcdefghijk"), b"lm"]):
        files.write_whole(tmp_path / "parts", *parts)
        assert (tmp_path / "parts").read_bytes() == b"".join(parts)


@settings(max_examples=30)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
        max_size=8,
    )
)
def test_a_command_is_one_line_that_a_shell_reads_back(words):
    line = command(*words)
    assert line.isprintable()
    out = subprocess.run(["bash", "-c", line.replace("plainfit", "printf '%s\\0'", 1)],
                         capture_output=True, check=True).stdout  # fmt: skip
    assert out == "".join(f"{word}\0" for word in words).encode() or not words


def test_a_path_that_is_no_option_and_no_text():
    assert command("report", Path("-x")) == "plainfit report ./-x"
    assert command("report", "\ud800") == "plainfit report $'?'"
    name = os.fsdecode(b"bad\xff'\n")
    line = command(name).replace("plainfit", "printf %s", 1)
    assert subprocess.run(["bash", "-c", line], capture_output=True).stdout == os.fsencode(name)
