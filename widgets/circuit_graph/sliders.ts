// The two thresholds of pruning: how much of the nodes' influence is shown, and how much of the edges' between them.
import { make, set } from "../shared/dom.ts";
import { whole } from "../shared/numbers.ts";

export type Threshold = "nodes" | "edges";
const [LOW, HIGH] = [0.05, 1];
/** Where the thresholds stand if nobody moved them. */
const USUAL: Record<Threshold, number> = { nodes: 0.8, edges: 0.98 };

export class Slider {
  readonly element: HTMLElement;
  readonly input = make("input", "lk-f-slider");
  readonly #share = make("output", "lk-c-share");
  readonly #count = make("span", "lk-f-quiet lk-c-count");

  constructor(of: Threshold, changed: (to: number) => void, signal: AbortSignal) {
    set(this.input, { type: "range", min: LOW, max: HIGH, step: 0.01, "aria-label": `share of the influence of the ${of} that is shown` });
    this.input.style.setProperty("--lk-f-neutral", `${(100 * (USUAL[of] - LOW)) / (HIGH - LOW)}%`);
    this.input.addEventListener("input", () => changed(Number(this.input.value)), { signal });
    this.input.addEventListener("keydown", (event) => /^(Arrow|Page|Home|End)/.test(event.key) && event.stopPropagation(), { signal });
    this.element = make("label", "lk-switch lk-c-slider", make("span", "lk-caption", of), this.input, this.#share, this.#count);
  }

  show(value: number, shown: number, all: number): void {
    this.input.value = String(value);
    this.#share.textContent = `${Math.round(100 * value)} %`;
    this.#count.textContent = `${whole(shown)} of ${whole(all)}`;
    this.input.setAttribute("aria-valuetext", `${Math.round(100 * value)} percent, ${whole(shown)} of ${whole(all)}`);
  }
}
