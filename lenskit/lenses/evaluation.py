"""Evaluation: what was measured of lenses on a text, as a value that can be saved, tabled and drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors.torch import save_file

from lenskit.artifacts import whole_file, write_json

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.lenses.marginals import Marginals

Measure = Literal["ce", "kl", "entropy", "accuracy", "agreement"]

MEASURES: dict[str, str] = {
    "ce": "cross-entropy of the next token (nats)",
    "kl": "KL from the final prediction (nats)",
    "entropy": "entropy (nats)",
    "accuracy": "next token is the likeliest",
    "agreement": "likeliest token is the final one",
}
IN_NATS = ("ce", "kl", "entropy")


@dataclass(frozen=True, eq=False)
class PerLayer:
    """The averages of one lens over a text, for every row of a reading; the model's own prediction is the last.

    Attributes:
        site: what it reads in each layer.
        names: what each row is called.
        ce: cross-entropy of the token that follows, in nats.
        kl: KL(final || row), in nats.
        entropy: in nats.
        accuracy: the share of positions whose next token it holds likeliest.
        agreement: the share of positions at which it holds the same token likeliest as the model finally does.
    """

    site: str
    names: list[str]
    ce: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    accuracy: np.ndarray
    agreement: np.ndarray

    @property
    def depth(self) -> list[int]:
        """How many blocks each row has behind it, by which lenses of different sites can be drawn together."""
        after = 0 if self.site == "resid_pre" else 1
        layers = [int(name) for name in self.names if name != "final"]
        return [layer + after for layer in [*layers, len(layers)][: len(self.names)]]


@dataclass(frozen=True, eq=False)
class Transfer:
    """Every layer's lens on every layer's states: arrays are (lens's layer, states' layer), in nats.

    Attributes:
        names: the layers.
        ce: cross-entropy of the next token.
        kl: KL from the model's final prediction.
        tokens: on how many it was measured.
    """

    names: list[str]
    ce: np.ndarray
    kl: np.ndarray
    tokens: int

    @property
    def penalty(self) -> np.ndarray:
        """(lens's layer, states' layer) how much more cross-entropy there is than with the states' own lens."""
        return self.ce - np.diagonal(self.ce)[None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Lenses measured on one text.

    Attributes:
        lenses: the averages of each lens by its name.
        tokens: how many tokens were read.
        bytes_per_token: of the text; None where only ids were given.
        transfer: layer-transfer matrices by lens, where asked for.
        marginals: what each lens predicts on the whole, where asked for.
        provenance: model, revision, dtype, device, attention, edits, versions.
    """

    lenses: Mapping[str, PerLayer]
    tokens: int
    bytes_per_token: float | None
    transfer: Mapping[str, Transfer] = field(repr=False)
    marginals: Mapping[str, Marginals] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, lens: str) -> PerLayer:
        if lens not in self.lenses:
            raise KeyError(f"{lens!r} was not measured: {', '.join(self.lenses)} were.")
        return self.lenses[lens]

    @property
    def nats_to_bits_per_byte(self) -> float | None:
        """What nats per token are to be multiplied with for bits per byte of text; None where the text is not known."""
        return None if self.bytes_per_token is None else 1 / (math.log(2) * self.bytes_per_token)

    def bits_per_byte(self, lens: str) -> np.ndarray:
        """(row,) cross-entropy in bits per byte. Raises `ValueError` where only ids were given."""
        if self.nats_to_bits_per_byte is None:
            raise ValueError("bits per byte need the text: evaluate on texts, or on Chunks that know their bytes.")
        return self[lens].ce * self.nats_to_bits_per_byte

    def to_pandas(self) -> pd.DataFrame:
        """One row for each lens and layer."""
        import pandas as pd

        tables = []
        for name, each in self.lenses.items():
            table = {"lens": name, "layer": each.names, "depth": each.depth}
            table |= {measure: getattr(each, measure) for measure in MEASURES}
            if self.bytes_per_token is not None:
                table["bits_per_byte"] = self.bits_per_byte(name)
            if name in self.marginals:
                table["bias"] = self.marginals[name].bias.numpy()
            tables.append(pd.DataFrame(table))
        return pd.concat(tables, ignore_index=True)

    def as_dict(self) -> dict[str, Any]:
        """Everything that was measured as plain data, as tuned-lens orders it: lens, measure, layer. In nats."""
        made: dict[str, Any] = {
            "units": "nats",
            "tokens": self.tokens,
            "bytes_per_token": self.bytes_per_token,
            "nats_to_bits_per_byte": self.nats_to_bits_per_byte,
            "provenance": dict(self.provenance),
            "metrics": {},
        }
        for name, each in self.lenses.items():
            rows = each.names[:-1]
            made["metrics"][name] = {
                measure: {f"layer_{row}": float(x) for row, x in zip(rows, getattr(each, measure)[:-1], strict=True)}
                for measure in MEASURES
            }
            if name in self.marginals:
                bias = zip(rows, self.marginals[name].bias[:-1].tolist(), strict=True)
                made["metrics"][name]["bias"] = {f"layer_{row}": x for row, x in bias}
            own = ("ce", "entropy", "accuracy")
            made["metrics"]["baseline"] = {measure: {"final": float(getattr(each, measure)[-1])} for measure in own}
        for name, each in self.transfer.items():
            matrices = {"ce": each.ce.tolist(), "kl": each.kl.tolist()}
            made.setdefault("transfer", {})[name] = {"tokens": each.tokens, "layers": each.names, **matrices}
        return made

    def save(self, folder: str | Path) -> Path:
        """Write `aggregate_metrics.json`, `report.html` (which needs no network), and `marginals.safetensors`.

        The last holds, for each lens, the averages and the fitted Dirichlet of every row, where they were asked for.
        Older files of these names are replaced.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "aggregate_metrics.json") as scratch:
            write_json(scratch, self.as_dict())
        from lenskit.lenses.report import html

        with whole_file(folder / "report.html") as scratch:
            scratch.write_text(html(self), encoding="utf-8")
        if self.marginals:
            tensors = {key: x for name, each in self.marginals.items() for key, x in each.tensors(name).items()}
            with whole_file(folder / "marginals.safetensors") as scratch:
                save_file({key: x.contiguous() for key, x in tensors.items()}, scratch)
        return folder

    def figure(self, *measures: Measure) -> go.Figure:
        """A plotly figure with a panel for each measure, a line for each lens; all of them by default."""
        from lenskit.lenses.report import lines

        return lines(self, measures or tuple(MEASURES))

    def transfer_figure(self, measure: Literal["ce", "kl", "penalty"] = "ce") -> go.Figure:
        """A plotly heat map of each lens's transfer. Raises `ValueError` where it was not measured."""
        from lenskit.lenses.report import matrices

        if not self.transfer:
            raise ValueError("the transfer was not measured: evaluate with transfer=1024, in tokens.")
        return matrices(self, measure)

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(self.lenses)} lens on {self.tokens:,} tokens of {self.provenance['model']})"
