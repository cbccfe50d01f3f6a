"""Pictures of results, with matplotlib if it is installed (the extra `bench`)."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from .results import Results
from .subjects import FLOOR, OURS
from .workloads import WORKLOADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MISSING: Final = "no picture: matplotlib is not installed (pip install 'machat[bench]')"
_OURS_COLOUR: Final = "#e4572e"
_OTHERS_COLOUR: Final = "#a9b8c6"
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
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eef1f4",
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "xtick.labelsize": 9,
    "legend.frameon": False,
    "savefig.dpi": 160,
}


def draw(results: Results, folder: Path, name: str = "results", subjects: Sequence[str] = ()) -> list[str]:
    """Draw NAME.png of some servers (all, if none are named) and NAME-growth.png; return a line about each file."""
    shown = [subject for subject in results.subjects if subject in (subjects or results.subjects)]
    panels = [panel for panel in _PANELS if any(results.figures(panel.workload, s) for s in shown if s != FLOOR)]
    axes = [axis for axis in dict.fromkeys(WORKLOADS[w].axis for w in results.workloads) if axis]
    if importlib.util.find_spec("matplotlib") is None:
        return [_MISSING]
    drawn = []
    with _style() as pyplot:
        if panels:
            drawn.append(_save(_workloads(pyplot, results, panels, shown), folder / f"{name}.png"))
        if axes:
            drawn.append(_save(_growth(pyplot, results, axes), folder / f"{name}-growth.png"))
    return drawn


@contextlib.contextmanager
def _style() -> Iterator[Any]:
    import matplotlib

    matplotlib.use("Agg")  # which needs no screen
    from matplotlib import pyplot

    with pyplot.rc_context(_LOOK):
        try:
            yield pyplot
        finally:
            pyplot.close("all")


def _save(figure: Figure, path: Path) -> str:
    figure.savefig(path, bbox_inches="tight", pad_inches=0.25, metadata={"Software": None})
    return f"picture: {path}"


def _origin(results: Results) -> str:
    """Return where the figures come from."""
    names = ("processor", "system", "python", "pinning", "commit", "date")
    return " · ".join(results.machine[name] for name in names)


# ---- W1 to W6 ----


@dataclass(frozen=True)
class _Panel:
    """One figure of one workload, a bar for each server."""

    workload: str
    label: str
    figure: str
    """The name of a field of `Figures`."""
    written: Callable[[float], str]
    end: str = ""
    """For a span on a logarithmic scale instead of a bar: the figure at its end."""
    less_is_better: bool = True


def _count(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f}".removesuffix(".0") + " M"
    return f"{value / 1e3:.0f} k" if value >= 1e5 else f"{value:,.0f}"


def _time(us: float) -> str:
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms" if us < 1e4 else f"{us / 1000:.0f} ms"


def _deliveries(workload: str) -> _Panel:
    label = "deliveries a second · more is better"
    return _Panel(workload, label, "deliveries_per_second", _count, less_is_better=False)


def _latency(workload: str) -> _Panel:
    label = "from when a line was due until a member has it · median to 99th percentile · less is better"
    return _Panel(workload, label, "latency_p50", _time, end="latency_p99")


_PANELS: Final = (
    *map(_deliveries, ("W1", "W2", "W3")),
    *map(_latency, ("W4", "W5")),
    _Panel("W6", "bytes of memory for each member · less is better", "bytes_per_connection", _count),
)


def _workloads(pyplot: Any, results: Results, panels: list[_Panel], subjects: list[str]) -> Figure:
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    height = rows * (1.6 + 0.36 * len(subjects)) + 0.8
    figure, grid = pyplot.subplots(rows, columns, figsize=(5.8 * columns, height), squeeze=False)
    for axis in grid.flat[len(panels) :]:
        axis.set_visible(False)
    for panel, axis in zip(panels, grid.flat, strict=False):
        _draw_panel(results, panel, subjects, axis)
    figure.tight_layout(w_pad=3, h_pad=3)
    inch = 1 / figure.get_figheight()
    figure.text(0, 1 + 0.75 * inch, "How fast the chat server is", fontsize=17, fontweight="bold")
    what = "Dashed: the floor, a C program that only passes lines on."
    figure.text(0, 1 + 0.45 * inch, what, color=_FAINT)
    figure.text(0, -0.2 * inch, _origin(results), fontsize=8, color=_FAINT)
    return figure  # type: ignore[no-any-return]


def _draw_panel(results: Results, panel: _Panel, subjects: list[str], axis: Axes) -> None:
    values = {s: v for s in subjects if (v := results.median(panel.workload, s, panel.figure)) is not None}
    names = sorted(values.keys() - {FLOOR}, key=lambda name: values[name], reverse=panel.less_is_better)
    ends = [results.median(panel.workload, name, panel.end or panel.figure) or 0 for name in names]
    colours = [_OURS_COLOUR if _is_ours(name) else _OTHERS_COLOUR for name in names]
    if panel.end:
        starts = [values[name] for name in names]
        axis.set_xscale("log")
        axis.hlines(names, starts, ends, colors=colours, linewidth=7, alpha=0.45)
        axis.scatter(starts, names, s=75, c=colours, zorder=3)
        axis.set_xlim(min(values.values()) * 0.7, max([*ends, *values.values()]) * 3)
        axis.minorticks_off()
    else:
        axis.barh(names, ends, height=0.64, color=colours)
        axis.set_xlim(0, max([*values.values()]) * 1.2)
    for row, (name, end) in enumerate(zip(names, ends, strict=True)):
        axis.annotate(
            panel.written(values[name]) + (f" – {panel.written(end)}" if panel.end else ""),
            (end, row),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight=_weight(name),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # over the floor's line
        )
    if FLOOR in values:
        axis.axvline(values[FLOOR], color=_INK, linewidth=1.3, linestyle=(0, (4, 2)))
        place = (values[FLOOR], 1)
        text = f"floor {panel.written(values[FLOOR])}"
        axis.annotate(text, place, (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="both", which="both", length=0)
    axis.xaxis.set_major_formatter(lambda x, _: panel.written(x))
    axis.set_title(f"{panel.workload}  {results.workloads[panel.workload]['what']}", pad=20)
    axis.set_xlabel(panel.label, fontsize=8.5)
    for label, name in zip(axis.get_yticklabels(), names, strict=True):
        label.set_fontweight(_weight(name))


def _is_ours(name: str) -> bool:
    return name.partition("-")[0] == OURS


def _weight(name: str) -> str:
    return "bold" if _is_ours(name) else "normal"


# ---- growth ----


def _growth(pyplot: Any, results: Results, axes: list[str]) -> Figure:
    rows = -(-len(axes) // 2)
    figure, grid = pyplot.subplots(rows, 2, figsize=(12, 4 * rows), sharey=True, squeeze=False, layout="constrained")
    for axis, panel in zip(axes, grid.flat, strict=False):
        _draw_axis(results, axis, panel)
    for panel in grid.flat[len(axes) :]:
        panel.set_visible(False)
    figure.suptitle("Does cost grow faster than the work?", x=0.01, ha="left", fontsize=16, fontweight="bold")
    what = "The medians, in a band from the lowest to the highest run; the numbers are times the floor's CPU.\n"
    figure.supxlabel(what + _origin(results), x=0.01, ha="left", fontsize=8, color=_FAINT)
    grid.flat[0].legend(loc="upper right")
    for panel in grid[:, 0]:
        panel.set_ylabel("CPU s per million deliveries")
    return figure  # type: ignore[no-any-return]


def _draw_axis(results: Results, axis: str, panel: Axes) -> None:
    from matplotlib.ticker import LogLocator

    names = {w: WORKLOADS[w].size for w in results.workloads if WORKLOADS[w].axis == axis}
    for subject, colour in ((FLOOR, _OTHERS_COLOUR), (OURS, _OURS_COLOUR)):
        runs = {w: [f.server_cpu_per_million for f in results.figures(w, subject)] for w in names}
        runs = {workload: values for workload, values in runs.items() if values}
        sizes = [names[workload] for workload in runs]
        panel.plot(sizes, [median(v) for v in runs.values()], color=colour, marker="o", linewidth=2, label=subject)
        low, high = [min(v) for v in runs.values()], [max(v) for v in runs.values()]
        panel.fill_between(sizes, low, high, color=colour, alpha=0.25, linewidth=0)
        for workload, values in runs.items():
            floor = results.median(workload, FLOOR, "server_cpu_per_million")
            if subject == OURS and floor:
                place = (names[workload], max(values))
                text = f"{median(values) / floor:.1f}×"
                panel.annotate(text, place, (0, 6), textcoords="offset points", ha="center", fontsize=9, color=colour)
    panel.set(xscale="log", yscale="log", title=results.workloads[next(iter(names))]["what"], xlabel=axis)
    panel.set_xticks(list(names.values()), [f"{size:,}" for size in names.values()])
    panel.minorticks_off()
    panel.margins(y=0.12)  # for the numbers
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
