"""Fitting: passage after passage, shared among processes, from wherever an interrupted fit stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenskit.artifacts import only_one_process
from lenskit.data import Chunks
from lenskit.lenses.jacobian_fit.averages import Averages
from lenskit.lenses.jacobian_fit.checkpoint import FILE, Checkpoint
from lenskit.lenses.jacobian_fit.history import FitHistory
from lenskit.lenses.jacobian_fit.recipe import Recipe
from lenskit.lenses.jacobian_fit.rows import PerPlace, Rows
from lenskit.lenses.training.checkpoint import digest
from lenskit.models.identity import Identity
from lenskit.models.model import Model

if TYPE_CHECKING:
    from accelerate import Accelerator


class Fitting:
    """The sums of a fit on their way. A step is one passage for each process.

    Args:
        model: whose lens is fitted.
        chunks: the passages, in their order.
        recipe: what a passage gives.
        at_once: rows of one backward; None for what fits.
        accelerator: accelerate's, where there are many processes.
    """

    def __init__(
        self,
        model: Model,
        chunks: Chunks,
        recipe: Recipe,
        at_once: int | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.model, self.chunks, self.recipe, self.accelerator = model, chunks, recipe, accelerator
        self.rank, self.processes = (0, 1)
        if accelerator is not None:
            self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.rows = Rows(model, recipe, at_once)
        self.averages = Averages(recipe.places)
        self.seen = dict[str, list[Tensor]](changes=[], errors=[], seconds=[])
        self.step = 0

    def run(
        self,
        folder: Path | None,
        every: int,
        stop_below: float | None,
        on_passage: Callable[[FitHistory], object] | None,
    ) -> FitHistory:
        """Fit the passages that are left, until the means have settled."""
        with self._alone_in(folder):
            if folder is not None and (folder / FILE).exists():
                self._go_on_from(folder)
            while self.averages.passages < len(self.chunks) and not self._has_settled(stop_below):
                self._step()
                if folder is not None and (self.step % every == 0 or self.averages.passages == len(self.chunks)):
                    self._keep(folder)
                if on_passage is not None and self.rank == 0:
                    on_passage(self.history)
            if folder is not None:
                self._keep(folder)
        self._wait()
        return self.history

    @property
    def history(self) -> FitHistory:
        """What was seen so far, as a value."""
        names = tuple(map(str, self.recipe.places))
        changes, errors = (
            torch.stack(self.seen[name]).numpy() if self.step else torch.empty(0, len(names)).numpy()
            for name in ("changes", "errors")
        )
        seconds = torch.tensor([float(each) for each in self.seen["seconds"]]).numpy()
        at_once = self.rows.at_once(self.chunks.ids[0])
        return FitHistory(
            changes, errors, seconds, names, self.averages.passages, len(self.chunks), at_once, self.recipe.probes
        )

    @property
    def about(self) -> dict[str, Any]:
        """How the lens was made, as plain data."""
        history, count = self.history, self.averages.passages
        return self.recipe.as_dict() | {
            "passages": count,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "products": torch.get_float32_matmul_precision(),
            "text": digest(self.chunks.ids[:count]),
            "error": {name: round(float(e), 6) for name, e in zip(history.places, history.error, strict=True)},
            "versions": self.model.provenance["versions"],
        }

    # One step

    def _step(self) -> None:
        begun = time.perf_counter()
        first = self.averages.passages
        mine = first + self.rank
        sums: PerPlace = {}
        if mine < len(self.chunks):
            sums = self.rows.of(self.chunks.ids[mine], mine)
        sums, count = self._over_processes(sums), min(self.processes, len(self.chunks) - first)
        changes = self.averages.add(sums, count, self.step % 2)
        self.step += 1
        self.seen["changes"].append(changes)
        self.seen["errors"].append(self.averages.errors())
        self.seen["seconds"].append(torch.tensor(time.perf_counter() - begun))
        for place in self.recipe.places:
            if not bool(sums[place].isfinite().all()):
                raise FloatingPointError(
                    f"the derivatives by {place} are no numbers in passage {first}: load the model in float32."
                )

    def _has_settled(self, stop_below: float | None) -> bool:
        return stop_below is not None and self.history.settled < stop_below

    def _over_processes(self, sums: PerPlace) -> PerPlace:
        """The sum over all processes; one that has no passage left gives nothing."""
        if self.accelerator is None or self.processes == 1:
            return sums
        total: PerPlace = {}
        for place, shape in self.rows.shapes.items():
            mine = sums[place] if sums else torch.zeros(shape, device=self.model.device)
            reduced: Any = self.accelerator.reduce(mine, "sum")
            total[place] = reduced
        return total

    # Beginning, going on, many processes

    def _belongs(self, passages: int) -> dict[str, Any]:
        """What the sums of the first passages belong to."""
        return {
            "identity": Identity.of(self.model).as_dict(),
            "recipe": self.recipe.as_dict(),
            "text": digest(self.chunks.ids[:passages]),
            "places": [list(place) for place in self.recipe.places],
            "processes": self.processes,
            "at_once": self.rows.at_once(self.chunks.ids[0]),
            "products": torch.get_float32_matmul_precision(),
        }

    def _go_on_from(self, folder: Path) -> None:
        """Take up the folder's checkpoint. Raises `ValueError` where it is of another fit."""
        found, was = Checkpoint.read(folder / FILE)
        self.rows.goes_on(was["at_once"])
        here = self._belongs(found.averages.passages)
        reasons = {
            "identity": "of another model or checkpoint of it",
            "recipe": f"made with {self.recipe.differs(was['recipe'])}",
            "text": "of other passages",
            "processes": f"shared by {was['processes']} processes and not {self.processes}, whose sums round otherwise",
            "at_once": f"of {was['at_once']} rows at once and not {here['at_once']}, whose products round otherwise",
            "products": f"made with products of {was['products']!r} precision and not {here['products']!r}",
        }
        for what, reason in reasons.items():
            if was[what] != here[what]:
                raise ValueError(
                    f"the fit in {folder} is {reason}, so this one cannot go on from there: choose another folder."
                )
        device = self.model.device
        first, second = ({p: m.to(device) for p, m in half.items()} for half in found.averages.halves)
        self.averages = Averages(self.recipe.places, (first, second), found.averages.counts)
        self.step, self.seen = found.step, {name: list(values) for name, values in found.seen.items()}

    def _keep(self, folder: Path) -> None:
        self._wait()  # until every process has read what is about to be replaced
        if self.rank == 0 and self.step:
            seen = {name: torch.stack(values) for name, values in self.seen.items()}
            Checkpoint(self.step, self.averages, seen).write(folder, self._belongs(self.averages.passages))

    def _alone_in(self, folder: Path | None) -> AbstractContextManager[object]:
        """While it lasts, no other fit writes into the folder."""
        if folder is None or self.rank:
            self._wait()  # for the first process to have the folder
            return nullcontext()
        folder.mkdir(parents=True, exist_ok=True)
        lock = only_one_process(folder / FILE)
        self._wait()
        return lock

    def _wait(self) -> None:
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
