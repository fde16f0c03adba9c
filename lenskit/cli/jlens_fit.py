"""`lenskit jlens fit`: a Jacobian lens from a text, with a progress bar, checkpoints and exact resume."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from lenskit.cli.choices import Keep, Products

if TYPE_CHECKING:
    from collections.abc import Callable

    from lenskit.lenses.jacobian_fit.history import FitHistory


class Target(StrEnum):
    """Of which residual derivatives are taken."""

    final = "final"
    penultimate = "penultimate"


def fit(
    model: Annotated[str, Argument(help="What lenskit.load takes: demo, a folder, a .gguf file, a name on the hub.")],
    texts: Annotated[list[Path], Argument(help="Text files, or .jsonl files with a document in each line.")],
    out: Annotated[
        Path, Option("--out", "-o", help="The .safetensors file to write, or a .pt file in the reference format.")
    ],
    passages: Annotated[int, Option(help="How many passages to fit, from all over the texts.")] = 100,
    chunk: Annotated[int, Option(help="Tokens of a passage.")] = 128,
    skip_first: Annotated[int, Option(help="Positions left out at the beginning of each passage.")] = 16,
    layers: Annotated[str | None, Option(help="Layers to fit, such as 12-23 or 3,9,18; by default all.")] = None,
    target: Annotated[Target, Option(help="The residual whose derivatives are taken.")] = Target.final,
    source: Annotated[
        list[str] | None, Option("--source", help="resid_post (the default), attn_out, mlp_out or z. May be repeated.")
    ] = None,
    at_once: Annotated[int | None, Option(help="Rows of one backward; by default what the memory holds.")] = None,
    stop_below: Annotated[
        float | None, Option(help="Stop when ten passages changed the means by less than this on average.")
    ] = None,
    probes: Annotated[
        int | None, Option(help="An approximate fit by so many random probes a passage; its error is printed.")
    ] = None,
    corpus: Annotated[str | None, Option(help="What to call the text, for the record.")] = None,
    folder: Annotated[Path | None, Option(help="Keep checkpoints here; the same command goes on from there.")] = None,
    checkpoint_every: Annotated[int, Option(help="Passages from one checkpoint to the next.")] = 1,
    column: Annotated[str, Option(help="Where a line of a .jsonl file has its text.")] = "text",
    revision: Annotated[str | None, Option(help="Of the model on the hub.")] = None,
    dtype: Annotated[str | None, Option(help="Of the model's weights, such as bfloat16.")] = None,
    device: Annotated[str | None, Option(help="Where to put the model, such as cuda.")] = None,
    products: Annotated[
        Products,
        Option(
            help="medium: nearly twice as fast on recent CPUs. Those that then multiply in bfloat16 change the demo "
            "model's matrices by 0.2 % (late layers) to 1.6 %, a tenth or less of what 40 passages leave open."
        ),
    ] = (Products.exact),
    keep: Annotated[Keep, Option(help="How to write numbers; int8 is a quarter of float32.")] = Keep.float16,
) -> None:
    """Fit a Jacobian lens: of each passage one forward, and backwards that give every layer's matrix exactly.

    For many processes: accelerate launch -m lenskit jlens fit ...
    """
    import torch
    from tqdm.auto import tqdm

    from lenskit.data import documents_in
    from lenskit.lenses.jacobian import JacobianLens
    from lenskit.models.load import load
    from lenskit.processes import accelerated

    form = "lenskit" if out.suffix == ".safetensors" else "reference"
    if form == "reference" and keep == Keep.int8:  # said now, and not when all is done
        raise typer.BadParameter("the reference format has floats only: write a .safetensors file, or --keep float16.")
    if probes is not None and (folder is not None or stop_below is not None):
        raise typer.BadParameter("an approximate fit keeps no checkpoints and does not stop early.")
    torch.set_float32_matmul_precision(products.value)
    loaded = load(model, revision=revision, dtype=dtype, device=device)
    accelerator = accelerated(None)
    quiet = accelerator is not None and not accelerator.is_main_process
    how: dict[str, Any] = {
        "passages": passages,
        "chunk": chunk,
        "skip_first": skip_first,
        "layers": None if layers is None else layers_of(layers),
        "target": target.value,
        "sources": source or ["resid_post"],
        "at_once": at_once,
        "corpus": corpus or ", ".join(path.name for path in texts),
    }
    documents = list(documents_in(texts, column))
    with tqdm(total=passages, desc="fitting", unit="passage", disable=quiet, smoothing=0.1) as bar:
        if probes is not None:
            lens = JacobianLens.fit_approximately(loaded, documents, probes=probes, on_passage=_shows(bar), **how)
        else:
            how |= {"stop_below": stop_below, "folder": folder, "checkpoint_every": checkpoint_every}
            lens = JacobianLens.fit(loaded, documents, on_passage=_shows(bar), accelerator=accelerator, **how)
    if quiet:
        return
    lens.save(out, format=form, dtype=getattr(torch, keep.value))
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB. {lens.history}")


def layers_of(said: str) -> list[int]:
    """The layers that a person means: `3,9,18`, `12-23`, or both.

    >>> layers_of("3,12-14")
    [3, 12, 13, 14]
    """
    layers = list[int]()
    for part in said.split(","):
        first, _, last = part.partition("-")
        layers += range(int(first), int(last or first) + 1)
    return layers


def _shows(bar: Any) -> Callable[[FitHistory], None]:
    """What is called after each passage: the bar moves, and shows how the means settle."""

    def show(history: FitHistory) -> None:
        shown = {"changed": f"{history.changes[-1].mean():.1%}", "error": f"{history.error.mean():.1%}"}
        bar.total = history.planned
        bar.set_postfix(shown, refresh=False)
        bar.update(history.passages - bar.n)

    return show
