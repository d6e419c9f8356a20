"""Several ways to do the same work, in turn within one process, compared pair by pair."""

import gc
import statistics
import time
from collections.abc import Callable


def take_turns(ways: dict[str, Callable[[], None]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each way in each turn; the order changes from turn to turn.

    One turn more is run first, to warm up, and not counted.
    """
    names = list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(1 + turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            start = time.perf_counter()
            ways[name]()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: list[float], base: list[float]) -> tuple[float, float, float]:
    """Return the median of the ratios within each turn, and their lower and upper quartile."""
    ratios = [mine / other for mine, other in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def percent(value: float) -> str:
    """Return a ratio as the share above 1."""
    return f"{value - 1:+.2%}"
