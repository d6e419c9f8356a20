"""The pages about runs, read as a browser would; and small runs to make them of."""

import json
import re
from html.parser import HTMLParser

from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """A page, as far as the tests look into it."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.open, self.tables, self.text = [], [], {}, ""
        self.feed(self.source)
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs, [name for name, _ in self.open]))
        if tag not in VOID:
            self.open.append((tag, attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), [name for name, _ in self.open]))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        names = [name for name, _ in self.open]
        if "style" in names:
            return
        self.text += data
        if "th" in names or "td" in names:
            self.rows[-1][-1] += data.strip()

    @property
    def rows(self):
        labels = [attrs["aria-label"] for _, attrs in self.open if "aria-label" in attrs]
        return self.tables.setdefault(labels[-1], [])

    def all(self, tag, **wanted):
        return [
            attrs
            for name, attrs, _ in self.tags
            if name == tag and all(attrs.get(key) == value for key, value in wanted.items())
        ]

    def elements(self):
        """Return each kind of element with the names of its attributes."""
        return {(tag, *sorted(attrs)) for tag, attrs, _ in self.tags}

    def headings(self):
        return re.findall(r"<h[1-6]>(.*?)</h[1-6]>", self.source)


def quiet(folder, **settings):
    """Train for three epochs, without a word."""
    train(RunConfig(out=folder, **{"model": "logistic", "epochs": 3, **settings}), echo=None)
    return folder


def change_record(folder, **changes):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def absent(page):
    """Return which of the sections about predictions are not there."""
    headings = page.headings()
    return {"Confusion matrix", "Classes", "Highest loss", "Samples"} - set(headings)
