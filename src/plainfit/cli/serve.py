"""`plainfit serve`: a run's model over HTTP."""

import warnings
from typing import Annotated

from typer import Option

from plainfit.cli.shared import Debug, RunFolder, TrustCode, open_trusted, show
from plainfit.common.errors import ConfigError


def serve(
    run: RunFolder,
    port: Annotated[int, Option(min=0, max=65_535, help="To listen at; 0 for a free one.")] = 8000,
    host: Annotated[
        str, Option(help="To listen at; any other lets other machines use the model.")
    ] = "127.0.0.1",
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Answer POST /predict with what a run predicts for images or rows."""
    try:
        import uvicorn

        from plainfit.web.serving import create_app
    except ImportError as error:
        raise ConfigError(
            f"serving needs the extra web ({error}): pip install 'plainfit[web]'"
        ) from error
    opened = open_trusted(run, trust_code)
    warnings.simplefilter("ignore", RuntimeWarning)  # what is noted of a table, for each request
    is_local = host in ("127.0.0.1", "localhost", "::1")
    app = create_app(opened, run.resolve().name, any_host=not is_local)
    if not is_local:
        show(f"note   at {host}, whoever reaches this machine can use the model")
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    with config.bind_socket() as socket:
        show(f"serve  http://{host}:{socket.getsockname()[1]}/predict, until Ctrl-C")
        server.run([socket])
