"""The page of labels that may be wrong: what it shows, and that decisions end up in new data."""

import io
import json

import pytest
from browsing import TOKEN, check_accessible, needs_chromium, opened
from PIL import Image
from starlette.testclient import TestClient

from plainfit.runs.cleaning import clean
from plainfit.runs.decisions import DECISIONS, Cleaning
from plainfit.runs.settings import RunConfig
from plainfit.web import cleaning
from plainfit.web.page import create_page

TABLE = "x,note,kind\r\n" + "".join(
    f'{n},"a, {n}",{"low" if (n < 40) != (n in (5, 70)) else "high"}\r\n' for n in range(80)
)  # rows 6 and 71 are wrong
SETTINGS = {"epochs": 30, "target": "kind", "drop": "note", "model": "logistic", "test_share": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of runs with what was found in a table, in images and in the digits."""
    home = tmp_path_factory.mktemp("made")
    (home / "t.csv").write_text(TABLE, newline="")
    for n in range(40):
        path = home / "photos" / ("dark" if (n < 20) != (n == 3) else "light") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6), 20 + 4 * n if n < 20 else 140 + 2 * n).save(path)
    for name, data, own in (
        ("of-table", str(home / "t.csv"), SETTINGS),
        ("of-photos", str(home / "photos"), {"epochs": 30, "model": "logistic", "test_share": 0}),
        ("of-digits", "digits", {"epochs": 1, "model": "logistic"}),
    ):
        config = RunConfig(data=data, out=home / "runs" / name, **own)
        clean(config, folds=2, echo=None)
    return home


@pytest.fixture
def folder(made):
    """The folder of runs, with nothing decided."""
    yield made / "runs"
    for path in (made / "runs").glob(f"*/{DECISIONS}"):
        path.unlink()


@pytest.fixture
def client(folder):
    with TestClient(create_page(folder, TOKEN), "http://127.0.0.1:80") as client:
        client.get(f"/clean?token={TOKEN}")
        yield client


def test_results_and_their_samples(client):
    assert {*client.get("/api/clean").json()} == {"of-table", "of-photos", "of-digits"}
    found = client.get("/api/clean/of-table").json()
    first = [found["samples"][str(number)] for number in found["suspects"][:2]]
    assert {one["origin"] for one in first} == {"6", "71"}
    for number in found["suspects"][:2]:
        details = client.get(f"/api/clean/of-table/samples/{number}").json()
        origin = int(found["samples"][str(number)]["origin"])
        assert details["row"][:2] == [["x", str(origin - 1)], ["note", f"a, {origin - 1}"]]
        assert sum(share for _, share in details["probabilities"]) == pytest.approx(1, abs=1e-3)
        assert client.get(f"/api/clean/of-table/samples/{number}/image").status_code == 404
    for name, size in (("of-photos", (6, 6)), ("of-digits", (8, 8))):
        answer = client.get(f"/api/clean/{name}/samples/0/image")
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).size == size


def test_a_decision_reads_what_was_decided_once(client, monkeypatch):
    reads, decisions = [], Cleaning.decisions
    monkeypatch.setattr(Cleaning, "decisions", lambda own: reads.append(own) or decisions(own))
    body = {"number": 0, "action": "drop"}
    answer = client.post("/api/clean/of-table/decisions", json=body).json()
    assert answer["decisions"] == {"0": {"action": "drop", "label": None}}
    assert (answer["relabelled"], answer["dropped"]) == (0, 1)
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/clean/nowhere", None, 404),
        ("GET", "/api/clean/..%2Fruns", None, 404),
        ("GET", "/api/clean/of-table/samples/80", None, 404),
        ("GET", "/api/clean/of-table/samples/-1", None, 404),
        ("POST", "/api/clean/of-table/decisions", {"number": 0, "action": "burn"}, 422),
        ("POST", "/api/clean/of-table/decisions", {"number": 999, "action": "drop"}, 404),
        (
            "POST",
            "/api/clean/of-table/decisions",
            {"number": 0, "action": "relabel", "label": "none"},
            422,
        ),
        ("POST", "/api/clean/of-table/apply", {"out": "new.csv"}, 422),
        ("POST", "/api/clean/of-table/apply", {"out": "../new.csv"}, 422),
        ("POST", "/api/clean/of-table/apply", {"out": "/tmp/new.csv"}, 422),
    ],
)
def test_what_is_refused(client, folder, method, path, body, status):
    answer = client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert "detail" in answer.json()
    assert not list(folder.rglob("new.csv"))
    assert not list(folder.rglob(DECISIONS))


def test_a_result_from_elsewhere_opens_no_other_file(client, folder, tmp_path):
    Image.new("L", (5, 5)).save(folder.parent / "secret.png")
    path = folder / "of-photos" / "samples.csv"
    before = path.read_text()
    for origin in ("../secret.png", str(folder.parent / "secret.png"), "missing.png"):
        path.write_text(before.splitlines()[0] + f"\n{origin},train,dark,light,1,0.1,0.1,0.9\n")
        with TestClient(create_page(folder, TOKEN), "http://127.0.0.1:80") as other:
            other.get(f"/clean?token={TOKEN}")
            cleaning.opened.cache_clear()
            assert other.get("/api/clean/of-photos/samples/0/image").status_code == 404
    path.write_text(before)
    cleaning.opened.cache_clear()


def test_a_damaged_result_is_said(client, folder):
    path = folder / "of-digits" / "clean.json"
    before = path.read_text()
    record = json.loads(before)
    try:
        for content, message in (
            (before[:100], "must be what plainfit clean wrote"),
            ("[]", "is damaged"),
            (json.dumps(record | {"classes": [1]}), "classes[0] must be"),
            (json.dumps(record | {"equal": [["x"]]}), "equal[0][0] must be"),
            (json.dumps(record | {"config": {"epochs": -1}}), "epochs must be"),
        ):
            path.write_text(content)
            cleaning.opened.cache_clear()
            answer = client.get("/api/clean/of-digits")
            assert answer.status_code == 422
            assert message in answer.json()["detail"]
        path.write_text(json.dumps(record | {"equal": [[{"sample": "x"}, {}]]}))
        cleaning.opened.cache_clear()
        assert client.get("/api/clean/of-digits").json()["equal"] == [[]]
    finally:
        path.write_text(before)
        cleaning.opened.cache_clear()


def patient():
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)
    return expect


def choose(tab, name):
    tab.get_by_label("Result").select_option(name)
    tab.get_by_role("button", name="Next").focus()  # off the list, which has keys of its own


@needs_chromium
def test_nothing_to_show_says_what_to_do(tmp_path):
    with opened(tmp_path, "/clean") as tab:
        tab.get_by_text("plainfit clean digits").wait_for()
        check_accessible(tab)


@needs_chromium
def test_a_table_is_mended_by_keys_alone(folder):
    expect = patient()
    with opened(folder, "/clean") as tab:
        choose(tab, "of-table")
        place, decided = tab.locator("#place"), tab.locator("#decided")
        result = Cleaning.open(folder / "of-table")
        first, second = (sample.origin for sample in result.samples[:2])
        expect(tab.locator("#origin")).to_have_text(f"row {first} (train)")
        expect(tab.get_by_role("cell", name=f"a, {int(first) - 1}")).to_be_visible()
        assert tab.get_by_role("button", name="Write new data").is_disabled()
        tab.keyboard.press("d")
        expect(place).to_contain_text("2 of")
        tab.keyboard.press("r")
        tab.keyboard.press("u")
        expect(decided).to_have_text("not yet")
        tab.keyboard.press("r")
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowLeft")
        expect(place).to_contain_text("1 of")
        expect(decided).to_have_text("dropped")
        expect(tab.locator("#changes")).to_have_text("1 relabelled, 1 dropped.")
        check_accessible(tab)
        lines = (folder / "of-table" / DECISIONS).read_text().splitlines()
        actions = [json.loads(line)["action"] for line in lines]
        assert actions == ["drop", "relabel", "undo", "relabel"]
        tab.get_by_label("Name").focus()
        tab.keyboard.press("ControlOrMeta+a")
        tab.keyboard.type("drum.csv")  # with the keys of decisions
        tab.keyboard.press("Enter")
        tab.get_by_text("The new data is in").wait_for()
        assert "plainfit compare runs/drum-before" in tab.locator("#commands").inner_text()
        check_accessible(tab)
    rows = TABLE.splitlines(keepends=True)
    right = "high" if ",low" in rows[int(second)] else "low"
    rows[int(second)] = rows[int(second)].rpartition(",")[0] + f",{right}\r\n"
    del rows[int(first)]
    path = folder / "of-table" / "drum.csv"
    assert path.read_bytes().decode() == "".join(rows)
    assert (folder.parent / "t.csv").read_bytes().decode() == TABLE
    path.unlink()


@needs_chromium
def test_images_are_mended_with_the_mouse_after_a_kill(folder):
    expect = patient()
    photos = folder.parent / "photos"
    before = {p.relative_to(photos).as_posix(): p.read_bytes() for p in photos.rglob("*.png")}
    with opened(folder, "/clean", viewport={"width": 360, "height": 800}) as tab:
        choose(tab, "of-photos")
        expect(tab.locator("#origin")).to_contain_text("light/3.png")
        tab.get_by_role("button", name="Relabel").click()
        expect(tab.locator("#changes")).to_have_text("1 relabelled, 0 dropped.")
    with (folder / "of-photos" / DECISIONS).open("a") as file:
        file.write('{"sample": "dark/1.png", "acti')  # killed while it wrote
    with opened(folder, "/clean", color_scheme="dark") as tab:
        choose(tab, "of-photos")
        expect(tab.locator("#queue .done").first).to_have_text("now dark")
        tab.get_by_label("Class").select_option("light")
        expect(tab.locator("#origin")).to_contain_text("light/3.png")
        tab.get_by_role("button", name="Write new data").click()
        tab.get_by_text("The new data is in").wait_for()
    new = folder / "of-photos" / "photos-mended"
    after = {p.relative_to(new).as_posix(): p.read_bytes() for p in new.rglob("*.png")}
    moved = before.pop("light/3.png")
    assert after == before | {"dark/3.png": moved}
