"""Prefect flows: when things happen. The work itself is in `hydroda.steps`.

Prefect reads its settings when it is first imported, so they are made here, before any flow imports it. What the
surroundings already set (a deployment, a person) is left alone.
"""

import os

PREFECT_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # no telemetry
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 s are too short on a busy machine
    "PREFECT_LOGGING_EXTRA_LOGGERS": "hydroda",  # what the steps log is seen in the run
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the steps log outside of runs too
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",  # results are files of ours
}
for _name, _value in PREFECT_SETTINGS.items():
    os.environ.setdefault(_name, _value)
