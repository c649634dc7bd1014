"""Scores to be read: in a terminal, in a Markdown table, and as plain lists for programs."""

import math
from typing import Any

import numpy as np
import xarray as xr

from hydroda.verifying.verification import BY_METHOD, COUNTS, FORCINGS, LABELS, OF_FORECAST, SHOWN


def cell(value: float | None, best: bool) -> str:
    """A score in a Markdown table, the best bold; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"**{value:.3f}**" if best else f"{value:.3f}"


def summary_json(scores: xr.Dataset) -> dict[str, Any]:
    """The scores as plain lists by lead for programs: stations → methods → score; null is "no score"."""

    def column(values: xr.DataArray) -> list[float | None]:
        return [None if np.isnan(value) else float(f"{value:.6g}") for value in values.values]

    def station(of: xr.Dataset) -> dict[str, Any]:
        own = {name: column(of[name]) for name in OF_FORECAST} | {name: of[name].values.tolist() for name in COUNTS}
        methods = {
            str(method): {name: column(of[name].sel({"method": method})) for name in BY_METHOD}
            for method in of.method.values
        }
        return {**own, "methods": methods}

    return {
        **{
            key.removeprefix("hydroda_"): _plain(value)
            for key, value in scores.attrs.items()
            if key.startswith("hydroda_")
        },
        "units": {name: score.units for name, score in (BY_METHOD | OF_FORECAST).items()},
        "leads": scores.forecast_period.values.tolist(),
        "stations": {str(s): station(scores.sel(station=s)) for s in scores.station.values},
    }


def _plain(value: Any) -> Any:
    """A number of NumPy, as files give them, as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def best(scores: xr.DataArray) -> xr.DataArray:
    """True where a method has the best value of this score at a lead and station."""
    distance = abs(scores - BY_METHOD[str(scores.name)].perfect)
    return distance == distance.min("method")


def sample(scores: xr.Dataset, station: str) -> str:
    """How many forecasts of a station the scores rest on, and why not on all."""
    of = scores.sel(station=station)
    low, high = int(of.n.min()), int(of.n.max())
    number = f"{low}" if low == high else f"{low} to {high}"
    unobserved, incomplete = int(of.n_unobserved.max()), int(of.n_incomplete.max())
    return (
        f"{number} of {scores.attrs['hydroda_issue_times']} forecasts per lead; left out for want of an "
        f"observation: {unobserved}, of a forecast or baseline: {incomplete} at most"
    )


def table(scores: xr.Dataset, score: str = "nse", all_leads: bool = False) -> str:
    """One score for a terminal: a block for each station, methods in rows, leads in columns, the best marked.

    Raises KeyError for a score that there is not.
    """
    if score not in BY_METHOD:
        raise KeyError(f"there is no score {score!r} by method; there are {', '.join(BY_METHOD)}")
    leads = scores.forecast_period.values[np.isin(scores.forecast_period.values, SHOWN) | all_leads]
    digits = {"1": 3, "percent": 1}.get(BY_METHOD[score].units)
    lines = [
        f"{BY_METHOD[score].long_name} [{BY_METHOD[score].units}]".removesuffix(" [1]"),
        f"{scores.attrs['source']}; issued {scores.attrs['hydroda_first_issue']} to "
        f"{scores.attrs['hydroda_last_issue']}",
        f"weather of the lead hours: {FORCINGS.get(scores.attrs['hydroda_forcing'], scores.attrs['hydroda_forcing'])}",
        "* best at that lead",
    ]
    for station in scores.station.values:
        of = scores.sel(station=station, forecast_period=leads)
        lines += ["", str(station), sample(scores, station), f"{'lead [h]':26}" + "".join(f"{h:>8}" for h in leads)]
        marked = best(of[score])
        for method in of.method.values.tolist():
            values, marks = of[score].sel({"method": method}).values, marked.sel({"method": method}).values
            cells = (_number(v, digits) + ("*" if mark else " ") for v, mark in zip(values, marks, strict=True))
            lines.append(f"{LABELS[method]:26}" + "".join(f"{cell:>8}" for cell in cells))
        inside = {"coverage_90": "% inside the 90 % interval", "coverage_90_high": "… of the 5 % highest"}
        for name, label in inside.items():
            lines.append(f"{label:26}" + "".join(f"{_number(v, 0) + ' ':>8}" for v in of[name].values))
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float, digits: int | None) -> str:
    """With so many decimals, else three digits, in about six characters; a dash where there is none."""
    if np.isnan(value):
        return "-"
    if digits is None:
        digits = int(np.clip(2 - np.floor(np.log10(abs(value))), 0, 4)) if value else 2
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before nothing
    return text if len(text) <= 6 else f"{value:.3g}"
