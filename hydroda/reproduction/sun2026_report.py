"""Tables and the figure of `sun2026`: every number with its catchment, period, forcing, leads and what it beats."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from hydroda.forecast.choice import BOTH, FILTER, NETWORKS
from hydroda.forecast.correction import BASELINES
from hydroda.pages import drawing
from hydroda.pages.drawing import BLUE, GREY, INK, STYLE, VERMILLION
from hydroda.pages.score_tables import cell
from hydroda.reproduction.sun2026_scores import BLOCK, DRAWS, ENKF, ISSUED, LEADS, UKF_1H, Result
from hydroda.storage import files
from hydroda.units import HOUR
from hydroda.verifying.verification import LABELS
from hydroda.vocabulary import LeadForcing

PAGE, FIGURE, NUMBERS = "sun2026.md", "sun2026.png", "sun2026.json"
FORCINGS: dict[LeadForcing, str] = {"observed": "rain as observed", "archived": "degraded rain", "none": "no rain"}
LOOKS = {"observed": (BLUE, "-"), "archived": (VERMILLION, "--"), "none": (INK, ":")}
NAMES = LABELS | {
    ISSUED: "hydroda",
    FILTER: "UKF tuned for all leads",
    UKF_1H: "UKF tuned for 1 h",
    ENKF: "EnKF",
    NETWORKS: "networks, mean of seeds",
    BOTH: "mean of UKF and networks",
}
LARGEST, WANTED, BETWEEN = 1.02, 0.95, (3, 12)  # ratios: nowhere beyond the first, the second at these leads [h]
COVERED, COVERED_HIGH, JUDGED = (88.0, 92.0), 80.0, (1, 6, 12, 24)  # %, leads at which intervals are judged [h]
ROWS = "| catchment, rain of the lead hours |"


def page(
    results: Sequence[Result],
    periods: Mapping[str, str],
    rain: Mapping[str, Sequence[tuple[float, float]]],
    efforts: str,
) -> str:
    """The page in Markdown. `periods` says of each catchment when it was calibrated and tested, `rain` how the degraded
    rain compares with the observed: correlation and amount by the spans of leads of `rain_table`, `efforts` how long
    was searched and trained."""
    baselines = ", ".join(LABELS[name] for name in BASELINES)
    parts = [
        "# A learned gain inside a rainfall-runoff model, after Sun et al. (2026), EGU26-8698",
        "One forecast every hour of the test period of each catchment, scored at leads "
        f"{', '.join(map(str, LEADS))} h, all methods on the same hours. *hydroda* is what is issued: the mean of UKF "
        "and networks, or at some leads the UKF, networks, a baseline, or the mean with the trend, where that was "
        "better in hours that neither UKF nor networks were tuned to, or of late; near and beyond the highest flow of "
        f"the record up to half of it is open loop + decaying error. Baselines: {baselines}. Networks give a learned "
        "gain; *networks* is the mean of several seeds, each of which has a row too. Other rows: networks that set the "
        "error levels of the UKF hour by hour, a gain whose loss knew the first hours only, networks that learn "
        "parameters of the model too, and a learned gain for several rivers at once, those whose model is without "
        "snow, in the same model for all, trained on all of these but the last (taught together, and elsewhere). Of "
        "these only the second is tried with degraded rain too, which is drawn several times.",
        efforts,
        "## Against the best classical method",
        ratio_table(results),
        "## Intervals",
        coverage_table(results),
        "## What was to be reached",
        criteria_table(results),
        f"![Squared error over that of the best classical method, by lead]({FIGURE})",
        "## Degraded rain",
        rain_table(rain),
        draws_table(results),
    ]
    for catchment in dict.fromkeys(r.catchment for r in results):
        parts.append(f"## {catchment}: {periods[catchment]}")
        parts += [nse_table(r) for r in results if r.catchment == catchment]
    return "\n\n".join(parts) + "\n"


def nse_table(result: Result) -> str:
    """NSE of every method by lead, the best in bold, of one catchment and forcing."""
    few, many, draws = min(result.n), max(result.n), len(result.by_draw)
    lines = [
        f"NSE, {result.catchment}, {FORCINGS[result.forcing]} in the lead hours, n = "
        f"{few if few == many else f'{few} to {many}'} forecasts at each lead"
        f"{f', in {draws} draws of the rain' if draws > 1 else ''}:",
        "",
        *_head("| method |", LEADS),
    ]
    top = np.nanmax(list(result.nse.values()), 0)
    for name, values in result.nse.items():
        cells = (cell(value, value == best) for value, best in zip(values, top, strict=True))
        lines.append(f"| {named(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio_table(results: Sequence[Result]) -> str:
    """The ratio of squared errors with its interval, and under each what it is measured against."""
    lines = [
        "Mean squared error of hydroda over that of the best classical method (a UKF, the EnKF or a baseline, the "
        "one that is best at that lead in the test itself), in brackets its 5 to 95 % interval over "
        f"{DRAWS} draws of blocks of {BLOCK // (24 * HOUR)} days; below 1 hydroda is better:",
        "",
        *_head(ROWS, LEADS),
    ]
    for r in results:
        cells = (f"{x:.3f} ({a:.3f}–{b:.3f})" for x, a, b in zip(r.ratio, r.low, r.high, strict=True))
        lines.append(f"| {_row(r)} | {' | '.join(cells)} |")
        lines.append(f"| … against | {' | '.join(map(named, r.best))} |")
    return "\n".join(lines)


def coverage_table(results: Sequence[Result]) -> str:
    """Hits of the 90 % interval, of all and of the highest flows."""
    lines = [
        "Share [%] of observations within the 90 % interval of what is issued; in brackets among the 5 % highest "
        "observed flows of that lead:",
        "",
        *_head(ROWS, JUDGED),
    ]
    for r in results:
        cells = (f"{r.inside[i]:.1f} ({r.inside_high[i]:.1f})" for i in map(LEADS.index, JUDGED))
        lines.append(f"| {_row(r)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def criteria_table(results: Sequence[Result]) -> str:
    """Which results reach (a), (b) and (c), with the number that decides."""
    judged = ", ".join(map(str, JUDGED))
    lines = [
        f"(a) ratio at most {LARGEST:.2f} at every lead of the table; (b) at most {WANTED:.2f} at all its leads from "
        f"{BETWEEN[0]} to {BETWEEN[1]} h; (c) at {judged} h {COVERED[0]:.0f} to {COVERED[1]:.0f} % inside in total and "
        f"at least {COVERED_HIGH:.0f} % of the highest flows. In brackets the worst lead:",
        "",
        f"{ROWS} (a) | (b) | (c) in total | (c) highest flows |",
        "|---" * 5 + "|",
    ]
    lines += [f"| {_row(r)} | {' | '.join(_told(*each) for each in criteria(r))} |" for r in results]
    return "\n".join(lines)


def criteria(result: Result) -> list[tuple[bool, str, int]]:
    """Of (a), (b) and both parts of (c): whether they are met, the worst value in words, and its lead [h]."""
    ratio, judged = dict(zip(LEADS, result.ratio, strict=True)), range(len(JUDGED))
    middle = {lead: x for lead, x in ratio.items() if BETWEEN[0] <= lead <= BETWEEN[1]}
    found = []
    for values, limit in ((ratio, LARGEST), (middle, WANTED)):
        worst = max(values, key=values.__getitem__)
        found.append((values[worst] <= limit, f"{values[worst]:.3f}", worst))
    inside, high = ([each[LEADS.index(lead)] for lead in JUDGED] for each in (result.inside, result.inside_high))
    centre = sum(COVERED) / 2
    far = max(judged, key=lambda i: abs(inside[i] - centre))
    found.append((COVERED[0] <= inside[far] <= COVERED[1], f"{inside[far]:.1f} %", JUDGED[far]))
    least = min(judged, key=lambda i: high[i])
    found.append((high[least] >= COVERED_HIGH, f"{high[least]:.1f} %", JUDGED[least]))
    return found


def rain_table(rain: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Correlation of the degraded with the observed rain of all hours and runs, and its amount over that observed."""
    lines = [
        "Weather forecasts are made from the observed rain by `hydroda.generator` (shifted, smeared, too much or too "
        "little by storm, drier on the whole), a run every 6 h, known about 4 h after its start. Correlation with the "
        "observed rain, and amount over that observed, by lead of the run, in the first draw from training to test:",
        "",
        "| catchment | 1–6 h | 7–12 h | 13–24 h |",
        "|---" * 4 + "|",
    ]
    for catchment, spans in rain.items():
        lines.append(f"| {catchment} | {' | '.join(f'{r:.2f}, {amount:.2f}' for r, amount in spans)} |")
    return "\n".join(lines)


def draws_table(results: Sequence[Result]) -> str:
    """The ratio of squared errors in each draw of the rain, where there are several."""
    lines = [
        "The errors of these forecasts are drawn several times for the test, and all scores above and below are of all "
        "draws together; a week is drawn for its interval with all of them. With the first draw, which reaches back to "
        "the first hour that was trained on, it was chosen what is issued. Squared error of hydroda over that of the "
        "same method as above in each draw:",
        "",
        *_head("| catchment, draw |", LEADS),
    ]
    for r in results:
        for k, ratio in enumerate(r.by_draw if len(r.by_draw) > 1 else (), 1):
            lines.append(f"| {r.catchment}, {k} | {' | '.join(f'{x:.3f}' for x in ratio)} |")
    return "\n".join(lines)


def named(method: str) -> str:
    """A row in words; what has no name of its own is some networks."""
    return NAMES.get(method, f"networks, {method.replace('_', ' ')}")


def _head(first: str, leads: Sequence[int]) -> list[str]:
    return [f"{first} {' | '.join(f'{lead} h' for lead in leads)} |", "|---" * (len(leads) + 1) + "|"]


def _row(result: Result) -> str:
    return f"{result.catchment}, {FORCINGS[result.forcing]}"


def _told(met: bool, worst: str, lead: int) -> str:
    return f"{'yes' if met else 'no'} ({worst} at {lead} h)"


def write(folder: Path, text: str, results: Sequence[Result]) -> list[Path]:
    """The page, its numbers for programs (null is "no score"), and the figure."""
    numbers = json.dumps([_plain(asdict(r)) for r in results], indent=1) + "\n"
    content = {PAGE: text.encode(), NUMBERS: numbers.encode(), FIGURE: drawing.png(figure(results), 100)}
    for name, data in content.items():
        files.replace(folder / name, data)
    return [folder / name for name in content]


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def figure(results: Sequence[Result]) -> Figure:
    """The ratio by lead, a panel for each catchment and a line for each forcing, in bands from 5 to 95 %."""
    catchments = list(dict.fromkeys(r.catchment for r in results))
    columns = min(len(catchments), 2)
    rows = -(-len(catchments) // columns)
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(4.6 * columns, 0.4 + 2.9 * rows), layout="constrained")
        panels = drawn.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axes, catchment in zip(panels, catchments, strict=False):
            _panel(axes, [r for r in results if r.catchment == catchment])
            axes.set_title(catchment)
        for axes in panels[len(catchments) :]:
            axes.set_axis_off()
        drawn.supylabel("squared error of hydroda over\nthat of the best classical method", fontsize=9.5)
        drawing.legend(drawn, panels[0], len(FORCINGS))
    return drawn


def _panel(axes: Axes, results: Sequence[Result]) -> None:
    axes.axhline(1.0, color=GREY, linewidth=1.0)
    for r in results:
        colour, line = LOOKS[r.forcing]
        axes.fill_between(LEADS, r.low, r.high, color=colour, alpha=0.15, linewidth=0)
        look = {"color": colour, "linestyle": line, "linewidth": 1.8, "marker": "o", "markersize": 3}
        drawing.line(axes, LEADS, r.ratio, FORCINGS[r.forcing], look)
    axes.set_xscale("log")
    axes.set_xticks(LEADS)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set_xlabel("lead [h]")
