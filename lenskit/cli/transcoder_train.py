"""`lenskit transcoder train`: dictionaries of one or several layers from a text, with checkpoints and exact resume."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from lenskit.cli.choices import Keep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lenskit.transcoders.history import History


class Kind(StrEnum):
    """Which features of a token are active."""

    topk = "topk"
    batchtopk = "batchtopk"
    relu = "relu"
    jumprelu = "jumprelu"
    gated = "gated"


class Revival(StrEnum):
    """What is done for features that are never active."""

    aux_k = "aux-k"
    ghost = "ghost gradients"
    resample = "resample"
    none = "none"


def train(
    model: Annotated[str, Argument(help="What lenskit.load takes: demo, a folder, a .gguf file, a name on the hub.")],
    texts: Annotated[list[Path], Argument(help="Text files, or .jsonl files with a document in each line.")],
    layers: Annotated[str, Option("--layers", "-l", help="Layers, such as 15 or 18,19,20 or 18-23.")],
    out: Annotated[
        Path, Option("--out", "-o", help="The .safetensors file to write, or a folder: layer_18.safetensors, ...")
    ],
    reads: Annotated[str, Option(help="The site that is read.")] = "mlp_in",
    writes: Annotated[str, Option(help="The site that is written; the same makes a sparse autoencoder.")] = "mlp_out",
    features: Annotated[int, Option(help="How many features.")] = 4096,
    kind: Annotated[Kind, Option(help="Which features of a token are active.")] = Kind.topk,
    k: Annotated[int, Option(help="How many are active, with topk and batchtopk.")] = 32,
    sparsity: Annotated[float, Option(help="Weight of the penalty, with relu (L1), jumprelu and gated.")] = 1e-3,
    skip: Annotated[bool, Option("--skip", help="A linear way past the features; starts as the best one.")] = False,
    tokens: Annotated[int, Option(help="How many tokens to take, from all over the texts; 0 for all.")] = 0,
    epochs: Annotated[int, Option(help="How often to go through them.")] = 1,
    chunk: Annotated[int, Option(help="Tokens that the model reads at once.")] = 128,
    per_shard: Annotated[int, Option(help="Tokens whose activations are held and shuffled together.")] = 1 << 17,
    batch: Annotated[int, Option(help="Tokens in a step, over all processes.")] = 1024,
    lr: Annotated[float, Option(help="Adam's learning rate.")] = 1e-3,
    warmup: Annotated[float, Option(help="The share of the steps over which it rises.")] = 0.05,
    decay: Annotated[float, Option(help="The share of the steps over which it falls, at the end.")] = 0.3,
    revival: Annotated[Revival, Option(help="What is done for dead features.")] = Revival.aux_k,
    dead_after: Annotated[int, Option(help="Tokens after which a feature that was not active counts as dead.")] = (
        100_000
    ),
    seed: Annotated[int, Option(help="Of the first weights and of the order of tokens.")] = 0,
    held_out: Annotated[int, Option(help="Chunks not to learn from, on which the result is judged.")] = 8,
    look_every: Annotated[int, Option(help="Steps from one look at them to the next.")] = 100,
    folder: Annotated[Path | None, Option(help="Keep a checkpoint here; the same command goes on from there.")] = None,
    cache: Annotated[Path | None, Option(help="Keep activations here for other trainings.")] = None,
    keep: Annotated[Keep, Option(help="How to write numbers; int8 is a quarter of float32.")] = Keep.float32,
    column: Annotated[str, Option(help="Where a line of a .jsonl file has its text.")] = "text",
    revision: Annotated[str | None, Option(help="Of the model on the hub.")] = None,
    dtype: Annotated[str | None, Option(help="Of the model's weights, such as bfloat16.")] = None,
    device: Annotated[str | None, Option(help="Where to put the model, such as cuda.")] = None,
) -> None:
    """Train sparse dictionaries, such as transcoders of MLPs: one for each layer, in one pass over the text.

    For many processes: accelerate launch -m lenskit transcoder train ...
    """
    import torch
    from rich.console import Console
    from tqdm.auto import tqdm

    from lenskit.data import documents_in
    from lenskit.models.load import load
    from lenskit.processes import accelerated
    from lenskit.transcoders.transcoder import Transcoder

    chosen = _layers(layers)
    if out.suffix == ".safetensors" and len(chosen) > 1:  # said now, and not when all is done
        raise typer.BadParameter(f"{out} is one file, and there are {len(chosen)} layers: give a folder.")
    loaded = load(model, revision=revision, dtype=dtype, device=device)
    accelerator = accelerated(None)
    quiet = accelerator is not None and not accelerator.is_main_process
    with (
        tqdm(total=100, desc="reading", unit="%", disable=quiet, leave=False) as reading,
        tqdm(desc="training", unit="step", disable=quiet, smoothing=0.1) as bar,
    ):
        made = Transcoder.train_all(
            loaded,
            list(documents_in(texts, column)),
            chosen,
            reads=reads,
            writes=writes,
            tokens=tokens or None,
            epochs=epochs,
            length=chunk,
            per_shard=per_shard,
            held_out=held_out,
            look_every=look_every,
            folder=folder,
            cache=cache,
            on_step=_shows(bar),
            progress=lambda share: reading.update(round(100 * share) - reading.n),
            accelerator=accelerator,
            n_features=features,
            activation=kind.value,
            k=k,
            sparsity=sparsity,
            skip=skip,
            batch=batch,
            lr=lr,
            warmup=warmup,
            decay=decay,
            revival=revival.value,
            dead_after=dead_after,
            seed=seed,
        )
    if quiet:
        return
    written, kept = [], None if keep == Keep.float32 else getattr(torch, keep.value)
    for layer, each in zip(chosen, made, strict=True):
        path = out if out.suffix == ".safetensors" else out / f"layer_{layer}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        written.append(each.save(path, dtype=kept))
    Console().print(_table([each.history for each in made], written))
    typer.echo(out)


def _layers(said: str) -> list[int]:
    """The layers of `15`, `18,19,20` and `18-23`."""
    try:
        ends = [[int(end) for end in part.split("-")] for part in said.split(",")]
        return sorted({layer for first, *last in ends for layer in range(first, (*last, first)[0] + 1)})
    except ValueError as error:
        raise typer.BadParameter(f"{said!r} says no layers: give 15 or 18,19,20 or 18-23.") from error


def _shows(bar: Any) -> Callable[[list[History]], None]:
    """What is called after each step: the bar moves, and shows the mean over the layers."""

    def show(histories: list[History]) -> None:
        def mean(name: str) -> float:
            return sum(float(getattr(each, name)[-1]) for each in histories) / len(histories)

        shown = {"explained": f"{mean('explained'):.3f}", "L0": f"{mean('active'):.1f}", "dead": f"{mean('dead'):.1%}"}
        bar.total = histories[0].steps
        bar.set_postfix(shown, refresh=False)
        bar.update(histories[0].step - bar.n)

    return show


def _table(histories: Sequence[History | None], written: list[Path]) -> object:
    """What came of it as a table of rich: on held-out text, beside the best linear map."""
    from rich.table import Table

    table = Table(title="on the chunks held out")
    # In 80 columns names are folded, and no number is cut.
    table.add_column("dictionary", overflow="fold")
    for name, widest in {"explained": 9, "linear map": 6, "CE recovered": 9, "L0": 5, "dead": 5, "MB": 5}.items():
        table.add_column(name, justify="right", min_width=widest)
    for history, path in zip(histories, written, strict=True):
        assert history is not None
        numbers = ["none"] * 3
        if history.looks:
            seen = history.looks[-1]
            numbers = [f"{seen.explained:.3f}", f"{history.linear:.3f}", f"{seen.recovered:.1%}"]
        ends = [f"{history.active[-1]:.1f}", f"{history.dead[-1]:.1%}", f"{path.stat().st_size / 1e6:.1f}"]
        table.add_row(history.name, *numbers, *ends)
    return table
