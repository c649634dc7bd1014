"""The pictures of the study: storages, discharge, biases, the choice of γ and κ, and what the searches cost."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.dates import YearLocator
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from hydroda.pages.drawing import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, STYLE, VERMILLION, legend
from hydroda.reproduction.pauwels2013.record import FLOW
from hydroda.reproduction.pauwels2013.searches import Searched
from hydroda.reproduction.pauwels2013.shares import GAMMAS, KAPPAS, Scan
from hydroda.reproduction.pauwels2013.study import SETTLE, WEEK, Row, Run, World

STORES = ("S", "S1", "S2")
LOOKS = {"open loop": GREY, "bias-unaware": ORANGE, "bias-aware": BLUE}
SHOWN = 180  # days of the hydrographs


def _places(rows: Sequence[Row], best: Row, experiment: int) -> dict[str, int]:
    """Where open loop, bias-unaware and bias-aware filter of an experiment stand among the rows."""
    own = Row(experiment, best.sinusoidal)
    every = own._replace(open_loop=True), own, best._replace(experiment=experiment)
    return {name: rows.index(row) for name, row in zip(LOOKS, every, strict=True)}


def storages(rows: Sequence[Row], best: Row, found: Run, truth: World) -> Figure:
    """Estimate over truth of each storage in each experiment, one point a week."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 8.4), layout="constrained")
        panels = figure.subplots(3, 3)
        for i in range(3):
            for name, at in _places(rows, best, i + 1).items():
                x, y = (part[SETTLE::WEEK, at].numpy() for part in (truth.storages, found.storages))
                for j, axes in enumerate(panels[i]):
                    axes.scatter(x[:, j], y[:, j], s=6, c=LOOKS[name], linewidths=0, alpha=0.7, label=name)
            for j, axes in enumerate(panels[i]):
                limits = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
                axes.plot(limits, limits, color=INK, linewidth=0.8)
                axes.set_title(f"experiment {i + 1}, {STORES[j]} [mm]")
        for axes in panels[-1]:
            axes.set_xlabel("truth")
        for axes in panels[:, 0]:
            axes.set_ylabel("estimate")
        legend(figure, panels[0, 0], 3)
    return figure


def discharges(day: np.ndarray, rows: Sequence[Row], best: Row, found: Run, truth: World) -> Figure:
    """Half a year of discharge in each experiment: truth, what the gauge read, and the estimates without its bias."""
    span = slice(SETTLE, SETTLE + SHOWN)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 7.6), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True, sharey=True)
        for i, axes in enumerate(panels):
            places = _places(rows, best, i + 1)
            at = places["bias-aware"]
            for name, place in places.items():
                axes.plot(day[span], found.discharge[span, place] / FLOW, color=LOOKS[name], linewidth=1.3, label=name)
            axes.plot(day[span], truth.discharge[span, at] / FLOW, color=INK, linewidth=0.9, label="truth")
            seen = truth.observation[span, at].numpy() / FLOW
            axes.plot(day[span], seen, ".", color=VERMILLION, markersize=4, label="observed, biased where the gauge is")
            axes.set_title(f"experiment {i + 1}")
            axes.set_ylabel("discharge [m³/s]")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        legend(figure, panels[0], 5)
    return figure


def biases(day: np.ndarray, rows: Sequence[Row], bests: Sequence[Row], found: Run, truth: World) -> Figure:
    """The biases found in experiment 2 beside the true ones: of the gauge and of each storage."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 8.0), layout="constrained")
        panels = figure.subplots(4, len(bests), sharex=True, squeeze=False)
        for j, best in enumerate(bests):
            at, blank = rows.index(best), rows.index(Row(2, best.sinusoidal))
            error = truth.storages[:, blank] - truth.storages[:, rows.index(Row(1, best.sinusoidal))]
            true = np.column_stack((truth.gauge_bias[:, at] / FLOW, -error))
            estimate = np.column_stack((found.gauge[:, at] / FLOW, found.bias[:, at]))
            names = ("b^o [m³/s]", *(f"b^m of {name} [mm]" for name in STORES))
            for i, name in enumerate(names):
                axes = panels[i, j]
                axes.plot(day, true[:, i], color=INK, linewidth=1.0, label="true")
                axes.plot(day, estimate[:, i], color=BLUE, linewidth=1.4, label="estimated")
                axes.set_ylabel(name)
                axes.xaxis.set_major_locator(YearLocator())
            kind = "sinusoidal" if best.sinusoidal else "constant"
            panels[0, j].set_title(f"experiment 2, {kind} biases, γ = {best.gamma:g}, κ = {best.kappa:g}")
        legend(figure, panels[0, 0], 2)
    return figure


def shares(scan: Scan) -> Figure:
    """How every pair (γ, κ) was judged."""
    names = "|mean| of innovations", "their autocorrelation", "gauge bias", "store bias", "loss"
    best = scan.rows.index(scan.best)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(11.0, 6.4), layout="constrained")
        panels = figure.subplots(2, 3)
        panels[1, 2].set_axis_off()
        for axes, name, values in zip(panels.flat, names, scan.judged, strict=False):
            grid = np.abs(values).reshape(len(GAMMAS), len(KAPPAS))
            axes.imshow(grid, cmap="Blues", vmin=0.0, vmax=min(np.nanmax(grid), 1.5), aspect="auto")
            for i, line in enumerate(grid):
                for j, value in enumerate(line):
                    colour = "white" if value > 0.6 * min(np.nanmax(grid), 1.5) else INK
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
            at = divmod(best, len(KAPPAS))
            axes.add_patch(Rectangle((at[1] - 0.5, at[0] - 0.5), 1, 1, fill=False, edgecolor=VERMILLION, lw=2))
            axes.set_xticks(range(len(KAPPAS)), [f"{kappa:g}" for kappa in KAPPAS])
            axes.set_yticks(range(len(GAMMAS)), [f"{gamma:g}" for gamma in GAMMAS])
            axes.set_xlabel("κ, gauge ratio")
            axes.set_ylabel("γ, state fraction")
            axes.set_title(name)
    return figure


def steadiness(day: np.ndarray, scan: Scan, true: np.ndarray) -> Figure:
    """The bias of the gauge as pairs of different κ follow it, and the innovations they leave."""
    gamma = scan.best.gamma
    some = sorted({scan.best.kappa, 0.03, 0.3, 10.0, 100.0})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 5.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for kappa, colour in zip(some, (GREEN, BLUE, PURPLE, ORANGE, GREY), strict=False):
            at = scan.rows.index(scan.best._replace(kappa=kappa))
            label = f"κ = {kappa:g}" + (", chosen" if kappa == scan.best.kappa else "")
            above.plot(day, scan.run.gauge[:, at] / FLOW, color=colour, linewidth=1.3, label=label)
            seen = np.isfinite(scan.run.innovation[:, at].numpy())
            below.plot(day[seen], scan.run.innovation[seen, at] / FLOW, color=colour, linewidth=0.9)
        above.plot(day, true / FLOW, color=INK, linewidth=1.0, label="true")
        above.set_ylabel("b^o [m³/s]")
        above.set_title(f"γ = {gamma:g}: the bias of the gauge, and below the innovations")
        below.set_ylabel("innovation [m³/s]")
        legend(figure, above, 6)
    return figure


def searches(found: Mapping[str, Searched]) -> Figure:
    """1 − NSE over model runs."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for (name, each), colour in zip(found.items(), (ORANGE, BLUE, GREEN), strict=True):
            if not each.problem:
                axes.plot(each.runs, each.best, color=colour, linewidth=1.8, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("model runs")
        axes.set_ylabel("1 − NSE of the best so far")
        axes.set_title("Calibration of HBV on the Zwalm")
        legend(figure, axes, 3)
    return figure


def in_situ(day: np.ndarray, observed: np.ndarray, names: Sequence[str], found: Run) -> Figure:
    """A year of real discharge, and the biases found over the whole period."""
    span = slice(SETTLE, SETTLE + SHOWN)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 7.0), layout="constrained")
        top, gauge, state = figure.subplots(3, 1, height_ratios=[1.4, 1, 1])
        for i, colour in ((0, GREY), (1, ORANGE), (2, BLUE)):
            read = (found.discharge + found.gauge)[span, i] / FLOW
            top.plot(day[span], read, color=colour, linewidth=1.2, label=names[i])
        top.plot(day[span], observed[span] / FLOW, color=INK, linewidth=0.8, label="gauge")
        top.plot(
            day[span],
            np.where(np.isfinite(found.innovation[span, 1].numpy()), observed[span], np.nan) / FLOW,
            ".",
            color=VERMILLION,
            markersize=5,
            label="assimilated",
        )
        top.set_ylabel("discharge [m³/s]")
        gauge.plot(day, found.gauge[:, 2] / FLOW, color=BLUE, linewidth=1.2)
        gauge.set_ylabel("b^o [m³/s]")
        for j, (name, colour) in enumerate(zip(STORES, (GREEN, PURPLE, VERMILLION), strict=True)):
            state.plot(day, found.bias[:, 2, j], color=colour, linewidth=1.2, label=f"b^m of {name}")
        state.set_ylabel("b^m [mm]")
        state.legend(ncols=3, fontsize=8.5)
        legend(figure, top, 5)
    return figure
