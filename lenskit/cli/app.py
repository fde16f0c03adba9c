"""`lenskit`: the commands, each of which loads what it needs when it is called, so that `--help` is quick."""

from __future__ import annotations

import typer

from lenskit.cli.circuit import circuit
from lenskit.cli.jlens_fit import fit as fit_jlens
from lenskit.cli.lens_eval import evaluate
from lenskit.cli.lens_train import train
from lenskit.cli.transcoder_train import train as train_transcoder

app = typer.Typer(
    name="lenskit",
    help="Look inside a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
lens = typer.Typer(help="Lenses: what the middle of a model would say if it were the end.", no_args_is_help=True)
app.add_typer(lens, name="lens")
lens.command("train")(train)
lens.command("eval")(evaluate)
transcoder = typer.Typer(help="Sparse dictionaries: transcoders and autoencoders.", no_args_is_help=True)
app.add_typer(transcoder, name="transcoder")
transcoder.command("train")(train_transcoder)
jlens = typer.Typer(help="Jacobian lenses: what a state makes the model say, to first order.", no_args_is_help=True)
app.add_typer(jlens, name="jlens")
jlens.command("fit")(fit_jlens)
app.command("circuit")(circuit)


@app.callback()
def main() -> None:
    """Look inside a language model."""
