// The card of the chosen feature, from the index: what it promotes, how active it gets, and where it fires.
import { Examples } from "../feature_browser/examples.ts";
import { activation, LargeHistogram } from "../feature_browser/histogram.ts";
import { percent } from "../feature_browser/list.ts";
import { Bars } from "../feature_browser/logits.ts";
import { cardOf, type Card, type Words } from "../feature_browser/values.ts";
import type { Theme } from "../shared/colour.ts";
import { make } from "../shared/dom.ts";
import type { CardAnswer, Shown } from "./contract.ts";

export class NodeCard {
  readonly element = make("section", "lk-c-card lk-f-card");
  readonly #about = make("div", "lk-f-quiet");
  readonly #promotes = new Bars("Promotes", "for");
  readonly #suppresses = new Bars("Suppresses", "against");
  readonly #histogram = new LargeHistogram();
  readonly #examples: Examples;
  readonly #body: HTMLElement;
  #band: number | null = null;
  #window: number | null = 4;
  #last: Card | null = null;
  #drawn = "";
  #again: () => void = () => {};

  constructor(signal: AbortSignal) {
    this.#examples = new Examples(
      {
        band: (band) => this.#change({ band }),
        window: (window) => this.#change({ window }),
      },
      signal,
    );
    const logits = make("div", "lk-c-logits", this.#promotes.element, this.#suppresses.element);
    this.#body = make("div", "lk-c-cardbody", logits, this.#histogram.element, this.#examples.element);
    this.element.append(this.#about, this.#body);
  }

  #change(to: { band?: number | null; window?: number | null }): void {
    if (to.band !== undefined) this.#band = to.band;
    if (to.window !== undefined) this.#window = to.window;
    this.#again();
  }

  /** A card, or why there is none; of one on its way the last one stays, and says so. */
  show({ card, active, words, theme }: Shown): void {
    this.element.hidden = card === null;
    this.element.classList.toggle("lk-f-stale", card === undefined);
    if (card === undefined || card === null) return;
    this.#body.hidden = typeof card === "string";
    if (typeof card === "string") this.#about.textContent = card;
    else this.#showCard(this.#unpacked(card), active, words, theme);
  }

  /** The last one is kept as it was unpacked: one looks around while it is there. */
  #unpacked(answer: Exclude<CardAnswer, string>): Card {
    if (this.#last?.message !== answer.message) this.#last = cardOf(answer.message, answer.buffers);
    return this.#last;
  }

  #showCard(card: Card, active: number, words: Words, theme: Theme): void {
    const drawn = JSON.stringify([card.message.id, card.feature, this.#band, this.#window, active, theme]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#again = () => this.#showCard(card, active, words, theme);
    const { max, mean, density, why } = card.message;
    const fires = `fires on ${percent(density)} of tokens · max ${activation(max)} · mean ${activation(mean)}`;
    this.#about.textContent = max > 0 ? fires : "never fired on the corpus";
    const largest = Math.max(...[...card.promotes, ...card.suppresses].map(({ value }) => Math.abs(value)), 0);
    this.#promotes.show(card.promotes, largest, words, why);
    this.#suppresses.show(card.suppresses, largest, words, why);
    this.#histogram.show(card.edges, card.counts, max, active);
    this.#examples.show(card, this.#band, this.#window, words, theme);
  }
}
