"""The whole study in one call: synthetic experiments, the choice of γ and κ, calibration of HBV, the real river."""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hydroda.pages import drawing
from hydroda.progress import Progress
from hydroda.reproduction.pauwels2013 import figures, in_situ, searches, shares, study, tables
from hydroda.reproduction.pauwels2013.record import FLOW, MEMBERS, Record, read, tuned_size
from hydroda.reproduction.pauwels2013.study import Row
from hydroda.storage import files

SYNTHETIC = ("2009-01-01", "2012-12-31")
CALIBRATED, OTHER = ("2009-01-01", "2013-12-31"), ("2013-01-01", "2018-12-31")
EFFORT, QUICK = {"generations": 40, "population": 120}, {"generations": 8, "population": 60}
PAPER = (0.1, 100.0)  # γ and κ of the paper
NARROW, NARROW_PAIR = 1.0 / 3.0, (0.95, 0.1)  # of the spread: an ensemble that does not drown the biases, and its pair


class Made(NamedTuple):
    """What was found in Markdown, and the files it and the pictures were written to."""

    text: str
    paths: list[Path]


def reproduce(data: Path, folder: Path, *, quick: bool = False, progress: Progress) -> Made:
    """The study on the record in `data`, written to `folder`; `quick`: a short search. Raises FileNotFoundError."""
    record = read(data)
    progress(0.0, "calibrating HBV")
    past, later = record.part(*CALIBRATED), record.part(*OTHER)
    found = searches.compared(past, **(QUICK if quick else EFFORT))
    judge = searches.loss_of(later)
    others = {
        name: 1.0 - float(judge(each.parameters[0].numpy())[0]) for name, each in found.items() if not each.problem
    }
    p = min((each for each in found.values() if not each.problem), key=lambda each: each.loss).parameters
    progress(0.4, "tuning the spread")
    size, ratio = tuned_size(past, p)
    text, drawn = _synthetic(record.part(*SYNTHETIC), size, lambda share, what: progress(0.5 + 0.3 * share, what))
    progress(0.8, "the real river")
    seen = in_situ.weekly(past)
    scan = shares.scan(past, seen, size, p=p)
    judged, run = in_situ.validated(later, scan.best, size, p)
    drawn |= {
        "searches": figures.searches(found),
        "in_situ": figures.in_situ(later.day, later.observed, [each.name for each in judged], run),
    }

    def years(period: tuple[str, str]) -> str:
        return f"{period[0][:4]}–{period[1][:4]}"

    whole = (
        "# Pauwels et al. (2013), HESS 17, 3499\n\n"
        f"{MEMBERS} members; relative errors {size:.3f} × (rain 1, PET 0.5, parameters 0.25), at which the squared "
        f"error of the ensemble mean over the ensemble variance is {ratio:.2f} on the real discharge.\n\n{text}"
        f"## Calibration of HBV on the Zwalm, {years(CALIBRATED)}, the first year to fill the stores\n\n"
        f"{tables.searches(found, others)}\n"
        f"## The real river, {years(OTHER)}, days that were not assimilated\n\n"
        f"γ and κ from the innovations of {years(CALIBRATED)}:\n\n{tables.shares(scan)}\n"
        f"{tables.in_situ(judged)}"
    )
    paths = []
    for name, content in {
        "pauwels2013.md": whole.encode(),
        **{f"{k}.png": _bytes(v) for k, v in drawn.items()},
    }.items():
        path = folder / name
        files.replace(path, content)
        paths.append(path)
    progress(1.0, "done")
    return Made(whole, paths)


def _bytes(figure: Figure) -> bytes:
    return drawing.png(figure, dpi=90)


def _synthetic(record: Record, size: float, progress: Progress) -> tuple[str, dict[str, Figure]]:
    """Tables and pictures of the synthetic experiments."""
    scans = []
    for i, sinusoidal in enumerate((False, True)):
        progress(0.3 * i, "choosing γ and κ")
        observed = study.world(record, [Row(2, sinusoidal)]).observation
        scans.append(shares.scan(record, observed, size, sinusoidal=sinusoidal))
    bests = [scan.best for scan in scans]
    rows: list[Row] = []
    for best, experiment in product(bests, study.BIASED):
        own = Row(experiment, best.sinusoidal)
        pair = own._replace(gamma=PAPER[0], kappa=PAPER[1])
        aware = best._replace(experiment=experiment)
        rows += [own._replace(open_loop=True), own, aware, aware._replace(kappa=0.0), pair, pair._replace(kappa=0.0)]
    rows = list(dict.fromkeys(rows))
    progress(0.6, "experiments 1 to 3")
    truth, found, errors, changes = _changes(record, rows, size)
    parts = []
    for best, scan in zip(bests, scans, strict=True):
        kind, pair = "sinusoidal" if best.sinusoidal else "constant", best._replace(gamma=PAPER[0], kappa=PAPER[1])
        parts.append(
            f"## {kind.capitalize()} biases\n\nγ and κ from the innovations of experiment 2:\n\n{tables.shares(scan)}\n"
            f"Table 3, relative change of rmse against the open loop [%], bias-unaware → bias-aware with γ = "
            f"{best.gamma:g}, κ = {best.kappa:g}:\n\n"
            f"{tables.table3(changes, best)}\n{tables.directions(changes, best)}\n"
            f"The same with the paper's γ = {PAPER[0]:g}, κ = {PAPER[1]:g}:\n\n{tables.table3(changes, pair)}\n"
            f"{tables.directions(changes, pair)}\n"
        )
    pairs = [best._replace(gamma=PAPER[0], kappa=PAPER[1]) for best in bests]
    parts.append(
        "## Table 4, forecast bias alone → both biases [%]\n\n(The paper's numbers are not at hand.)\n\n"
        f"{tables.table4(changes, bests)}\nWith the paper's pair:\n\n{tables.table4(changes, pairs)}\n"
    )
    constant = bests[0]
    opened = errors[Row(2, False, open_loop=True)] / np.array([1.0, 1.0, 1.0, FLOW, FLOW])
    told = ", ".join(f"{value:.3g} {unit}" for value, unit in zip(opened, ("mm",) * 3 + ("m³/s",) * 2, strict=True))
    parts.append(f"Open loop of experiment 2, rmse of {', '.join(tables.COLUMNS)}: {told}.\n\n")
    progress(0.9, "a narrow ensemble")
    pair = Row(2, False, *NARROW_PAIR)
    few = [pair._replace(kappa=0.0)]
    for experiment in study.BIASED:
        few += [Row(experiment, False), Row(experiment, False, open_loop=True), pair._replace(experiment=experiment)]
    changes = _changes(record, few, NARROW * size)[-1]
    parts.append(
        f"## A third of the spread, constant biases, γ = {pair.gamma:g}, κ = {pair.kappa:g}\n\n"
        f"{tables.table3(changes, pair)}\n{tables.directions(changes, pair)}\n"
    )
    return "".join(parts), {
        "storages": figures.storages(rows, constant, found, truth),
        "discharges": figures.discharges(record.day, rows, constant, found, truth),
        "biases": figures.biases(record.day, rows, bests, found, truth),
        "shares": figures.shares(scans[0]),
        "steadiness": figures.steadiness(record.day, scans[0], truth.gauge_bias[:, rows.index(constant)].numpy()),
    }


def _changes(
    record: Record, rows: list[Row], size: float
) -> tuple[study.World, study.Run, dict[Row, np.ndarray], dict[Row, np.ndarray]]:
    """Truth, run and rmse of each row, and the change of the latter against the open loop [%]."""
    truth = study.world(record, rows)
    found = study.run(record, rows, truth.observation, size)
    errors = dict(zip(rows, study.rmse(found, truth).numpy(), strict=True))
    opened = {row: errors[Row(row.experiment, row.sinusoidal, open_loop=True)] for row in rows}
    return truth, found, errors, {row: 100.0 * (errors[row] / opened[row] - 1.0) for row in rows}
