"""Words that settings, commands and products share."""

from typing import Literal, get_args

LeadForcing = Literal["observed", "none", "archived"]
LEAD_FORCINGS: tuple[LeadForcing, ...] = get_args(LeadForcing)  # the weather a hindcast has in its lead hours
RUN_KINDS = ("operational", "catch_up", "hindcast")
START_KINDS = ("cold", "older_state", "warm")  # of states, the furthest from those of the hour before first
