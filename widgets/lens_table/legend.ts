// The scale, always drawn, its two ends in real units, with a button to fit it to the data.
import type { Scale } from "../shared/colour.ts";
import { button, make } from "../shared/dom.ts";
import type { Ends, Statistic } from "./statistic.ts";

export interface Legended {
  readonly statistic: Pick<Statistic, "title" | "unit" | "smallIsStrong" | "show">;
  readonly ends: Ends;
  readonly scale: Scale;
  /** What a corner mark says. */
  readonly corner: string;
}

export class Legend {
  readonly #corner = make("span", "");
  readonly element = make("div", "lk-legend");
  readonly #weak = make("span", "lk-end");
  readonly #strong = make("span", "lk-end");
  readonly #bar = make("span", "lk-ramp");
  readonly #title = make("span", "lk-legend-title");
  readonly #fit: HTMLButtonElement;

  constructor(signal: AbortSignal, toggled: () => void) {
    this.#fit = button("fit to the data", toggled, signal);
    this.#fit.classList.add("lk-link");
    this.#bar.setAttribute("aria-hidden", "true");
    const ramp = make("span", "lk-scale", this.#weak, this.#bar, this.#strong, this.#title, this.#fit);
    const corner = make("span", "lk-corner");
    corner.setAttribute("aria-hidden", "true");
    this.element.append(ramp, make("span", "lk-corner-key", corner, this.#corner));
  }

  show({ statistic, ends, scale, corner }: Legended, fitted: boolean): void {
    this.#corner.textContent = corner;
    const [weak, strong] = statistic.smallIsStrong ? [ends[1], ends[0]] : ends;
    const show = (value: number): string => (value === 0 ? "0" : statistic.show(value));
    this.#weak.textContent = show(weak);
    this.#strong.textContent = statistic.unit ? `${show(strong)} ${statistic.unit}` : show(strong);
    this.#title.textContent = statistic.title;
    this.#bar.style.background = `linear-gradient(to right, ${scale.fill.join(", ")})`;
    this.#fit.textContent = fitted ? "fixed scale" : "fit to the data";
  }
}
