// The scale, always drawn, its two ends in real units, with a button to fit it to the data.
import type { Scale } from "../shared/colour.ts";
import { button, make } from "../shared/dom.ts";
import { effect } from "../shared/numbers.ts";
import type { Sweep } from "./sweep.ts";
import { scaleTitle } from "./words.ts";

export class Legend {
  readonly element = make("div", "lk-pg-legend");
  readonly #low = make("span");
  readonly #high = make("span");
  readonly #ramp = make("span", "lk-pg-ramp");
  readonly #title = make("span");
  readonly #fit: HTMLButtonElement;
  readonly #disc: HTMLElement;

  constructor(signal: AbortSignal, toggled: () => void) {
    this.#fit = button("fit to the data", toggled, signal);
    this.#fit.classList.add("lk-pg-link");
    this.#ramp.setAttribute("aria-hidden", "true");
    const mark = make("span", "lk-pg-disc");
    mark.setAttribute("aria-hidden", "true");
    this.#disc = make("span", "lk-pg-disc-key", mark, "estimate from the gradient, exact value on its way");
    this.element.append(make("span", "lk-pg-scale", this.#low, this.#ramp, this.#high, this.#title, this.#fit), this.#disc);
  }

  show(sweep: Sweep | null, ends: readonly [number, number], scale: Scale, fitted: boolean): void {
    const end = (x: number): string => (Number.isInteger(x) ? String(x).replace("-", "−") : effect(x));
    [this.#low.textContent, this.#high.textContent] = [end(ends[0]), end(ends[1])];
    this.#title.textContent = sweep ? scaleTitle(sweep) : "";
    this.#ramp.style.background = `linear-gradient(to right, ${scale.fill.join(", ")})`;
    this.#fit.textContent = fitted ? "fixed scale" : "fit to the data";
    const estimated = sweep !== null && sweep.exact.includes(0) && !sweep.values.every(Number.isNaN);
    this.#disc.classList.toggle("lk-pg-gone", !estimated);
  }
}

/** The scale's ends: as they were fitted, or fixed. */
export function endsOf(fitted: readonly [number, number] | null, sweep: Sweep | null): readonly [number, number] {
  if (fitted) return fitted;
  // Where there is no difference to restore a share of, nothing but the data says how large is large.
  const end = sweep && !sweep.hasShare ? sweep.largest() || 1 : 1;
  return [-end, end];
}
