"""Weather forecasts of the past, as a forecast issued then would have had them: what operation is to be judged with.

Rain as observed flatters every method, and most of all those that a wrong rain throws off; where a store holds the
weather forecasts of the years a catchment is calibrated on, they decide what is issued with such weather, and how wide.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hydroda.calibrating.stretches import Weather
from hydroda.forecast import known, window
from hydroda.forecast.window import View
from hydroda.schema import LEADS
from hydroda.settings import Settings
from hydroda.storage.store import Store
from hydroda.units import HOUR


def weather(settings: Settings, store: Store, view: View, forcings: Sequence[str]) -> Weather | None:
    """From positions (24, f) in a view of one station of the lead hours of forecasts to their forcing (24, f, m), by
    the newest weather runs there were at the cut-off of each; NaN from the first hour on that no run told the rain of.
    None where the store holds no weather forecasts.
    """
    ids = [place.id for place in view.places]
    told = store.forecasts(ids, view.hours[0], view.hours[-1])
    if not told.sizes["record"]:
        return None
    table = known.forecast_table(told, ids)
    first = int((table.time.min() - view.hours[0]) // HOUR)

    def of_lead_hours(at: Tensor) -> Tensor:
        issue = at[0].numpy() - 1
        forcing = np.full((LEADS.size, issue.size, len(forcings)), np.nan)
        for i in np.flatnonzero(issue >= first - LEADS.size):
            until = settings.known_by(view.hours[issue[i]])
            lead = window.lead(view, int(issue[i]), "archived", forcings, table, until)
            guessed = np.logical_or.accumulate(lead.assumed, axis=0)
            forcing[:, i] = np.where(guessed, np.nan, lead.forcing[:, 0])
        return torch.from_numpy(forcing)

    return of_lead_hours
