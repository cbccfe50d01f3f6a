"""Pictures of results, with matplotlib where it is installed (the extra `bench`)."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .load import Figures
from .report import Results, middle
from .subjects import FLOOR, OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING: Final = "no picture: matplotlib is not installed (pip install 'machat[bench]')"
OURS_COLOUR: Final = "#e4572e"
OTHERS_COLOUR: Final = "#a9b8c6"
FLOOR_COLOUR: Final = "#1b2a38"
_INK: Final = "#1b2a38"
_FAINT: Final = "#7b8a97"

_LOOK: Final[dict[Any, Any]] = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": "#d5dce2",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.prop_cycle": "cycler('color', ['#e4572e', '#2e86ab', '#6a994e', '#8e6c8a', '#c9a227', '#7b8a97'])",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eef1f4",
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "xtick.labelsize": 9,
    "legend.frameon": False,
    "savefig.dpi": 160,
}


@contextlib.contextmanager
def style() -> Iterator[Any]:
    """`matplotlib.pyplot` with the look that all pictures share, or None where it is not installed: say `MISSING`."""
    if importlib.util.find_spec("matplotlib") is None:
        yield None
        return
    import matplotlib

    matplotlib.use("Agg")  # into files, where there is no screen either
    from matplotlib import pyplot

    with pyplot.rc_context(_LOOK):
        try:
            yield pyplot
        finally:
            pyplot.close("all")


def save(figure: Figure, path: Path) -> str:
    """Write a picture; returns a line that says where it is."""
    figure.savefig(path, bbox_inches="tight", pad_inches=0.25)
    return f"picture: {path}"


@dataclass(frozen=True)
class _Panel:
    """One figure of one workload, a line for each server."""

    part: str
    label: str
    value: Callable[[Figures], float]
    written: Callable[[float], str]
    tail: Callable[[Figures], float] | None = None
    """Where the line ends, if it is a span on a logarithmic scale, and not a bar."""
    less_is_better: bool = True


def _deliveries(part: str) -> _Panel:
    return _Panel(
        part, "deliveries a second · more is better", lambda f: f.deliveries_per_second, _count, less_is_better=False
    )


def _latency(part: str) -> _Panel:
    label = "from when a line was due until a member has it · median to 99th percentile · less is better"
    return _Panel(part, label, lambda f: f.latency_p50, _time, tail=lambda f: f.latency_p99)


def of_workloads(results: Results, path: Path) -> str:
    """One panel for each workload that was measured; returns a line that says where the picture is, or why not."""
    memory = _Panel("W6", "bytes of memory for each member · less is better", lambda f: f.bytes_per_connection, _count)
    every = [*map(_deliveries, ("W1", "W2", "W3")), *map(_latency, ("W4", "W5")), memory]
    panels = [p for p in every if any(results.figures(p.part, s) for s in results.subjects if s != FLOOR)]
    if not panels:
        return "no picture: no server was measured"
    with style() as pyplot:
        if pyplot is None:
            return MISSING
        columns = min(len(panels), 3)
        rows = -(-len(panels) // columns)
        height = rows * (1.6 + 0.36 * len(results.subjects)) + 0.8
        figure, grid = pyplot.subplots(rows, columns, figsize=(5.8 * columns, height), squeeze=False)
        for axis in grid.flat[len(panels) :]:
            axis.set_visible(False)
        for panel, axis in zip(panels, grid.flat, strict=False):
            _draw(results, panel, axis)
        figure.tight_layout(w_pad=3, h_pad=3)
        _frame(results, figure)
        return save(figure, path)


def _frame(results: Results, figure: Figure) -> None:
    inch = 1 / figure.get_figheight()
    figure.text(0, 1 + 0.75 * inch, "How fast the chat server is", fontsize=17, fontweight="bold")
    figure.text(
        0,
        1 + 0.45 * inch,
        "Dashed: the floor, a C program that only passes lines on.",
        color=_FAINT,
    )
    names = ("processor", "system", "python", "pinning", "commit", "date")
    figure.text(0, -0.2 * inch, " · ".join(results.machine[name] for name in names), fontsize=8, color=_FAINT)


def _draw(results: Results, panel: _Panel, axis: Axes) -> None:
    figures = {name: runs for name in results.subjects if (runs := results.figures(panel.part, name))}
    values = {name: middle(panel.value, runs) for name, runs in figures.items()}
    names = sorted(values.keys() - {FLOOR}, key=lambda name: values[name], reverse=panel.less_is_better)
    tails = [middle(panel.tail or panel.value, figures[name]) for name in names]
    colours = [OURS_COLOUR if _is_ours(name) else OTHERS_COLOUR for name in names]
    if panel.tail is None:
        axis.barh(names, tails, height=0.64, color=colours)
        axis.set_xlim(0, max([*values.values()]) * 1.2)
    else:
        starts = [values[name] for name in names]
        axis.set_xscale("log")
        axis.hlines(names, starts, tails, colors=colours, linewidth=7, alpha=0.45)
        axis.scatter(starts, names, s=75, c=colours, zorder=3)
        axis.set_xlim(min(values.values()) * 0.7, max([*tails, *values.values()]) * 3)
        axis.minorticks_off()
    for row, (name, tail) in enumerate(zip(names, tails, strict=True)):
        text = panel.written(values[name]) + (f" – {panel.written(tail)}" if panel.tail else "")
        axis.annotate(
            text,
            (tail, row),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight=_weight(name),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # the limit's line ends at it
        )
    if FLOOR in values:
        axis.axvline(values[FLOOR], color=FLOOR_COLOUR, linewidth=1.3, linestyle=(0, (4, 2)))
        place = (values[FLOOR], 1)
        text = f"floor {panel.written(values[FLOOR])}"
        axis.annotate(text, place, (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="both", which="both", length=0)
    axis.xaxis.set_major_formatter(lambda x, _: panel.written(x))
    axis.set_title(f"{panel.part}  {results.parts[panel.part].what}", pad=20)
    axis.set_xlabel(panel.label, fontsize=8.5)
    for label, name in zip(axis.get_yticklabels(), names, strict=True):
        label.set_fontweight(_weight(name))


def _is_ours(name: str) -> bool:
    return name.partition("-")[0] == OURS


def _weight(name: str) -> str:
    return "bold" if _is_ours(name) else "normal"


def _count(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f}".removesuffix(".0") + " M"
    return f"{value / 1e3:.0f} k" if value >= 1e5 else f"{value:,.0f}"


def _time(us: float) -> str:
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms" if us < 1e4 else f"{us / 1000:.0f} ms"
