"""Commands that change nothing of a deployment: filters compared or tried on made-up rivers, gauges made wrong, studies
made again.
"""

from pathlib import Path
from typing import Literal

from hydroda.commands.console import COMMON, Common, period, progress, utc


def compare(start: str, end: str, /, *filters: str, folder: Path = Path("comparison"), common: Common = COMMON) -> int:
    """Hindcast a period with several filters and show their skill in one table; nothing of the deployment changes.

    Parameters and error levels are those of the calibration. What is done already in the folder is not done again.

    Example: hydroda compare 2003-01-01 2003-12-31T23 sigma.ukf ensemble.etkf sigma.ukf+reduce.steady

    Parameters
    ----------
    start
        First issue time.
    end
        Last issue time; a date alone is its 00:00.
    filters
        Names, with modifiers after a plus; without any, every filter there is.
    folder
        Where each filter gets a store of its own, and the table is written.
    """
    settings, (first, last) = common.settings, period(start, end)
    from hydroda import studies

    with progress("compare") as told:
        text = studies.compare(settings, filters, first, last, folder, progress=told)
    print(text)
    return 0


def twin(*filters: str, days: int = 90, folder: Path = Path("twin")) -> int:
    """Try filters on made-up rivers whose truth and errors are known: a table, and two pictures. Needs no settings.

    Example: hydroda twin sigma.ukf ensemble.etkf sigma.ukf+reduce.steady --days 30

    Parameters
    ----------
    filters
        Names, with modifiers after a plus; without any, every filter that works on a model of a river.
    days
        Scored, after 30 to settle.
    folder
        Where twin.md, twin_cost.png and twin_states.png are written.
    """
    from hydroda import studies

    with progress("twin") as told:
        tried = studies.twin(filters, days, folder, progress=told)
    print("\n".join((tried.table, *map(str, tried.paths))))
    return int(tried.failed)


def drift(
    station: str,
    start: str,
    end: str,
    /,
    *,
    at: str,
    error: float = 0.15,
    state_fraction: float = 1.0,
    gauge_ratio: float = 0.003,
    additive: bool = False,
    out: Path = Path("drift.png"),
    common: Common = COMMON,
) -> int:
    """Let a gauge go wrong in a past period: forecasts with and without its bias estimated, and the bias found.

    Nothing of the deployment changes. Try shares here before [[filter.modifier]] name = "bias.two_stage".

    Example: hydroda drift dornbirn 2002-01-01 2003-12-31T23 --at 2003-01-01 --error 0.15

    Parameters
    ----------
    station
        Id.
    start
        First hour.
    end
        Last hour; a date alone is its 00:00.
    at
        Hour from which the gauge is wrong.
    error
        Share of the discharge by which it then reads too high.
    state_fraction
        Of the error covariance, that of the state; the rest is the bias of the forecast.
    gauge_ratio
        Variance of the gauge's bias over that of the expected discharge: how fast it is followed.
    additive
        Estimate a bias that does not grow with the flow.
    out
        Where the picture is written.
    """
    settings, (first, last) = common.settings, period(start, end)
    settings.catchment(station)
    from hydroda import studies

    with progress("drift") as told:
        text = studies.drift(
            settings,
            station,
            first,
            last,
            utc(at),
            out,
            error=error,
            state_fraction=state_fraction,
            gauge_ratio=gauge_ratio,
            relative=not additive,
            progress=told,
        )
    print(f"{text}\n{out}")
    return 0


def reproduce(
    study: Literal["pauwels2013", "rkn2025", "sun2026"], /, *, out: Path = Path("reproduction"), quick: bool = False
) -> int:
    """Make a study of the literature again: its tables beside those published, and its pictures. Needs no settings.

    Stopped, rkn2025 and sun2026 go on where they were. pauwels2013 and sun2026 need the folder of real data that
    HYDRODA_REAL_DATA names. [default: ../shared/data]

    Example: HYDRODA_REAL_DATA=~/data hydroda reproduce pauwels2013 --out biases

    Parameters
    ----------
    study
        pauwels2013: biases of forecast and gauge at once, HBV on the Zwalm;
        rkn2025: learned gains under observation errors of two sizes (Mortada et al. 2025);
        sun2026: a learned gain inside a rainfall-runoff model (after Sun et al. 2026) on four real catchments.
    out
        Where tables and pictures are written.
    quick
        A smaller version: a short search, minutes of training instead of hours.
    """
    from hydroda import studies

    with progress("reproduce") as told:
        text, paths = studies.reproduce(study, out, quick=quick, progress=told)
    print("\n".join((text, *map(str, paths))))
    return 0
