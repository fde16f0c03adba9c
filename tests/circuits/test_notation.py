"""Paths as text: written as people read them, and read back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.circuits.along_paths.notation import Path, Step

NUMBERS = st.integers(0, 10**6)
LAYERS = st.integers(0, 200)
POSITIONS = st.integers(-(10**5), 10**5)
NONE = st.just(-1)
GIVEN = st.floats(-1e300, 1e300) | st.just(math.nan)


def steps() -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(Step, st.just("tc"), LAYERS, NUMBERS, POSITIONS, GIVEN, NONE),
        st.builds(Step, st.just("neuron"), LAYERS, NUMBERS, POSITIONS, GIVEN, NONE),
        st.builds(Step, st.just("attn"), LAYERS, NUMBERS, POSITIONS, GIVEN, NONE),
        st.builds(Step, st.sampled_from(["mlp", "skip", "error"]), LAYERS, NONE, POSITIONS, GIVEN, NONE),
        st.builds(Step, st.sampled_from(["embed", "bias", "pruned"]), NONE, NONE, POSITIONS, GIVEN, NONE),
        st.builds(Step, st.just("logit"), NONE, NUMBERS, POSITIONS, GIVEN, NUMBERS | NONE),
    )


PATHS = st.lists(steps(), min_size=1, max_size=6).map(lambda each: Path(tuple(each)))


@given(PATHS)
def test_a_path_is_read_back(path: Path) -> None:
    exact = Path.parse(path.notation(17))
    assert exact.places == path.places
    for read, step in zip(exact.steps, path.steps, strict=True):
        assert read.contribution == step.contribution or (
            math.isnan(read.contribution) and math.isnan(step.contribution)
        )


@given(PATHS)
def test_the_short_form_loses_digits_only_and_none_the_second_time(path: Path) -> None:
    short = Path.parse(str(path))
    assert short.places == path.places
    assert str(short) == str(path)
    for read, step in zip(short.steps, path.steps, strict=True):
        if not math.isnan(step.contribution):
            assert read.contribution == pytest.approx(step.contribution, rel=0.051, abs=1e-320)


def test_the_notation_is_that_of_transcoder_circuits() -> None:
    text = "mlp8tc[89]@-1: 7.6 <- attn2[2]@8: 0.35 <- mlp0tc[10490]@8: 0.17"
    path = Path.parse(text)
    assert str(path) == text
    assert path.steps == (
        Step("tc", 8, 89, -1, 7.6),
        Step("attn", 2, 2, 8, 0.35),
        Step("tc", 0, 10490, 8, 0.17),
    )
    assert Path.parse("mlp8tc[89]@-1:7.6<-embed0@8: 2e-3") == Path(
        (Step("tc", 8, 89, -1, 7.6), Step("embed", -1, -1, 8, 0.002))
    )


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step("logit", -1, 7042, 11, 19.0), "logit[7042]@11: 19"),
        (Step("logit", -1, 7042, 11, 1.5, 2405), "logit[7042-2405]@11: 1.5"),
        (Step("neuron", 13, 0, 3, -0.68), "mlp13neuron[0]@3: -0.68"),
        (Step("mlp", 12, -1, 7, 123.4), "mlp12@7: 123"),
        (Step("skip", 12, -1, 7), "mlp12skip@7"),
        (Step("error", 0, -1, 0, 0.0), "mlp0error@0: 0.0"),
        (Step("bias", -1, -1, 7, 1e-8), "bias@7: 1e-08"),
        (Step("pruned", -1, -1, 7, 2e9), "pruned@7: 2e+09"),
    ],
)
def test_each_kind_of_step_has_its_name(step: Step, text: str) -> None:
    assert str(step) == text
    assert Step.parse(text).place == step.place


def test_negative_positions_are_counted_from_the_end() -> None:
    path = Path.parse("mlp8tc[89]@-1 <- attn2[2]@-12 <- embed@0")
    assert [step.pos for step in path.resolved(12).steps] == [11, 0, 0]
    with pytest.raises(IndexError, match=r"position -12 of attn2\[2\]@-12 does not exist: there are 8 tokens"):
        path.resolved(8)
    with pytest.raises(IndexError, match="position 8"):
        Path.parse("embed@8").resolved(8)


@pytest.mark.parametrize(
    "text",
    ["", "mlp8tc@7", "mlp8tc[]@7", "mlp[3]@7", "attn2@8", "attn2[2]",
     "mlp8tc[89]@7: a", "embed3@7", "<script>@1", "tc[1]@2"],
)  # fmt: skip
def test_what_is_no_path_is_refused_with_the_step(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no (step|number)"):
        Path.parse(f"mlp8tc[89]@7: 7.6 <- {text}")
    with pytest.raises(ValueError, match="one step at least"):
        Path(())
