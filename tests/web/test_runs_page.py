"""The page of runs: events, reports and trainings over HTTP, and the page in a browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from browsing import TOKEN, check_accessible, needs_chromium, opened, serving

from plainfit.common.files import writer_of
from plainfit.report.page import write_report
from plainfit.runs.folder import open_run, update_record
from plainfit.runs.train import resume
from plainfit.web.page import create_page
from plainfit.web.runs import groups
from plainfit.web.trainings import SETTINGS, stop_run


def end(trainings):
    for training in trainings.all:
        training.process.kill()
        training.process.wait()
        training.card()  # closes its output


class Server:
    """The page's server, asked as its own page does."""

    def __init__(self, folder):
        self.page = create_page(folder, TOKEN)
        self.trainings = self.page.state.home.trainings

    def ask(self, path, body=None, token=TOKEN):
        headers = {"cookie": f"plainfit-{self.address.rpartition(':')[2]}={token}"}
        if body is not None:
            headers |= {"origin": self.address, "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(
            urllib.request.Request(self.address + path, data, headers), timeout=120
        )

    def refusal(self, path, body=None):
        with pytest.raises(urllib.error.HTTPError) as caught, self.ask(path, body):
            pass
        with caught.value as answer:
            return answer.code, json.load(answer)["detail"]

    @contextmanager
    def events(self, *chosen, token=TOKEN):
        """Yield a function that gives the page's state after its next event."""
        query = "&".join(f"run={name}" for name in chosen)
        with self.ask(f"/api/runs/events?{query}", token=token) as answer:
            state = {"lines": {}, "epochs": {}, "steps": {}, "trainings": []}

            def following():
                while not (line := answer.readline().strip()):
                    pass
                told = json.loads(line.removeprefix(b"data: "))
                state["lines"] |= {line["name"]: line for line in told["changed"]}
                for name in told["gone"]:
                    del state["lines"][name]
                for one in told["rows"]:
                    rows = state[one["kind"]].setdefault(one["run"], [])
                    rows[one["from"] :] = one["rows"]
                state["trainings"] = told.get("trainings", state["trainings"])
                return state

            yield following


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    with serving(server.page) as server.address:
        yield server
    end(server.trainings)


def test_the_table_has_good_and_damaged_runs(server, digits_run, trained_run, tmp_path):
    for source in (digits_run, trained_run):
        shutil.copytree(source, tmp_path / source.name)
    shutil.copytree(trained_run, tmp_path / "wrong")
    (tmp_path / "wrong" / "run.json").write_text("{}")
    with server.events() as following:
        lines = following()["lines"]
        assert lines["wrong"]["state"] == "damaged"
        assert "must have 'config'" in lines["wrong"]["problem"]
        first = lines["first"]
        run = open_run(digits_run)
        assert first["cells"]["best_valid_loss"]["value"] == run.best["valid_loss"]
        assert first["cells"]["test_accuracy"]["text"] == f"{run.record['test']['accuracy']:.4f}"
        assert first["settings"]["lr"] == 0.05
        commands = dict(first["commands"])
        assert commands["longer"].endswith("first --epochs 6")
        assert commands["again"] == run.config.command()
        shutil.rmtree(tmp_path / "wrong")
        assert following()["lines"].keys() == {"first", "run"}


def test_rows_that_a_resume_takes_back(server, digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    with server.events("run") as following:
        before = following()
        old = [row["seconds"] for row in before["epochs"]["run"]]
        assert len(before["epochs"]["run"]) == 3
        newest.unlink()  # as if the process was killed before its last epoch
        (folder / "model.safetensors").unlink()
        update_record(folder, state="started")
        resume(folder, echo=None)
        run, steps = open_run(folder), len(open_run(folder).steps)
        assert run.record["resumed"] == [steps // 3 * 2]
        while (now := following())["lines"]["run"]["state"] != "finished":
            pass
        while now["epochs"]["run"] != run.epochs:
            now = following()
        assert [row["seconds"] == then for row, then in zip(run.epochs, old, strict=True)] == [
            True, True, False,
        ]  # fmt: skip
        assert now["steps"]["run"][-1] == [steps - 1, 2, run.steps[-1].loss, run.steps[-1].lr]
        assert now["lines"]["run"]["resumed"] == run.record["resumed"]


def test_values_that_json_does_not_have(server, digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    line = (folder / "metrics.jsonl").read_text().splitlines()[0]
    loss = str(json.loads(line)["valid_loss"])
    (folder / "metrics.jsonl").write_text(line.replace(loss, "NaN") + "\n")
    (folder / "steps.csv").write_text("step,epoch,loss,lr\n0,0,inf,0.1\n")
    with server.events("run") as following:
        state = following()
        assert state["epochs"]["run"][0]["valid_loss"] is None
        assert state["steps"]["run"] == [[0, 0, None, 0.1]]
        best = state["lines"]["run"]["cells"]["best_valid_loss"]
        assert best == {"value": None, "text": "-"}


def test_the_report_is_the_reports_page_and_nothing_is_written(server, digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "runs" / "run")
    server.trainings.folder = None  # not asked
    inner = Server(tmp_path / "runs")
    there = sorted(folder.rglob("*"))
    with serving(inner.page) as inner.address:
        with inner.ask("/api/runs/run/report") as answer:
            text, policy = answer.read().decode(), answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
        assert "script-src" not in policy
        assert inner.refusal("/api/runs/..%2Frun/report")[0] == 404
        assert inner.refusal("/api/runs/none/report")[0] == 404
    assert sorted(folder.rglob("*")) == there
    assert text == write_report(folder, tmp_path / "report.html").read_text()


def test_looking_at_a_strangers_run_runs_none_of_its_code(
    server, digits_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange.py").write_text(
        "open('it-ran', 'w')\nfrom torch.nn import Linear as Net\n"
    )
    folder = shutil.copytree(digits_run, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    model = record["model"] | {"target": "strange:Net"}
    update_record(folder, model=model, config=record["config"] | {"model": "strange:Net"})
    with server.events("run") as following:
        assert following()["lines"]["run"]["model"] == "strange:Net"
    with server.ask("/api/runs/run/report") as answer:
        assert "must be trusted before it runs" in answer.read().decode()
    assert not (tmp_path / "it-ran").exists()


NO_NAMES = ("../x", "a/b", "..", "-rf", "a\nb", "\ud800")
NO_TRAININGS = [
    ({"settings": {"epochz": "1"}}, "unknown setting 'epochz'"),
    ({"settings": {"out": "/tmp/x"}}, "unknown setting 'out'"),
    ({"settings": {"source": "x"}}, "unknown setting 'source'"),
    ({"settings": {"epochs": True}}, "epochs must be text, got True"),
    ({"settings": {"nesterov": "yes"}}, "nesterov must be true or false, got 'yes'"),
    ({"settings": {"data": "a\0b"}}, "no_command"),
    ({"settings": {"data": "\ud800"}}, "no_command"),
    ({"settings": {"data": "x" * 2**20}}, "no_command"),
    *(({"settings": {}, "name": name}, "no_run_name") for name in NO_NAMES),
]


def test_what_is_no_training_is_refused(server, tmp_path):
    for new, said in NO_TRAININGS:
        code, detail = server.refusal("/api/trainings", new)
        text = detail["text"] if isinstance(detail, dict) else detail
        assert (code, text[: len(said)]) == (422, said)
    assert server.refusal("/api/trainings", {"name": "x"})[0] == 422
    assert server.refusal("/api/trainings", {"settings": {"epochs": 3}})[0] == 422
    assert not [*tmp_path.iterdir()]


def test_a_training_that_is_refused_by_its_command_says_why(server, tmp_path):
    new = {"name": "my run; ls", "settings": {"epochs": "-3", "keep_memory": False}}
    with server.ask("/api/trainings", new) as answer:
        card = json.load(answer)
    assert card["command"] == (
        f"plainfit train --epochs=-3 --no-keep-memory --out '{tmp_path}/my run; ls'"
    )
    with server.events() as following:
        while (found := following()["trainings"][0])["code"] is None:
            pass
    assert found["code"] == 2
    assert "--epochs must be at least 1" in found["refused"]
    assert not [*tmp_path.iterdir()]
    assert server.refusal("/api/runs/none/stop", {})[0] == 404


def test_a_run_that_nothing_trains_cannot_be_stopped(server, digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    (folder / ".plainfit.lock").write_text(f"process {os.getpid()} on this machine")  # a lie
    code, detail = server.refusal("/api/runs/run/stop", {})
    assert (code, detail) == (422, {"text": "not_trained", "folder": str(folder)})


def test_the_form_has_every_setting_of_the_command_once():
    names = [field["name"] for _, fields in groups() for field in fields]
    assert sorted(names) == sorted(SETTINGS)
    for _, fields in groups():
        for field in fields:
            values = [field["default"], *field["choices"]]
            assert field["default"] in (None, *field["choices"]) or not field["choices"], values


@needs_chromium
def test_the_table_and_the_curves_by_keyboard(digits_run, trained_run, tmp_path):
    for source in (digits_run, trained_run):
        shutil.copytree(source, tmp_path / source.name)
    shutil.copytree(trained_run, tmp_path / "wrong")
    (tmp_path / "wrong" / "run.json").write_text("{}")
    with opened(tmp_path, "/runs") as tab:
        names = tab.locator("tbody th")
        tab.get_by_role("button", name="best valid loss").press("Enter")
        best = sorted((open_run(tmp_path / n).best["valid_loss"], n) for n in ("first", "run"))
        expect(names).to_have_text([name for _, name in best] + ["wrong"])
        tab.get_by_role("button", name="best valid loss").press("Enter")
        expect(names).to_have_text([name for _, name in best[::-1]] + ["wrong"])
        expect(tab.get_by_role("columnheader", name="schedule")).to_be_visible()
        tab.get_by_label("Filter").fill("schedule=cos")
        expect(names).to_have_text(["first"])
        tab.get_by_label("Filter").fill("")
        expect(tab.get_by_role("checkbox", name="wrong")).to_be_disabled()
        for name in ("first", "run"):
            tab.get_by_role("checkbox", name=name, exact=True).check()
        chart = tab.get_by_role("application", name="accuracy by epochs done")
        chart.press("ArrowRight")
        accuracy = f"{open_run(digits_run).epochs[0]['accuracy']:.4g}"
        expect(tab.locator(".chart-values:visible")).to_contain_text(f"first{accuracy}")
        chart.press("+")
        expect(tab.get_by_role("button", name="Show all")).to_be_visible()
        chart.press("0")
        expect(tab.get_by_role("button", name="Show all")).to_be_hidden()
        box = chart.bounding_box()
        tab.mouse.move(box["x"] + 100, box["y"] + 50)
        tab.mouse.down()
        tab.mouse.move(box["x"] + 200, box["y"] + 60, steps=3)
        tab.mouse.up()
        tab.get_by_role("button", name="Show all").click()
        tab.get_by_label("logarithmic losses").check()
        tab.get_by_role("slider", name="smoothing").fill("0.9")
        expect(tab.locator(".line-chart .faint")).to_have_count(8)  # not the rates
        check_accessible(tab)
        tab.reload()
        expect(tab.locator("tbody").get_by_role("checkbox", checked=True)).to_have_count(2)
        tab.locator("details.one summary").filter(has_text="first").click()
        tab.get_by_role("button", name="Report", exact=True).click()
        heading = tab.frame_locator("iframe").get_by_role("heading", name="Confusion matrix")
        expect(heading).to_be_visible()


@needs_chromium
@pytest.mark.parametrize("kills", [0, pytest.param(2, marks=pytest.mark.soak)])
def test_a_training_is_started_watched_killed_continued_and_stopped(tmp_path, kills):
    folder = tmp_path / "runs"
    with opened(folder, "/runs") as tab:
        expect(tab.get_by_text("There are no runs")).to_be_visible()
        tab.get_by_role("button", name="New training").press("Enter")
        tab.get_by_label("name of the run").fill("mine")
        tab.get_by_label("model", exact=True).fill("logistic")
        tab.get_by_label("epochs", exact=True).fill("1000000")
        check_accessible(tab)
        tab.get_by_role("button", name="Start", exact=True).press("Enter")
        row = tab.get_by_role("row", name="mine")
        for number in range(kills + 1):
            expect(row).to_contain_text("running")
            process = writer_of(folder / "mine")
            try:
                watch_growing(tab)
                if number < kills:
                    os.kill(process, signal.SIGKILL)
                    expect(row).to_contain_text("killed")
                    assert_at_end(tab, folder / "mine")
                    open_details(tab)
                    tab.get_by_role("button", name="Continue", exact=True).click()
                else:
                    check_accessible(tab)
                    open_details(tab)
                    tab.locator("details.one").get_by_role("button", name="Stop").click()
                    expect(row).to_contain_text("interrupted")
            finally:
                if number == kills and writer_of(folder / "mine") == process:
                    os.kill(process, signal.SIGKILL)
        assert_at_end(tab, folder / "mine")
        expect(tab.locator(".training").first).to_contain_text("stopped, and can be continued")
        record = open_run(folder / "mine").record
        assert len(record.get("resumed", [])) == kills
        expect(tab.locator(".curve-grid figure").first.locator(".mark")).to_have_count(kills)


@pytest.mark.soak
def test_a_training_goes_on_when_the_page_ends(tmp_path):
    app = subprocess.Popen(
        [sys.executable, "-m", "plainfit", "app", "runs", "--port", "0", "--no-open"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    server, process, folder = Server(tmp_path), None, tmp_path / "runs" / "mine"
    assert app.stdout.readline().startswith("note   there is no folder runs yet: ")
    server.address, token = re.search(r"(\S+)/\?token=(\S+),", app.stdout.readline()).groups()
    settings = {"model": "logistic", "epochs": "1000000"}
    try:
        with server.ask("/api/trainings", {"name": "mine", "settings": settings}, token):
            pass
        with server.events("mine", token=token) as following:
            while not following()["epochs"].get("mine"):
                pass
            process = writer_of(folder)
            app.send_signal(signal.SIGINT)  # while a page is open
            said = app.stdout.read()
        assert app.wait(60) == 130
        assert f"mine goes on training, as process {process}" in said
        count = len(open_run(folder).epochs)
        while len(open_run(folder).epochs) <= count:
            time.sleep(0.1)
        stop_run(folder)
        while writer_of(folder):
            time.sleep(0.1)
        assert open_run(folder).record["state"] == "interrupted"
    finally:
        app.kill()
        app.wait()
        app.stdout.close()
        if process and writer_of(folder) == process:
            os.kill(process, signal.SIGKILL)


def watch_growing(tab):
    """Wait until the first curve has changed twice."""
    curve = tab.locator(".curve-grid path.line").first
    for _ in range(2):
        expect(curve).not_to_have_attribute("d", curve.get_attribute("d"))


def assert_at_end(tab, folder):
    """Assert that the table has as many epochs as the log."""
    count = len(open_run(folder).epochs)
    expect(tab.get_by_role("row", name="mine")).to_contain_text(f"{count:,} of 1,000,000")


def open_details(tab):
    if tab.locator("details.one[open]").count() == 0:
        tab.locator("details.one summary").click()


def expect(what):
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)
    return expect(what)
