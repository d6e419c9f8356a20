"""The page: who is let in, and its frame in a browser."""

import urllib.error
import urllib.request

import pytest
from browsing import TOKEN, check_accessible, english_in, needs_chromium, opened, serving

from plainfit.web.home import PAGES
from plainfit.web.page import create_page


def status(url, **headers):
    request = urllib.request.Request(
        url, headers={n.replace("_", "-"): v for n, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(create_page(tmp_path_factory.mktemp("runs"), TOKEN)) as address:
        yield address


@pytest.mark.parametrize("path", ["/", "/runs", "/static/common.js", "/nowhere"])
def test_a_stranger_sees_nothing(address, path):
    code, text = status(address + path)
    assert code == 403
    assert "Open the address" in text
    assert status(f"{address}{path}?token=another")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}],
    ids=["rebound name", "another site", "a file"],
)
def test_another_page_sees_nothing_even_with_the_cookie(address, headers):
    cookie = f"plainfit-{address.rpartition(':')[2]}={TOKEN}"
    assert status(f"{address}/runs", cookie=cookie)[0] == 200
    code, text = status(f"{address}/runs", cookie=cookie, **headers)
    assert code == 403
    assert "127.0.0.1" in text


@needs_chromium
@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_by_keyboard_and_speaks_both_languages(tmp_path, page):
    with opened(tmp_path / "none", "/clean" if page == "runs" else "/runs") as tab:
        link = tab.get_by_role("link", name=page.capitalize(), exact=True)
        link.focus()
        tab.keyboard.press("Enter")
        tab.wait_for_url(f"**/{page}")
        tab.get_by_role("heading", level=1).wait_for()  # there is one
        check_accessible(tab)
        tab.evaluate("history.replaceState(null, '', '?run=x')")
        tab.set_viewport_size({"width": 360, "height": 740})
        tab.emulate_media(color_scheme="dark")
        tab.get_by_role("link", name="中文").press("Enter")
        tab.wait_for_url(f"**/{page}?run=x&lang=zh-CN*")  # what was chosen stays
        tab.get_by_role("heading", level=1).wait_for()
        if page != "ladder":
            tab.locator(".command:visible").wait_for()  # what to do in an empty folder
            assert english_in(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        check_accessible(tab)
        tab.goto("/clean" if page == "runs" else "/runs")
        assert tab.locator("html").get_attribute("lang") == "zh-CN"  # it is remembered
