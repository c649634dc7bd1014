"""Tables and figures of `rkn2025`: ours beside what Mortada et al. 2025 printed.

What their figures show is taken to be this: 2a the error of one series within the bounds a filter claims, 2b the RMS
error over all series beside the standard deviation claimed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hydroda.pages import drawing
from hydroda.pages.drawing import BLUE, INK, STYLE, VERMILLION
from hydroda.storage import files

PRINTED = {  # MSE [dB] and MSMD by level
    "o-KF": {20: (-28, 2.0), 30: (-21, 2.0), 40: (-14, 2.0), 50: (-6.9, 2.0), 60: (0.1, 2.0)},
    "so-KF": {20: (-26, 2.0), 30: (-18, 2.0), 40: (-11, 2.0), 50: (-3.9, 2.0), 60: (3.4, 2.0)},
    "CKN": {20: (-20, 4.0), 30: (-17, 27), 40: (-11, 3.2), 50: (-4.8, 6.2), 60: (2.4, 21)},
    "RKN": {20: (-26, 2.0), 30: (-19, 2.0), 40: (-12, 2.0), 50: (-5.1, 1.9), 60: (2.3, 2.2)},
}
ORDER = ("o-KF", "bound", "GPB1", "so-KF", "RKN", "KalmanNet", "Split-KalmanNet", "CKN")
LOOKS = {"so-KF": INK, "RKN": BLUE, "CKN": VERMILLION}
COMPONENTS = ("position", "speed")
ONE, ALL, PAGE = "rkn2025_errors.png", "rkn2025_consistency.png", "rkn2025.md"


@dataclass(frozen=True)
class Score:
    """How a filter did at a level [dB]: MSE [dB] and MSMD with standard errors over series, and the mean NLL; `trained`
    is the level a network was trained at where that is the question, `gaussian` where all errors are of one size."""

    filter: str
    level: int
    seed: int
    mse: float
    mse_error: float
    msmd: float
    msmd_error: float
    nll: float
    trained: int | None = None
    gaussian: bool = False


@dataclass(frozen=True)
class Band:
    """Error of a filter and the deviation it claims, (T, component): of one series, and RMS over all."""

    name: str
    error: np.ndarray
    claimed: np.ndarray
    rms: np.ndarray
    rms_claimed: np.ndarray


def tables(scores: Sequence[Score]) -> str:
    """MSE and MSMD by filter and level beside the printed ones, every seed, errors of one size, and training at one
    level with testing at another, in Markdown."""
    own = [s for s in scores if s.trained is None and not s.gaussian]
    levels = sorted({s.level for s in own})
    names = [name for name in ORDER if any(s.filter == name for s in own)]
    head = [f"| filter | {' | '.join(f'{level} dB' for level in levels)} |", "|---" * (len(levels) + 1) + "|"]
    parts = []
    for title, cell, printed in (("MSE [dB]", _mse, 0), ("MSMD, 2 where consistent", _msmd, 1)):
        rows = [f"{title}, ± one standard error, mean of seeds; in brackets as printed:", "", *head]
        for name in names:
            cells = []
            for level in levels:
                found = [s for s in own if (s.filter, s.level) == (name, level)]
                there = PRINTED.get(name, {}).get(level)
                cells.append(cell(found) + (f" ({there[printed]:g})" if there else ""))
            rows.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    parts.append(_by_seed(own, levels))
    parts.append(_gaussian([s for s in scores if s.gaussian]))
    parts.append(_elsewhere([s for s in scores if s.trained is not None], levels))
    return "\n\n".join(part for part in parts if part) + "\n"


def _mse(found: Sequence[Score]) -> str:
    return f"{np.mean([s.mse for s in found]):.2f} ± {found[0].mse_error:.2f}"


def _msmd(found: Sequence[Score]) -> str:
    mean = np.mean([s.msmd for s in found])
    return "–" if np.isnan(mean) else f"{mean:.2f} ± {found[0].msmd_error:.2f}"


def _by_seed(own: Sequence[Score], levels: Sequence[int]) -> str:
    several = [name for name in ORDER if any(s.filter == name and s.seed for s in own)]
    if not several:
        return ""
    rows = ["MSE [dB] / MSMD of each seed:", "", f"| filter, seed | {' | '.join(f'{k} dB' for k in levels)} |"]
    rows.append("|---" * (len(levels) + 1) + "|")
    for name in several:
        for seed in sorted({s.seed for s in own if s.filter == name}):
            found = {s.level: s for s in own if s.filter == name and s.seed == seed}
            cells = (f"{found[k].mse:.2f}" + _slashed(found[k].msmd) for k in levels)
            rows.append(f"| {name}, {seed + 1} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _gaussian(scores: Sequence[Score]) -> str:
    best = scores[0].mse
    rows = ["All errors of one size (a linear Gaussian system), where nothing is better than the Kalman filter:", ""]
    rows += ["| filter | MSE [dB] | above the Kalman filter [dB] | MSMD |", "|---|---|---|---|"]
    rows += [f"| {s.filter} | {_mse([s])} | {s.mse - best:.2f} | {_msmd([s])} |" for s in scores]
    return "\n".join(rows)


def _elsewhere(scores: Sequence[Score], levels: Sequence[int]) -> str:
    rows = ["RKN trained at one level (rows), tested at another, MSE [dB] / MSMD:", ""]
    rows += [f"| trained at | {' | '.join(f'{level} dB' for level in levels)} |", "|---" * (len(levels) + 1) + "|"]
    for trained in levels:
        found = {s.level: s for s in scores if s.trained == trained}
        cells = (f"{found[k].mse:.2f}" + _slashed(found[k].msmd) for k in levels)
        rows.append(f"| {trained} dB | {' | '.join(cells)} |")
    return "\n".join(rows)


def _slashed(msmd: float) -> str:
    return "" if np.isnan(msmd) else f" / {msmd:.2f}" if msmd < 100 else f" / {msmd:.0f}"


def write(folder: Path, text: str, bands: Sequence[Band], level: int) -> None:
    """The page of tables and both figures."""
    files.replace(folder / PAGE, text.encode())
    for name, figure in ((ONE, errors(bands, level)), (ALL, consistency(bands, level))):
        files.replace(folder / name, drawing.png(figure, 100))


def errors(bands: Sequence[Band], level: int) -> Figure:
    """The error of one series within two standard deviations, as claimed."""

    def draw(axes: Axes, band: Band, i: int, time: np.ndarray) -> None:
        colour, bound = LOOKS[band.name], 2.0 * band.claimed[:, i]
        axes.plot(time, band.error[:, i], color=colour, linewidth=1.4, label=f"{band.name}, error")
        axes.plot(time, bound, color=colour, linewidth=1.0, linestyle="--", label=f"{band.name}, ± 2 deviations")
        axes.plot(time, -bound, color=colour, linewidth=1.0, linestyle="--")

    return _two(bands, draw, "error", f"One series at {level} dB: error, and the bounds a filter claims")


def consistency(bands: Sequence[Band], level: int) -> Figure:
    """RMS error over all series, and the RMS of the deviation that is claimed."""
    top = 1.05 * np.maximum(*(np.max([getattr(b, n).max(0) for b in bands], 0) for n in ("rms", "rms_claimed")))

    def draw(axes: Axes, band: Band, i: int, time: np.ndarray) -> None:
        colour = LOOKS[band.name]
        axes.plot(time, band.rms[:, i], color=colour, linewidth=1.6, label=f"{band.name}, RMS error")
        axes.plot(time, band.rms_claimed[:, i], color=colour, linestyle="--", label=f"{band.name}, claimed")
        axes.set_ylim(0.0, top[i])

    return _two(bands, draw, "RMS", f"All series at {level} dB: error, and what a filter claims of it")


def _two(bands: Sequence[Band], draw: Callable[[Axes, Band, int, np.ndarray], None], what: str, title: str) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 4.0), layout="constrained")
        for i, axes in enumerate(figure.subplots(1, 2)):
            for band in bands:
                draw(axes, band, i, np.arange(1, len(band.error) + 1))
            axes.set_xlabel("step")
            axes.set_ylabel(f"{what} of the {COMPONENTS[i]}")
        figure.axes[0].set_title(title)
        drawing.legend(figure, figure.axes[0], 6)
    return figure
