"""A trajectory is a value object: frozen arrays with names, a table, a figure and plain text."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.lenses.statistic import STATISTICS
from tests.models.tiny import tiny, tiny_tokenizer


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


@cache
def reading() -> lk.Trajectory:
    return lk.LogitLens(model()).read("The capital of France", target="t", versus="e")


def test_a_prompt_and_a_run_of_it_read_the_same() -> None:
    run = model().run("The capital of France", keep="resid_post")
    again = lk.LogitLens(model()).read(run, target="t")
    np.testing.assert_array_equal(again.entropy, reading().entropy)
    np.testing.assert_array_equal(again.top_ids, reading().top_ids)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_padded_batch_reads_as_it_does_alone(side: str) -> None:
    prompts = ["The capital of France", "The keys"]
    run = model().run(prompts, keep="resid_post", padding_side=side)  # pyright: ignore[reportArgumentType]
    for row, prompt in enumerate(prompts):
        read, alone = lk.LogitLens(model()).read(run, row=row), lk.LogitLens(model()).read(prompt)
        assert read.ids.tolist() == alone.ids.tolist()
        np.testing.assert_allclose(read.kl, alone.kl, atol=1e-4)


def test_a_batch_without_a_row_is_refused() -> None:
    run = model().run(["The capital", "The keys"], keep="resid_post")
    with pytest.raises(ValueError, match=r"this run has 2 prompts: say which to read with row=0 to row=1"):
        lk.LogitLens(model()).read(run)


def test_a_run_that_did_not_keep_the_site_is_refused() -> None:
    with pytest.raises(KeyError, match="'resid_post' was not kept"):
        lk.LogitLens(model()).read(model().run("The capital"))


def test_the_last_layer_is_the_model_s_own_prediction() -> None:
    logits = model().run("The capital of France").logits[0]
    np.testing.assert_allclose(reading().top_probs[-1], logits.softmax(-1).topk(10).values, atol=1e-6)
    assert (reading().kl[-1] == 0).all()
    default = lk.LogitLens(model()).read("The capital of France")
    assert default.target_ids.tolist() == logits.argmax(-1).tolist()
    assert (default.rank[-1] == 0).all()


def test_every_statistic_has_its_array_by_name() -> None:
    read = reading()
    assert read.shape == (3, len(read.ids))
    for name in STATISTICS:
        assert read.statistic(name).shape == read.shape  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(read.cross_entropy, -np.log(read.target_probability), rtol=1e-4)
    with pytest.raises(ValueError, match=r"'log_prob_difference' was not read: read again with versus="):
        lk.LogitLens(model()).read("The capital").statistic("log_prob_difference")
    with pytest.raises(ValueError, match=r"'surprise' is not a statistic. Statistics are: probability, entropy"):
        read.statistic("surprise")  # pyright: ignore[reportArgumentType]


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        reading().entropy[0, 0] = 1


def test_tokens_are_text_and_out_of_range_says_what_there_is() -> None:
    assert len(reading().tokens(layer=-1, pos=-1)) == 10
    assert all(isinstance(token, str) for token in reading().tokens(0, 0))
    with pytest.raises(IndexError, match=r"there are layers 0 to 2 and positions 0 to"):
        reading().tokens(layer=3, pos=0)


@pytest.mark.parametrize(
    ("target", "error"), [(300, "300 is no token"), ([1, 2], "2 targets for"), ("two words", "is not one token but")]
)
def test_a_wrong_target_is_refused(target: object, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        lk.LogitLens(model()).read("The capital of France", target=target)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("top_k", [0, 301])
def test_a_wrong_top_k_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k must be between 1 and the vocabulary's 300"):
        lk.LogitLens(model()).read("The capital", top_k=top_k)


def test_with_another_site_the_model_s_own_prediction_is_one_more_row() -> None:
    read = lk.LogitLens(model()).read("The capital of France", site="attn_out")
    assert read.layer_names == ["0", "1", "2", "final"]
    assert read[-1].layer_names == ["final"]
    np.testing.assert_array_equal(read.entropy[-1], reading().entropy[-1])


def test_a_part_holds_the_same_numbers_and_knows_where_it_was() -> None:
    read = reading()
    part = read[1:, -3:]
    assert part.layers.tolist() == [1, 2]
    assert part.positions.tolist() == list(range(len(read.ids) - 3, len(read.ids)))
    for name in STATISTICS:
        np.testing.assert_array_equal(part.statistic(name), read.statistic(name)[1:, -3:])  # pyright: ignore
    np.testing.assert_array_equal(part.top_ids, read.top_ids[1:, -3:])
    assert part.prompt_tokens == read.prompt_tokens[-3:]
    assert read[2].shape == (1, len(read.ids))
    assert read[[0, 2], 1].shape == (2, 1)
    assert read[::-1].layers.tolist() == [2, 1, 0]
    assert read.stride(2).layers.tolist() == [0, 2]
    assert lk.LogitLens(model()).read("The", site="resid_pre").stride(2).layer_names == ["1", "final"]
    with pytest.raises(ValueError, match="read-only"):
        part.entropy[0, 0] = 1
    with pytest.raises(IndexError):
        read[7]
    with pytest.raises(IndexError, match="nothing is left of 3 rows"):
        read[3:]


def test_the_input_tokens_are_left_out_if_asked() -> None:
    read = lk.LogitLens(model()).read("The capital of France", mask_input=True, top_k=20)
    assert not set(read.top_ids.ravel().tolist()) & set(read.ids.tolist())
    assert read.provenance["mask_input"] is True


def test_a_lens_reads_only_the_residual_stream() -> None:
    h = torch.ones(1, 32)
    assert lk.LogitLens(model()).transport(h, "resid_pre.2") is h
    for site in ("z", "mlp_in"):
        with pytest.raises(ValueError, match="a lens reads the residual stream or what is added to it"):
            lk.LogitLens(model()).transport(h, (site, 1))
        with pytest.raises(ValueError, match="a lens reads the residual stream or what is added to it"):
            lk.LogitLens(model()).read("The capital", site=site)


def test_to_pandas_has_one_row_for_each_cell() -> None:
    table = reading().to_pandas()
    assert len(table) == reading().entropy.size
    cell = table[(table.layer == 1) & (table.pos == 2)].iloc[0]
    assert cell.entropy == reading().entropy[1, 2]
    assert cell.top_token == reading().tokens(1, 2)[0]
    assert cell.target == "t"


@pytest.mark.parametrize("statistic", list(STATISTICS))
def test_the_figure_holds_the_statistic_and_the_tokens(statistic: str) -> None:
    figure = reading().figure(statistic)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(figure.data[0].z, reading().statistic(statistic))  # pyright: ignore
    assert reading().tokens(1, 2)[0].strip() in figure.data[0].text[1][2]  # pyright: ignore
    assert reading().tokens(1, 2)[9].strip() in figure.data[0].customdata[1][2]  # pyright: ignore
    assert "<extra></extra>" in figure.data[0].hovertemplate  # pyright: ignore[reportAttributeAccessIssue]


def test_several_statistics_are_panels_of_one_figure() -> None:
    figure = reading()[1:, 2:].figure("entropy", "log_prob_difference", clip=(-1, 1))
    heats: Any = figure.data
    assert [(heat.xaxis, heat.yaxis) for heat in heats] == [("x", "y"), ("x2", "y2")]
    assert all((heat.zmin, heat.zmax) == (-1, 1) for heat in heats)
    np.testing.assert_allclose(heats[1].z, reading().statistic("log_prob_difference")[1:, 2:])


def test_the_static_table_shows_hostile_tokens_as_text() -> None:
    hostile = "<img src=x onerror=alert(1)></script>"
    read = reading()
    pieces = dict.fromkeys(read.pieces, hostile)
    planted = lk.Trajectory(**{**vars(read), "pieces": pieces})
    html = planted._repr_html_()
    assert "<img" not in html
    assert "</script>" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<img" not in str(planted.figure().to_json())


def test_it_prints_one_line_that_is_the_same_each_time() -> None:
    again = lk.LogitLens(model()).read("The capital of France", target="t")
    assert repr(again) == repr(reading())
    assert repr(reading()).startswith("Trajectory(logit lens, 3 layers x ")
    assert "\n" not in repr(reading())
    assert reading().provenance["lens"] == "logit"
