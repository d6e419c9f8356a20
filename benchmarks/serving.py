"""How many requests a second a run's model answers over HTTP, and how long each waits.

    python benchmarks/serving.py [--seconds 10] [--rounds 3] [--bentoml .../bin/bentoml]

Clients and servers share the machine, so the clients are one process, of plain sockets: 0.04 ms of
CPU for a request, the same for every server. `bentoml` is of an environment of its own, made by
`python -m venv E && E/bin/pip install bentoml`; it takes torch from this one.
"""

import argparse
import io
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from results import FOLDER, save_section

import plainfit
from plainfit.data.open_data import open_data
from plainfit.data.pictures import write_folder
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from report import markdown_table

HERE = Path(__file__).resolve().parent
CLIENTS, SIDE, WARM = 64, 28, 1.0  # SIDE: pixels of an image; WARM: seconds before the count
TEXT = """\
{clients} clients at once on this machine's {cores} cores, which they share with the server; each
sends an image of 28x28 pixels (PNG, {size} bytes) as a form to `/predict`, over a connection that
stays open, and waits for the answer before its next. The model is `cnn`; all answers were `200`.
Medians of {rounds} turns of {seconds:g} s; *speed* is requests a second as a multiple of the plain
server's in the same round, and its range; *CPU* is what the server's processes take for a request,
which other work on the machine changes less. The plain one is FastAPI with a forward pass for each
request, in its threads (`benchmarks/peers/serve_plain.py`); all but BentoML are on uvicorn with
httptools. {bentoml}"""


def make_run(folder: Path) -> Path:
    """Return a run of `cnn` on digits of 28x28 pixels."""
    write_folder(open_data("digits"), folder / "digits")
    config = RunConfig(
        data=str(folder / "digits"), model="cnn", epochs=1, image_size=SIDE, out=folder / "run"
    )
    train(config, echo=None)
    return folder / "run"


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def commands(run: Path, bentoml: Path | None) -> dict[str, list[str]]:
    """Return what starts each server; the port comes last."""
    python = sys.executable
    serve = [python, "-m", "plainfit", "serve", str(run)]
    found = {
        "plain FastAPI": [python, str(HERE / "peers" / "serve_plain.py"), str(run)],
        "`plainfit serve`": [*serve, "--port"],
        "`plainfit serve --workers 2`": [*serve, "--workers", "2", "--port"],
    }
    if bentoml is not None:
        found["BentoML"] = [str(bentoml), "serve", "serve_bentoml:Served", "--port"]
    return found


class Server:
    """A server in a process of its own."""

    def __init__(self, command: list[str], run: Path) -> None:
        self.port = free_port()
        paths = [sysconfig.get_path("purelib"), str(Path(plainfit.__file__).parents[1])]
        own = {
            "PEER_RUN": str(run),
            "PEER_PATH": os.pathsep.join(paths),
            "BENTOML_DO_NOT_TRACK": "1",
        }
        self.process = subprocess.Popen(
            [*command, str(self.port)],
            env=os.environ | own,
            cwd=HERE / "peers",
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self, body: bytes) -> None:
        """Wait until the server answers.

        Raises:
            SystemExit: if it has ended.
        """
        while True:
            try:
                self.ask(body, 1, 0.01, 0)
                return
            except (OSError, ValueError):
                if self.process.poll() is not None:
                    raise SystemExit(f"{self.process.args} has ended") from None
                time.sleep(0.2)

    def cpu(self) -> float:
        """Return the seconds of CPU of the server's session, on Linux."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                fields = path.read_text().rpartition(")")[2].split()
                ticks += (int(fields[3]) == self.process.pid) * sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the server and its workers."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)

    def ask(
        self, request: bytes, clients: int, seconds: float, warm: float
    ) -> tuple[list[float], float]:
        """Return the seconds that each answer took, and the server's seconds of CPU for each."""
        took: list[float] = []
        cpu, begin = 0.0, time.perf_counter() + warm
        with selectors.DefaultSelector() as selector, ExitStack() as opened:
            for _ in range(clients):
                client = Client(self.port, request)
                opened.callback(client.socket.close)
                selector.register(client.socket, selectors.EVENT_READ, client)
            while (now := time.perf_counter()) < begin + seconds:
                if not cpu and now >= begin:
                    cpu = self.cpu()
                for key, _ in selector.select(1):
                    sent = key.data.sent
                    if key.data.has_answer() and sent >= begin:
                        took.append(time.perf_counter() - sent)
            cpu = self.cpu() - cpu
        return took, cpu / max(1, len(took))


class Client:
    """A connection that sends a request, and the next when it has the answer."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.request = request
        self.send()

    def send(self) -> None:
        self.answer, self.sent = b"", time.perf_counter()
        self.socket.sendall(self.request)

    def has_answer(self) -> bool:
        """Read what has come; send the next request if it is the whole answer."""
        more = self.socket.recv(2**16)
        self.answer += more
        head, _, body = self.answer.partition(b"\r\n\r\n")
        if not more or not self.answer.startswith(b"HTTP/1.1 200"[: len(self.answer)]):
            raise ValueError(self.answer[:200])
        length = head.lower().partition(b"content-length:")[2].split(None, 1)
        is_whole = bool(length) and len(body) >= int(length[0])
        if is_whole:
            self.send()
        return is_whole


def form() -> bytes:
    """Return a request with an image, as a browser sends it."""
    content = io.BytesIO()
    pixels = torch.randint(256, (SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    Image.fromarray(pixels.numpy()).save(content, format="PNG")
    mark = b"a-mark-between"
    head = b'content-disposition: form-data; name="images"; filename="x.png"\r\n'
    head += b"content-type: image/png\r\n\r\n"
    body = b"--" + mark + b"\r\n" + head + content.getvalue() + b"\r\n--" + mark + b"--\r\n"
    lines = [
        b"POST /predict HTTP/1.1", b"host: 127.0.0.1", b"content-length: %d" % len(body),
        b"content-type: multipart/form-data; boundary=" + mark,
    ]  # fmt: skip
    return b"\r\n".join([*lines, b"", body])


def figures(took: list[float], cpu: float, seconds: float) -> dict[str, float]:
    """Return requests a second, and the median and the 99th percentile of the waiting, in ms."""
    cuts = statistics.quantiles(took, n=100)
    rate = len(took) / seconds
    return {"rate": rate, "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "cpu": cpu * 1e3}


def rows_of(found: dict[str, list[dict[str, float]]]) -> list[list[Any]]:
    """Return a row for each server."""
    [base, *_] = found.values()
    rows = []
    for name, mine in found.items():
        ratios = [m["rate"] / b["rate"] for m, b in zip(mine, base, strict=True)]
        middle = {key: statistics.median(one[key] for one in mine) for key in mine[0]}
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        cells = [f"{middle['rate']:,.0f}", f"{statistics.median(ratios):.2f}", span]
        cells += [
            f"{middle['p50']:.1f}",
            f"{middle['p99']:.1f}",
            f"{middle['cpu']:.2f}" if middle["cpu"] > 0.01 else "",
        ]
        rows.append([name, *cells])
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure, save the section and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--bentoml", type=Path, help="the command of an environment that has it")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the section goes")
    args = parser.parse_args(argv)
    request = form()
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        starts = commands(run, args.bentoml)
        for number in range(args.rounds):
            for name, command in starts.items():
                print(f"{time.strftime('%X')}  round {number + 1}: {name}", file=sys.stderr)
                server = Server(command, run)
                try:
                    server.wait(request)
                    took, cpu = server.ask(request, args.clients, args.seconds, WARM)
                finally:
                    server.stop()
                found.setdefault(name, []).append(figures(took, cpu, args.seconds))
    bentoml = (
        "BentoML gathers batches of up to 256, as `plainfit serve` does; its CPU is not counted, "
        "as its workers have sessions of their own."
    )
    text = TEXT.format(
        clients=args.clients, cores=os.cpu_count(), rounds=args.rounds, seconds=args.seconds,
        size=len(request),
        bentoml=bentoml if args.bentoml else "BentoML was not there.",
    )  # fmt: skip
    columns = ["", "requests/s", "speed", "range", "p50, ms", "p99, ms", "CPU, ms"]
    rows = rows_of(found)
    path = save_section("serving", "Serving", text, columns, rows, raw=found, folder=args.folder)
    print("### Serving", text, markdown_table(columns, rows), path, sep="\n\n")


if __name__ == "__main__":
    main()
