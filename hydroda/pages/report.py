"""A static page of one cycle for the forecaster on duty: datasets in, one self-contained HTML text out.

Worst first: the warning level that is likely to be exceeded, then stations nobody knows enough about, then the expected
number of levels exceeded. Pictures are inline SVG, the style is inline too, there is no script and nothing to fetch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import xarray as xr
from jinja2 import Environment, StrictUndefined, Template

from hydroda import quality
from hydroda.pages import drawing, figures, score_tables
from hydroda.pages.drawing import age, clock, flow, percent
from hydroda.publishing import fields
from hydroda.publishing.attributes import NOT_SET, UNKNOWN, in_words
from hydroda.publishing.fields import GOOD, UNUSABLE
from hydroda.publishing.publish import ALERT_PROBABILITY
from hydroda.units import HOUR
from hydroda.verifying.verification import FORCINGS, LABELS, SHOWN

LATE = 2.0  # hours after which a cycle is old: the next one should have been there
PANELS = 8  # stations per figure of scores, so that a hundred stations are many small figures
DOUBTS = {int(quality.SUSPECT): "suspect", int(quality.FAIL): "failed"}
PROVENANCE = {
    "Made by": "source",
    "Configuration (SHA-256)": "hydroda_config_sha256",
    "Weights (SHA-256)": "hydroda_weights_sha256",
    "State it started from (SHA-256)": "hydroda_state_in_sha256",
    "Inputs (SHA-256)": "hydroda_inputs_sha256",
    "Weather forecast": "hydroda_forcing_source",
    "Weather forecast of": "hydroda_forcing_reference_time",
    "Start": "hydroda_start_kind",
    "Run": "hydroda_run_id",
    "Institution": "institution",
    "Licence": "license",
}


@dataclass(frozen=True)
class Row:
    """What the page says of one station; texts are ready to be read."""

    id: str
    name: str
    status: str
    good: bool
    observed: str
    now: str
    highest: str
    interval: str
    when: str
    headline: str
    chances: tuple[tuple[str, str], ...]  # of exceeding each warning level, and how high that is
    level: int  # the highest warning level that is at least as likely to be exceeded as not; 0: none
    rank: tuple[float, ...]
    picture: str


def page(
    forecast: xr.Dataset,
    analysis: xr.Dataset | None,
    precipitation: xr.DataArray | None,
    scores: xr.Dataset | None,
    generated: np.datetime64,
    lacking: Mapping[str, str] | None = None,
) -> str:
    """The page of an `fc` product at the time `generated`.

    `analysis` holds `an` products joined along time, with `discharge_open_loop` if there is one; `precipitation` is
    (time, station_id) [mm/h] over past and lead hours; `scores` come from `verification.verify`; `lacking` says why a
    station cannot be forecast.
    """
    cycle, lacks = forecast.forecast_reference_time.values[()], dict(lacking or {})
    names = {str(i): figures.name_of(forecast.isel(station=k)) for k, i in enumerate(forecast.station_id.values)}
    rows = [_row(forecast.isel(station=k), analysis, precipitation) for k in range(forecast.sizes["station"])]
    told = {label: str(forecast.attrs.get(name, NOT_SET)) for label, name in PROVENANCE.items()}
    told["Weather forecast"] = FORCINGS.get(told["Weather forecast"], told["Weather forecast"])
    return _template().render(
        domain=forecast.attrs["hydroda_domain"],
        cycle=clock(cycle, year=True),
        generated=clock(generated, year=True),
        age=age((generated - cycle) / HOUR),
        warnings=[*_warnings(forecast, (generated - cycle) / HOUR), *(f"{s} {why}." for s, why in lacks.items())],
        rows=sorted(rows, key=lambda row: row.rank, reverse=True),
        levels=len(rows[0].chances) if rows else 0,
        likely=percent(ALERT_PROBABILITY),
        scores=None if scores is None else _scores(scores, names),
        provenance={label: text for label, text in told.items() if text not in (NOT_SET, UNKNOWN)},
        comment=forecast.attrs.get("comment", ""),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("hydroda.pages").joinpath("report.html.j2").read_text(encoding="utf-8"))


def _warnings(forecast: xr.Dataset, hours: float) -> list[str]:
    """What a reader must know before any number, of a forecast that is so many hours old."""
    attrs, found = forecast.attrs, []
    if hours < 0:
        found.append("This page claims to be older than its forecast: check the clocks.")
    if hours >= LATE:
        found.append(f"This forecast was {age(hours)} old when the page was made: later cycles are missing.")
    if attrs.get("hydroda_degraded", "none") != "none":
        found.append(f"Less than it could be: {'; '.join(map(in_words, attrs['hydroda_degraded'].split(',')))}.")
    if attrs.get("hydroda_start_kind", "warm") != "warm":
        state = f"{attrs['hydroda_start_kind'].replace('_', ' ')}, state {attrs['hydroda_state_age_hours']:.0f} h old"
        found.append(f"The run did not go on from the cycle before ({state}).")
    if attrs.get("hydroda_run_kind", "operational") != "operational":
        found.append(f"This is no operational forecast but a {attrs['hydroda_run_kind'].replace('_', ' ')}.")
    unusual = forecast["discharge_method"].attrs.get("comment", "") if "discharge_method" in forecast else ""
    if unusual:
        found.append(f"Not forecast as usual; {unusual}.")
    return found


def _row(forecast: xr.Dataset, analysis: xr.Dataset | None, precipitation: xr.DataArray | None) -> Row:
    """One station, selected in the forecast already."""
    station, cycle = str(forecast.station_id.values), forecast.forecast_reference_time.values[()]
    past, rain = fields.of(analysis, "station", station), fields.of(precipitation, "station_id", station)
    name, (worst, status), peak = figures.name_of(forecast), figures.status_of(forecast), figures.highest(forecast)
    best, low, high, when = peak or (np.nan, np.nan, np.nan, None)
    levels = fields.levels(forecast)
    chances = [float(forecast[f"exceedance_probability_t{k}"].max()) for k in levels]
    heights = [float(forecast[f"threshold_t{k}"]) for k in levels]
    level = max((k for k, chance in enumerate(chances, start=1) if chance >= ALERT_PROBABILITY), default=0)
    now = np.full(0, np.nan) if past is None else past.discharge.values[past.time.values == cycle]
    picture, observed = figures.hydrograph(forecast, past, rain), _last_observation(past, cycle)
    return Row(
        id=station,
        name=name,
        status=status,
        good=worst == GOOD,
        observed=observed,
        now=flow(float(now[-1])) if now.size and (peak or observed[:1].isdigit()) else "–",
        highest=flow(best),
        interval="" if peak is None else f"({flow(low)} to {flow(high)})",
        when="" if when is None else clock(when),
        headline=figures.headline(forecast),
        chances=tuple((percent(p), f"above {h:g}" if h > 0 else "") for p, h in zip(chances, heights, strict=True)),
        level=level,
        rank=(level, float(worst >= UNUSABLE), float(np.nansum(chances)), float(worst)),
        picture=drawing.svg(picture, f"Hydrograph of {name} ({station}): {figures.headline(forecast)}"),
    )


def _last_observation(past: xr.Dataset | None, cycle: np.datetime64) -> str:
    """The newest observation up to the cycle, its age at the cycle, and what quality control says against it."""
    if past is None or "discharge_observed" not in past:
        return "not known"
    series = past.discharge_observed
    seen = np.flatnonzero(series.notnull().values & (series.time.values <= cycle))
    if not seen.size:
        return f"none in the last {age((cycle - series.time.values[0]) / HOUR + 1)}" if series.size else "not known"
    last = past.isel(time=int(seen[-1]))
    doubt = DOUBTS.get(int(last["discharge_observed_qc"])) if "discharge_observed_qc" in last else None
    hours = (cycle - last.time.values[()]) / HOUR
    about = [f"{age(hours)} old" if hours else "of the last hour", *([doubt] if doubt else [])]
    return f"{flow(float(last.discharge_observed))} ({', '.join(about)})"


def _scores(scores: xr.Dataset, names: Mapping[str, str]) -> dict[str, Any]:
    """Figures, tables of NSE by lead, and what they rest on."""
    attrs, stations = scores.attrs, scores.station.values
    leads = [int(lead) for lead in scores.forecast_period.values if lead in SHOWN]
    pictures = []
    for first in range(0, stations.size, PANELS):
        part = scores.isel(station=slice(first, first + PANELS))
        which = ", ".join(map(str, part.station.values))
        skill, inside = figures.skill_by_lead(part, columns=2), figures.coverage_by_lead(part, columns=2)
        pictures.append(drawing.svg(skill, f"NSE of the forecast and the baselines by lead time: {which}"))
        pictures.append(drawing.svg(inside, f"Share of observations inside the 50 and 90 % intervals by lead: {which}"))
    tables = []
    for station in map(str, stations):
        nse = scores.nse.sel(station=station, forecast_period=leads)
        marks = score_tables.best(nse)
        methods = [str(method) for method in nse.method.values]
        lines = {LABELS[m]: _line(nse.sel({"method": m}), marks.sel({"method": m})) for m in methods}
        title = f"{names[station]} ({station})" if names.get(station, station) != station else station
        tables.append((title, score_tables.sample(scores, station), lines))
    return {
        "forcing": FORCINGS.get(attrs["hydroda_forcing"], attrs["hydroda_forcing"]),
        "first": attrs["hydroda_first_issue"],
        "last": attrs["hydroda_last_issue"],
        "count": attrs["hydroda_issue_times"],
        "source": attrs["source"],
        "pictures": pictures,
        "leads": leads,
        "tables": tables,
    }


def _line(values: xr.DataArray, marks: xr.DataArray) -> list[tuple[str, bool]]:
    """Score and whether it is the best, by lead."""
    texts = (
        "–" if np.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}" for value in values.values
    )
    return list(zip(texts, map(bool, marks.values), strict=True))
