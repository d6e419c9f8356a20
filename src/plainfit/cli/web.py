"""`plainfit app` and `plainfit serve`: pages about runs, and a run's model over HTTP."""

import json
import os
import secrets
import socket
import warnings
import webbrowser
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from plainfit.cli.shared import Debug, RunFolder, TrustCode, open_trusted, show
from plainfit.common.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Config

LOCAL = ("127.0.0.1", "localhost", "::1")
QUIET: dict[str, Any] = {"log_level": "warning", "access_log": False}
Port = Annotated[int, Option(min=0, max=65_535, help="To listen at; 0 for a free one.")]
Host = Annotated[str, Option(help="To listen at; any other lets other machines in.")]


def app(
    runs: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("runs"),
    port: Port = 8001,
    host: Host = "127.0.0.1",
    open_browser: Annotated[
        bool, Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Show a page about runs: try models, watch trainings, climb the ladder, mend labels."""
    check_extra()
    from plainfit.web.page import create_page

    if runs.exists() and not runs.is_dir():
        raise RunError(f"the folder of runs must be a folder, and {runs} is not")
    if not runs.exists():
        show(f"note   there is no folder {runs} yet: the page has no runs until one is trained")
    token = secrets.token_urlsafe(16)
    page = create_page(runs, token, any_host=host not in LOCAL)
    if host not in LOCAL:
        show(f"note   at {host}, whoever has the address below can start trainings on this machine")

    def ready(address: str) -> None:
        show(f"app    {address}/?token={token}, until Ctrl-C")
        if open_browser:
            opening = Timer(0.5, webbrowser.open, [f"{address}/?token={token}"])
            opening.daemon = True
            opening.start()

    try:
        listen(page, host, port, ready)
    finally:
        for training in page.state.home.trainings.running():
            show(f"note   {training.name} goes on training, as process {training.process.pid}")


def serve(
    run: RunFolder,
    port: Port = 8000,
    host: Host = "127.0.0.1",
    workers: Annotated[
        int, Option(min=1, max=64, help="Processes that share the address, each with the model.")
    ] = 1,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Answer POST /predict with what a run predicts for images or rows."""
    check_extra()
    if workers > 1 and port == 0:
        raise ConfigError("must be given for several workers, got 0", field="port")
    if workers > 1 and not hasattr(socket, "AF_UNIX"):  # as which uvicorn takes the socket
        raise ConfigError(f"must be 1 on Windows, got {workers}", field="workers")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else torch's idle threads keep the cores
    from plainfit.web.serving import SERVED, create_app

    opened, any_host = open_trusted(run, trust_code), host not in LOCAL
    warnings.simplefilter("ignore", RuntimeWarning)  # what is noted of a table, for each request
    app = create_app(opened, run.resolve().name, any_host=any_host)
    if host not in LOCAL:
        show(f"note   at {host}, whoever reaches this machine can use the model")
    if workers == 1:
        listen(app, host, port, lambda address: show(f"serve  {address}/predict, until Ctrl-C"))
        return
    import uvicorn

    worker = "plainfit.web.serving:worker"
    served = [str(run.resolve()), run.resolve().name, workers, trust_code, any_host]
    del app, opened  # the model: each worker has its own
    os.environ[SERVED] = json.dumps(served)
    show(f"serve  {url(host, port)}/predict by {workers} processes, until Ctrl-C")
    with bound(uvicorn.Config(worker, host=host, port=port, **QUIET)) as listening:
        uvicorn.run(worker, factory=True, workers=workers, fd=listening.fileno(), **QUIET)


def check_extra() -> None:
    missing = [name for name in ("fastapi", "python_multipart", "uvicorn") if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"this command needs the extra web, and {missing[0]} is not installed: "
            "pip install 'plainfit[web]'"
        )


def listen(app: "FastAPI", host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; call `ready` with the address once it can be asked."""
    import uvicorn

    config = uvicorn.Config(app, host=host, port=port, **QUIET)
    with bound(config) as listening:
        listening.listen()  # so that whoever reads the address can ask
        ready(url(host, listening.getsockname()[1]))
        server = uvicorn.Server(config)
        app.state.is_closing = lambda: server.should_exit  # what it streams has no end of its own
        server.run([listening])


def bound(config: "Config") -> socket.socket:
    """Return the socket of a server, whose connections send at once.

    asyncio asks that of sockets that name TCP, which uvicorn's do not: the body of an answer would
    wait 40 ms for the browser to acknowledge its head.
    """
    listening = config.bind_socket()
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
