"""One set of networks for several rivers of `sun2026`, among them one that it is not trained on."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hydroda import calibrated, designs, learning, steps
from hydroda.domain import store_of
from hydroda.progress import Progress
from hydroda.settings import Settings

FOLDERS = ("observations", "forecasts")
LEAST = 3  # rivers: two to be taught on and one that is not


def together(
    deployments: Mapping[str, Settings], folder: Path, effort: learning.Effort, progress: Progress
) -> tuple[Settings, str] | None:
    """A deployment in a folder of the rivers whose model is that of most, with the same networks, and the river they
    were not trained on, the last of these; None where they are fewer than three. Networks give the gain and know of
    each river four static attributes. What is there already is not made again. Raises ValueError where it cannot be
    trained.
    """
    found = {name: calibrated.restore(_parameters(settings, name)) for name, settings in deployments.items()}
    models = {name: (each.model, each.temperature) for name, each in found.items()}
    ((most, count),) = Counter(models.values()).most_common(1)
    names = [name for name, model in models.items() if model == most]
    if count < LEAST:
        return None
    first = deployments[names[0]]
    there = first.deployment.model_copy(update={"store": str(folder.resolve())})
    catchments = tuple(deployments[name].catchment(name) for name in names)
    one = first.model_copy(update={"deployment": there, "catchments": catchments})
    store = store_of(one)
    for name in names:
        _link(store_of(deployments[name]).folder, store.folder, name)
        kept = store.read_parameters(name)
        if kept is None or kept["report"] != found[name].report:
            store.write_parameters(name, replace(found[name], taught=None).content())
    if any(calibrated.restore(_parameters(one, name)).taught is None for name in names):
        how = {"design": designs.GAIN, "together": True, "unseen": names[-1:]}
        done = steps.train(one, names[:-1], progress=progress, effort=effort, **how)  # type: ignore[arg-type]
        if failed := [each.summary for each in done if each.failed]:
            raise ValueError("; ".join(failed))
    return one, names[-1]


def _parameters(settings: Settings, name: str) -> Mapping[str, object]:
    content = store_of(settings).read_parameters(name)
    assert content is not None
    return content


def _link(source: Path, target: Path, name: str) -> None:
    """What was observed and forecast of a river, as a relative link, so that both may be moved together."""
    for folder in FOLDERS:
        link = target / folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if (source / folder / name).exists() and not link.exists():
            link.symlink_to(os.path.relpath((source / folder / name).resolve(), link.parent.resolve()))
