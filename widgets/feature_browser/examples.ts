// Examples of a feature in a corpus, one below the other with their peaks in one column, as in a concordance.
import type { Theme } from "../shared/colour.ts";
import { button, make } from "../shared/dom.ts";
import { Segmented } from "../shared/segmented.ts";
import { activation } from "./histogram.ts";
import { flowing, tinted } from "./strip.ts";
import type { Card, Example, Words } from "./values.ts";

/** So many are shown at first. */
const FEW = 8;

export interface ExampleEvents {
  band(band: number | null): void;
  window(window: number | null): void;
}

const WINDOWS = [
  { value: "4", label: "±4" },
  { value: "8", label: "±8" },
  { value: "all", label: "all kept" },
] as const;
type Window = (typeof WINDOWS)[number]["value"];

export class Examples {
  readonly element = make("section", "lk-f-examples");
  readonly #bands = make("div", "lk-f-bands");
  readonly #list = make("ol", "lk-f-lines");
  readonly #windows: Segmented<Window>;
  #switch: Segmented<string> | null = null;
  #count = -1;
  readonly #more: HTMLButtonElement;
  /** Whether more than the first few are shown, of whatever feature. */
  #all = false;
  #again: () => void = () => {};

  constructor(
    private readonly events: ExampleEvents,
    private readonly signal: AbortSignal,
  ) {
    this.#windows = new Segmented<Window>("context", WINDOWS, signal, (value) => events.window(value === "all" ? null : Number(value)));
    const head = make("div", "lk-f-head", make("h4", "lk-f-subhead", "Examples"), this.#bands, this.#windows.element);
    this.#more = button("", () => this.#toggle(), signal);
    this.#more.classList.add("lk-f-link");
    this.element.append(head, this.#list, this.#more);
  }

  #toggle(): void {
    this.#all = !this.#all;
    this.#again();
  }

  show(card: Card, band: number | null, window: number | null, words: Words, theme: Theme): void {
    this.#showBands(card, band);
    this.#windows.value = window === null ? "all" : window <= 4 ? "4" : "8";
    const shown = card.examples.filter((example) => example.band === band);
    this.element.classList.toggle("lk-f-whole", window === null);
    this.#again = () => this.show(card, band, window, words, theme);
    this.#more.hidden = shown.length <= FEW;
    this.#more.textContent = this.#all ? "fewer" : `${shown.length - FEW} more`;
    const lines = shown.slice(0, this.#all ? shown.length : FEW).map((example) => line(example, window, card.message.max, words, theme));
    this.#list.replaceChildren(...(lines.length ? lines : [make("li", "lk-f-none", card.message.max > 0 ? "none in this band" : "it never fired on the corpus")]));
  }

  #showBands(card: Card, band: number | null): void {
    const { bands } = card.message;
    if (this.#count !== bands.length) {
      this.#count = bands.length;
      const choices = [
        { value: "top", label: "top" },
        // The highest band first, named by the share of the maximum at which it begins.
        ...bands.map((_, i) => ({ value: String(i), label: `${Math.round((100 * i) / bands.length)}–${Math.round((100 * (i + 1)) / bands.length)}` })).reverse(),
      ];
      this.#switch = new Segmented<string>("% of max", choices, this.signal, (value) => this.events.band(value === "top" ? null : Number(value)));
      this.#bands.replaceChildren(this.#switch.element);
    }
    if (this.#switch) this.#switch.value = band === null ? "top" : String(band);
  }
}

function line(example: Example, window: number | null, max: number, words: Words, theme: Theme): HTMLElement {
  const { ids, activations, peak } = example;
  const from = window === null ? 0 : Math.max(0, peak - window);
  const to = window === null ? ids.length : Math.min(ids.length, peak + window + 1);
  const token = (i: number): HTMLElement => tinted(words.piece(ids[i]), activations[i] as number, max, theme);
  const range = (a: number, b: number): Node[] => {
    const places = Array.from({ length: Math.max(0, b - a) }, (_, i) => a + i);
    return flowing(places.map(token), places.map((i) => words.piece(ids[i])));
  };
  const best = token(peak);
  best.classList.add("lk-f-peak");
  const text = make("div", "lk-f-text", make("span", "lk-f-before", ...range(from, peak), make("wbr")), make("span", "lk-f-after", best, ...range(peak + 1, to)));
  return make("li", "lk-f-example", make("span", "lk-f-number", activation(activations[peak] ?? 0)), text);
}
