"""The command line: the steps that the flows run, for the night when the scheduler is down and for first steps.

Nothing heavy is imported before a command needs it: `hydroda --help` answers at once.
"""

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from hydroda import __version__
from hydroda.commands import preparation, research
from hydroda.commands.console import (
    COMMON,
    INTERRUPTED,
    SAID,
    USAGE,
    Common,
    counted,
    explain,
    full_hour,
    period,
    progress,
)
from hydroda.vocabulary import LeadForcing, VerifiedKind

if TYPE_CHECKING:
    from hydroda.settings import Settings

HELP = """Hourly streamflow forecasts by data assimilation, as NetCDF.

A first forecast from a CSV file (columns time, precipitation, discharge; temperature and pet if there are any):

    hydroda init mine && cd mine
    hydroda add-catchment dornbirn ../gauge.csv --area-km2 114.8
    hydroda calibrate --start 1997-01-01 --end 2002-12-31T23
    hydroda run --cycle 2003-07-01T06
    hydroda report
"""
EXIT_CODES = """Times are UTC: 2003-07-01 or 2003-07-01T06:00.
Exit codes: 0 done, 1 a problem was found or a step failed, 2 wrong usage, 3 wrong settings, 4 another run is writing.
"""

app = App(
    name="hydroda",
    help=HELP,
    help_format="plaintext",
    help_epilogue=EXIT_CODES,
    version=f"hydroda {__version__}",
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,
)


@app.command(sort_key=3)
def check(*, common: Common = COMMON) -> int:
    """Say what is wrong with the settings, the data and the store, and what to do about it.

    Example: hydroda check || mail -s "hydroda needs you" me
    """
    from hydroda import steps

    findings = steps.check(common.settings)
    for finding in findings:
        print(f"{finding.level:7} {finding.what}" + (f"\n        -> {finding.remedy}" if finding.remedy else ""))
    return int(any(finding.level == "error" for finding in findings))


@app.command(sort_key=6)
def run(*, cycle: str | None = None, force: bool = False, common: Common = COMMON) -> int:
    """Make the forecast of this hour: fetch data, catch up on missed hours, assimilate, publish.

    With --cycle: the forecast of that hour from what is in the store.

    Example: hydroda run --cycle 2003-07-01T06

    Parameters
    ----------
    cycle
        Issue time, the last hour whose observations are used. [default: now, less the cut-off]
    force
        Make it again although it is there.
    """
    settings = common.settings
    from hydroda import steps
    from hydroda.storage.lock import Busy
    from hydroda.units import iso, utc_now

    if cycle is None:
        target = settings.cycle_at(utc_now())
        _fetch(settings)
        cycles = [*steps.missed(settings, target), target]
    else:
        target = full_hour(cycle)
        cycles = [target]
    failed = False
    for each in cycles:
        late = each != target  # a missed cycle, made good where it can be: the newest is what is waited for
        try:
            result = steps.run(settings, each, force=force and not late, catch_up=late)
        except SAID as error:
            if not late or isinstance(error, Busy):
                raise
            print(f"{iso(each)} failed: {error}", file=sys.stderr)
            failed = True
            continue
        failed |= result.state == "failed"
        print(" ".join(filter(None, (iso(each), result.state, result.message))))
        for file in result.files:
            print(f"  {file}")
    return int(failed)


def _fetch(settings: "Settings") -> None:
    """Ask every source for news; one that fails is said and does not stop the others."""
    from hydroda import steps

    for source in settings.sources:
        try:
            print(f"{source.name}: {counted(steps.ingest(settings, source.name))}")
        except SAID as error:
            print(f"source {source.name} failed, going on without it: {error}", file=sys.stderr)


@app.command(sort_key=7)
def hindcast(
    start: str,
    end: str,
    /,
    *,
    forcing: LeadForcing = "observed",
    products: bool = False,
    common: Common = COMMON,
) -> int:
    """Forecast every hour of a past period, as it would have been done then, for verification.

    Live products are not touched.

    Example: hydroda hindcast 2003-01-01 2003-12-31T23

    Parameters
    ----------
    start
        First issue time.
    end
        Last issue time; a date alone is its 00:00.
    forcing
        Weather of the lead hours: what was observed (perfect foresight), none (no rain), or forecasts as they were
        available then.
    products
        Write the forecast file of every hour too.
    """
    settings, (first, last) = common.settings, period(start, end)
    from hydroda import steps

    with progress("hindcast") as report:
        archives = steps.hindcast(settings, first, last, forcing=forcing, products=products, progress=report)
    for archive in archives:
        print(archive)
    return 0


@app.command(sort_key=8)
def verify(
    start: str,
    end: str,
    /,
    *,
    kind: VerifiedKind = "hindcast",
    forcing: LeadForcing | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    all_leads: bool = False,
    common: Common = COMMON,
) -> int:
    """Score the forecasts of a period against the observations, beside open loop, persistence and error correction.

    Example: hydroda verify 2003-01-01 2003-12-31T23 --json scores.json

    Parameters
    ----------
    start
        First issue time.
    end
        Last issue time; a date alone is its 00:00.
    kind
        The hindcasts, or what was really published.
    forcing
        Which hindcasts, when there are several.
    json_file
        Write the scores there too, for programs.
    all_leads
        Show every lead hour, not a few.
    """
    settings, (first, last) = common.settings, period(start, end)
    from hydroda import steps

    scores = steps.verify(settings, first, last, kind=kind, forcing=forcing)
    print(steps.score_table(scores, all_leads=all_leads))
    print(f"scores: {scores}\nfigure: {steps.skill_figure(scores)}")
    if json_file:
        json_file.write_text(json.dumps(steps.score_json(scores), indent=1) + "\n", encoding="utf-8")
        print(f"json:   {json_file}")
    return 0


@app.command(sort_key=9)
def report(*, common: Common = COMMON) -> int:
    """Write a page with the latest forecasts and scores, to be opened in a browser.

    Example: hydroda report
    """
    settings = common.settings
    from hydroda import steps

    print(steps.report(settings))
    return 0


app.command(preparation.init, sort_key=1)
app.command(preparation.add_catchment, sort_key=2)
app.command(preparation.calibrate, sort_key=4)
app.command(preparation.train, sort_key=5)
app.command(research.compare, sort_key=10)
app.command(research.twin, sort_key=11)
app.command(research.drift, sort_key=12)
app.command(research.reproduce, sort_key=13)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; an error becomes a message, with `--debug` a traceback too."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(message)s", force=True
    )
    try:
        return app(tokens, exit_on_error=False, result_action="return_value") or 0
    except CycloptsError:
        return USAGE  # already printed
    except KeyboardInterrupt:
        print("stopped; what is written is whole, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, text = explain(error)
        print(f"hydroda {tokens[0]}: {text}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
