"""The steps of a training: all chosen layers at once, from one forward of the model for each pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lenskit.artifacts import only_one_process
from lenskit.data import Chunks
from lenskit.lenses.residuals import residuals, shifted
from lenskit.lenses.training.checkpoint import Checkpoint, digest
from lenskit.lenses.training.history import History
from lenskit.lenses.training.loss import Towards, blocks_of_rows, head_of
from lenskit.lenses.training.recipe import Recipe
from lenskit.lenses.translators import Translators
from lenskit.models.identity import Identity
from lenskit.models.model import Model

if TYPE_CHECKING:
    from accelerate import Accelerator


class Training:
    """The translators of the chosen layers on their way, with their optimizer, data and place in it.

    Args:
        model: whose lens is trained; it is only run.
        chunks: the text, gone through in an order that the recipe's seed shuffles anew for each time round.
        recipe: how.
        start: makes the translators of the recipe's layers to begin with; not called where there is a checkpoint.
        accelerator: accelerate's, where there are many processes or a tracker.
    """

    def __init__(
        self,
        model: Model,
        chunks: Chunks,
        recipe: Recipe,
        start: Callable[[], Translators],
        accelerator: Accelerator | None = None,
    ) -> None:
        self.model, self.chunks, self.recipe, self.start, self.accelerator = model, chunks, recipe, start, accelerator
        self.rank, self.processes = (0, 1)
        if accelerator is not None:
            self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.per_pass, rest = divmod(recipe.chunks_per_step, recipe.accumulate * self.processes)
        if rest:
            raise ValueError(
                f"a step of {recipe.chunks_per_step} chunks cannot be shared by {self.processes} processes in "
                f"{recipe.accumulate} passes: take a multiple of {recipe.accumulate * self.processes} chunks."
            )
        self.head = head_of(model.anatomy.tail)
        self.parameters: dict[str, Tensor] = {}
        self._order: tuple[int, Tensor] | None = None

    def run(
        self, folder: Path | None, every: int, on_step: Callable[[History], object] | None
    ) -> tuple[Translators, History]:
        """Take all steps that are left, and give the trained translators and the losses of every step."""
        with self._alone_in(folder):
            belongs = self._belongs() if folder is not None else {}
            found = None if folder is None else self._resumed(folder, belongs)
            if found is None:
                found = self.begun()
                self._keep(found, folder, belongs)
            self.set_up(found)
            losses = list(found.losses)
            for step in range(found.step, self.recipe.steps):
                losses.append(self.step(step))
                done = step + 1
                if folder is not None and (done % every == 0 or done == self.recipe.steps):
                    self._keep(self._checkpoint(done, losses), folder, belongs)
                self._tell(losses, on_step)
        self._wait()
        bias = self.parameters["bias"].detach()
        return Translators(self.parameters["weight"].detach(), bias), self.history(losses)

    def history(self, losses: list[Tensor]) -> History:
        """The losses so far as a value."""
        recipe = self.recipe
        array = torch.stack(losses).numpy() if losses else np.empty((0, len(recipe.layers)))
        return History(
            array, recipe.layers, recipe.steps, recipe.tokens_per_step, recipe.loss, self.chunks.bits_per_byte
        )

    # One step

    def step(self, step: int) -> Tensor:
        """Take a step, and give each layer's mean loss before it (layer,), float64."""
        trained = self._trained()
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        losses = torch.zeros(len(self.recipe.layers), dtype=torch.float64)
        for chunks in self.batches(step):
            losses += self._pass(chunks.to(self.model.device)) / self.recipe.accumulate
        losses = self._over_processes(trained, losses)
        if not bool(losses.isfinite().all()):
            layers = [self.recipe.layers[n] for n in (~losses.isfinite()).nonzero()[:, 0].tolist()]
            raise FloatingPointError(
                f"the loss of layers {layers} is no number at step {step}: take a smaller lr than {self.recipe.lr}, or "
                "a longer warm-up."
            )
        self._clip(trained)
        self.recipe.set_rate(self.optimizer, step)
        self.optimizer.step()
        for parameter in trained:
            parameter.grad = None
        return losses

    def batches(self, step: int) -> list[Tensor]:
        """This process's chunks (chunk, pos) of each pass of a step."""
        count, size = self.recipe.chunks_per_step, len(self.chunks)
        ids = torch.stack([self.chunks.ids[self._at(k, size)] for k in range(step * count, (step + 1) * count)])
        return list(ids[self.rank :: self.processes].split(self.per_pass))

    def _at(self, place: int, size: int) -> int:
        """Which chunk comes at a place in the order: each time round in an order of its own."""
        time_round, within = divmod(place, size)
        if self._order is None or self._order[0] != time_round:
            shuffled = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + time_round)
            self._order = time_round, torch.randperm(size, generator=shuffled)
        return int(self._order[1][within])

    def _pass(self, ids: Tensor) -> Tensor:
        """Add a pass's share of the gradient, and give each layer's mean loss (layer,)."""
        recipe = self.recipe
        states, final = residuals(self.model, ids, recipe.layers)
        here, there = shifted(ids.shape[1], recipe.token_shift, recipe.skip_first)
        rows = states[:, :, here]
        count = rows.shape[1] * rows.shape[2]
        losses = torch.zeros(len(recipe.layers), dtype=torch.float64)
        flat = rows.flatten(1, 2)
        targets = final[:, there].flatten(0, 1) if recipe.loss == "kl" else ids[:, there].flatten()
        del states, rows
        with torch.no_grad():
            for block in blocks_of_rows(count, self.model.anatomy.vocab):
                towards = (
                    self.head.to_prediction(targets[block])
                    if recipe.loss == "kl"
                    else self.head.to_tokens(targets[block])
                )
                losses += self._add_gradients(flat[:, block], towards, count)
        return losses / count

    def _add_gradients(self, rows: Tensor, towards: Towards, count: int) -> Tensor:
        """Add the gradients of some rows (layer, row, d_model), and give the sum of each layer's losses (layer,)."""
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        share = 1 / (count * self.recipe.accumulate)
        sums = torch.zeros(len(rows), dtype=torch.float64)
        for layer, h in enumerate(rows):
            h = h.to(weight.dtype)
            carried = torch.addmm(h + bias[layer], h, weight[layer].T)
            losses, gradient = towards(carried)
            sums[layer] = losses.sum(dtype=torch.float64)
            if weight.grad is not None:
                weight.grad[layer].addmm_(gradient.T, h, alpha=share)
            assert bias.grad is not None
            bias.grad[layer].add_(gradient.sum(0), alpha=share)
        return sums

    def _clip(self, trained: list[Tensor]) -> None:
        """Shorten each layer's gradient to the clip: layers are trained together, and have nothing to do together."""
        if self.recipe.clip is None:
            return
        norms = torch.stack([_grad(each).flatten(1).norm(dim=1) for each in trained]).norm(dim=0)
        factor = (self.recipe.clip / norms.clamp_min(1e-12)).clamp_max(1.0)
        for each in trained:
            _grad(each).mul_(factor.view(-1, *[1] * (each.dim() - 1)))

    # Beginning, going on, many processes

    def _trained(self) -> list[Tensor]:
        return [each for each in self.parameters.values() if each.requires_grad]

    def set_up(self, found: Checkpoint) -> None:
        """Parameters and optimizer as a checkpoint has them."""
        trains = {"weight": not self.recipe.bias_only, "bias": True}
        self.parameters = {
            name: found.parameters[name].to(self.model.device, copy=True).requires_grad_(wanted)
            for name, wanted in trains.items()
        }
        self.optimizer = self.recipe.make_optimizer(self._trained())
        if found.optimizer:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": found.optimizer, "param_groups": groups})

    def begun(self) -> Checkpoint:
        """Where it stands before the first step."""
        start = self.start()
        bias = torch.zeros(start.shape) if start.bias is None else start.bias
        kind = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        parameters = {"weight": start.weight.to(kind), "bias": bias.to(self.model.device, kind)}
        return Checkpoint(0, parameters, {}, torch.empty(0, len(self.recipe.layers), dtype=torch.float64))

    def _checkpoint(self, step: int, losses: list[Tensor]) -> Checkpoint:
        return Checkpoint(step, self.parameters, self.optimizer.state_dict()["state"], torch.stack(losses))

    def _belongs(self) -> dict[str, Any]:
        identity = Identity.of(self.model).as_dict()
        return {"recipe": self.recipe.as_dict(), "identity": identity, "data": digest(self.chunks.ids)}

    def _resumed(self, folder: Path, belongs: dict[str, Any]) -> Checkpoint | None:
        """The folder's checkpoint. Raises `ValueError` where it is of another training."""
        found = Checkpoint.read(folder)
        if found is None:
            return None
        checkpoint, was = found
        reasons = {
            "identity": "of another model or checkpoint of it",
            "data": "trained on another text",
            "recipe": f"trained with {self.recipe.differs(was.get('recipe', {}))}",
        }
        for what, reason in reasons.items():
            if was.get(what) != belongs[what]:
                raise ValueError(
                    f"the training in {folder} is {reason}, so this one cannot go on from there: choose another folder."
                )
        return checkpoint

    def _alone_in(self, folder: Path | None) -> AbstractContextManager[object]:
        """While it lasts, no other training writes into the folder."""
        if folder is None or self.rank:
            self._wait()  # for the first process to have the folder
            return nullcontext()
        folder.mkdir(parents=True, exist_ok=True)
        lock = only_one_process(folder / "checkpoint.safetensors")
        self._wait()
        return lock

    def _keep(self, checkpoint: Checkpoint, folder: Path | None, belongs: dict[str, Any]) -> None:
        self._wait()  # until every process has read what is about to be replaced
        if folder is not None and self.rank == 0:
            checkpoint.write(folder, belongs)

    def _tell(self, losses: list[Tensor], on_step: Callable[[History], object] | None) -> None:
        if on_step is not None and self.rank == 0:
            on_step(self.history(losses))
        if self.accelerator is not None and self.accelerator.trackers:
            values = {f"loss/layer {layer}": float(losses[-1][n]) for n, layer in enumerate(self.recipe.layers)}
            mean, ratio = float(losses[-1].mean()), self.chunks.bits_per_byte
            values |= {"loss/mean": mean, "lr": self.recipe.rate(len(losses) - 1)}
            values |= {} if ratio is None else {"bits per byte": mean * ratio}
            self.accelerator.log(values, step=len(losses))

    def _over_processes(self, trained: list[Tensor], losses: Tensor) -> Tensor:
        """The mean of gradients, in place, and of losses over all processes."""
        if self.accelerator is None or self.processes == 1:
            return losses
        for parameter in trained:
            reduced: Any = self.accelerator.reduce(_grad(parameter), "mean")
            _grad(parameter).copy_(reduced)
        total: Any = self.accelerator.reduce(losses.to(self.model.device), "mean")
        return total.cpu()

    def _wait(self) -> None:
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
