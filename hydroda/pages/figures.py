"""Pictures of forecasts and scores, for a tired forecaster at 3 a.m.; `drawing` makes files of them."""

import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hydroda import quality
from hydroda.pages import drawing
from hydroda.pages.drawing import BLUE, GREY, INK, LIGHT, LINES, PALE, SKY, STYLE, VERMILLION, clock, flow, remark
from hydroda.publishing import fields
from hydroda.publishing.fields import FLAG_VALUES, GOOD, STATUS_MEANINGS
from hydroda.schema import LEADS, quantile_name
from hydroda.units import HOUR
from hydroda.verifying.verification import BY_METHOD, LABELS

FRAMING = ("forecast", "open_loop", "decaying_error")  # the axis is made for these; others may leave it
PAST = 72 * HOUR
FAR = 1.6  # a warning level so many times above everything else would flatten the hydrograph: named, not drawn
RUNAWAY = 3.0  # the same for the 95 percent quantile, which then runs out of the chart
HEAD_ROOM = 1.12  # above the data, for what is written at the top
LONGEST_NAME = 60
MARGINS = {"left": 0.1, "right": 0.935, "top": 0.91, "bottom": 0.215, "hspace": 0.19}  # hours are below each other
ORDER = ("observed", "observed, doubtful", "analysis", "forecast (median)", "50 % interval", "90 % interval")
M3S = "m³/s"
MUCH = 1.2  # times the interval of the highest forecast, beyond which an hour that may be higher is named
WARN: dict[str, Any] = {"color": VERMILLION, "fontsize": 8.5}


def hydrograph(
    forecast: xr.Dataset, past: xr.Dataset | None = None, precipitation: xr.DataArray | None = None
) -> Figure:
    """One station: the `fc` product, what was observed and analysed before it, rain [mm/h] on top.

    Everything is along `time`: `forecast` and `past` (the `an` product, with `discharge_open_loop` if there is one) are
    selected at the station already; `precipitation` covers past and lead hours. The last 72 h of the past are shown.
    """
    cycle = forecast.forecast_reference_time.values[()]
    past = _recent(past, cycle)
    start = cycle - HOUR if past is None else past.time.values[0] - HOUR
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 5.2))
        rain_axes, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3.6], gridspec_kw=MARGINS)
        _rain(rain_axes, precipitation, start, cycle)
        _past(axes, past)
        _lead_hours(axes, forecast, past)
        height = _height(forecast, past)
        notes = [*_thresholds(axes, forecast, height), *_doubts(past, height)]
        axes.set_ylim(0, height)
        axes.set_ylabel(f"discharge [{M3S}]")
        axes.tick_params(labelright=True, length=0)
        for each in (rain_axes, axes):
            each.axvspan(start, cycle, color=PALE, zorder=-5)
            each.axvline(cycle, color=INK, linewidth=1.2)
        words = f"\N{NO-BREAK SPACE}issued {clock(cycle)}\N{NO-BREAK SPACE}"
        side = "right" if cycle - start > 24 * HOUR else "left"  # of the line there is room
        axes.text(cycle, 0.99, words, transform=axes.get_xaxis_transform(), ha=side, va="top", fontsize=8.5)
        axes.text(1, 1.01, "\n".join(notes), transform=axes.transAxes, ha="right", va="bottom", **WARN)
        axes.set_xlim(start, forecast.time.values[-1])
        drawing.time_axis(axes)
        rain_axes.set_title(_title(forecast), parse_math=False)
        drawing.legend(figure, axes, 6, ORDER)
    return figure


def skill_by_lead(scores: xr.Dataset, score: str = "nse", columns: int = 3) -> Figure:
    """One score of all methods by lead, a panel for each station.

    The axis fits forecast, open loop and decaying error; a baseline that ends outside is named with its last value.
    """
    perfect = BY_METHOD[score].perfect

    def panel(axes: Axes, of: xr.Dataset) -> str:
        leads, values = of.forecast_period.values, of[score]
        methods = [str(method) for method in values.method.values if values.sel({"method": method}).notnull().any()]
        for method in methods:
            axes.plot(leads, values.sel({"method": method}), label=LABELS[method], **LINES[method])
        axes.axhline(perfect, color=GREY, linewidth=0.8)
        low, high = _frame(values, perfect)
        axes.set_ylim(low, high)
        ends = {LABELS[m]: float(values.sel({"method": m})[-1]) for m in methods}
        absent = ", ".join(f"{name} {end:.2f}" for name, end in ends.items() if end < low or end > high)
        return f"outside at {leads[-1]} h: {absent}" if absent else ""

    units = BY_METHOD[score].units.replace("m3 s-1", M3S).replace("percent", "%")
    name = score.upper() if score in ("nse", "kge", "rmse", "mae", "crps") else score.replace("_", " ")
    return _panels(scores, panel, name if units == "1" else f"{name} [{units}]", columns)


def coverage_by_lead(scores: xr.Dataset, columns: int = 3) -> Figure:
    """How many observations the 50 and 90 % intervals hold by lead, a panel for each station."""

    def panel(axes: Axes, of: xr.Dataset) -> str:
        for share, style in (("90", "-"), ("50", "--")):
            look: dict[str, Any] = {"color": BLUE, "linestyle": style, "linewidth": 2.2}
            axes.plot(of.forecast_period, of[f"coverage_{share}"], label=f"inside the {share} % interval", **look)
            axes.axhline(int(share), color=INK, linewidth=1.0, linestyle=":")
        axes.plot([], [], color=INK, linewidth=1.0, linestyle=":", label="target")
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 25, 50, 75, 90, 100])
        return ""

    return _panels(scores, panel, "observations inside [%]", columns)


def highest(forecast: xr.Dataset) -> tuple[float, float, float, np.datetime64] | None:
    """The highest flow of one station's forecast, its 90 % interval [m³/s] and its hour; None without a forecast."""
    if forecast.discharge.isnull().all():
        return None
    peak = forecast.isel(time=int(np.nanargmax(forecast.discharge.values)))
    best, low, high = (float(peak[name]) for name in ("discharge", quantile_name(0.05), quantile_name(0.95)))
    return best, low, high, peak.time.values[()]


def name_of(forecast: xr.Dataset) -> str:
    """The name of one station, or its id where it has none, on one line."""
    return " ".join(str(forecast.station_name.values).split()) or str(forecast.station_id.values)


def status_of(forecast: xr.Dataset) -> tuple[int, str]:
    """The worst status of one station's hours, and in words, with the number of hours where it is not all of them."""
    flags = forecast.discharge_status.values
    worst, count = int(flags.max()), int((flags == flags.max()).sum())
    words = dict(zip(FLAG_VALUES.tolist(), STATUS_MEANINGS.split(), strict=True))[worst].replace("_", " ")
    return worst, words if count == flags.size else f"{words} ({count} of {flags.size} h)"


def headline(forecast: xr.Dataset) -> str:
    """The highest flow ahead with its 90 % interval and time, and how high it may come in a less certain hour."""
    peak = highest(forecast)
    if peak is None:
        return "no forecast"
    best, low, high, when = peak
    upper = forecast[quantile_name(0.95)]
    most, at = float(upper.max()), upper.time.values[int(np.nanargmax(upper.values))]
    later = f"; {flow(most)} not excluded at {clock(at)}" if most > MUCH * high else ""
    return f"highest forecast in 24 h {flow(best)} {M3S} (90 %: {flow(low)} to {flow(high)}) at {clock(when)}{later}"


def _panels(scores: xr.Dataset, panel: Callable[[Axes, xr.Dataset], str], label: str, columns: int) -> Figure:
    """A grid of panels that share one legend; what `panel` returns is written below its axis."""
    stations, last = scores.station.values, int(scores.forecast_period[-1])
    columns = min(len(stations), columns)
    rows = -(-len(stations) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2 * columns, 5.6), 3.0 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, station in zip(grid.flat, stations, strict=False):
            of = scores.sel(station=station)
            below = textwrap.fill(panel(axes, of), 56)
            low, high = int(of.n.min()), int(of.n.max())
            axes.set_title(f"{station}, n = {low}" + (f" to {high}" if high > low else ""), parse_math=False)
            axes.set_xlim(1, max(last, 2))
            axes.set_xticks([1, *range(3, last + 1, 3)])
            axes.set_xlabel(f"lead time [h]\n{below}".strip(), fontsize=8.5)
            axes.set_ylabel(label)
            if not high:
                remark(axes, "no forecast could be scored", 0.5, "center")
        for axes in grid.flat[len(stations) :]:
            axes.remove()
        drawing.legend(figure, grid.flat[0], min(columns + 1, 4))
    return figure


def _recent(past: xr.Dataset | None, cycle: np.datetime64) -> xr.Dataset | None:
    """Every hour of the past up to the cycle from the first one that is known and not too old; NaN is missing."""
    if past is None:
        return None
    times = past.time.values[(past.time.values > cycle - PAST) & (past.time.values <= cycle)]
    names = ("discharge", "discharge_open_loop", "discharge_observed", "discharge_observed_qc")
    if not times.size:
        return None
    return past[[name for name in names if name in past]].reindex(time=np.arange(times.min(), cycle + HOUR, HOUR))


def _rain(axes: Axes, precipitation: xr.DataArray | None, start: np.datetime64, cycle: np.datetime64) -> None:
    """Bars that hang from the top, each over the hour that ends at its stamp; rain to come is hatched."""
    axes.set_ylabel("rain\n[mm/h]")
    edges = np.arange(start, cycle + (LEADS[-1] + 1) * HOUR, HOUR)
    ahead, rain = edges[1:] > cycle, np.full(edges.size - 1, np.nan)
    if precipitation is not None:
        rain = precipitation.reindex(time=edges[1:]).values.astype(float)
    unknown, limit = np.isnan(rain), max(1.1 * np.nanmax(rain, initial=0.0), 1.0)
    looks: list[tuple[np.ndarray, dict[str, Any]]] = [
        (np.where(unknown, limit, np.nan), {"color": LIGHT}),
        (np.where(ahead, np.nan, rain), {"color": SKY}),
        (np.where(ahead, rain, np.nan), {"facecolor": "#cfe8f7", "edgecolor": SKY, "hatch": "////"}),
    ]
    for values, look in looks:
        if np.isfinite(values).any():
            axes.stairs(values, edges, fill=True, linewidth=0.4, **look)
    if unknown[ahead].all():
        remark(axes, "no rain forecast", 0.985, "right")
    else:
        remark(axes, "hatched: forecast" + (", grey: not known" if unknown.any() else ""), 0.985, "right")
    axes.set_ylim(limit, 0)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.tick_params(which="both", bottom=False)
    axes.spines["bottom"].set_visible(False)


def _past(axes: Axes, past: xr.Dataset | None) -> None:
    """Observations by their quality, the analysis, and the open loop where it is known."""
    if past is None:
        return
    if "discharge_open_loop" in past:
        drawing.line(axes, past.time, past.discharge_open_loop, LABELS["open_loop"], LINES["open_loop"])
    drawing.line(axes, past.time, past.discharge, "analysis", {"color": BLUE, "linewidth": 1.4})
    look = {"linestyle": "none", "markersize": 5, "zorder": 4}
    drawing.line(axes, past.time, _observed(past, doubted=False), "observed", {**look, "marker": ".", "color": INK})
    doubtful = {**look, "marker": "x", "color": VERMILLION}
    drawing.line(axes, past.time, _observed(past, doubted=True), "observed, doubtful", doubtful)


def _observed(past: xr.Dataset, doubted: bool) -> np.ndarray:
    """Observations that quality control doubts, or the others; elsewhere NaN."""
    if "discharge_observed" not in past:
        return np.full(past.time.size, np.nan)
    flags = past.get("discharge_observed_qc", xr.full_like(past.discharge_observed, quality.PASS))
    return past.discharge_observed.where(flags.isin((quality.SUSPECT, quality.FAIL)) == doubted).values


def _lead_hours(axes: Axes, forecast: xr.Dataset, past: xr.Dataset | None) -> None:
    """Median, bands and open loop of the 24 hours; both lines go on from the past."""
    time, cycle = forecast.time.values, forecast.forecast_reference_time.values[()]
    before = np.nan if past is None or "discharge_open_loop" not in past else past.discharge_open_loop.values[-1]
    open_loop = np.array([before, *forecast.discharge_open_loop.values])
    drawing.line(axes, [cycle, *time], open_loop, LABELS["open_loop"], LINES["open_loop"])
    if forecast.discharge.isnull().all():
        remark(axes, "no forecast", 0.985, "right")
        return
    for share, low, high, alpha in (("90", 0.05, 0.95, 0.17), ("50", 0.25, 0.75, 0.3)):
        bounds = forecast[quantile_name(low)], forecast[quantile_name(high)]
        axes.fill_between(time, *bounds, color=BLUE, alpha=alpha, linewidth=0, label=f"{share} % interval")
    now = np.nan if past is None else past.discharge.values[-1]
    median = [now, *forecast.discharge.values]
    axes.plot([cycle, *time], median, label="forecast (median)", **LINES["forecast"])


def _levels(forecast: xr.Dataset) -> dict[int, float]:
    """Warning levels of the station by their number, lowest first."""
    levels = {k: float(forecast[f"threshold_t{k}"]) for k in fields.levels(forecast)}
    return {k: level for k, level in levels.items() if np.isfinite(level)}


def _height(forecast: xr.Dataset, past: xr.Dataset | None) -> float:
    """Of the axis [m³/s]: all that is worth seeing, and the warning levels that are near.

    A doubtful observation or an endless tail is not.
    """
    shown = [forecast[name].values for name in ("discharge", quantile_name(0.75), "discharge_open_loop")]
    if past is not None:
        shown += [past.discharge.values, _observed(past, doubted=False)]
    most = float(np.nanmax(np.concatenate(shown), initial=0.0))
    top = float(np.nanmax([most, min(float(forecast[quantile_name(0.95)].max()), RUNAWAY * most)]))
    return HEAD_ROOM * max([top, *(level for level in _levels(forecast).values() if level <= FAR * top)]) or 1.0


def _thresholds(axes: Axes, forecast: xr.Dataset, height: float) -> list[str]:
    """Lines at the warning levels on the chart, close ones with one label; what to say of those beyond it."""
    near = {k: level for k, level in _levels(forecast).items() if level <= height}
    groups: list[list[int]] = []
    for k, level in near.items():
        axes.axhline(level, color=VERMILLION, linewidth=0.5 + 0.4 * k, zorder=1)
        if groups and level - near[groups[-1][-1]] < 0.06 * height:
            groups[-1].append(k)
        else:
            groups.append([k])
    for group in groups:
        text = "warning level " + ", ".join(f"{k}: {near[k]:g}" for k in group)
        axes.text(0.005, near[group[-1]], text, transform=axes.get_yaxis_transform(), va="bottom", **WARN)
    beyond = [f"level {k} ({level:g} {M3S})" for k, level in _levels(forecast).items() if k not in near]
    return [f"above the chart: warning {', '.join(beyond)}"] if beyond else []


def _doubts(past: xr.Dataset | None, height: float) -> list[str]:
    """What the observations on the chart do not tell."""
    if past is None:
        return []
    doubted = _observed(past, doubted=True)
    hidden = int((doubted > height).sum())
    if np.isnan([doubted, _observed(past, doubted=False)]).all():
        return [f"no observation in the last {past.time.size} h"]
    return [f"above the chart: {hidden} doubtful observation{'s'[: hidden - 1]}"] if hidden else []


def _title(forecast: xr.Dataset) -> str:
    """Station and status, and below them what matters most."""
    name, (worst, words) = name_of(forecast), status_of(forecast)
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return f"{name}{'' if worst == GOOD else f' – {words}'}\n{headline(forecast)}"


def _frame(values: xr.DataArray, perfect: float) -> tuple[float, float]:
    """Limits of the axis: the perfect value and the methods that matter."""
    framing = values.sel({"method": list(FRAMING)}).values
    within = np.append(framing[np.isfinite(framing)], perfect)
    low, high = float(within.min()), float(within.max())
    margin = 0.06 * max(high - low, 0.02 if perfect == 1.0 else 1e-9)
    return (low - margin if low < perfect else low), (high + margin)
