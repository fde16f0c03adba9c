"""Every architecture: its cells are one forward each, by whichever engine; and which one it takes, as a table."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engine import BATCHES, PACKED, Engine
from tests.models.architectures import DECODERS, build

ALL = bool(os.environ.get("LENSKIT_ALL_ARCHITECTURES"))
# With experts of many kinds, latent attention, state spaces, convolutions, shared keys, several streams, no causality.
SAMPLE = ["deepseek_v3", "qwen3_moe", "falcon", "gptj", "opt", "granite", "jamba", "zamba2", "qwen3_next", "llama4"]
SAMPLE += ["gemma3n_text", "bert"]
SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern", "mlp_post"]


def prompts() -> tuple[Tensor, Tensor]:
    clean, corrupt = torch.randint(3, 150, (2, 1, 12), generator=torch.Generator().manual_seed(3))
    return clean, corrupt


def cells_of(model: lk.Model, clean: Tensor) -> list[Cell]:
    """Early and late layers and positions of every site, with a clean run's activations."""
    cells = list[Cell]()
    for site in SITES:
        layers = model.anatomy.layers_of(site)
        for layer, pos in zip(sorted({*layers[:1], *layers[-1:]}), (2, 7), strict=False):
            value = model.run(clean, keep=(site, layer))[site, layer][0]
            part = value[:, pos : pos + 1] if site == "pattern" else value[pos : pos + 1]
            cells.append(Cell((Change(site, layer, (pos,), part),)))
    return cells


def surveyed(model_type: str) -> str | None:
    """Check some cells against lenskit's own edits, one forward each. Gives why rows are not packed, None if they are.

    None of `SITES` is compared where the architecture has none: then there are no cells, and "no sites" is the answer.
    """
    model = lk.Model(build(model_type))
    clean, corrupt = prompts()
    cells = cells_of(model, clean)
    if not cells:
        return "no site of its layers can be read"
    engine, read = Engine(model, corrupt), [9, 11]
    for chunk in engine.run(cells, read):
        for place, index in enumerate(chunk.indices if chunk is not None else ()):
            assert chunk is not None
            (change,) = cells[index].changes
            edit = lk.Set(change.site, change.value[None], layers=change.layer, pos=list(change.pos))
            end = ("resid_post", model.n_layers - 1)
            whole = chunk.ends.resid is not None
            run = model.run(corrupt, edits=edit, keep=end if whole else ())
            truth = run[end][0, read] if whole else run.logits[0, read]
            torch.testing.assert_close(chunk.ends.values[place], truth, atol=1e-4, rtol=1e-4)
    assert (engine.why is None) == (engine.name == PACKED)
    return engine.why


@pytest.mark.parametrize("model_type", DECODERS if ALL else SAMPLE)
def test_every_cell_is_one_forward(model_type: str) -> None:
    _found[model_type] = surveyed(model_type)


_found: dict[str, str | None] = {}


@pytest.mark.skipif(not ALL, reason="needs every architecture: make test-all")
def test_which_took_which(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        model_type: _found[model_type] if model_type in _found else surveyed(model_type) for model_type in DECODERS
    }
    packed = [name for name, why in found.items() if why is None]
    report: Any = request.config.pluginmanager.get_plugin("terminalreporter")
    with capsys.disabled():
        report.write_line(f"\n{PACKED}: {len(packed)} of {len(found)} architectures: {', '.join(packed)}")
        report.write_line(f"{BATCHES}:")
        for name, why in found.items():
            if why is not None:
                report.write_line(f"  {name}: {why}")
    assert len(packed) >= 100
