"""The feature browser: from the folder of an index of 24,576 features to its painted list, and what travels for it."""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

import lenskit as lk
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.transcoders.transcoder import Transcoder
from lenskit.widgets.feature_browser import FeatureBrowser
from tests.conftest import QUIET_CHROMIUM, find_chromium
from tests.models.tiny import CORPUS, tiny, tiny_tokenizer
from tests.widgets.feature_page import live_html
from tests.widgets.made_up import in_base64
from tests.widgets.view import built

FEATURES, TIMES, BOUND = 24_576, 9, 300
_D, _K = 32, 64

# From before the front-end is evaluated to the first task after the frame in which its rows have been painted: each
# message is decoded from bytes, as a kernel's is. What is asked is answered from what was made before.
MEASURE = """async ([source, replies]) => {
  const bytes = (s) => new DataView(Uint8Array.from(atob(s), (c) => c.charCodeAt(0)).buffer);
  const decoded = Object.fromEntries(Object.entries(replies).map(([kind, [m, b]]) => [kind, [m, b.map(bytes)]]));
  const afterPaint = () => new Promise((resolve) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(performance.now());
    port2.postMessage(null);
  }));
  const old = document.getElementById('lk-here');
  const el = old.cloneNode(false);
  old.replaceWith(el);
  await afterPaint();
  const asked = [];
  const listeners = {};
  const mine = {
    get: (name) => model.get(name), set() {}, save_changes() {},
    on: (event, f) => { (listeners[event] ??= []).push(f); }, off() {},
    send: (message) => {
      asked.push(message);
      queueMicrotask(() => {
        const [m, b] = decoded[message.kind];
        for (const f of listeners['msg:custom']) f({ ...m, id: message.id }, b);
      });
    },
  };
  const begun = performance.now();
  const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  const { default: widget } = await import(url);
  const end = await widget.render({ model: mine, el });
  await new Promise((resolve) => queueMicrotask(resolve));
  const painted = await afterPaint();
  const rows = el.querySelectorAll('.lk-f-row .lk-f-bars').length;
  end();
  URL.revokeObjectURL(url);
  return { ms: painted - begun, rows, asked: asked.map((m) => m.kind) };
}"""


class Opened(NamedTuple):
    """Medians in milliseconds, sizes in bytes, and how many rows there were and travelled."""

    python: float
    painted: float
    travelled: int
    rows: int
    sent: int
    bundle: int


def made(folder: Path) -> None:
    """An index of a dictionary of 24,576 features, of a tiny model: what is opened is as large as of a large one."""
    model = lk.Model(tiny("llama", vocab=300, layers=3), tiny_tokenizer(300), name="tiny")
    noise = torch.Generator().manual_seed(0)
    weight = torch.randn(FEATURES, _D, generator=noise) / _D**0.5
    basis = Transcoder(weight, None, weight, None, TopK(_K), reads=("mlp_in", 1), writes=("mlp_out", 1))
    FeatureIndex.build(model, basis, CORPUS * 40, folder, length=64, on_progress=lambda _: None)


def answers(folder: Path) -> tuple[dict[str, tuple[dict[str, Any], list[bytes]]], float, FeatureBrowser]:
    """What Python sends for the first picture, and how long it took from opening the folder on."""
    begun = time.perf_counter()
    view = FeatureBrowser(FeatureIndex.open(folder))
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    keep: Any = lambda content, buffers=None: sent.append((content, buffers or []))  # noqa: E731
    view.send = keep
    spec = view.spec
    question = {name: spec[name] for name in ("find", "by", "only", "pinned", "sort", "order")}
    feature = spec["selection"]["feature"]
    asked = {"v": 1, "id": "", **question, "prompt": None, "pos": None, "start": 0, "count": 64, "feature": feature}
    view._receive(view, {**asked, "kind": "rows"}, [])
    view._receive(view, {"v": 1, "kind": "card", "id": "", "feature": feature}, [])
    took = (time.perf_counter() - begun) * 1000
    rows, card = (each for each in sent if each[0].get("kind") in ("rows", "card"))
    return {"rows": rows, "card": card}, took, view


def measure() -> Opened:
    """Open it, make the first rows and the first card, and paint them: 9 times, the first two not counted."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        made(Path(folder))
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET_CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        python, painted, rows = [], [], 0
        replies, _, view = answers(Path(folder))
        page.set_content(live_html(view))
        page.wait_for_function("globalThis.sent?.length")
        source = built("feature_browser.js")
        for n in range(TIMES):
            replies, took, _ = answers(Path(folder))
            found = _paint(page, source, replies)
            if n >= 2:
                python.append(took)
                painted.append(found["ms"])
            rows = found["rows"]
        browser.close()
    travelled = sum(len(json.dumps(m)) + sum(map(len, b)) for m, b in replies.values())
    return Opened(
        statistics.median(python), statistics.median(painted), travelled, rows, _sent(replies["rows"][0]), len(source)
    )


def _paint(page: Page, source: str, replies: dict[str, tuple[dict[str, Any], list[bytes]]]) -> dict[str, Any]:
    found = page.evaluate(MEASURE, [source, {kind: [m, in_base64(b)] for kind, (m, b) in replies.items()}])
    assert sorted(set(found["asked"])) == ["card", "rows"]
    return found


def _sent(header: dict[str, Any]) -> int:
    return int(np.prod(header["arrays"][0]["shape"]))


def report() -> list[str]:
    """The lines that `make bench` prints."""
    if find_chromium() is None:
        return ["features: no Chromium here, not measured"]
    opened = measure()
    whole = opened.python + opened.painted
    mark = "ok  " if whole <= BOUND else "OVER"
    return [
        f"{mark} {FEATURES:,} features from the index's folder to the painted list: {whole:.0f} ms (at most {BOUND}), "
        f"of which in Python {opened.python:.0f} ms, in Chromium {opened.painted:.0f} ms, {opened.rows} rows",
        f"for it {opened.sent} rows and one card travel: {opened.travelled:,} bytes; "
        f"the front-end: {opened.bundle:,} bytes (at most 60,000)",
    ]
