"""What a twin experiment has to say: a table in Markdown, and two pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from hydroda import drawing, files
from hydroda.drawing import BLUE, GREY, INK, LIGHT, STYLE, VERMILLION

if TYPE_CHECKING:
    from hydroda.twin import Score

TABLE, COST, STATES = "twin.md", "twin_cost.png", "twin_states.png"
ALIKE = 0.012  # points so close, as a share of the axis, have one label
FAR = 2.0  # times the RMSE of the open loop and more have one colour
COLUMNS = ("discharge", "24 h ahead", "spread / skill", "NIS", "log-likelihood", "runs", "time", "discarded")


def table(scores: "Sequence[Score]") -> str:
    """A row for each filter in Markdown, then why some failed."""
    rows = [f"| filter | {' | '.join(COLUMNS)} |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for s in scores:
        if s.problem:
            continue
        rows.append(
            f"| {s.name} | {s.discharge:.3f} | {s.lead:.3f} | {s.spread:.2f} | {s.nis:.2f} | {s.log_likelihood:.3f} "
            f"| {s.runs:.0f} | {s.seconds:.1f} | {_share(s.discarded)} |"
        )
    rows += [f"\n{s.name} failed: {s.problem}" for s in scores if s.problem]
    return "\n".join(rows) + "\n"


def cost(scores: "Sequence[Score]") -> Figure:
    """RMSE of the discharge over what it costs in model runs, and beside it over what the filter says of its error."""
    fine = [s for s in scores if not s.problem]
    error = np.array([s.discharge for s in fine])
    names = [s.name.partition(".")[2] for s in fine]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 5.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1])
        left.set_yscale("log")
        left.set_ylabel("RMSE of the discharge, open loop = 1")
        _log_ticks(left)
        runs, spread = np.array([s.runs for s in fine]), np.array([s.spread for s in fine])
        left.set_xscale("log")
        left.set_xlabel("model runs per cycle")
        left.set_title("what it costs")
        left.set_xlim(0.7 * runs.min(), 2.6 * runs.max())
        left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        right.set_xlabel("standard deviation it says over error it makes, one hour ahead")
        right.set_title("what it knows of its error")
        right.set_xlim(min(0.0, spread.min()), max(1.3, 1.15 * spread.max()))
        right.axvline(1.0, color=GREY, linewidth=1.0)
        right.annotate(
            "says it right", (1.0, 0.985), xycoords=("data", "axes fraction"), xytext=(-4, 0),
            textcoords="offset points", ha="right", va="top", color=GREY, fontsize=8.5,
        )  # fmt: skip
        left.set_ylim(0.93 * error.min(), 1.25 * error.max())
        for axes, x in ((left, runs), (right, spread)):
            colours = [VERMILLION if s.name == "sigma.ukf" else BLUE for s in fine]
            axes.scatter(x, error, s=26, c=colours, zorder=3, linewidths=0)
        figure.draw_without_rendering()
        for axes, x in ((left, runs), (right, spread)):
            _labelled(axes, x, error, names)
    return figure


def states(scores: "Sequence[Score]") -> Figure:
    """RMSE of every state and of the discharge relative to the open loop, by filter."""
    fine = [s for s in scores if not s.problem]
    names = list(fine[0].states)
    values = np.array([[*s.states.values(), s.discharge, s.lead] for s in fine])
    labels = [*(name.replace("_", "\n") for name in names), "discharge", "discharge\n24 h ahead"]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(8.4, 0.29 * len(fine) + 1.5), layout="constrained")
        axes = figure.subplots()
        shade = matplotlib.colors.LinearSegmentedColormap.from_list("error", [BLUE, "#f7f7f4", VERMILLION])
        scale = matplotlib.colors.TwoSlopeNorm(1.0, 0.0, FAR)
        axes.imshow(values, shade, scale, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            strong = value < 0.35 or value > 1.75
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color="white" if strong else INK)
        axes.set_xticks(range(len(labels)), labels, color=INK)
        axes.set_yticks(range(len(fine)), [s.name for s in fine], color=INK, parse_math=False)
        axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        for edge in np.arange(0.5, len(fine) - 0.5):
            axes.axhline(edge, color="white", linewidth=1.0)
        axes.axvline(len(names) - 0.5, color="white", linewidth=6)
        axes.set_title("RMSE over that of the open loop: blue is better, orange worse than no filter", pad=8)
    return figure


def write(scores: "Sequence[Score]", folder: Path) -> list[Path]:
    """The table and both pictures of scores into `folder`, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    files.replace(folder / TABLE, table(scores).encode())
    for name, figure in ((COST, cost(scores)), (STATES, states(scores))):
        files.replace(folder / name, drawing.png(figure))
    return [folder / name for name in (TABLE, COST, STATES)]


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def _log_ticks(axes: Axes) -> None:
    """Numbers of people on a logarithmic axis."""
    axes.set_yticks([0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0], minor=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _labelled(axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """A name at every point, one for points that are nearly the same, each where it covers no other; a line to its
    point where that is away."""
    at = axes.transData.transform(np.stack([x, y], -1))
    window = axes.get_window_extent()
    size = np.array([window.width, window.height])
    groups: list[list[int]] = []
    for i in np.argsort(at[:, 1], kind="stable"):
        near = [g for g in groups if (abs(at[g[0]] - at[i]) < ALIKE * size).all()]
        near[0].append(int(i)) if near else groups.append([int(i)])
    taken = [Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in at]
    for group in groups:
        text = axes.annotate(_joined([names[i] for i in group]), at[group[0]], xycoords="figure pixels", fontsize=8.5)
        extent = text.get_window_extent()
        own = at[group].mean(0)
        best = min(_places(own, extent.width, extent.height), key=lambda box: _cost(box, own, taken, window))
        text.set_position((0, 0))
        text.remove()
        inverse = axes.transData.inverted()
        middle = 0.5 * (best.min + best.max)
        side = np.clip(own, best.min, best.max)
        if np.hypot(*(side - own)) > 9:
            ends = inverse.transform(np.stack([own, side]))
            axes.plot(*ends.T, color=LIGHT, linewidth=0.9, zorder=1)
        axes.text(
            *inverse.transform(middle), text.get_text(), ha="center", va="center", fontsize=8.5, parse_math=False,
            linespacing=1.15,
        )  # fmt: skip
        taken.append(best)


def _joined(names: Sequence[str]) -> str:
    """Names, two a line."""
    parts = sorted(names)
    return "\n".join(", ".join(parts[i : i + 3]) for i in range(0, len(parts), 3))


def _places(own: np.ndarray, width: float, height: float) -> list[Bbox]:
    """Where a label of this size may stand: around its point, ever farther."""
    found = []
    for distance in np.arange(6.0, 160.0, 6.0):
        for angle in np.arange(0.0, 2 * np.pi, np.pi / 12):
            direction = np.array([np.cos(angle), np.sin(angle)])
            half = 0.5 * np.array([width, height])
            centre = own + direction * distance + np.sign(np.round(direction, 6)) * half * (np.abs(direction) > 0.2)
            found.append(Bbox([centre - half, centre + half]))
    return found


def _cost(box: Bbox, own: np.ndarray, taken: Sequence[Bbox], window: Bbox) -> float:
    """How bad a place is: far from its point, over others, outside."""
    wider = box.expanded(1.03, 1.1)
    over = sum(wider.overlaps(other) for other in taken)
    outside = box.x0 < window.x0 or box.x1 > window.x1 or box.y0 < window.y0 + 2 or box.y1 > window.y1
    side = np.clip(own, box.min, box.max)
    return 1e4 * (over + outside) + float(np.hypot(*(side - own)))
