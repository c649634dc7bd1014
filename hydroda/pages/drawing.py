"""How pictures look, how numbers are written, how they become bytes: few colours, told apart without colour too.

Figures are made without pyplot, so nothing global keeps them alive, and the same data give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Okabe and Ito's colours, safe for colour-blind eyes; orange and vermillion are darkened for thin lines and text.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#B87300", "#009E73", "#C44E00", "#A6527F", "#56B4E9"
INK, GREY, LIGHT, PALE = "#1a1a1a", "#5f5f5f", "#dcdcd8", "#f3f3f0"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e0",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "hydroda",
}
LINES: dict[str, dict[str, Any]] = {
    "forecast": {"color": BLUE, "linewidth": 2.8, "zorder": 5},
    "filter": {"color": BLUE, "linestyle": "--", "linewidth": 1.4, "zorder": 4},
    "networks": {"color": BLUE, "linestyle": ":", "linewidth": 1.6, "zorder": 4},
    "persistence": {"color": INK, "linestyle": ":", "linewidth": 1.6},
    "trend": {"color": INK, "linestyle": "-.", "linewidth": 1.2},
    "climatology": {"color": GREY, "linestyle": "-.", "linewidth": 1.2},
    "open_loop": {"color": ORANGE, "linestyle": "--", "linewidth": 1.6},
    "decaying_error": {"color": VERMILLION, "linewidth": 1.6},
    "ar1_error": {"color": GREEN, "linewidth": 1.4},
    "ar1_log_error": {"color": PURPLE, "linestyle": (0, (4, 1.5)), "linewidth": 1.4},
}


def clock(time: np.datetime64, year: bool = False) -> str:
    """`Fri 1 Nov 15:00 UTC`, or with the year after the month."""
    moment = time.astype("datetime64[s]").item()
    return f"{moment:%a} {moment.day} {moment:%b}{moment.year if year else '':>{5 * year}} {moment:%H:%M} UTC"


def flow(value: float) -> str:
    """Discharge [m³/s] to three digits and never in powers of ten; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    rounded = float(f"{value:.3g}") if abs(value) < 100 else value
    digits = 0 if abs(rounded) >= 100 else 1 if abs(rounded) >= 10 else 2 if abs(rounded) >= 1 else 3
    return f"{value:.{digits}f}"


def age(hours: float) -> str:
    """`12 min`, `3 h`, `4 days`."""
    if abs(hours) < 1 and hours:
        return f"{60 * hours:.0f} min"
    return f"{hours:.0f} h" if abs(hours) < 72 else f"{hours / 24:.0f} days"


def percent(chance: float) -> str:
    """Whole percent, and never certainty where there is none; a dash where it is not known."""
    if np.isnan(chance):
        return "–"
    if 0 < chance < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < chance < 1 else f"{100 * chance:.0f} %"


def time_axis(axes: Axes) -> None:
    """Midnights with their date, hours every six between them."""

    def midnight(x: float, _: int | None) -> str:
        day = dates.num2date(x)
        return f"00\n{day:%a} {day.day} {day:%b}"

    axes.xaxis.set_major_locator(dates.DayLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(midnight))
    axes.xaxis.set_minor_locator(dates.HourLocator(byhour=(6, 12, 18)))
    axes.xaxis.set_minor_formatter(dates.DateFormatter("%H"))
    axes.tick_params(axis="x", which="both", labelsize=8.5, length=3, pad=3)
    axes.set_xlabel("hour UTC, end of the hourly mean", fontsize=8.5)


def line(axes: Axes, time: Any, values: Any, label: str, look: Mapping[str, Any]) -> None:
    """A labelled line, unless there is nothing to show."""
    if np.isfinite(values).any():
        axes.plot(time, values, label=label, **look)


def legend(figure: Figure, axes: Axes, columns: int, order: Sequence[str] = ()) -> None:
    """Below everything, each label once, those of `order` first; two rows where one is too long."""
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = sorted(entries, key=lambda label: order.index(label) if label in order else len(order))
    columns = columns if len(labels) <= columns else min(columns, 4)
    handles = [entries[label] for label in labels]
    place: Any = "lower center" if figure.get_layout_engine() is None else "outside lower center"
    figure.legend(handles, labels, loc=place, ncols=columns, fontsize=8.5)


def remark(axes: Axes, text: str, x: float, side: str) -> None:
    """Words at half height, at a fraction of the width."""
    axes.annotate(text, (x, 0.5), xycoords="axes fraction", ha=side, va="center", color=GREY, fontsize=9)


def svg(figure: Figure, label: str = "figure") -> str:
    """The figure as an `<svg>` element that screen readers call `label`; text stays text.

    The label also goes into the ids, so that pictures with different labels can share a page.
    """
    buffer = io.StringIO()
    told = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    _save(figure, buffer, {"svg.hashsalt": label}, format="svg", metadata=told)
    text = buffer.getvalue()
    text = re.sub(r"<[^>]+>", _compact, text[text.index("<svg") :])
    text = re.sub(r">\s+<", "><", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    _save(figure, buffer, {}, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _save(figure: Figure, buffer: io.StringIO | io.BytesIO, style: dict[str, Any], **options: Any) -> None:
    with matplotlib.rc_context(STYLE | style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script the font lacks
        figure.savefig(buffer, **options)


def _compact(tag: re.Match[str]) -> str:
    """A tag with coordinates to a hundredth of a point, without line breaks and names that nothing refers to."""
    text = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(tag[0].split()))
    return re.sub(r'^<g id="[^"]*"', "<g", text)
