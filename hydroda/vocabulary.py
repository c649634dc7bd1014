"""Words that commands, flows and products share."""

from typing import Literal, get_args

LeadForcing = Literal["observed", "none", "archived"]
LEAD_FORCINGS: tuple[LeadForcing, ...] = get_args(LeadForcing)  # the weather a hindcast has in its lead hours
VerifiedKind = Literal["hindcast", "operational"]  # what is scored
RUN_KINDS = ("operational", "catch_up", "hindcast")
START_KINDS = ("cold", "older_state", "warm")  # the worst first
