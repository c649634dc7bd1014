"""What `sun2026` is run on and how long: four hourly records with their periods, and the searches."""

from dataclasses import dataclass

import numpy as np

from hydroda.calibrating import fitting
from hydroda.forecast import quarters
from hydroda.teaching import learning
from hydroda.units import HOUR

DAY = 24 * HOUR
MEMBERS, THINNED = 60, 3  # of the EnKF; it is tuned on every third stretch of the record, since members cost
FIRST_HOURS = (1, 2, 3)  # leads [h] of the abstract


@dataclass(frozen=True)
class River:
    """An hourly record: km², degrees of its gauge, yearly PET [mm] where it has none; first and last hour of the part
    that is calibrated and trained on and of the test. Validation lies between the first part and `validated`."""

    area_km2: float
    place: tuple[float, float] | None
    pet: float | None
    taught: tuple[str, str]
    validated: str
    test: tuple[str, str]

    @property
    def learned_on(self) -> tuple[np.datetime64, np.datetime64]:
        """First and last hour of what is calibrated and trained on, validation included."""
        return time_of(self.taught[0]), time_of(self.validated)

    @property
    def validation(self) -> np.datetime64:
        """The first hour of validation."""
        return time_of(self.taught[1]) + HOUR

    def tested(self, days: int | None) -> tuple[np.datetime64, np.datetime64]:
        """First and last issue time of the test, or of its first days."""
        first, last = map(time_of, self.test)
        return first, last if days is None else first + days * DAY - HOUR

    def told(self, days: int | None) -> str:
        """The periods in words."""
        first, last = self.tested(days)
        return (
            f"calibrated and trained {self.taught[0][:10]} to {self.taught[1][:10]}, validated to "
            f"{self.validated[:10]}, forecasts issued {str(first)[:10]} to {str(last)[:10]}"
        )


RIVERS = {
    "dornbirnerach": River(
        114.8,
        (47.4, 9.7),
        550.0,
        ("1996-07-01", "2000-12-31T23"),
        "2001-12-31T23",
        ("2002-01-01", "2003-12-30T23"),
    ),
    "l0123003": River(
        920.0, None, None, ("2004-04-01", "2005-12-31T23"), "2006-12-31T23", ("2007-01-01", "2007-12-30T23")
    ),
    "posina": River(
        111.5, (45.8, 11.3), None, ("1995-01-01", "1996-03-31T23"), "1996-09-30T23", ("1996-10-01", "1997-12-30T23")
    ),
    "wye": River(
        10.6, (52.4, -3.7), 480.0, ("1987-05-01", "1988-03-31T23"), "1988-06-30T23", ("1988-07-01", "1988-12-30T23")
    ),
}


@dataclass(frozen=True)
class Study:
    """What is run: catchments, how long to search and to train, generations × population of the search for the EnKF,
    days of the test, all where it is None, and draws of degraded rain."""

    rivers: tuple[str, ...]
    search: fitting.Effort
    training: learning.Effort
    ensemble: tuple[int, int]
    days: int | None
    draws: int

    def told(self) -> str:
        """The efforts in words."""
        model, own, theirs = (
            f"{g} generations of {n}" for g, n in (self.search.model, self.search.filter, self.ensemble)
        )
        taught = self.training
        return (
            f"Two models, with two routing reservoirs and with a lag and one reservoir, are calibrated by {model} "
            "candidates each; the second is taken where its open loop with the last error carried on has more than "
            f"{100 * quarters.HARDLY:.0f} % less loss to the end of validation, and not calibrated again for any row. "
            f"Error levels of the UKF: {own}, for all leads (and half as many without each third of the record, to "
            f"choose what is issued) and, in a row of its own, for 1 h alone; of the EnKF with {MEMBERS} members: "
            f"{theirs}, for all leads, on "
            f"every {THINNED}rd stretch of 30 days. Networks: "
            f"{taught.networks} {'seed' if taught.networks == 1 else 'seeds'}, {taught.steps} steps of "
            f"{taught.windows} windows each (half as many, which take as long, with error levels), each network "
            "trained on all but a third of the hours to the end of validation, and the best in that third kept; all "
            f"leads count alike in their loss, in a row of its own only {FIRST_HOURS[0]} to {FIRST_HOURS[-1]} h."
        )


FULL = Study(tuple(RIVERS), fitting.Effort(), learning.Effort(), (20, 24), days=None, draws=5)
QUICK = Study(
    ("wye",),
    fitting.Effort((3, 16), (2, 12)),
    learning.Effort(networks=1, steps=10, windows=4),
    (2, 8),
    days=31,
    draws=2,
)


def time_of(text: str) -> np.datetime64:
    """An hour of the table of rivers."""
    return np.datetime64(text, "ns")
