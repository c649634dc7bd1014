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

from hydroda.pages import drawing
from hydroda.pages.drawing import BLUE, GREY, INK, STYLE, VERMILLION
from hydroda.storage import files

if TYPE_CHECKING:
    from hydroda.trials.trial import Score

TABLE, COST, STATES = "twin.md", "twin_cost.png", "twin_states.png"
ALIKE = 0.012  # points so close, as a share of the axis, have one label
RANGE = 1.2  # times the smallest RMSE; what is beyond stands at the edge with its number
SAID = (0.5, 1.6)  # what is beyond stands at the edge likewise
DPI = 100
AWAY = 9.0  # pixels between a label and its point from which a line joins them
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
    error, runs, spread = (np.array([getattr(s, name) for s in fine]) for name in ("discharge", "runs", "spread"))
    top, least = RANGE * error.min(), max(SAID[0], 0.94 * spread.min())
    shown, said = np.minimum(error, 0.985 * top), np.clip(spread, least + 0.02, SAID[1])
    names = [s.name.partition(".")[2] for s in fine]
    far = [f"\n({s.discharge:.2f})" if s.discharge > top else "" for s in fine]
    beside = [
        f"\n({s.discharge:.2f} at {s.spread:.2f})" if a or s.spread != b else a
        for s, a, b in zip(fine, far, said, strict=True)
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 5.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.1, 1])
        left.set_ylabel("RMSE of the discharge, open loop = 1")
        left.set_ylim(0.97 * error.min(), top)
        left.set_xscale("log")
        left.set_xlim(0.7 * runs.min(), max(2.2 * runs.max(), 10 * runs.min()))
        left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        left.xaxis.set_minor_formatter(NullFormatter())
        left.set_xlabel("model runs per cycle")
        left.set_title("What it costs")
        right.set_xlim(least, max(1.2, 1.08 * said.max()))
        right.set_xlabel("stated standard deviation / actual error, 1 h ahead")
        right.set_title("What it knows of its error")
        right.axvline(1.0, color=GREY, linewidth=1.0)
        reference = np.array([s.name == "sigma.ukf" for s in fine])
        for axes, x in ((left, runs), (right, said)):
            for which, colour in ((~reference, BLUE), (reference, VERMILLION)):
                for beyond, mark in ((False, "o"), (True, "^")):
                    some = which & ((error > top) == beyond)
                    axes.scatter(x[some], shown[some], s=30, c=colour, marker=mark, zorder=3, linewidths=0)
        figure.draw_without_rendering()
        for axes, x, more in ((left, runs, far), (right, said, beside)):
            _labelled(axes, x, shown, [name + rest for name, rest in zip(names, more, strict=True)])
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
    """The table and both pictures of scores into `folder`, made if it is not there; no pictures if all failed."""
    folder.mkdir(parents=True, exist_ok=True)
    files.replace(folder / TABLE, table(scores).encode())
    if all(score.problem for score in scores):
        return [folder / TABLE]
    for name, figure in ((COST, cost(scores)), (STATES, states(scores))):
        files.replace(folder / name, drawing.png(figure, DPI))
    return [folder / name for name in (TABLE, COST, STATES)]


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def _labelled(axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """A name at every point, one for points that are nearly the same, each where it covers no other; a line to its
    point where that is away."""
    at = axes.transData.transform(np.stack([x, y], -1))
    window = axes.get_window_extent()
    size = np.array([window.width, window.height])
    groups: list[list[int]] = []
    for i in np.argsort(at[:, 1], kind="stable"):
        near = [g for g in groups if (np.abs(at[g[0]] - at[i]) < ALIKE * size).all()]
        near[0].append(int(i)) if near else groups.append([int(i)])
    taken = [Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in at]
    for group in groups:
        words = axes.text(0, 0, _joined([names[i] for i in group]), ha="center", va="center", fontsize=8.5)
        words.set_linespacing(1.15)
        extent, own = words.get_window_extent(), at[group].mean(0)
        best = _place(own, extent.width, extent.height, taken, window)
        x0, y0 = axes.transData.inverted().transform((0.5 * (best.x0 + best.x1), 0.5 * (best.y0 + best.y1)))
        words.set_position((x0, y0))
        end = np.clip(own, best.min, best.max)
        if np.hypot(*(end - own)) > AWAY:
            taken += [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in np.linspace(own, end, 12)]
            axes.plot(*axes.transData.inverted().transform(np.stack([own, end])).T, color=GREY, linewidth=0.6, zorder=2)
        taken.append(best)


def _joined(names: Sequence[str]) -> str:
    """Names, three a line; those with a remark below each other."""
    parts = sorted(names)
    if any("\n" in part for part in parts):
        return "\n".join(part.replace("\n", " ") if len(parts) > 1 else part for part in parts)
    return "\n".join(", ".join(parts[i : i + 3]) for i in range(0, len(parts), 3))


def _place(own: np.ndarray, width: float, height: float, taken: Sequence[Bbox], window: Bbox) -> Bbox:
    """Where a label of this size stands best by its point: the nearest place where it, and a line to it, covers none of
    what is taken, else the one that covers least."""
    half, found = 0.5 * np.array([width, height]), []
    for distance in np.arange(6.0, 160.0, 6.0):
        for angle in np.arange(0.0, 2 * np.pi, np.pi / 12):
            direction = np.array([np.cos(angle), np.sin(angle)])
            centre = own + direction * distance + np.sign(direction) * half * (np.abs(direction) > 0.2)
            end = np.clip(own, centre - half, centre + half)
            found.append((float(np.hypot(*(end - own))), Bbox([centre - half, centre + half]), end))
    boxes = np.array([(box.x0, box.y0, box.x1, box.y1) for box in taken])
    others = boxes[~((boxes[:, :2] <= own) & (own <= boxes[:, 2:])).all(1)]
    least, best = np.inf, found[0][1]
    for away, box, end in sorted(found, key=lambda place: place[0]):
        wider = box.expanded(1.06, 1.2)
        over = ((boxes[:, :2] < wider.max) & (wider.min < boxes[:, 2:])).all(1).sum()
        over += box.x0 < window.x0 or box.x1 > window.x1 or box.y0 < window.y0 + 2 or box.y1 > window.y1
        if away > AWAY:
            line = np.linspace(own, end, 12)[:, None]
            over += ((others[:, :2] <= line) & (line <= others[:, 2:])).all(2).sum()
        if over < least:
            least, best = over, box
        if not over:
            break
    return best
