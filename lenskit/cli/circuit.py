"""`lenskit circuit`: the features that made an answer, as a table, a graph to keep, a page, and for other viewers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from rich.table import Table

    from lenskit.circuits.graph import Graph

_ROWS = 20


def circuit(
    model: Annotated[str, Argument(help="What lenskit.load takes: demo, a folder, a .gguf file, a name on the hub.")],
    prompt: Annotated[str, Argument(help="The text whose next token is explained.")],
    transcoders: Annotated[
        list[str] | None,
        Option("--transcoders", "-t", help="Dictionaries: demo, a file, a folder or a name. May be repeated."),
    ] = None,
    target: Annotated[
        list[str] | None, Option(help="The token that is explained, or several; by default the likeliest ones.")
    ] = None,
    versus: Annotated[str | None, Option(help="Another token: the difference to it is explained.")] = None,
    features: Annotated[int, Option(help="How many features are explained at most.")] = 512,
    out: Annotated[Path | None, Option("--out", "-o", help="Keep the whole graph in this .safetensors file.")] = None,
    json: Annotated[Path | None, Option(help="Write it, pruned, as a .json file that other viewers read.")] = None,
    html: Annotated[Path | None, Option(help="Write it as one page that can be explored offline.")] = None,
    revision: Annotated[str | None, Option(help="Of the model on the hub.")] = None,
    dtype: Annotated[str | None, Option(help="Of the model's weights, such as bfloat16.")] = None,
    device: Annotated[str | None, Option(help="Where to put the model, such as cuda.")] = None,
) -> None:
    """Explain an answer: the graph of the features that made it, of dictionaries or, without any, of MLP neurons."""
    from rich.console import Console
    from tqdm.auto import tqdm

    from lenskit.circuits.attributing.asking import attribute
    from lenskit.models.load import load
    from lenskit.transcoders.transcoder import Transcoder

    for path, suffix in ((out, ".safetensors"), (json, ".json")):
        if path is not None and path.suffix != suffix:
            raise typer.BadParameter(f"{path} should end in {suffix}.")
    if versus is not None and len(target or ()) != 1:
        raise typer.BadParameter("--versus is compared with one target: say which, --target.")
    loaded = load(model, revision=revision, dtype=dtype, device=device)
    dictionaries = [each for where in transcoders or () for each in Transcoder.load_all(where, loaded)]
    with tqdm(total=features, desc="explaining", unit="feature") as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        asked = target[0] if target and len(target) == 1 else target or None
        graph = attribute(loaded, prompt, dictionaries, asked, versus=versus, features=features, progress=progress)
    Console().print(_table(graph))
    small = graph.pruned()
    typer.echo(f"pruned: {small!r}, completeness {small.completeness_score:.2f}")
    if out is not None:
        typer.echo(f"the whole graph: {graph.save(out)}")
    if json is not None:
        typer.echo(f"for other viewers: {small.to_json(json, slug=json.stem)}")
    if html is not None:
        from lenskit.widgets.circuit_graph import CircuitGraph

        CircuitGraph(graph).to_html(html)
        typer.echo(f"to explore: {html}")


def _table(graph: Graph) -> Table:
    """The most influential nodes as a table of rich. What comes from the model is text, never rich's markup."""
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from lenskit.circuits.graph import LOGIT
    from lenskit.circuits.influence import shares

    table = Table(title=Text(repr(graph)))
    for name in ("node", "token", "influence", "activation", "mostly through"):
        table.add_column(name, justify="right" if name in ("influence", "activation") else "left")
    handed = shares(graph.wires) * graph.influence[graph.target]
    order = np.argsort(-graph.influence, kind="stable")
    for n in order[(graph.kind[order] != LOGIT) & (graph.influence[order] > 0)][:_ROWS].tolist():
        activation = float(graph.activation[n])
        edge = int(np.where(graph.source == n, handed, -1.0).argmax())
        through = graph.nodes[graph.target[edge]]
        table.add_row(
            str(graph.nodes[n]),
            Text(repr(graph.pieces[graph.pos[n]])),
            f"{graph.influence[n]:.3f}",
            "" if np.isnan(activation) else f"{activation:.3f}",
            Text(f"{repr(graph.name(through)) if through.kind == 'logit' else through}: {graph.weight[edge]:+.3f}"),
        )
    return table
