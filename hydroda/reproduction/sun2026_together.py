"""One set of networks for several rivers of `sun2026`, among them one that it is not trained on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hydroda import steps
from hydroda.domain import store_of
from hydroda.forecast import designs
from hydroda.progress import Progress, among
from hydroda.reproduction.sun2026_plan import Study
from hydroda.reproduction.sun2026_rows import LINKED, calibrate, require, restored
from hydroda.settings import Model, Settings
from hydroda.storage import files

LEAST = 3  # rivers: two to be taught on and one that is not


def together(
    deployments: Mapping[str, Settings], folder: Path, study: Study, progress: Progress
) -> tuple[Settings, str] | None:
    """A deployment in a folder of the rivers that are with snow, or without, as most are, with the same networks, and
    the river they were not trained on, the last of these; None where they are fewer than three. Networks give the gain
    and know of each river four static attributes. One whose model is not that of most is calibrated with that. What is
    there already is not made again. Raises ValueError where one cannot be calibrated or trained.
    """
    found = {name: restored(settings, name) for name, settings in deployments.items()}
    (((model, snow), _),) = Counter((each.model, each.temperature) for each in found.values()).most_common(1)
    names = [name for name, each in found.items() if each.temperature == snow]
    if len(names) < LEAST:
        return None
    first = deployments[names[0]]
    there = first.deployment.model_copy(update={"store": str(folder.resolve())})
    catchments = tuple(deployments[name].catchment(name) for name in names)
    one = first.model_copy(update={"deployment": there, "catchments": catchments, "model": Model(name=model)})
    store = store_of(one)
    for i, name in enumerate(names):
        for folder_of in LINKED:
            files.link(store_of(deployments[name]).folder / folder_of / name, store.folder / folder_of / name)
        kept = None if store.read_parameters(name) is None else restored(one, name)
        if found[name].model == model:
            if kept is None or kept.report != found[name].report:
                store.write_parameters(name, replace(found[name], taught=None).content())
        elif kept is None or kept.model != model:
            calibrate(one, name, study, among(progress, i, 2 * len(names), name))
    if any(restored(one, name).taught is None for name in names):
        told, how, rest = among(progress, 1, 2, "networks"), study.training, names[-1:]
        require(
            steps.train(one, names[:-1], progress=told, effort=how, design=designs.GAIN, together=True, unseen=rest)
        )
    return one, names[-1]
