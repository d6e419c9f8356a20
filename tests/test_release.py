"""One version everywhere, and what `make release` refuses."""

import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from plainfit import __version__

ROOT = Path(__file__).parents[1]
VERSIONED = ("CITATION.cff", "CHANGELOG.md", "src/plainfit/common/__init__.py")


def versions_in(root):
    """The versions of citation, changelog and package; that of a changelog is its newest."""
    citation, changelog, package = ((root / name).read_text("utf-8") for name in VERSIONED)
    headings = re.findall(r"^## \[(.*?)\]", changelog, re.MULTILINE)
    assert headings[0] == "Unreleased"
    (cited,) = re.findall(r"^version: (.*)", citation, re.MULTILINE)
    (own,) = re.findall(r'^__version__ = "(.*)"', package, re.MULTILINE)
    return cited, headings[1] if len(headings) > 1 else own, own


@pytest.fixture
def copy(tmp_path):
    """A small repository with what a release changes."""
    for name in (*VERSIONED, "release.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for words in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "start"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_the_versions_are_one():
    assert set(versions_in(ROOT)) == {__version__}


def test_a_release_sets_all_of_them(copy):
    spec = spec_from_file_location("release", copy / "release.py")
    release = module_from_spec(spec)
    spec.loader.exec_module(release)
    release.set_version("9.8.7", "2030-01-02")
    assert set(versions_in(copy)) == {"9.8.7"}
    assert "## [9.8.7] - 2030-01-02\n" in (copy / "CHANGELOG.md").read_text("utf-8")
    assert "\ndate-released: 2030-01-02\n" in (copy / "CITATION.cff").read_text("utf-8")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("9.8", "VERSION must be like 0.2.0, got '9.8'"),
        ("9.8.6", "VERSION must be new, and there is a tag v9.8.6"),
        ("9.8.7", "the tree must be clean: commit or remove what `git status` shows"),
    ],
)
def test_what_is_no_release_is_refused_and_changes_nothing(copy, version, said):
    subprocess.run(["git", "tag", "v9.8.6"], cwd=copy, check=True)
    if "clean" in said:
        (copy / "new.txt").touch()
    before = versions_in(copy)
    command = [sys.executable, "release.py", version]
    ended = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, f"{said}\n")
    assert versions_in(copy) == before
