"""In Chromium: how long from a table's arrival to its painting, and how much travels."""

import gc
import statistics
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import sync_playwright

from tests.conftest import QUIET_CHROMIUM, find_chromium
from tests.widgets.made_up import MadeUp, in_base64
from tests.widgets.view import CONNECT, STATIC, page_of

LAYERS, POSITIONS, TIMES = 30, 32, 20

# Painted: the first task after the frame in which the browser has laid out and painted what the message changed.
# Drawn: the same without the wait for that frame, which a 60 Hz screen lets come up to 16.7 ms later.
# Both tables differ in every cell and in their columns' widths, so that nothing can be kept.
MEASURE = """async ([replies, times]) => {
  const bytes = (s) => new DataView(Uint8Array.from(atob(s), (c) => c.charCodeAt(0)).buffer);
  const decoded = replies.map(([message, buffers]) => [message, buffers.map(bytes)]);
  const afterPaint = () => new Promise((resolve) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(performance.now());
    port2.postMessage(null);
  }));
  const root = document.querySelector('.lk-root');
  const [drawn, painted] = [[], []];
  for (let i = 0; i < times + 4; i++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    const [message, buffers] = decoded[i % 2];
    const start = performance.now();
    model.emit('msg:custom', { ...message, table: i + 2, id: `bench:${i}` }, buffers);
    root.getBoundingClientRect();
    const laidOut = performance.now();
    const end = await afterPaint();
    if (i < 4) continue;  // the first ones compile
    drawn.push(laidOut - start);
    painted.push(end - start);
  }
  return { drawn, painted };
}"""


class Paint(NamedTuple):
    """Medians in milliseconds, and sizes in bytes."""

    painted: float
    drawn: float
    reply: int
    bundle: int


def measure() -> Paint:
    """A table of 30 layers and 32 positions, replaced 20 times by one that differs everywhere."""
    prompts = [" ".join(["word"] * POSITIONS), " ".join(["other"] * POSITIONS)]
    made_up = MadeUp(layers=LAYERS)
    replies = [MadeUp(layers=LAYERS).reply({"id": "", "prompt": p, "target": None, "have": None}) for p in prompts]
    html = page_of(made_up, made_up.spec(prompts[0]), live=True).replace("<body>", f"<body>{CONNECT}", 1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET_CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 950})
        page.set_content(html)
        page.wait_for_function("globalThis.sent?.length")
        gc.collect()
        times = page.evaluate(MEASURE, [[[m, in_base64(b)] for m, b in replies], TIMES])
        browser.close()
    return Paint(
        painted=statistics.median(times["painted"]),
        drawn=statistics.median(times["drawn"]),
        reply=sum(len(buffer) for buffer in replies[0][1]),
        bundle=_size("lens_table.js"),
    )


def _size(name: str) -> int:
    return (Path(STATIC) / name).stat().st_size


def report() -> list[str]:
    """The lines that `make bench` prints."""
    if find_chromium() is None:
        return ["paint: no Chromium here, not measured"]
    paint = measure()
    return [
        f"table {LAYERS} x {POSITIONS} from its arrival to painted: {paint.painted:.1f} ms (at most 30), "
        f"of which drawn and laid out {paint.drawn:.1f} ms",
        f"its reply: {paint.reply:,} bytes of buffers; the front-end: {paint.bundle:,} bytes (at most 60,000)",
    ]
