"""A trial of a wrong gauge as a picture and a table: forecasts by lead, and the bias found."""

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.dates import AutoDateLocator
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hydroda.pages.drawing import BLUE, GREY, INK, ORANGE, STYLE, legend
from hydroda.schema import LEADS

if TYPE_CHECKING:
    from hydroda.trials.drift import Trial

COLOURS = (ORANGE, BLUE)
SHOWN = (1, 3, 6, 12, 24)
DAY = 24


def figure(trial: "Trial") -> Figure:
    """Error by lead of every filter, and the gauge's bias over discharge beside the true one."""
    time = trial.hours[: trial.hours.size // DAY * DAY : DAY]
    share, error, right_share = (_daily(part) for part in (trial.share, trial.share_error, trial.share_right))
    with matplotlib.rc_context(STYLE):
        picture = Figure(figsize=(10.0, 4.6), layout="constrained")
        left, right = picture.subplots(1, 2, width_ratios=[1, 1.3])
        for name, values in trial.rmse.items():
            aware, wrong = "bias" in name, name.endswith("wrong")
            look = {"color": COLOURS[aware], "linestyle": "-" if wrong else ":", "linewidth": 2.2 if wrong else 1.4}
            left.plot(LEADS, values, label=name, **(look if "," in name else {"color": GREY, "linestyle": "--"}))
        left.set_xlabel("lead time [h]")
        left.set_ylabel("rmse against the right gauge [m³/s]")
        left.set_ylim(bottom=0.0)
        left.set_title(f"{trial.station}: forecasts issued after the gauge goes wrong")
        right.fill_between(time, share - 2.0 * error, share + 2.0 * error, color=BLUE, alpha=0.2, linewidth=0)
        right.plot(time, share, color=BLUE, linewidth=1.6)
        right.plot(time, right_share, color=BLUE, linewidth=1.2, linestyle=":")
        right.plot(time, np.where(time >= trial.at, trial.error, 0.0), color=INK, linewidth=1.2)
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
        right.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=7))
        right.set_title("bias of the gauge over discharge, ± 2 standard errors")
        left.plot([], [], color=INK, linewidth=1.2, label="true bias")
        legend(picture, left, 3)
    return picture


def _daily(values: np.ndarray) -> np.ndarray:
    """The median of every day."""
    return np.median(values[: values.size // DAY * DAY].reshape(-1, DAY), axis=1)


def table(trial: "Trial") -> str:
    """The same as a table in Markdown: rmse by lead, and the mean bias found in the last quarter of the trial."""
    lines = [f"| {trial.station}, rmse [m³/s] | {' | '.join(f'{lead} h' for lead in SHOWN)} |"]
    lines.append("|---" + "|---:" * len(SHOWN) + "|")
    for name, values in trial.rmse.items():
        lines.append(f"| {name} | {' | '.join(f'{values[lead - 1]:.2f}' for lead in SHOWN)} |")
    wrong, right = (part[-part.size // 4 :].mean() for part in (trial.share, trial.share_right))
    lines.append(
        f"\nBias of the gauge in the last quarter: true {trial.error:+.1%}, found {wrong:+.1%}; where it is right, "
        f"found {right:+.1%}."
    )
    return "\n".join(lines) + "\n"
