"""Filters of steps and of parts of paths."""

import pytest
from hypothesis import given

from lenskit.circuits.along_paths.notation import Path, Step
from lenskit.circuits.along_paths.path_filters import StepFilter, contains, ends_in
from tests.circuits.test_notation import steps

PATH = Path.parse("mlp8tc[89]@7: 7.6 <- attn2[3]@4: 0.35 <- mlp0tc[3]@4: 0.17 <- embed@4: 0.1")
FEATURE, HEAD, EARLY, EMBED = PATH.steps


@pytest.mark.parametrize(
    ("only", "matched"),
    [
        (StepFilter(), [FEATURE, HEAD, EARLY, EMBED]),
        (StepFilter(component="tc"), [FEATURE, EARLY]),
        (StepFilter(component=("attn", "embed")), [HEAD, EMBED]),
        (StepFilter(layer=2), [HEAD]),
        (StepFilter(layer=range(3)), [HEAD, EARLY]),
        (StepFilter(pos={4, 5}), [HEAD, EARLY, EMBED]),
        (StepFilter(pos=-1), [FEATURE]),
        (StepFilter(head=3), [HEAD]),
        (StepFilter(feature=3), [EARLY]),
        (StepFilter(feature=[3, 89], layer=range(5, 9)), [FEATURE]),
        (StepFilter(head=3, feature=3), []),
        (~StepFilter(component="tc"), [HEAD, EMBED]),
        (~StepFilter(head=range(8)), [FEATURE, EARLY, EMBED]),
        (~~StepFilter(layer=2), [HEAD]),
    ],
)
def test_a_filter_names_some_steps(only: StepFilter, matched: list[Step]) -> None:
    assert [step for step in PATH.steps if only.matches(step, 8)] == matched


@given(steps())
def test_a_step_is_one_of_the_steps_or_one_of_the_others(step: Step) -> None:
    for only in (StepFilter(component=step.component), StepFilter(layer=step.layer, pos=step.pos)):
        assert only.matches(step)
        assert not (~only).matches(step)
    assert not StepFilter(layer=step.layer + 1).matches(step)
    assert StepFilter(head=step.number).matches(step) == (step.component == "attn")
    assert StepFilter(feature=step.number).matches(step) == (step.component in ("tc", "neuron"))


def test_positions_are_counted_from_either_end_where_the_length_is_known() -> None:
    last = StepFilter(pos=-1)
    assert last.matches(FEATURE, 8)
    assert not last.matches(FEATURE, 9)
    assert StepFilter(pos=7).matches(Step.parse("mlp8tc[89]@-1"), 8)
    assert not StepFilter(pos=-9).matches(FEATURE, 8)  # the prompt has no such position


def test_parts_of_paths_are_found_wherever_they_are() -> None:
    tc, attn, embed = (StepFilter(component=name) for name in ("tc", "attn", "embed"))
    # The first tc is not followed by an embedding, and the second one is.
    for part in ([attn, tc], [tc, embed], [tc, attn, tc, embed], []):
        assert contains(PATH, part, 8)
    for part in ([tc, tc], [attn, embed], [embed, tc], [StepFilter()] * 5):
        assert not contains(PATH, part, 8)
    for part in ([embed], [tc, embed], [StepFilter(layer=0, feature=3, pos=-4), embed]):
        assert ends_in(PATH, part, 8)
    for part in ([tc], [tc, attn], [StepFilter()] * 5):
        assert not ends_in(PATH, part, 8)


def test_a_component_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="component 'head' does not exist: components are logit, tc"):
        StepFilter(component="head")  # pyright: ignore[reportArgumentType] -- refused for this
