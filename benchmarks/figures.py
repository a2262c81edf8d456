"""Figures: what was to be reached, what was measured, and the table of both."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; without a target it only tells."""

    name: str
    measured: str
    target: str = ""
    holds: bool | None = None


def at_most(name: str, value: float, limit: float, shown: Callable[[float], str], *, with_: str = "") -> Figure:
    """A figure that must not exceed its limit."""
    return Figure(name, shown(value) + with_, f"<= {shown(limit)}", value <= limit)


def at_least(name: str, value: float, limit: float, shown: Callable[[float], str], *, with_: str = "") -> Figure:
    """A figure that must reach its limit."""
    return Figure(name, shown(value) + with_, f">= {shown(limit)}", value >= limit)


def times(value: float) -> str:
    return f"{value:.2f}x"


def megabytes(value: float) -> str:
    return f"{value:.0f} MB"


def kilobytes(value: float) -> str:
    return f"{value:.1f} kB"


def milliseconds(value: float) -> str:
    return f"{value:.1f} ms"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' own ratios: what slows a whole round down slows both sides of it."""
    return median(our / their for our, their in zip(ours, theirs, strict=True))


def spread(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the lowest and the highest ratio of a round."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table."""
    holds = {True: "yes", False: "**no**", None: ""}
    lines = ["| figure | target | measured | holds? |", "|---|---|---|---|"]
    lines += [f"| {f.name} | {f.target} | {f.measured} | {holds[f.holds]} |" for f in figures]
    return "\n".join(lines)
