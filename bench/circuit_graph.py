"""The circuit graph in Chromium: from its front-end's source to the painted picture, from a pointer to lit links."""

import json
import statistics
import time
from typing import Any, NamedTuple

from playwright.sync_api import sync_playwright

from lenskit.circuits.graph import Graph
from lenskit.widgets.circuit_graph import CircuitGraph
from lenskit.widgets.circuit_wire import MOST_EDGES, MOST_NODES
from tests.circuits.graphs import random_graph
from tests.conftest import QUIET_CHROMIUM, find_chromium
from tests.widgets.circuit_page import live_html
from tests.widgets.made_up import in_base64
from tests.widgets.view import built

TIMES, HOVERS, SLIDES, PAINTED, HOVERED, PRUNED = 9, 60, 20, 300, 16, 33

# Painted: what is drawn on a canvas is drawn indeed (a pixel of it is read back), and the first task after the frame in
# which the browser has laid out and painted all else has begun. A browser hears of a moved pointer at the beginning of
# a frame, and so each move here is made there. Neighbouring moves are to nodes far from each other.
MEASURE = """async ([source, graph, hovers, slides]) => {
  const [message, buffers] = graph;
  const decoded = buffers.map((s) => new DataView(Uint8Array.from(atob(s), (c) => c.charCodeAt(0)).buffer));
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const drawn = (which) => {
    for (const canvas of document.querySelectorAll(which)) canvas.getContext('2d').getImageData(0, 0, 1, 1);
  };
  const task = () => new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(performance.now());
    port2.postMessage(null);
  });
  const old = document.getElementById('lk-here');
  const el = old.cloneNode(false);
  old.replaceWith(el);
  await frame();
  await task();
  const listeners = {};
  const mine = {
    get: (name) => model.get(name), set() {}, save_changes() {},
    on: (event, f) => { (listeners[event] ??= []).push(f); }, off() {},
    send: ({ kind, id }) => {
      if (kind !== 'graph') throw new Error(`it asked for ${kind}`);
      queueMicrotask(() => { for (const f of listeners['msg:custom']) f({ ...message, id }, decoded); });
    },
  };
  const begun = performance.now();
  const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  const { default: widget } = await import(url);
  const end = await widget.render({ model: mine, el });
  await new Promise((resolve) => queueMicrotask(resolve));
  await frame();
  drawn('canvas');
  const painted = (await task()) - begun;
  const counts = [...el.querySelectorAll('.lk-c-count')].map((each) => each.textContent);
  const sheet = el.querySelector('.lk-c-sheet');
  const { left, top, width, height } = sheet.getBoundingClientRect();
  const [heard, lit, told] = [[], [], []];
  const title = el.querySelector('.lk-c-head .lk-f-title');
  let [x, y] = [0.5, 0.5];
  for (let tries = 0; lit.length < hovers && tries < 100 * hovers; tries++) {
    [x, y] = [(x + 0.7548776662466927) % 1, (y + 0.5698402909980532) % 1];  // evenly over the picture
    const [clientX, clientY] = [left + 48 + x * (width - 48), top + 30 + y * (height - 30)];
    await frame();
    const before = title.textContent;
    const moved = performance.now();
    sheet.dispatchEvent(new PointerEvent('pointermove', { clientX, clientY, pointerType: 'mouse' }));
    const after = performance.now();
    drawn('.lk-c-lighting');
    const shown = await task();
    if (!sheet.classList.contains('lk-c-on')) continue;  // it met no node
    heard.push(after - moved);
    lit.push(shown - moved);
    for (let frames = 0; title.textContent === before && frames < 60; frames++) await frame();
    told.push((await task()) - moved);
  }
  const slid = [];
  const slider = el.querySelector('input[type=range]');
  for (let i = 0; i < slides; i++) {
    slider.value = String(1 - (i + 1) / 100);
    await frame();
    const moved = performance.now();
    slider.dispatchEvent(new Event('input'));
    drawn('canvas');
    slid.push((await task()) - moved);
  }
  end();
  URL.revokeObjectURL(url);
  return { painted, counts, heard, lit, told, slid };
}"""


class Drawn(NamedTuple):
    """Medians in milliseconds, and sizes in bytes."""

    python: float
    painted: float
    heard: float
    lit: float
    slowest: float
    told: float
    slid: float
    travelled: int
    bundle: int


def largest() -> Graph:
    """A graph of which a view draws as much as it ever does: all of that has some influence, and is drawn at 100 %."""
    return random_graph(0, nodes=2400, edges=30_000, tokens=12, n_layers=26, targets=4)


def answer(graph: Graph) -> tuple[tuple[dict[str, Any], list[bytes]], float, CircuitGraph]:
    """What Python sends of it, and how long that took from making the view on."""
    begun = time.perf_counter()
    view = CircuitGraph(graph, prune=(1.0, 1.0))
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    keep: Any = lambda content, buffers=None: sent.append((content, buffers or []))  # noqa: E731
    view.send = keep
    view._receive(view, {"v": 1, "kind": "graph", "id": ""}, [])
    return sent[-1], (time.perf_counter() - begun) * 1000, view


def measure() -> Drawn:
    """Draw all of it 9 times, the first two not counted, and then move the pointer to 60 of its nodes, and a slider."""
    graph, source = largest(), built("circuit_graph.js")
    (message, buffers), _, view = answer(graph)
    python = [answer(largest())[1] for _ in range(3)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET_CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_content(live_html(view))
        page.wait_for_selector(".lk-root")
        given = [source, [message, in_base64(buffers)]]
        asked = [(0, 0)] * (TIMES - 1) + [(HOVERS, SLIDES)]
        found = [page.evaluate(MEASURE, [*given, *each]) for each in asked][2:]
        browser.close()
    wanted = [f"{most:,} of {most:,}" for most in (MOST_NODES, MOST_EDGES)]
    assert all(each["counts"] == wanted for each in found), found[-1]["counts"]
    heard, lit, told, slid = (found[-1][name] for name in ("heard", "lit", "told", "slid"))
    assert len(lit) == HOVERS, f"the pointer met {len(lit)} nodes"
    travelled = len(json.dumps(message)) + sum(map(len, buffers))
    painted = statistics.median(each["painted"] for each in found)
    middle = statistics.median
    hovered = (middle(heard), middle(lit), max(lit), middle(told))
    return Drawn(middle(python), painted, *hovered, middle(slid), travelled, len(source.encode()))


def report() -> list[str]:
    """The lines that `make bench` prints."""
    if find_chromium() is None:
        return ["circuit graph: no Chromium here, not measured"]
    drawn = measure()

    def mark(value: float, bound: float) -> str:
        return "ok  " if value <= bound else "OVER"

    return [
        f"{mark(drawn.painted, PAINTED)} {MOST_NODES:,} nodes and {MOST_EDGES:,} edges, from before the front-end is "
        f"evaluated to painted: {drawn.painted:.0f} ms (at most {PAINTED}); in Python before {drawn.python:.0f} ms",
        f"{mark(drawn.lit, HOVERED)} from a moved pointer to what it meets lit up and painted: {drawn.lit:.1f} ms "
        f"(at most {HOVERED}), of which {drawn.heard:.1f} ms until all is told to the canvas; "
        f"the slowest of {HOVERS}: {drawn.slowest:.1f} ms; "
        f"the detail beside the picture tells of it after {drawn.told:.0f} ms, once the pointer rests",
        f"{mark(drawn.slid, PRUNED)} from a moved slider to the graph pruned, laid out and painted anew: "
        f"{drawn.slid:.1f} ms (at most {PRUNED}: 30 frames a second), from 99 % down to {100 - SLIDES} %",
        f"for it {drawn.travelled:,} bytes travel; the front-end: {drawn.bundle:,} bytes (at most 60,000)",
    ]
