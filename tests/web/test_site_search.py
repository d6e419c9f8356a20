"""The site's own search, asked as users ask: what answers is the first hit or the second."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import browser, needs_chromium, serving
from starlette.applications import Starlette
from starlette.staticfiles import StaticFiles

pytestmark = [needs_chromium, pytest.mark.soak]
DOCS = Path(__file__).parents[2] / "docs"
QUESTIONS = {
    "checkpoints": [
        "resume training", "continue from checkpoint", "resume after crash",
        "how do I resume a training that was stopped", "load checkpoint and continue training",
        "log to tensorboard", "how do I log to wandb", "weights and biases", "mlflow",
    ],
    "schedules": [
        "change learning rate", "learning rate schedule", "how to change the learning rate",
        "lr scheduler", "learning rate warmup",
    ],
    "transfer": ["freeze layers", "how do I freeze layers", "freeze the backbone", "fine tune"],
    "callbacks": ["custom metric", "how do I use my own metric", "add a metric", "custom callback"],
    "data": ["class weights", "imbalanced classes", "how do I weight classes", "weighted loss"],
    "inference": [
        "predict new files", "how do I predict new files", "inference on new data",
        "export to onnx", "how do I export to ONNX", "convert model to onnx",
    ],
    "training": ["two inputs", "how do I use two inputs", "multiple inputs"],
    "processes": [
        "train on gpu", "how do I train on a GPU", "multiple gpus", "train on two gpus",
        "distributed training", "ddp",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without notebooks and served."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", DOCS, folder]
    subprocess.run(command, env=os.environ | {"NOTEBOOKS": "off"}, check=True)
    app = Starlette()
    app.mount("/", StaticFiles(directory=folder, html=True))
    with serving(app) as address:
        yield address


@pytest.fixture(scope="module")
def tab(site):
    with browser() as chromium:
        tab = chromium.new_page(base_url=site)
        tab.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        yield tab


def hits(tab, words):
    """Type the words into the search of the front page; return the pages that it finds."""
    tab.goto("/")
    tab.fill("input[name=q]", words)
    tab.press("input[name=q]", "Enter")
    tab.wait_for_function(
        "/finished|did not match/i.test(document.querySelector('.search-summary')?.textContent)"
    )
    links = tab.locator("#search-results ul.search > li > a")
    found = links.evaluate_all("all => all.map(a => new URL(a.href).pathname)")
    return list(dict.fromkeys(path.strip("/").removesuffix(".html") for path in found))


@pytest.mark.parametrize(
    ("words", "page"), [(words, page) for page, asked in QUESTIONS.items() for words in asked]
)
def test_the_page_that_answers_is_found_in_one_hop(tab, words, page):
    assert page in hits(tab, words)[:2]


def test_a_name_of_the_api_leads_to_the_reference(tab):
    assert hits(tab, "EarlyStopping")[0] == "api"
