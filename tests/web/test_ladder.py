"""The ladder's pages: every rung in both languages, runs beside the rung before, steps."""

import asyncio
import base64
import json
import re
import signal
from collections import Counter

import numpy as np
import pytest
from browsing import TOKEN, check_accessible, needs_chromium, opened
from starlette.testclient import TestClient

from plainfit.ladder.catalog import RUNGS
from plainfit.ladder.inside import PHASES, STEPPABLE
from plainfit.web.ladder import Worker
from plainfit.web.page import create_page

CHINESE = re.compile("[\u4e00-\u9fff]")
PARTS = re.compile("<(h[1-6]|section|table|tr|td|li|pre|math|button|a|details)[ >]")
PHASES_SEEN = (
    ("Predictions", "right class", "pred = model(xb)"),
    ("Loss", "Mean of the batch", "loss = loss_func(pred, yb)"),
    ("Gradients", "weights.grad", "loss.backward()"),
    ("Update", "Loss of this batch", "model.zero_grad()"),
)
ADDRESSES = ["/ladder", *(f"/ladder/{rung.label}" for rung in RUNGS)]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of the page, with the token, while its server is up."""
    app = create_page(tmp_path_factory.mktemp("runs"), TOKEN)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get(f"/ladder?token={TOKEN}").status_code == 200
        yield client


@pytest.mark.parametrize("address", ADDRESSES)
def test_each_page_is_in_both_languages(client, address):
    pages = {}
    for language in ("en", "zh"):
        answer = client.get(address, params={"lang": language})
        assert answer.status_code == 200
        pages[language] = re.sub(r"(?s)<head>.*</head>| data-texts='[^']*'|中文", "", answer.text)
        assert f'lang="{"zh-CN" if language == "zh" else "en"}"' in answer.text
    assert client.get(address).text == client.get(address, params={"lang": "zh"}).text  # remembered
    assert not CHINESE.search(pages["en"])
    assert len(CHINESE.findall(pages["zh"])) > 200
    counts = {language: Counter(PARTS.findall(text)) for language, text in pages.items()}
    assert counts["en"] == counts["zh"]


def test_the_browser_says_which_language_at_first(tmp_path):
    client = TestClient(create_page(tmp_path, TOKEN), base_url="http://127.0.0.1")
    client.get(f"/ladder?token={TOKEN}")
    asked = {
        "zh-TW,zh;q=0.9": "zh-CN", "de,zh;q=0.7,en;q=0.3": "zh-CN", "en-GB,zh;q=0.5": "en",
        "de": "en", "": "en",
    }  # fmt: skip
    for said, lang in asked.items():
        page = client.get("/ladder/05", headers={"accept-language": said}).text
        assert page.count(f'<html lang="{lang}">') == 1
    assert client.get("/ladder/16").status_code == 404
    assert client.get("/ladder/optim").text == client.get("/ladder/05").text


def test_a_step_arrives_as_numbers(client):
    answer = client.get("/api/ladder/03/step/1", params={"data": "digits"}).json()
    xb = np.frombuffer(base64.b64decode(answer["xb"]["values"]), np.float32)
    assert xb.reshape(answer["xb"]["shape"]).shape == (64, 64)
    assert 0 <= xb.min() < xb.max() <= 1
    assert answer["parameters"]["weights"]["shape"] == [64, 10]
    for address, said in (
        ("/api/ladder/03/step/999", "step must be 0 to 398"),
        ("/api/ladder/14/step/0", "from 01 to 13"),
        ("/api/ladder/03/step/0?data=../x", "unknown data"),
        ("/api/ladder/99/step/0", "unknown rung"),
    ):
        refused = client.get(address)
        assert refused.status_code == 422
        assert said in refused.json()["detail"]


def test_a_run_says_every_loss_and_the_comparison(client):
    origin = {"origin": "http://127.0.0.1"}
    for body in ({"rungs": "1-99"}, {"rungs": "5", "data": "https://example.com/x"}):
        assert client.post("/api/ladder/run", json=body, headers=origin).status_code == 422
    answer = client.post("/api/ladder/run", json={"rungs": "0,3"}, headers=origin)
    said = [json.loads(line) for line in answer.text.splitlines()]
    assert said[-1] == {"done": True}
    losses = {
        label: [one["loss"] for one in said if "loss" in one and one["rung"] == label]
        for label in ("02", "03")
    }
    assert len(losses["02"]) == 400
    assert losses["02"] == losses["03"]
    printed = "".join(one["text"] for one in said if one.get("rung") == "03" and "text" in one)
    assert printed.startswith("before: loss ")
    assert "label: " in "".join(one["text"] for one in said if one.get("rung") == "00")
    rows = [one["comparison"] for one in said if "comparison" in one]
    held = [(row["rung"], row["relation"], row["holds"]) for row in rows]
    assert held == [(0, "first", True), (3, "bitwise", True)]


def test_a_run_that_is_left_ends_its_process(tmp_path):
    async def leave():
        worker = Worker()
        worker.folder = str(tmp_path)
        answers = worker.ask(do="run", rungs="3", data="digits")
        async for line in answers:
            if b"loss" in line:
                break
        process = worker.process
        await answers.aclose()
        await worker.close()
        return process.returncode

    assert asyncio.run(leave()) == -signal.SIGKILL


@needs_chromium
@pytest.mark.soak
def test_run_a_rung_stop_it_and_step_through_it(tmp_path):
    with opened(tmp_path, "/ladder", viewport={"width": 1300, "height": 900}) as tab:
        tab.goto("/ladder/03?lang=en")
        tab.locator("#run").press("Enter")
        tab.locator("#verdict", has_text="holds").wait_for(timeout=180_000)
        assert tab.locator("#chart path.line").count() == 2
        assert tab.locator("#outputs pre").count() == 2
        tab.locator("#run").click()
        tab.get_by_text("Running rung 02").wait_for(timeout=60_000)
        tab.locator("#stop").click()
        tab.get_by_text("Stopped.").wait_for()
        assert tab.locator("#verdict").is_hidden()
        tab.locator("#at").scroll_into_view_if_needed()
        tab.locator(".sheet input").nth(3).check(timeout=60_000)
        for phase, seen, line in PHASES_SEEN:
            tab.locator("#forward").press("Enter")
            assert tab.locator("[aria-current=step]").inner_text() == phase
            tab.locator("#values").get_by_text(seen).first.wait_for()
            assert line in tab.locator("li.now").last.inner_text()
        check_accessible(tab)
        tab.locator("#forward").press("Enter")
        tab.locator("#values", has_text="xb 64").wait_for(timeout=60_000)
        assert tab.locator("#at").input_value() == "1"


@needs_chromium
def test_pages_turn_by_keys_in_chinese_on_a_narrow_screen(tmp_path):
    options = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "locale": "zh-CN"}
    with opened(tmp_path, "/ladder", **options) as tab:
        tab.keyboard.press("ArrowRight")
        tab.wait_for_url("**/ladder/00")
        tab.keyboard.press("ArrowRight")
        tab.wait_for_url("**/ladder/01")
        assert "逻辑回归" in tab.get_by_role("heading", level=1).inner_text()
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        check_accessible(tab)
        tab.get_by_role("link", name="English").click()
        tab.get_by_role("heading", level=1).get_by_text("by hand").wait_for()
        tab.wait_for_load_state()  # with the keys
        tab.keyboard.press("ArrowLeft")
        tab.wait_for_url("**/ladder/00")
        assert "from a file" in tab.get_by_role("heading", level=1).inner_text()


@needs_chromium
@pytest.mark.soak
def test_every_page_in_both_languages_at_every_width(tmp_path):
    with opened(tmp_path) as tab:
        for language in ("en", "zh"):
            for width, scheme in ((360, "dark"), (800, "light"), (1600, "dark")):
                tab.set_viewport_size({"width": width, "height": 900})
                tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                for address in ADDRESSES:
                    tab.goto(f"{address}?lang={language}")
                    assert tab.evaluate("document.documentElement.scrollWidth") <= width, address
                    check_accessible(tab)


@needs_chromium
@pytest.mark.soak
def test_every_rung_runs_and_can_be_stepped_through(tmp_path):
    with opened(tmp_path) as tab:
        for rung in RUNGS:
            tab.goto(f"/ladder/{rung.label}?lang=en")
            tab.locator("#run").click()
            tab.locator("#verdict", has_text="holds").wait_for(timeout=600_000)
            if rung in STEPPABLE:
                tab.locator("#at").scroll_into_view_if_needed()
                tab.locator(".sheet").wait_for(timeout=120_000)
                for _ in PHASES:
                    tab.locator("#forward").click()
                    check_accessible(tab)
        tab.goto("/ladder")
        tab.locator("#run").click()
        tab.get_by_text("16 / 16 relations hold").wait_for(timeout=900_000)
        check_accessible(tab)
