"""One set of networks for several rivers of `sun2026`, among them one that it is not trained on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hydroda import designs, files, learning, steps
from hydroda.domain import store_of
from hydroda.progress import Progress
from hydroda.reproduction.sun2026_rows import LINKED, restored
from hydroda.settings import Settings

LEAST = 3  # rivers: two to be taught on and one that is not


def together(
    deployments: Mapping[str, Settings], folder: Path, effort: learning.Effort, progress: Progress
) -> tuple[Settings, str] | None:
    """A deployment in a folder of the rivers whose model is that of most, with the same networks, and the river they
    were not trained on, the last of these; None where they are fewer than three. Networks give the gain and know of
    each river four static attributes. What is there already is not made again. Raises ValueError where it cannot be
    trained.
    """
    found = {name: restored(settings, name) for name, settings in deployments.items()}
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
        for folder_of in LINKED:
            files.link(store_of(deployments[name]).folder / folder_of / name, store.folder / folder_of / name)
        if store.read_parameters(name) is None or restored(one, name).report != found[name].report:
            store.write_parameters(name, replace(found[name], taught=None).content())
    if any(restored(one, name).taught is None for name in names):
        taught, rest = names[:-1], names[-1:]
        done = steps.train(
            one, taught, progress=progress, effort=effort, design=designs.GAIN, together=True, unseen=rest
        )
        if failed := [each.summary for each in done if each.failed]:
            raise ValueError("; ".join(failed))
    return one, names[-1]
