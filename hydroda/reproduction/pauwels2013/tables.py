"""The tables of the study in Markdown, ours beside what was published, and whether the directions are the same."""

from collections.abc import Mapping, Sequence

import numpy as np

from hydroda.reproduction.pauwels2013.in_situ import Judgement
from hydroda.reproduction.pauwels2013.searches import Searched
from hydroda.reproduction.pauwels2013.shares import Scan
from hydroda.reproduction.pauwels2013.study import Row

COLUMNS = ("S", "S1", "S2", "Q", "Q as read")
# In the paper the bias-aware storages of experiments 2 and 3 coincide and Q does not, so Q must hold the bias of the
# gauge: what the gauge reads. Discharge itself is shown beside it.
# relative change of rmse against the open loop, percent: bias-unaware, bias-aware (Pauwels et al. 2013, Table 3)
PUBLISHED = {
    1: ((394.76, 324.48, -65.77, -23.36), (-81.95, -71.18, -95.41, -92.75)),
    2: ((68.42, 257.35, -64.62, -17.3), (0.71, -39.42, -92.11, -85.43)),
    3: ((2.81, -20.35, -89.4, -0.49), (0.69, -39.29, -92.11, -32.15)),
}
HARDLY = 10.0  # percent by which S may change where it "hardly improves"
NEARLY = 10.0  # percent points by which two experiments may differ that "nearly coincide"

Changes = Mapping[Row, np.ndarray]  # relative change of rmse against the open loop, percent


def table3(changes: Changes, best: Row) -> str:
    """Bias-unaware → bias-aware for each experiment, ours above the paper's, of which the constant biases are known."""
    lines = [f"| experiment | source | {' | '.join(COLUMNS)} |", "|---|---" + "|---:" * len(COLUMNS) + "|"]
    for experiment, (unaware, aware) in PUBLISHED.items():
        ours = (changes[Row(experiment, best.sinusoidal)], changes[best._replace(experiment=experiment)])
        lines.append(_arrows(f"{experiment}", "here", *ours))
        if not best.sinusoidal:
            lines.append(_arrows("", "paper", *(np.insert(part, 3, np.nan) for part in (unaware, aware))))
    return "\n".join(lines) + "\n"


def table4(changes: Changes, bests: Sequence[Row]) -> str:
    """Forecast bias alone → both biases, where the forecast is biased."""
    lines = [f"| biases, experiment | source | {' | '.join(COLUMNS)} |", "|---|---" + "|---:" * len(COLUMNS) + "|"]
    for best in bests:
        kind = "sinusoidal" if best.sinusoidal else "constant"
        for experiment in (2, 3):
            both = best._replace(experiment=experiment)
            lines.append(_arrows(f"{kind}, {experiment}", "here", changes[both._replace(kappa=0.0)], changes[both]))
    return "\n".join(lines) + "\n"


def _arrows(label: str, source: str, first: np.ndarray, second: np.ndarray) -> str:
    cells = (f"{a:+.1f} → {b:+.1f}" if np.isfinite(a) else "–" for a, b in zip(first, second, strict=True))
    return f"| {label} | {source} | {' | '.join(cells)} |"


def directions(changes: Changes, best: Row) -> str:
    """What the paper finds, and whether it is found here."""
    told = []

    def say(what: str, held: bool, numbers: str) -> None:
        told.append(f"- {'holds' if held else 'DOES NOT HOLD'}: {what} ({numbers})")

    for experiment in PUBLISHED:
        unaware, aware = changes[Row(experiment, best.sinusoidal)], changes[best._replace(experiment=experiment)]
        for i in (1, 2, 3):
            what = f"experiment {experiment}, {COLUMNS[i]}: bias-aware better than bias-unaware"
            say(what, aware[i] < unaware[i], f"{unaware[i]:+.1f} → {aware[i]:+.1f} %")
    for experiment in (2, 3):
        s = changes[best._replace(experiment=experiment)][0]
        say(f"experiment {experiment}, S: hardly changed", abs(s) < HARDLY, f"{s:+.1f} %")
    both, forecast = changes[best], changes[best._replace(experiment=3)]
    for i in (0, 1, 2, 3):
        what = f"{COLUMNS[i]}: experiments 2 and 3 nearly coincide, bias-aware"
        say(what, abs(both[i] - forecast[i]) < NEARLY, f"{both[i]:+.1f} and {forecast[i]:+.1f} %")
    alone = changes[best._replace(kappa=0.0)]
    for i in (1, 2, 3):
        what = f"experiment 2, {COLUMNS[i]}: both biases better than forecast bias alone"
        say(what, both[i] < alone[i], f"{alone[i]:+.1f} → {both[i]:+.1f} %")
    return "\n".join(told) + "\n"


def shares(scan: Scan, count: int = 5) -> str:
    """The best pairs of a scan, and the two that are no compromise: no bias, and the pair of the paper."""
    how = scan.judged
    order = [int(i) for i in np.argsort(how.loss)[:count]]
    order += [i for i, row in enumerate(scan.rows) if row[2:4] in ((1.0, 0.0), (0.1, 100.0)) and i not in order]
    lines = ["| γ | κ | mean | autocorrelation | gauge bias | store bias | loss |", "|---:" * 7 + "|"]
    for i in order:
        gamma, kappa = scan.rows[i][2:4]
        numbers = " | ".join(f"{part[i]:.2f}" for part in how)
        lines.append(f"| {gamma:g} | {kappa:g} | {numbers} |")
    return "\n".join(lines) + "\n"


def searches(found: Mapping[str, Searched], validated: Mapping[str, float]) -> str:
    """What each search cost and found; runs until it was within 1 % of the best of all."""
    best = min(each.loss for each in found.values() if not each.problem)
    lines = [
        "| search | model runs | NSE, calibrated | NSE, other years | runs to within 0.01 |",
        "|---" + "|---:" * 4 + "|",
    ]
    for name, each in found.items():
        if each.problem:
            lines.append(f"| {name} | – | {each.problem} | – | – |")
            continue
        near = np.flatnonzero(each.best < best + 0.01)
        runs = f"{each.runs[near[0]]}" if near.size else "–"
        lines.append(f"| {name} | {each.runs[-1]} | {1 - each.loss:.3f} | {validated[name]:.3f} | {runs} |")
    return "\n".join(lines) + "\n"


def in_situ(judged: Sequence[Judgement]) -> str:
    """The filters on the real river, on days that were not assimilated."""
    lines = [
        "| filter | γ | κ | rmse [m³/s] | mean error [m³/s] | rmse without b^o [m³/s] | b^o [m³/s] "
        "| b^m of S, S1, S2 [mm] |",
        "|---" + "|---:" * 7 + "|",
    ]
    for each in judged:
        storages = ", ".join(f"{value:+.2f}" for value in each.storages)
        shares = "– | –" if each.row.open_loop else f"{each.row.gamma:g} | {each.row.kappa:g}"
        lines.append(
            f"| {each.name} | {shares} | {each.rmse:.3f} | {each.bias:+.3f} | {each.unbiased:.3f} "
            f"| {each.gauge:+.3f} | {storages} |"
        )
    return "\n".join(lines) + "\n"
