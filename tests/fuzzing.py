"""The fuzzer: feeds a reader damaged inputs and judges what comes of each.

An input must be read, to a result that keeps the reader's promises, or be refused with the error
that the reader documents. Anything else is a finding: another exception, a warning, more than
`SLOWEST` seconds of processor time, or memory beyond `MOST_MEMORY`.
"""

import contextlib
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from mutations import Mutator
from plainfit.common.errors import DataError

SLOWEST = 5.0  # seconds of processor time for one input, ten times what the slowest takes here
MOST_MEMORY = 2**30  # bytes of address space that reading may add to the process
KEPT = 20  # findings that are described, one of a kind; the others are counted
TRACED = ("plainfit/data/", "numpy/lib/", "pickletools.py", "zipfile.py")  # what guides growing


class HangError(BaseException):
    """The time for one input is over; no `except Exception` on the way may catch it."""


@dataclass(frozen=True)
class Format:
    """What the fuzzer needs to know of a reader."""

    name: str
    read: Callable[[bytes], Any]
    """Reads an input."""
    check: Callable[[bytes, Any], None]
    """Asserts that the result keeps the reader's promises."""
    corpus: tuple[bytes, ...]
    """Valid inputs."""
    tokens: tuple[bytes, ...]
    """What means something in this format."""
    wrap: Callable[[bytes, int], bytes] = lambda content, number: content
    """Packs a mutated input into what is read: zipped, with right checksums..., by its number."""
    most_memory: int = MOST_MEMORY


@dataclass
class Report:
    """What came of the inputs."""

    name: str
    read: int = 0
    refused: int = 0
    findings: list[tuple[str, bytes]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0

    def note(self, verdict: str, content: bytes) -> None:
        """Count one input."""
        if verdict == "read":
            self.read += 1
        elif verdict == "refused":
            self.refused += 1
        else:
            first_of_kind = not any(verdict[:50] == known[:50] for known, _ in self.findings)
            self.kinds[verdict.split(":")[0]] += 1
            if first_of_kind and len(self.findings) < KEPT:
                self.findings.append((verdict, content))

    def __str__(self) -> str:
        count = self.read + self.refused + self.kinds.total()
        return (
            f"{self.name:<8} {count:>8,} inputs  {self.read:>8,} read  {self.refused:>8,} refused  "
            f"{self.kinds.total():>5} findings  {count / self.seconds:>6,.0f} inputs/s  slowest "
            f"{self.slowest * 1000:.0f} ms  memory +{self.memory / 2**20:.0f} MiB"
            + "".join(
                f"\n    {verdict}\n        {content[:500]!r}" for verdict, content in self.findings
            )
        )


@contextlib.contextmanager
def limits(most_memory: int = MOST_MEMORY) -> Iterator[list[warnings.WarningMessage]]:
    """Bound the memory of this process, arm `HangError`, and collect warnings while the block runs.

    The bound is on address space, so that memory that is asked for and never touched counts too.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise HangError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere than on Linux, memory is not bounded
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + most_memory, hard))
    before = signal.signal(signal.SIGPROF, stop)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield heard
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def judge(fmt: Format, content: bytes, heard: list[warnings.WarningMessage]) -> tuple[str, float]:
    """Return `read`, `refused` or what is wrong, and the seconds that it took."""
    started = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, 1.05 * SLOWEST)  # it may ring a few ms early
        fmt.check(content, fmt.read(content))
        verdict = "read"
    except DataError as error:
        verdict = "memory: refused only when there was none left" if no_memory(error) else "refused"
    except HangError:
        verdict = "hang"
    except AssertionError as error:
        verdict = f"broken promise: {error}"
    except (Exception, SystemExit) as error:
        verdict = f"{type(error).__name__}: {error}"
    finally:
        left, _ = signal.setitimer(signal.ITIMER_PROF, 0)  # 0 if it has rung
    seconds = time.process_time() - started
    if heard:
        verdict = f"{heard[0].category.__name__}: {heard[0].message}"
        heard.clear()
    return "hang" if not left or seconds > SLOWEST else verdict[:300], seconds


def no_memory(error: BaseException | None) -> bool:
    """Return whether an error was raised while another said that memory is short."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def try_all(fmt: Format, inputs: Iterable[bytes]) -> Report:
    """Judge every input."""
    report = Report(fmt.name)
    started = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with limits(fmt.most_memory) as heard:
        for content in inputs:
            verdict, seconds = judge(fmt, content, heard)
            report.note(verdict, content)
            report.slowest = max(report.slowest, seconds)
    report.seconds = time.perf_counter() - started
    report.memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    return report


def fuzz(fmt: Format, count: int, *, seed: int, warm_up: int) -> Report:
    """Try the corpus, then mutations of it: first some that may join it, then the others."""
    mutator = Mutator(fmt.corpus, fmt.tokens, seed)

    def inputs() -> Iterator[bytes]:
        for number, content in enumerate(islice(mutator, count - warm_up)):
            yield fmt.wrap(content, number)

    warm = grow(fmt, mutator, warm_up)
    report = try_all(fmt, inputs())
    report.read += warm.read
    report.refused += warm.refused
    report.kinds += warm.kinds
    report.findings[:0] = warm.findings
    report.seconds += warm.seconds
    return report


def grow(fmt: Format, mutator: Mutator, count: int) -> Report:
    """Try some mutations and add those to the corpus that reach lines no other input reached."""
    seen: set[tuple[CodeType, int]] = set()

    def inputs() -> Iterator[bytes]:
        for number, content in enumerate(islice(chain(fmt.corpus, mutator), count)):
            before = len(seen)
            with tracing(seen):
                yield fmt.wrap(content, number)
            if len(seen) > before and number >= len(fmt.corpus):
                mutator.grown.append(content)

    return try_all(fmt, inputs())


@contextlib.contextmanager
def tracing(seen: set[tuple[CodeType, int]]) -> Iterator[None]:
    """Note the lines of the readers that run."""
    wanted: dict[str, bool] = {}

    def on_call(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in wanted:
            wanted[name] = any(part in name for part in TRACED)
        return on_line if wanted[name] else None

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        seen.add((frame.f_code, frame.f_lineno))
        return on_line

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)
