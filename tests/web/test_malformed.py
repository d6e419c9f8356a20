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
from PIL import Image
from test_serving import ask, form, served, train_run

from plainfit.web.serving import LIMITS

FEW, MANY = 150, 5000  # requests, of images and of rows each
CASES = 600  # of each operation, those that fit and others each
SMALL = LIMITS._replace(body=2**18)
ROW = {"size": 3, "colour": "blue"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed-images")
    with served(train_run(folder / "run", model="logistic"), SMALL) as url:
        yield url


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed-rows")
    lines = [f"{n % 7},{'red' if n % 3 else 'blue'},{'yes' if n % 2 else 'no'}" for n in range(60)]
    (folder / "t.csv").write_text("size,colour,sold\n" + "\n".join(lines) + "\n")
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


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_what_the_description_allows_and_what_not(images, rows):
    """The requests that Schemathesis makes of `/openapi.json`: those that fit it, and others."""
    schemathesis = pytest.importorskip("schemathesis", reason="Schemathesis is not installed")
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    for url in (images, rows):
        described = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for operation in (each.ok() for each in described.get_all_operations()):
            for mode in modes:
                try:
                    cases = operation.as_strategy(generation_mode=mode)
                    send_cases(cases, CASES)
                except hypothesis.errors.Unsatisfiable:  # nothing can be wrong with it
                    assert operation.path == "/health"
        assert ask(f"{url}/health")[0] == 200


def send_cases(cases, count):
    @hypothesis.settings(
        max_examples=count,
        phases=[hypothesis.Phase.generate],
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
    )
    @hypothesis.given(case=cases)
    def send(case):
        answer = case.call(timeout=60)
        assert answer.status_code < 500, case.as_curl_command()
        assert b"Traceback" not in answer.content

    send()
