"""Requests that are not as they should be: each is refused in one line, and the server goes on."""

import io
import json
import logging
import random
import socket
import struct
import urllib.parse
import zlib

import hypothesis
import pytest
from browsing import TOKEN, serving
from PIL import Image
from test_serving import ask, form, served, train_run

from plainfit.runs.cleaning import clean
from plainfit.runs.settings import RunConfig
from plainfit.web.page import create_page
from plainfit.web.serving import LIMITS

FEW, MANY = 150, 5000  # requests, of images and of rows each
CASES = 600  # of each operation, those that fit and others each; 30 of each of the page
SMALL = LIMITS._replace(body=2**18)
ROW = {"size": 3, "colour": "blue"}
TABLE = "size,colour,sold\n" + "".join(
    f"{n % 7},{'red' if n % 3 else 'blue'},{'yes' if n % 2 else 'no'}\n" for n in range(60)
)
ENDLESS = "/api/runs/events"
STARTING = ("/api/trainings", "/api/runs/{name}/resume", "/api/ladder/run")  # a process each


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed-images")
    with served(train_run(folder / "run", model="logistic"), SMALL) as url:
        yield url


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed-rows")
    (folder / "t.csv").write_text(TABLE)
    run = train_run(folder / "run", data=str(folder / "t.csv"), target="sold")
    with served(run, SMALL) as url:
        yield url


@pytest.fixture(autouse=True)
def errors():
    """The tracebacks of the application that the server logs: there must be none."""
    found = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: record.exc_info and found.append(handler.format(record))
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    assert found == []


def png(width=8, height=8, mode="L"):
    content = io.BytesIO()
    Image.new(mode, (width, height)).save(content, format="PNG")
    return content.getvalue()


def bomb():
    """A PNG of a few bytes that claims to have 10**9 pixels."""
    parts = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", 31623, 31623, 8, 0, 0, 0, 0)),):
        parts += struct.pack(">I", len(data)) + kind + data
        parts += struct.pack(">I", zlib.crc32(kind + data))
    return parts


def damaged(draw, content):
    """Return bytes with some of them changed, left out, doubled or cut off."""
    content = bytearray(content)
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            content[at : at + 1] = draw.randbytes(1)
        elif kind == 1:
            del content[at : at + draw.randint(1, 40)]
        elif kind == 2:
            content[at:at] = draw.choice(
                [b"\0", b"\r\n", b"\r\n\r\n", b"--a-mark-between", b"\xff" * 9, b'"', b"A" * 3000]
            )
        else:
            del content[at:]
    return bytes(content)


def any_value(draw, depth=0):
    """Return anything that JSON can hold, and some that it cannot."""
    leaves = [
        None, True, 0, -1, 3.5, 10**30, 1e308, float("nan"), float("inf"), "", "blue", "\ud800",
        "\0", "a" * 2000, "1", "2026-01-31", [], {},
    ]  # fmt: skip
    if depth > 3 or draw.random() < 0.6:
        return draw.choice(leaves)
    inner = [any_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    names = [draw.choice(["size", "colour", "sold", "", "x\0"]) for _ in inner]
    return inner if draw.random() < 0.5 else dict(zip(names, inner, strict=True))


def any_rows(draw):
    kind = draw.randrange(6)
    if kind == 0:
        return b"[" * draw.choice([3, 2000, 100_000])
    if kind == 1:
        return json.dumps(any_value(draw)).encode()
    made = [dict(ROW) for _ in range(draw.choice([0, 1, 2, 3, 256, 257]))]
    for row in made[:3]:
        row[draw.choice(["size", "colour", "new"])] = any_value(draw)
        if draw.random() < 0.2:
            del row["size"]
    content = json.dumps(made, ensure_ascii=draw.random() < 0.9)
    content = content.encode("utf-8", "surrogatepass")
    return damaged(draw, content) if kind == 2 else content


def any_form(draw):
    files = [bomb(), b"", b"GIF89a", b"<svg/>", draw.randbytes(50), damaged(draw, png())]
    files += [png(), png(3, 9, "RGBA"), png(40, 2, "RGB")] * 4
    made = [draw.choice(files) for _ in range(draw.choice([0, 1, 2, 3, 300]))]
    body, _ = form(*made, field=draw.choice(["images", "images", "images", "image", ""]))
    return damaged(draw, body) if draw.random() < 0.5 else body


def any_request(draw, host, usual, body):
    """Return the bytes of a request with this body, and whether it is surely whole.

    Something may be wrong with it.
    """
    kinds = [
        "application/json", "multipart/form-data; boundary=a-mark-between", "multipart/form-data",
        "multipart/form-data; boundary=", "text/plain", "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=" + "x" * 300, "application/json; charset=utf-16", "",
    ]  # fmt: skip
    kind = usual if draw.random() < 0.8 else draw.choice(kinds)
    method = "POST" if draw.random() < 0.9 else draw.choice(["GET", "PUT", "TRACE", "HEAD", "X"])
    paths = [
        "/predict",
        "/predict/",
        "//predict",
        "/%00",
        "/health",
        "/../etc/passwd",
        "/" * 70_000,
    ]
    path = "/predict" if draw.random() < 0.9 else draw.choice(paths)
    length, is_whole = str(len(body)), draw.random() < 0.9
    if not is_whole:
        length = draw.choice(["-1", "1", "9" * 30, "x", str(2**40), "", str(len(body) + 5)])
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-type: {kind}"]
    lines += ["connection: close", *["expect: 100-continue"] * (draw.random() < 0.1)]
    if not is_whole and draw.random() < 0.5:
        lines.append("transfer-encoding: chunked")
    else:
        lines.append(f"content-length: {length}")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return (head if is_whole else damaged(draw, head)) + body, is_whole


def status_of(url, request, is_whole):
    """Send bytes; return the status of the answer, or 0 where the server has hung up instead."""
    address = urllib.parse.urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        try:
            connection.sendall(request)
            if not is_whole:  # else the server might wait for the rest
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while len(answer) < 10_000 and (more := connection.recv(65_536)):
                answer += more
        except TimeoutError:
            raise AssertionError(f"no answer to {request[:2000]!r}") from None
        except ConnectionError:  # it has refused the rest
            return 0
    assert b"Traceback" not in answer
    if not answer:
        return 0
    final = answer.rpartition(b"HTTP/1.1 100 Continue\r\n\r\n")[2] or b"HTTP/1.1 0"
    return int(final.split()[1])


def send_many(url, kind, make, count):
    found = []
    for number in range(count):
        draw = random.Random(f"{kind} {number}")
        request, is_whole = any_request(draw, url.removeprefix("http://"), kind, make(draw))
        status = status_of(url, request, is_whole)
        assert status < 500, request[:3000]
        found.append(status)
    return found


@pytest.mark.parametrize(
    "count", [FEW, pytest.param(MANY, marks=pytest.mark.soak)], ids=["few", "many"]
)
@pytest.mark.filterwarnings("ignore")  # an unknown category
def test_malformed_requests_are_refused(images, rows, count):
    for url, kind, make in (
        (images, "multipart/form-data; boundary=a-mark-between", any_form),
        (rows, "application/json", any_rows),
    ):
        found = send_many(url, kind, make, count)
        assert {200, 400, 422} <= {*found}  # some get far
        assert ask(f"{url}/health")[0] == 200
    assert ask(f"{images}/predict", *form(png()))[0] == 200
    assert ask(f"{rows}/predict", json.dumps([ROW]).encode())[0] == 200


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page about a run of images and one of rows, and a browser's headers."""
    home = tmp_path_factory.mktemp("malformed-page")
    train_run(home / "runs/images", model="logistic")
    (home / "t.csv").write_text(TABLE)
    train_run(home / "runs/rows", data=str(home / "t.csv"), target="sold")
    config = RunConfig(data=str(home / "t.csv"), target="sold", out=home / "runs/labels", epochs=1)
    clean(config, folds=2, echo=None)
    with serving(create_page(home / "runs", TOKEN)) as url:
        yield url, {"cookie": f"plainfit-{url.rpartition(':')[2]}={TOKEN}", "origin": url}


@pytest.fixture
def described():
    """Return each operation of a server's `/openapi.json`."""
    schemathesis = pytest.importorskip("schemathesis", reason="only `make soak` installs it")

    def operations(url, **headers):
        found = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
        return [each.ok() for each in found.get_all_operations()]

    return operations


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_what_the_description_allows_and_what_not(images, rows, described):
    """Requests that fit the description and others: each answer is as it is described."""
    for url in (images, rows):
        for operation in described(url):
            for mode in ("POSITIVE", "NEGATIVE"):
                send_cases(operation, mode, CASES)
        assert ask(f"{url}/health")[0] == 200


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_what_the_description_of_the_page_allows_and_what_not(page, described):
    url, headers = page
    for operation in described(url, **headers):
        for mode in ("POSITIVE", "NEGATIVE")[operation.path in STARTING :]:
            if operation.path != ENDLESS:
                for name in ("images", "rows", "labels") if "{name}" in operation.path else [""]:
                    send_cases(operation, mode, CASES // 20, name, **headers)
    assert ask(f"{url}/api/try", **headers)[0] == 200


def send_cases(operation, mode, count, name="", **headers):
    from schemathesis import GenerationMode
    from schemathesis.checks import positive_data_acceptance

    @hypothesis.settings(
        max_examples=count,
        phases=[hypothesis.Phase.generate],
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode[mode]))
    def send(case):
        if name and case.path_parameters.get("name"):
            case.path_parameters["name"] = name
        answer = case.call(timeout=60, headers=headers)
        assert b"Traceback" not in answer.content
        # What bytes are an image, and what text is a date, no description says.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])

    try:
        send()
    except hypothesis.errors.Unsatisfiable:  # nothing can be wrong with it
        assert mode == "NEGATIVE"
        assert not operation.body
