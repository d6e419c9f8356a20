"""The texts of the pages: each in both languages, used, and in the catalogues alone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

import plainfit.web
from plainfit.common.schema import hints_of
from plainfit.runs.settings import RunConfig
from plainfit.web.home import PAGES
from plainfit.web.trainings import SETTINGS

WEB = Path(plainfit.web.__file__).parent
CATALOGUES = sorted((WEB / "templates").glob("*.json"))
TEMPLATES = sorted((WEB / "templates").glob("*.jinja"))
SCRIPTS = sorted((WEB / "static").glob("*.js"))
CHINESE = re.compile("[\u4e00-\u9fff]")
NAME = re.compile(r"\{(\w+)\}")
ALIKE = {"ladder": {"relation_float64", "log_probability"}}  # written so in Chinese, too
SIGNS = {"ladder": {"of", "verdict"}, "runs": {"epochs_of"}, "clean": {"one_class", "origin"}}
DICT = set(dir({}))  # what `t.NAME` is in a template before a key


def read(path):
    return path.read_text(encoding="utf-8")


def unique(pairs):
    assert len(dict(pairs)) == len(pairs), "a key stands twice"
    return dict(pairs)


def catalogue(name):
    return json.loads(read(WEB / "templates" / f"{name}.json"), object_pairs_hook=unique)


def sources(page):
    """Return the templates and scripts of a page, by what they name."""
    found = [WEB / "static" / f"{page}.js", WEB / "templates" / f"{page}.html.jinja"]
    found += [WEB / "templates" / "rung.html.jinja"] if page == "ladder" else []
    for path in found:
        for name in re.findall(r'from "\./(\w+\.js)"|extends "([\w.]+)"', read(path)):
            other = WEB / ("static" if name[0] else "templates") / (name[0] or name[1])
            if other not in found:
                found.append(other)
    return found


def used_by(text):
    """Return the keys that a source has after `t`, and the beginnings of those that it makes."""
    keys = {*re.findall(r"\bt\.(\w+)", text), *re.findall(r'\bt\["([\w-]+)"\]', text)}
    return keys, {*re.findall(r'\bt\["(\w+_)" ~|\bt\[`(\w+_)\$', text)}


def used(paths, keys):
    """Return which keys are used; assert that all that is used is a key."""
    found = set()
    for path in paths:
        plain, begun = used_by(read(path))
        assert plain <= keys, f"{path.name} has texts that no catalogue has: {plain - keys}"
        computed = re.findall(r"\bt\[(?![\"`]).*?\]", read(path))
        assert {*computed} <= {"t[detail.text]"}, f"{path.name} has keys of unknown beginnings"
        found |= plain
        for start in (one or other for one, other in begun):
            some = {key for key in keys if key.startswith(start)}
            assert some, f"{path.name} has texts that no catalogue has: {start}"
            found |= some
    return found


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_each_text_is_in_both_languages(path):
    for key, (english, chinese) in catalogue(path.stem).items():
        assert english.strip(), key
        assert chinese.strip(), key
        assert not CHINESE.search(english), key
        assert {*NAME.findall(english)} == {*NAME.findall(chinese)}, key
        if key in ALIKE.get(path.stem, ()):
            assert english == chinese, key
        elif key not in SIGNS.get(path.stem, ()):
            assert CHINESE.search(NAME.sub("", chinese)), key
        assert key not in DICT, key


def test_each_text_is_used_and_each_used_text_is_there():
    shared = set(catalogue("page"))
    server = "".join(read(path) for path in WEB.glob("*.py"))  # which names texts in its errors
    named = {*re.findall(r'"text": "(\w+)"', server)}
    assert named <= shared, f"errors have texts that page.json has not: {named - shared}"
    used_of_shared = {key for key in shared if f'"{key}"' in server}
    for page in PAGES:
        own = set(catalogue(page))
        assert not own & shared
        found = used(sources(page), own | shared)
        assert own <= found, f"{page}.json has texts that nothing uses: {own - found}"
        used_of_shared |= found & shared
    assert shared == used_of_shared
    assert {path.stem for path in CATALOGUES} == {"page", "settings", *PAGES}


def test_the_help_of_the_form_is_that_of_the_command():
    hints, found = hints_of(RunConfig), catalogue("settings")
    assert {name: english for name, (english, _) in found.items()} == {
        name: get_args(hints[name])[1] for name in SETTINGS
    }


class Texts(HTMLParser):
    """The words of a template that a reader would see or hear."""

    def __init__(self, template):
        super().__init__()
        self.found = []
        self.kept = []
        self.feed(re.sub(r"(?s)\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", template))

    def handle_starttag(self, tag, attributes):
        self.kept += [tag] if tag == "kbd" else []
        heard = ("aria-label", "title", "alt", "placeholder", "data-what")
        self.found += [value for name, value in attributes if name in heard]

    def handle_endtag(self, tag):
        if tag == "kbd":
            self.kept.pop()

    def handle_data(self, data):
        self.found += [] if self.kept else [data]


def words(text):
    return re.findall(r"[A-Za-z\u4e00-\u9fff]{2,}", text)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_text_stands_in_a_template(path):
    found = [word for text in Texts(read(path)).found for word in words(text)]
    assert not {*found} - {"plainfit"}
    for literal in re.findall(r'\{\{[^}]*?"([^"]*)"', read(path)):
        assert not re.search(r"[a-z]{2,} [a-z]{2,}", literal, re.IGNORECASE)


CODE = {
    "Escape",
    "Delete",
    "Backspace",
    "AbortError",
    "yb",
    "pred",
    "loss",
    "log",
}  # names, in no language
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`')
NO_TEXT = re.compile(  # what stands before a literal that nobody reads
    r"(from |class: |class: [^,]*[?:] |querySelector(All)?\(|closest\(|matchMedia\(|getContext\("
    r"|setAttribute\(|types\.includes\(|import |\bd: |headers: \{ |transform: |font: )$"
)


def texts_in(script):
    """Return the literals of a script that are in a place or of a form that is read by people."""
    code = re.sub(r"(?m)(^|[\s;{])//.*$", r"\1", script)
    found = []
    for literal in LITERAL.finditer(code):
        text = re.sub(r"\$\{[^}]*\}", "", literal[1] or literal[2] or "")
        before = code[max(0, literal.start() - 60) : literal.start()].rpartition("\n")[2]
        if NO_TEXT.search(before) or CODE.issuperset(words(text)):
            continue
        in_place = re.search(
            r'("aria-\w*(label|description)"|title|alt|placeholder|textContent)\s*[:=] *$', before
        )
        as_child = re.search(r"(element|svg)\(.*\}, $|\}, $", before)
        as_error = before.endswith("Error(")
        is_form = re.search(r"[A-Za-z]{2,}[,.:;]? [A-Za-z]{2,}|^\s*[A-Z][a-z]+", text)
        if CHINESE.search(text) or in_place or as_child or as_error or is_form:
            found.append(text)
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_text_stands_in_a_script(path):
    assert texts_in(read(path)) == []
