"""`lenskit lens eval`: how well lenses read a text, as numbers, a page and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens


def evaluate(
    model: Annotated[str, Argument(help="What lenskit.load takes: demo, a folder, a .gguf file, a name on the hub.")],
    texts: Annotated[list[Path], Argument(help="Text files, or .jsonl files with a document in each line.")],
    out: Annotated[Path, Option("--out", "-o", help="The folder to write into.")],
    lens: Annotated[
        list[str] | None, Option("--lens", "-l", help="A tuned lens: a file, folder or name. May be repeated.")
    ] = None,
    jacobian: Annotated[
        list[str] | None, Option("--jacobian", "-j", help="A Jacobian lens: a file, folder or name. May be repeated.")
    ] = None,
    logit: Annotated[bool, Option(help="Measure the logit lens too.")] = True,
    tokens: Annotated[int, Option(help="How many tokens to read at most; 0 for all.")] = 16_384,
    chunk: Annotated[int, Option(help="Tokens that the model reads at once.")] = 128,
    transfer: Annotated[int, Option(help="On how many tokens to measure each layer's lens on every other layer.")] = 0,
    marginals: Annotated[bool, Option("--marginals", help="Sum up what each layer predicts on the whole.")] = False,
    column: Annotated[str, Option(help="Where a line of a .jsonl file has its text.")] = "text",
    revision: Annotated[str | None, Option(help="Of the model on the hub.")] = None,
    dtype: Annotated[str | None, Option(help="Of the model's weights, such as bfloat16.")] = None,
    device: Annotated[str | None, Option(help="Where to put the model, such as cuda.")] = None,
) -> None:
    """Measure lenses on a text: cross-entropy, KL, entropy and accuracy of every layer.

    Writes aggregate_metrics.json, report.html, and with --marginals marginals.safetensors.
    """
    from rich.console import Console
    from tqdm.auto import tqdm

    from lenskit.data import documents_in
    from lenskit.lenses import evaluate as evaluating
    from lenskit.lenses.jacobian import JacobianLens
    from lenskit.lenses.lens import LogitLens
    from lenskit.lenses.tuned import TunedLens
    from lenskit.models.load import load

    if not (lens or jacobian or logit):
        raise typer.BadParameter("there is no lens to measure: give --lens or --jacobian, or leave out --no-logit.")
    loaded = load(model, revision=revision, dtype=dtype, device=device)
    lenses: dict[str, Lens] = {"logit": LogitLens(loaded)} if logit else {}
    lenses |= _named("tuned", [TunedLens.load(loaded, where) for where in lens or ()])
    lenses |= _named("jacobian", [JacobianLens.load(loaded, where) for where in jacobian or ()])
    with tqdm(total=100, desc="evaluating", unit="%") as bar:
        made = evaluating.evaluate(
            lenses,
            list(documents_in(texts, column)),
            tokens=tokens or None,
            chunk=chunk,
            transfer=transfer,
            marginals=marginals,
            progress=lambda share: bar.update(round(100 * share) - bar.n),
        )
    made.save(out)
    Console().print(_table(made))
    typer.echo(f"{made!r}: {out / 'aggregate_metrics.json'}, {out / 'report.html'}")


def _named(kind: str, given: Sequence[Lens]) -> dict[str, Lens]:
    """Lenses of a kind by name, numbered where they are several."""
    return {kind if len(given) == 1 else f"{kind} {n + 1}": each for n, each in enumerate(given)}


def _table(made: object) -> object:
    """The averages as a table of rich."""
    from rich import box
    from rich.table import Table

    from lenskit.lenses.evaluation import Evaluation

    assert isinstance(made, Evaluation)
    # In 80 columns headings are shortened, and no number is.
    table = Table(title=repr(made), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    numbers = made.to_pandas()
    for name in numbers.columns:
        if name in ("lens", "layer"):
            table.add_column(name)
        else:
            table.add_column(name.replace("_", " "), justify="right", min_width=5 if name == "depth" else 6)
    for row in numbers.itertuples(index=False):
        table.add_row(*(f"{x:.3f}" if isinstance(x, float) else str(x) for x in row))
    return table
