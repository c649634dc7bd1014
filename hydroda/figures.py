"""Pictures of forecasts and scores, for a tired forecaster at 3 a.m.; `drawing` makes files of them."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.dates as mdates
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hydroda import quality
from hydroda.drawing import BLUE, GREY, INK, LINES, PALE, SKY, STYLE, VERMILLION
from hydroda.schema import quantile_name
from hydroda.units import HOUR
from hydroda.verification import BY_METHOD, LABELS, METHODS

FRAMING = ("forecast", "open_loop", "decaying_error")  # the axis is made for these; others may leave it
PAST = 72 * HOUR
FAR = 1.6  # a warning level so many times above everything else would flatten the hydrograph: named, not drawn
RUNAWAY = 3.0  # the same for the 95 percent quantile, which then runs out of the chart
M3S = "m³/s"


def hydrograph(
    forecast: xr.Dataset, past: xr.Dataset | None = None, precipitation: xr.DataArray | None = None
) -> Figure:
    """One station: the `fc` product, what was observed and analysed before it, rain [mm/h] on top.

    Everything is along `time`: `forecast` and `past` (the `an` product, with `discharge_open_loop` if there is one) are
    selected at the station already; `precipitation` covers past and lead hours. The last 72 h of the past are shown.
    """
    cycle = forecast.forecast_reference_time.values[()]
    past = None if past is None else past.sel(time=past.time > cycle - PAST)
    precipitation = None if precipitation is None else precipitation.sel(time=precipitation.time > cycle - PAST)
    start = min([cycle - HOUR, *([] if past is None else past.time.values)])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.4), layout="constrained")
        rain_axes, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3.6])
        _rain(rain_axes, precipitation, cycle)
        _past(axes, past)
        _lead_hours(axes, forecast, past)
        top = _ceiling(forecast, past)
        note = _thresholds(axes, forecast, top)
        axes.set_ylim(0, 1 if np.isnan(top) else _with_levels(forecast, top))
        axes.tick_params(labelleft=not np.isnan(top))
        axes.set_ylabel(f"discharge [{M3S}]")
        for each in (rain_axes, axes):
            each.axvspan(start, cycle, color=PALE, zorder=-5)
            each.axvline(cycle, color=INK, linewidth=1.2)
        axes.annotate(
            f"issued {_clock(cycle)}",
            (cycle, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8.5,
            bbox={"facecolor": PALE, "edgecolor": "none", "pad": 1.5},
        )
        axes.set_xlim(start, forecast.time.values[-1])
        _time_axis(axes)
        rain_axes.set_title(_headline(forecast), fontsize=10.5)
        handles, labels = _legend(axes)
        columns = len(labels) if len(labels) < 7 else 4
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5)
        if note:
            axes.annotate(
                note, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=8.5, color=VERMILLION
            )
    return figure


def skill_by_lead(scores: xr.Dataset, score: str = "nse") -> Figure:
    """One score of all methods by lead, a panel for each station.

    The axis fits forecast, open loop and decaying error; a baseline that leaves it is named with its last value.
    """

    def panel(axes: Axes, of: xr.Dataset) -> None:
        leads, values = of.forecast_period.values, of[score]
        for method in reversed(METHODS):
            axes.plot(leads, values.sel({"method": method}), label=LABELS[method], **LINES[method])
        low, high = _frame(values, BY_METHOD[score].perfect)
        axes.axhline(BY_METHOD[score].perfect, color=GREY, linewidth=0.8)
        axes.set_ylim(low, high)
        _name_absent(axes, values, low, high)

    units = BY_METHOD[score].units.replace("m3 s-1", M3S)
    name = (
        score.upper().replace("_", " ") if score in ("nse", "kge", "rmse", "mae", "crps") else score.replace("_", " ")
    )
    return _panels(scores, panel, name if units == "1" else f"{name} [{units}]")


def coverage_by_lead(scores: xr.Dataset) -> Figure:
    """How many observations the 50 and 90 % intervals hold by lead, a panel for each station."""

    def panel(axes: Axes, of: xr.Dataset) -> None:
        for share, style in (("90", "-"), ("50", "--")):
            axes.axhline(int(share), color=GREY, linewidth=1.0, linestyle=":")
            axes.plot(
                of.forecast_period.values,
                of[f"coverage_{share}"],
                color=BLUE,
                linestyle=style,
                linewidth=2.2,
                label=f"inside the {share} % interval",
            )
        axes.plot([], [], color=GREY, linewidth=1.0, linestyle=":", label="as it should be")
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 25, 50, 75, 90, 100])

    return _panels(scores, panel, "observations inside [%]")


def _panels(scores: xr.Dataset, panel: Callable[[Axes, xr.Dataset], None], label: str) -> Figure:
    """A grid of panels that share the lead axis and one legend."""
    stations = scores.station.values
    columns = min(len(stations), 3)
    rows = -(-len(stations) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.1 * columns, 5.4), 2.9 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for axes, station in zip(grid.flat, stations, strict=False):
            of = scores.sel(station=station)
            panel(axes, of)
            axes.set_title(f"{station}   n = {_range(of.n.values)}")
            axes.set_xlim(1, int(of.forecast_period[-1]))
            axes.set_xticks([1, *range(3, int(of.forecast_period[-1]) + 1, 3)])
            axes.tick_params(labelbottom=True)
        for axes in grid.flat[len(stations) :]:
            axes.remove()
        figure.supxlabel("lead time [h]", fontsize=9.5)
        figure.supylabel(label, fontsize=9.5)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        order = slice(None, None, -1) if len(labels) == len(METHODS) else slice(None)
        figure.legend(
            handles[order], labels[order], loc="outside lower center", ncols=min(columns + 1, 4), fontsize=8.5
        )
    return figure


def _rain(axes: Axes, precipitation: xr.DataArray | None, cycle: np.datetime64) -> None:
    """Bars that hang from the top, each over the hour that ends at its stamp; rain to come is hatched."""
    axes.set_ylabel("rain\n[mm/h]")
    most = 0.0
    if precipitation is not None:
        past = precipitation.time.values <= cycle
        looks: list[tuple[np.ndarray, dict[str, Any]]] = [
            (past, {"color": SKY}),
            (~past, {"facecolor": "#cfe8f7", "edgecolor": SKY, "hatch": "////"}),
        ]
        for chosen, look in looks:
            hours = precipitation[chosen]
            axes.bar(hours.time.values, hours.values, width=-HOUR, align="edge", linewidth=0.4, **look)
        most = float(precipitation.max()) if precipitation.notnull().any() else 0.0
        if precipitation[~past].notnull().sum() == 0:
            _remark(axes, "no rain forecast", 0.985, "right")
    axes.set_ylim(max(1.1 * most, 1.0), 0)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.tick_params(which="both", bottom=False)
    axes.spines["bottom"].set_visible(False)


def _past(axes: Axes, past: xr.Dataset | None) -> None:
    """Observations by their quality, the analysis, and the open loop where it is known."""
    if past is None:
        return
    time = past.time.values
    if "discharge_open_loop" in past:
        axes.plot(time, past.discharge_open_loop, **LINES["open_loop"])
    axes.plot(time, past.discharge, color=BLUE, linewidth=1.4, label="analysis")
    if "discharge_observed" not in past:
        return
    observed = past.discharge_observed.values
    flags = (
        past.discharge_observed_qc.values if "discharge_observed_qc" in past else np.full(observed.shape, quality.PASS)
    )
    doubted = np.isin(flags, (quality.SUSPECT, quality.FAIL))
    axes.plot(time[~doubted], observed[~doubted], ".", color=INK, markersize=5, label="observed", zorder=4)
    if (doubted & np.isfinite(observed)).any():
        axes.plot(
            time[doubted], observed[doubted], "x", color=VERMILLION, markersize=6, label="observed, doubtful", zorder=4
        )


def _lead_hours(axes: Axes, forecast: xr.Dataset, past: xr.Dataset | None) -> None:
    """Median, bands and open loop of the 24 hours; the median goes on from the analysis."""
    time = forecast.time.values
    bounds = [forecast[quantile_name(level)].values for level in (0.05, 0.25, 0.75, 0.95)]
    axes.fill_between(time, bounds[0], bounds[3], color=BLUE, alpha=0.17, linewidth=0, label="90 % interval")
    axes.fill_between(time, bounds[1], bounds[2], color=BLUE, alpha=0.3, linewidth=0, label="50 % interval")
    axes.plot(time, forecast.discharge_open_loop, label=LABELS["open_loop"], **LINES["open_loop"])
    cycle = forecast.forecast_reference_time.values[()]
    now = [] if past is None else past.discharge.values[past.time.values == cycle]
    median = np.concatenate([now, forecast.discharge.values])
    axes.plot([cycle, *time][-median.size :], median, label="forecast (median)", **LINES["forecast"])
    if forecast.discharge.isnull().all():
        _remark(axes, "no forecast for this station", 0.985, "right")


def _ceiling(forecast: xr.Dataset, past: xr.Dataset | None) -> float:
    """The largest discharge worth the height of the chart; a failed observation or an endless tail is not."""
    shown = [forecast[name].values for name in ("discharge", quantile_name(0.75), "discharge_open_loop")]
    if past is not None:
        shown.append(past.discharge.values)
        if "discharge_observed" in past:
            good = True
            if "discharge_observed_qc" in past:
                good = past.discharge_observed_qc.values != quality.FAIL
            shown.append(np.where(good, past.discharge_observed.values, np.nan))
    values = np.concatenate(shown)
    if np.isnan(values).all():
        return np.nan
    most = float(np.nanmax(values))
    tail = forecast[quantile_name(0.95)].values
    return max(most, min(float(np.nanmax(tail)), RUNAWAY * most)) if np.isfinite(tail).any() else most


def _levels(forecast: xr.Dataset) -> list[float]:
    """Warning levels of the station, lowest first."""
    names = sorted(str(name) for name in forecast.variables if str(name).startswith("threshold_t"))
    levels = [float(forecast[name]) for name in names]
    return [level for level in levels if np.isfinite(level)]


def _with_levels(forecast: xr.Dataset, top: float) -> float:
    """The height of the axis: all data, and the warning levels that are near."""
    return 1.08 * max([top, *(level for level in _levels(forecast) if level <= FAR * top)]) or 1.0


def _thresholds(axes: Axes, forecast: xr.Dataset, top: float) -> str:
    """Lines at the warning levels on the chart; what to say of those beyond it."""
    beyond = []
    for k, level in enumerate(_levels(forecast), start=1):
        if level > FAR * top:
            beyond.append(f"level {k} ({level:g} {M3S})")
            continue
        axes.axhline(level, color=VERMILLION, linewidth=0.8 + 0.5 * k, linestyle=(0, (6, 2)), zorder=1)
        axes.annotate(
            f"warning level {k}: {level:g}",
            (0, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 2),
            textcoords="offset points",
            color=VERMILLION,
            fontsize=8.5,
        )
    return f"above the chart: warning {', '.join(beyond)}" if beyond else ""


def _headline(forecast: xr.Dataset) -> str:
    """Station, and the highest flow ahead with its 90 % interval and time."""
    name = str(forecast.station_name.values) or str(forecast.station_id.values)
    if forecast.discharge.isnull().all():
        return name
    peak = int(np.nanargmax(forecast.discharge.values))
    best, low, high = (
        float(forecast[column].values[peak]) for column in ("discharge", quantile_name(0.05), quantile_name(0.95))
    )
    when = _clock(forecast.time.values[peak])
    return f"{name}: highest in 24 h {best:.3g} {M3S} ({low:.3g} to {high:.3g}) at {when}"


def _clock(time: np.datetime64) -> str:
    """`Fri 1 Nov 15:00 UTC`."""
    moment = time.astype("datetime64[s]").item()
    return f"{moment:%a} {moment.day} {moment:%b %H:%M} UTC"


def _time_axis(axes: Axes) -> None:
    """Midnights with their date, hours every six between them."""
    axes.xaxis.set_major_locator(mdates.DayLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"00\n{mdates.num2date(x):%a} {mdates.num2date(x).day} {mdates.num2date(x):%b}")
    )
    axes.xaxis.set_minor_locator(mdates.HourLocator(byhour=(6, 12, 18)))
    axes.xaxis.set_minor_formatter(mdates.DateFormatter("%H"))
    axes.tick_params(axis="x", which="both", labelsize=8.5)
    axes.set_xlabel("hour UTC, end of the hourly mean", fontsize=8.5)


def _legend(axes: Axes) -> tuple[list, list[str]]:
    """Handles and labels, each label once, observations first."""
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    wanted = ["observed", "observed, doubtful", "analysis", "forecast (median)", "50 % interval", "90 % interval"]
    labels = [label for label in [*wanted, LABELS["open_loop"]] if label in entries]
    return [entries[label] for label in labels], labels


def _remark(axes: Axes, text: str, x: float, side: str) -> None:
    axes.annotate(text, (x, 0.5), xycoords="axes fraction", ha=side, va="center", color=GREY, fontsize=9)


def _frame(values: xr.DataArray, perfect: float) -> tuple[float, float]:
    """Limits of the axis: the perfect value and the methods that matter."""
    framing = values.sel({"method": list(FRAMING)}).values
    within = np.append(framing[np.isfinite(framing)], perfect)
    low, high = float(within.min()), float(within.max())
    margin = 0.06 * max(high - low, 0.02 if perfect == 1.0 else 1e-9)
    return (low - margin if low < perfect else low), (high + margin)


def _name_absent(axes: Axes, values: xr.DataArray, low: float, high: float) -> None:
    """Says which methods end outside of the axis, and where."""
    ends = {method: float(values.sel({"method": method})[-1]) for method in METHODS}
    absent = [f"{LABELS[m]} {end:.2f}" for m, end in ends.items() if end < low or end > high]
    if absent:
        text = f"outside at {int(values.forecast_period[-1])} h: " + ", ".join(absent)
        axes.annotate(text, (0.02, 0.03), xycoords="axes fraction", fontsize=7.5, color=GREY)


def _range(numbers: Sequence[int] | np.ndarray) -> str:
    low, high = int(np.min(numbers)), int(np.max(numbers))
    return f"{low}" if low == high else f"{low} to {high}"
