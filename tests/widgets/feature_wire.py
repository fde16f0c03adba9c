"""What a view of the feature browser would say and hear, for tests of its Python half."""

from functools import cache
from typing import Any

import numpy as np

from lenskit.models.steps import finish
from lenskit.transcoders.live import Fired
from lenskit.widgets import FeatureBrowser
from tests.widgets.made_up_features import PROMPT, index, model

LIST = {
    "find": "", "by": "promotes", "only": "all", "pinned": [], "sort": "density", "order": "down", "prompt": None,
    "pos": None, "start": 0, "count": 20, "feature": None,
}  # fmt: skip
DTYPES = {"int32": "<i4", "uint8": "u1", "uint16": "<u2", "float32": "<f4"}


class Wire:
    """What a view would say and hear."""

    def __init__(self, view: Any) -> None:
        self.view = view
        self.replies: list[tuple[dict[str, Any], list[bytes]]] = []
        keep: Any = lambda content, buffers=None: self.replies.append((content, buffers or []))  # noqa: E731
        view.send = keep

    def say(self, kind: str, identity: str = "t:1", **fields: Any) -> None:
        self.view._receive(self.view, {"v": 1, "kind": kind, "id": identity, **fields}, [])

    def ask(self, kind: str, **fields: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        self.say(kind, **fields)
        return opened(*self.replies[-1])

    def kinds(self) -> list[tuple[str, str]]:
        return [(reply["id"], reply["kind"]) for reply, _ in self.replies if "id" in reply]


def opened(header: dict[str, Any], buffers: list[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {
        entry["name"]: np.frombuffer(buffer, DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for entry, buffer in zip(header.get("arrays", []), buffers, strict=True)
    }
    return header, arrays


def browser(**more: Any) -> FeatureBrowser:
    return FeatureBrowser(index(), model(), PROMPT, **more)


@cache
def fired_on_prompt() -> Fired:
    return finish(browser()._live.read(PROMPT))


def strongest() -> int:
    """The neuron that is strongest on the prompt."""
    features, peaks = fired_on_prompt().peaks()
    return int(features[peaks.argmax()])


def hooks() -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model().hf_model.modules())
