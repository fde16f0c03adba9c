"""What is measured of lenses on a text equals a naive float64 computation over whole distributions."""

import copy
import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lenskit as lk
from lenskit.data import Chunks
from lenskit.lenses.evaluate import evaluate
from lenskit.lenses.evaluation import MEASURES, Evaluation
from lenskit.lenses.lens import Lens
from lenskit.lenses.reading import rows_of
from tests.lenses.affine import AffineLens
from tests.models.tiny import tiny, tiny_tokenizer

FAMILIES = ["llama", "gemma2", "granite"]
IDS = torch.randint(0, 300, (5, 12), generator=torch.Generator().manual_seed(0))


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family, vocab=300), tiny_tokenizer(300), name=f"tiny {family}")


@cache
def evaluated(family: str) -> Evaluation:
    lenses = [lk.LogitLens(model(family)), AffineLens(model(family))]
    return evaluate(lenses, IDS, chunk=12, transfer=10_000, marginals=True)


@cache
def naive(family: str, kind: type, layer: int | None = None) -> Tensor:
    """Log-probabilities (row, chunk, pos, vocab) in float64; with `layer`, of that layer's lens on all states."""
    double = lk.Model(copy.deepcopy(model(family).hf_model).double())
    lens: Lens = kind(double)
    run = double.run(IDS, keep=lens.site)
    rows = rows_of(lens)[:-1]
    with torch.no_grad():
        carried = [lens.transport(run[site], site if layer is None else (lens.site, layer)) for site in rows]
        return torch.stack([*map(double.unembed, carried), run.logits]).log_softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [lk.LogitLens, AffineLens])
def test_every_average_agrees_with_float64(family: str, kind: type) -> None:
    logp, made = naive(family, kind), evaluated(family)[kind.name]
    p, final = logp.exp(), logp[-1]
    following = IDS[:, 1:]
    own = logp[:, :, :-1].gather(-1, following[None, ..., None].expand(len(logp), -1, -1, 1))[..., 0]
    np.testing.assert_allclose(made.ce, -own.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(made.kl, (final.exp() * (final - logp)).sum(-1).mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(made.entropy, -(p * logp).sum(-1).mean((1, 2)), atol=1e-5)
    right = (logp.argmax(-1)[:, :, :-1] == following).double().mean((1, 2))
    np.testing.assert_allclose(made.accuracy, right, atol=1e-9)
    agree = (logp.argmax(-1) == final.argmax(-1)).double().mean((1, 2))
    np.testing.assert_allclose(made.agreement, agree, atol=1e-9)
    assert made.names[-1] == ("final" if kind is AffineLens else "2")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_transfer_matrix_is_each_layer_s_lens_on_each_layer_s_states(family: str) -> None:
    made = evaluated(family).transfer["affine"]
    assert made.ce.shape == (3, 3)
    for layer in range(3):
        logp = naive(family, AffineLens, layer)[:-1]
        final = naive(family, AffineLens)[-1]
        own = logp[:, :, :-1].gather(-1, IDS[None, :, 1:, None].expand(3, -1, -1, 1))[..., 0]
        np.testing.assert_allclose(made.ce[layer], -own.mean((1, 2)), atol=1e-5)
        np.testing.assert_allclose(made.kl[layer], (final.exp() * (final - logp)).sum(-1).mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(np.diagonal(made.ce), evaluated(family)["affine"].ce[:-1], atol=1e-6)
    assert (np.diagonal(made.penalty) == 0).all()
    logit = evaluated(family).transfer["logit"]  # which is the same in the name of every layer
    np.testing.assert_allclose(logit.kl, np.tile(evaluated(family)["logit"].kl[:-1], (2, 1)), atol=1e-6)
    assert evaluate(AffineLens(model(family)), IDS, chunk=12, transfer=7).transfer["affine"].tokens == 7


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [lk.LogitLens, AffineLens])
def test_the_marginals_are_averages_of_whole_distributions(family: str, kind: type) -> None:
    logp, made = naive(family, kind).flatten(1, 2), evaluated(family).marginals[kind.name]
    assert made.tokens == IDS.numel()
    np.testing.assert_allclose(made.mean, logp.exp().mean(1), atol=1e-6)
    np.testing.assert_allclose(made.mean_log, logp.mean(1), atol=1e-5)
    mean = logp.exp().mean(1)
    np.testing.assert_allclose(made.bias, (mean[-1] * (mean[-1].log() - mean.log())).sum(-1), atol=1e-5)
    table = made.top(model(family), row=0, k=5)
    assert table.probability.is_monotonic_decreasing
    assert list(table.columns) == ["token", "probability", "final"]


def test_text_is_cut_into_chunks_limited_and_reported_in_bits_per_byte() -> None:
    text = "The capital of France is Paris. " * 40
    made = evaluate(lk.LogitLens(model("llama")), text, chunk=16, tokens=64)
    assert made.tokens == 64
    assert made.bytes_per_token is not None
    expected = made["logit"].ce / np.log(2) / made.bytes_per_token
    np.testing.assert_allclose(made.bits_per_byte("logit"), expected)
    assert "bits_per_byte" in made.to_pandas()
    with pytest.raises(ValueError, match="bits per byte need the text"):
        evaluated("llama").bits_per_byte("logit")
    chunks = evaluate(lk.LogitLens(model("llama")), Chunks(IDS, 4.0))
    np.testing.assert_allclose(chunks["logit"].ce, evaluated("llama")["logit"].ce, atol=1e-6)
    assert chunks.nats_to_bits_per_byte == pytest.approx(1 / np.log(2) / 4)


def test_it_is_saved_as_plain_data_and_a_page(tmp_path) -> None:
    made = evaluated("llama")
    made.save(tmp_path / "eval")
    read = json.loads((tmp_path / "eval" / "aggregate_metrics.json").read_text())
    for name, each in made.lenses.items():
        for measure in MEASURES:
            values = read["metrics"][name][measure]
            np.testing.assert_allclose([values[f"layer_{row}"] for row in each.names[:-1]], getattr(each, measure)[:-1])
    assert read["metrics"]["baseline"]["ce"]["final"] == pytest.approx(made["logit"].ce[-1])
    assert read["tokens"] == 60
    assert read["units"] == "nats"
    np.testing.assert_allclose(read["transfer"]["affine"]["ce"], made.transfer["affine"].ce)
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "Lens evaluation" in page
    outside_of_scripts = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert "src=" not in outside_of_scripts
    assert "href=" not in outside_of_scripts
    tensors = load_file(tmp_path / "eval" / "marginals.safetensors")
    torch.testing.assert_close(tensors["affine.dirichlet"][1], made.marginals["affine"].dirichlet(1))


def test_the_figures_hold_the_measures() -> None:
    made = evaluated("llama")
    traces: Any = made.figure("ce", "kl").data
    drawn = {(line.legendgroup, line.yaxis): line for line in traces}
    np.testing.assert_allclose(drawn["affine", "y2"].y, made["affine"].kl)
    assert list(drawn["logit", "y"].x) == [1, 2, 3]  # what leaves a block has that block behind it
    assert list(drawn["affine", "y"].x) == [0, 1, 2, 3]
    np.testing.assert_allclose(made.transfer_figure("penalty").data[1].z, made.transfer["affine"].penalty)  # pyright: ignore
    table = made.to_pandas()
    assert len(table) == 3 + 4
    assert set(MEASURES) <= set(table.columns)
    assert repr(made) == "Evaluation(logit, affine lens on 60 tokens of tiny llama)"


def test_what_cannot_be_measured_together_is_refused() -> None:
    lens = lk.LogitLens(model("llama"))
    with pytest.raises(ValueError, match="one name: logit, logit"):
        evaluate([lens, lk.LogitLens(model("llama"))], IDS)
    both = evaluate({"a": lens, "b": lens}, IDS)
    np.testing.assert_array_equal(both["a"].ce, both["b"].ce)
    with pytest.raises(ValueError, match="different models"):
        evaluate({"a": lens, "b": lk.LogitLens(model("granite"))}, IDS)
    with pytest.raises(ValueError, match="there is no lens"):
        evaluate([], IDS)
    with pytest.raises(KeyError, match="'tuned' was not measured: logit, affine were"):
        evaluated("llama")["tuned"]
    with pytest.raises(ValueError, match="the transfer was not measured"):
        both.transfer_figure()
