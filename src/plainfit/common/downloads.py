"""Downloads: checked before they have their name, so that nothing is ever half there."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from plainfit.common.errors import DataError, DownloadError

T = TypeVar("T")


def download(
    urls: Sequence[str],
    path: Path,
    check: Callable[[Path], T | None],
    *,
    place: str,
    otherwise: str,
) -> T:
    """Fetch a file from the first URL that has the right one, and return what the check returns.

    Args:
        urls: where it may be had.
        path: what it is to be.
        check: is given a file that was fetched; returns None if it has not the right SHA-256.
        place: how the user chooses another folder.
        otherwise: what the user can do offline.

    Raises:
        DataError: if the folder cannot be written to.
        DownloadError: if no URL gave the file.
    """
    import pooch

    from plainfit.common.progress import DownloadBar, on_terminal

    pooch.get_logger().setLevel("ERROR")  # the bar says it all
    tried = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as scratch:
            for url in urls:
                bar = DownloadBar(url)
                with on_terminal(bar.bar):
                    fetch = pooch.HTTPDownloader(progressbar=bar, timeout=30)
                    try:
                        got = Path(pooch.retrieve(url, None, path.name, scratch, downloader=fetch))
                    except (OSError, ValueError) as error:  # requests' errors are OSErrors
                        tried.append(f"{url} ({short_reason(error)})")
                        continue
                checked = check(got)
                if checked is not None:
                    got.replace(path)  # within one folder, so all or nothing
                    return checked
                tried.append(f"{url} (wrong SHA-256)")
                got.unlink()
    except OSError as error:
        raise DataError(
            f"the folder {path.parent} must be writable ({error.strerror}); choose another with "
            f"{place}"
        ) from error
    raise DownloadError(
        f"{path.name} could not be downloaded; tried {', '.join(tried)}; offline, {otherwise}"
    )


def short_reason(error: Exception) -> str:
    """Name an error of the network without its chain of wrapped ones."""
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__
