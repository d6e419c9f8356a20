"""The code and commands of the guides, run in their order as they are written; translations."""

import re
import shlex
import subprocess
import warnings
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    "callbacks",
    "checkpoints",
    "schedules",
    *(pytest.param(page, marks=pytest.mark.soak) for page in ("moving", "start")),
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("default::RuntimeWarning")  # how the table is read
def test_the_page_runs_as_it_is_written(page, tmp_path, monkeypatch, plainfit):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    threads = torch.get_num_threads()
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    namespace = {"__name__": page}
    found = re.findall(r"^```(python|sh) ?(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    for language, peer, block in found:
        if peer and find_spec(peer) is None:
            print(f"not run, as {peer} is not installed: a block of {page}.md")
            continue
        if language == "python":
            with warnings.catch_warnings(action="ignore" if peer else None):
                exec(compile(block, page, "exec"), namespace)
            continue
        for command in block.splitlines():
            name, *arguments = shlex.split(command)
            code, _, err = plainfit(*arguments)
            assert (name, code) == ("plainfit", 0), f"{command}\n{err}"
    torch.set_num_threads(threads)


def test_a_recording_shows_each_line_as_long_as_it_was_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import recording

    written = [(0.0, "one\r\n1%"), (0.5, "\r\x1b[32m2%\x1b[0m"), (9.5, "\r\nend <\r\n")]
    frames = list(recording.played(iter(written)))
    second = "\x1b[32m2%\x1b[0m"
    assert frames[:2] == [(0.0, ["one", "1%"]), (0.5, ["one", second])]
    assert frames[-1] == (1.5, ["one", second, "end <", ""])  # a wait is a second at most
    groups = ElementTree.fromstring(recording.svg(frames, 2.5)).findall("{*}g")
    lines = {"".join(group.itertext()): group.get("visibility") for group in groups}
    assert lines == {"one": None, "1%": "hidden", "2%": None, "end <": None}
    shown = "".join(text for _, text in recording.record("printf 'a\nb'", tmp_path))
    assert shown == "a\r\nb"
    with pytest.raises(subprocess.CalledProcessError):
        list(recording.record("exit 3", tmp_path))


def test_the_picture_of_a_training_is_small_and_loads_nothing():
    path = DOCS / "images" / "training.svg"
    picture = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 150_000
    assert re.findall(r"https?://[^\"]*", picture) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in picture
    assert "verify holds" in picture


def read_translation(path):
    read_po = pytest.importorskip("babel.messages.pofile").read_po
    with path.open("rb") as file:
        return {message.id: message.string for message in read_po(file) if message.id}


TRANSLATIONS = sorted(DOCS.glob("locale/*/LC_MESSAGES/*.po"))


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda p: p.stem)
def test_a_translation_has_the_text_of_its_page_all_of_it(path):
    translated = read_translation(path)
    page = (DOCS / f"{path.stem}.md").read_text(encoding="utf-8")
    page = " ".join(re.sub(r"(?s)\A---\n.*?\n---\n", "", page).split())  # without its keywords
    page = page.replace(r"\|", "|")  # in a table
    assert all(translated.values())
    outdated = [text for text in translated if " ".join(text.split()) not in page]
    assert outdated == []
    rest = re.sub(r"```.*?```", "", page)
    for text in sorted(translated, key=len, reverse=True):
        rest = rest.replace(" ".join(text.split()), "")
    assert re.findall(r"\w{3,}", rest) == []


def glossary():
    """Return the table of CONTRIBUTING.md, the longest words first."""
    text = (DOCS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \|$", text.partition("| Chinese |")[2], re.MULTILINE)
    words = {}
    for english, chinese in rows[1:]:
        words.update(zip(english.split(", "), chinese.split(", "), strict=True))
    return sorted(words.items(), key=lambda pair: -len(pair[0]))


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda p: p.stem)
def test_a_translation_has_the_words_of_the_glossary_and_the_code_and_links_of_its_page(path):
    words, others = glossary(), []
    assert words
    for text, translated in read_translation(path).items():
        rest = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
        for english, chinese in words:
            rest, count = re.subn(rf"\b{english}(?:e?s)?\b", "", rest, flags=re.IGNORECASE)
            if count and chinese not in translated and english not in translated.lower():
                others.append((english, translated))
        links = [sorted(re.findall(r"\]\(([^)]*)\)", side)) for side in (text, translated)]
        codes = [set(re.findall(r"`([^`]+)`", side)) for side in (text, translated)]
        others += [(text, translated)] * (links[0] != links[1] or not codes[1] <= codes[0])
    assert others == []


def test_the_chinese_site_is_searched_by_pairs_of_characters(monkeypatch):
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    monkeypatch.syspath_prepend(DOCS)
    from chinese import WORD, SearchPairs

    search = SearchPairs({})
    assert search.split("最新检查点 fit() 的") == ["最新", "新检", "检查", "查点", "fit"]
    assert f"matchAll(/{WORD}/g)" in search.js_splitter_code
