"""`lenskit lens train`: a tuned lens from a text, with a progress bar, checkpoints and exact resume."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from lenskit.cli.choices import Keep, Products

if TYPE_CHECKING:
    from collections.abc import Callable

    from lenskit.lenses.training.history import History


class Loss(StrEnum):
    """What the lens is trained on."""

    kl = "kl"
    ce = "ce"


class Optimizer(StrEnum):
    """How its gradient is followed."""

    adam = "adam"
    sgd = "sgd"


def train(
    model: Annotated[str, Argument(help="What lenskit.load takes: demo, a folder, a .gguf file, a name on the hub.")],
    texts: Annotated[list[Path], Argument(help="Text files, or .jsonl files with a document in each line.")],
    out: Annotated[
        Path, Option("--out", "-o", help="The .safetensors file to write, or a folder in tuned-lens's format.")
    ],
    start: Annotated[str, Option(help="closed-form, identity, or a lens: a file or folder.")] = "closed-form",
    start_tokens: Annotated[int, Option(help="Tokens of the closed form.")] = 20_480,
    loss: Annotated[Loss, Option(help="KL from the model's prediction, or CE of the next token.")] = Loss.kl,
    optimizer: Annotated[Optimizer, Option(help="Adam, or SGD with Nesterov's momentum.")] = Optimizer.adam,
    lr: Annotated[float | None, Option(help="Learning rate; by default 1e-3 (Adam) or 1 (SGD).")] = None,
    warmup: Annotated[int | None, Option(help="Steps; by default a fifth (Adam) or none (SGD).")] = None,
    weight_decay: Annotated[float, Option(help="Pulls the translators to the identity.")] = 0.0,
    token_shift: Annotated[int | None, Option(help="Which token a row is to say; by default 0 (KL), 1 (CE).")] = None,
    bias_only: Annotated[bool, Option("--bias-only", help="Train the biases only.")] = False,
    layers: Annotated[str | None, Option(help="Layers to train, such as 3,9,18; by default all.")] = None,
    steps: Annotated[int, Option(help="How many steps.")] = 250,
    tokens_per_step: Annotated[int, Option(help="Over all passes and processes.")] = 512,
    accumulate: Annotated[int, Option(help="Passes in which a step's tokens go through the model.")] = 1,
    chunk: Annotated[int, Option(help="Tokens that the model reads at once.")] = 128,
    clip: Annotated[float, Option(help="The longest gradient of a layer; 0 for no limit.")] = 1.0,
    seed: Annotated[int, Option(help="Of the order of the text.")] = 0,
    folder: Annotated[Path | None, Option(help="Keep checkpoints here; the same command goes on from there.")] = None,
    checkpoint_every: Annotated[int, Option(help="Steps from one checkpoint to the next.")] = 25,
    column: Annotated[str, Option(help="Where a line of a .jsonl file has its text.")] = "text",
    revision: Annotated[str | None, Option(help="Of the model on the hub.")] = None,
    dtype: Annotated[str | None, Option(help="Of the model's weights, such as bfloat16.")] = None,
    device: Annotated[str | None, Option(help="Where to put the model, such as cuda.")] = None,
    products: Annotated[Products, Option(help="medium: bfloat16 inside, 3 times faster where the CPU has it.")] = (
        Products.exact
    ),
    rank: Annotated[int | None, Option(help="Write factors of this rank, the best for the text.")] = None,
    keep: Annotated[Keep, Option(help="How to write numbers; int8 is a quarter of float32.")] = Keep.float32,
    track: Annotated[str | None, Option(help="accelerate's tracker: tensorboard, wandb, ...")] = None,
) -> None:
    """Train a tuned lens: start in closed form, then lower the loss of all layers at once.

    For many processes: accelerate launch -m lenskit lens train ...
    """
    import torch
    from tqdm.auto import tqdm

    from lenskit.data import documents_in
    from lenskit.lenses.tuned import TunedLens
    from lenskit.models.load import load

    form = "lenskit" if out.suffix == ".safetensors" else "tuned-lens"
    if form == "tuned-lens" and (out.exists() or keep == Keep.int8):  # said now, and not when all is done
        raise typer.BadParameter(f"{out} is there already." if out.exists() else "tuned-lens reads floats only.")
    torch.set_float32_matmul_precision(products.value)
    loaded = load(model, revision=revision, dtype=dtype, device=device)
    documents = list(documents_in(texts, column))
    accelerator = _accelerator(track, folder or out.parent)
    quiet = accelerator is not None and not accelerator.is_main_process
    began: Any = start if start == "identity" else "closed form"
    if start not in ("identity", "closed-form"):
        began = TunedLens.load(loaded, start)
    with (
        tqdm(total=100, desc="closed form", unit="%", disable=quiet or began != "closed form", leave=False) as passing,
        tqdm(total=steps, desc="training", unit="step", disable=quiet, smoothing=0.1) as bar,
    ):
        lens = TunedLens.train(
            loaded,
            documents,
            start=began,
            start_tokens=start_tokens,
            loss=loss.value,
            optimizer=optimizer.value,
            lr=lr,
            warmup=warmup,
            weight_decay=weight_decay,
            token_shift=token_shift,
            bias_only=bias_only,
            layers=None if layers is None else [int(layer) for layer in layers.split(",")],
            steps=steps,
            tokens_per_step=tokens_per_step,
            accumulate=accumulate,
            chunk=chunk,
            clip=clip or None,
            seed=seed,
            folder=folder,
            checkpoint_every=checkpoint_every,
            on_step=_shows(bar),
            progress=lambda share: passing.update(round(100 * share) - passing.n),
            accelerator=accelerator,
        )
    if accelerator is not None:
        accelerator.end_training()
    if quiet:
        return
    history = lens.history
    lens = lens if rank is None else lens.low_rank(rank, documents)
    lens.save(out, format=form, dtype=getattr(torch, keep.value))
    size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.iterdir()))
    typer.echo(f"{out}: {size / 1e6:.1f} MB. {history}")


def _shows(bar: Any) -> Callable[[History], None]:
    """What is called after each step: the bar moves, and shows where the loss is."""

    def show(history: History) -> None:
        nats, bits = history.nats[-10:].mean(), history.bits
        shown = {"nats": f"{nats:.3f}"} | ({} if bits is None else {"bits/byte": f"{bits[-10:].mean():.3f}"})
        bar.set_postfix(shown, refresh=False)
        bar.update(history.step - bar.n)

    return show


def _accelerator(track: str | None, folder: Path) -> Any:
    """accelerate's, if there is a tracker or this is one of many processes."""
    from lenskit.processes import accelerated

    if track is None:
        return accelerated(None)
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=track, project_dir=folder)
    accelerator.init_trackers("lenskit")
    return accelerator
