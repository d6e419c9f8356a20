"""The page in a real browser: Debian's Chromium, driven by Playwright.

A page that logs an error on its console, raises, or asks another address than its server's, fails
its test.
"""

import shutil
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from plainfit.cli.web import bound
from plainfit.web.page import create_page

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
TOKEN = "a-token"
FLAGS = (
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@contextmanager
def serving(app):
    """Serve an application on this machine; give its address."""
    config = uvicorn.Config(app, port=0, log_level="warning")
    server = uvicorn.Server(config)
    app.state.is_closing = lambda: server.should_exit
    with bound(config) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def opened(folder, path="/runs", flags=(), **options):
    """Open a page about a folder of runs in a tab of its own.

    Args:
        folder: of runs.
        path: of the page.
        flags: for Chromium, besides the usual ones.
        **options: of Playwright's `new_context`, such as `color_scheme="dark"`.
    """
    with serving(create_page(folder, TOKEN)) as address, browser(flags) as chromium:
        context = chromium.new_context(base_url=address, **options)
        tab = context.new_page()
        tab.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        problems = []
        tab.on("console", lambda said: said.type == "error" and problems.append(said.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on(
            "request",
            lambda asked: (
                asked.url.startswith((address, "data:", "blob:")) or problems.append(asked.url)
            ),
        )
        tab.goto(f"{path}{'&' if '?' in path else '?'}token={TOKEN}")
        yield tab
        assert problems == []


@contextmanager
def browser(flags=()):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        try:
            yield chromium
        finally:
            chromium.close()


def check_accessible(tab):
    """Assert that axe-core finds nothing to object to."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab)
    assert not found.response["violations"], found.generate_report()


def english_in(tab):
    """Return what a reader of a Chinese page would find in English, without a word of why."""
    return tab.evaluate("""() => {
      const known = "[lang=en], code, pre, kbd, option, .brand, script";
      const isEnglish = (text) => /[A-Za-z]{3}/.test(text) && !/[\u4e00-\u9fff]/.test(text);
      const found = [];
      const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      for (let node; (node = nodes.nextNode());) {
        if (!node.parentElement.closest(known) && isEnglish(node.data)) found.push(node.data);
      }
      for (const name of ["aria-label", "title", "placeholder", "alt"]) {
        for (const one of document.querySelectorAll(`[${name}]`)) {
          if (!one.closest(known) && isEnglish(one.getAttribute(name))) found.push(one.outerHTML);
        }
      }
      return [...found, document.title].filter((text) => isEnglish(text.replace("plainfit", "")));
    }""")
