// The card of a feature: what it promotes, where it fires, what lies near it, and what one can do with it.
import type { Theme } from "../shared/colour.ts";
import { button, make } from "../shared/dom.ts";
import { whole } from "../shared/numbers.ts";
import { Examples, type ExampleEvents } from "./examples.ts";
import { activation, LargeHistogram } from "./histogram.ts";
import { percent } from "./list.ts";
import { Bars } from "./logits.ts";
import { Neighbours, type NeighbourEvents } from "./neighbours.ts";
import { Note } from "./note.ts";
import { OnPrompt, type OnPromptEvents } from "./onprompt.ts";
import type { FeatureSource } from "./source.ts";
import { nameOf, type Facts, type Spec, type Steer } from "./spec.ts";
import { Steering } from "./steering.ts";
import type { Card } from "./values.ts";

export interface CardEvents extends ExampleEvents, NeighbourEvents, OnPromptEvents {
  pin(): void;
  noted(text: string): void;
  copy(): void;
  steer(steer: Steer): void;
  /** Out of the note, back to the list. */
  left(): void;
}

export class CardPanel {
  readonly element = make("div", "lk-f-card");
  readonly #name = make("h3", "lk-f-title");
  readonly #about = make("span", "lk-f-quiet");
  readonly #pin: HTMLButtonElement;
  readonly #said = make("div", "lk-f-said");
  readonly #note: Note;
  readonly #promotes = new Bars("Promotes", "for");
  readonly #suppresses = new Bars("Suppresses", "against");
  readonly #histogram = new LargeHistogram();
  readonly #now: OnPrompt;
  readonly #steering: Steering;
  readonly #box = make("div", "lk-f-box");
  readonly #examples: Examples;
  readonly #neighbours: Neighbours;
  #drawn = "";
  #saidTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly facts: Facts,
    private readonly source: FeatureSource,
    events: CardEvents,
    signal: AbortSignal,
  ) {
    this.#pin = button("Pin", () => events.pin(), signal);
    const note = button("Note", () => this.note(), signal);
    const copy = button("Copy as Python", () => events.copy(), signal);
    this.#said.setAttribute("role", "status");
    this.#note = new Note((text) => events.noted(text), () => events.left(), signal);
    this.#now = new OnPrompt(facts, source.words, events, signal);
    this.#steering = new Steering((steer) => events.steer(steer), signal);
    this.#box.append(this.#now.element, this.#steering.element);
    this.#examples = new Examples(events, signal);
    this.#neighbours = new Neighbours(facts, events, signal);
    const head = make("div", "lk-f-head", this.#name, this.#about, make("div", "lk-f-actions", this.#pin, note, copy));
    const top = make("div", "lk-f-top", this.#promotes.element, this.#suppresses.element, this.#histogram.element);
    this.element.append(head, this.#said, this.#note.element, top, this.#box, this.#examples.element, this.#neighbours.element);
    this.element.hidden = true;
    signal.addEventListener("abort", () => clearTimeout(this.#saidTimer));
  }

  #feature: number | null = null;

  /** Opens the note of the chosen feature. */
  note(): void {
    if (this.#feature !== null) this.#note.open(this.#feature);
  }

  show(spec: Spec, theme: Theme): void {
    const feature = spec.selection?.feature ?? null;
    const card = feature === null ? undefined : this.source.card(feature);
    // A card on its way: the last one stays, and says so.
    this.element.classList.toggle("lk-f-stale", feature !== null && !card);
    if (!card || feature === null) return;
    this.#feature = feature;
    this.element.hidden = false;
    this.#showHead(card, spec);
    const max = card.message.max;
    const pos = spec.selection?.pos ?? null;
    const on = this.source.fired?.on(feature);
    const drawn = JSON.stringify([feature, spec.band, spec.window, theme, card.through.size]);
    if (drawn !== this.#drawn) {
      this.#drawn = drawn;
      const largest = Math.max(...[...card.promotes, ...card.suppresses].map(({ value }) => Math.abs(value)));
      this.#promotes.show(card.promotes, largest, this.source.words, card.message.why);
      this.#suppresses.show(card.suppresses, largest, this.source.words, card.message.why);
      this.#examples.show(card, spec.band, spec.window, this.source.words, theme);
      this.#neighbours.show(card, this.source.words);
    }
    this.#histogram.show(card.edges, card.counts, max, pos === null ? null : (on?.[pos] ?? null));
    this.#showNow(spec, feature, max, theme);
  }

  #showHead({ feature, message }: Card, { pinned, notes }: Spec): void {
    const { unit } = this.facts;
    const name = `${unit === "neuron" ? "Neuron" : "Feature"} ${nameOf(this.facts, feature)}`;
    this.#name.textContent = name;
    const fires = message.max > 0 ? `fires on ${percent(message.density)} of tokens · max ${activation(message.max)} · mean ${activation(message.mean)}` : `never fired on ${whole(this.facts.tokens)} tokens`;
    this.#about.textContent = fires;
    const isPinned = pinned.includes(feature);
    this.#pin.textContent = isPinned ? "Unpin" : "Pin";
    this.#pin.setAttribute("aria-pressed", String(isPinned));
    this.#note.show(feature, name, notes[String(feature)] ?? "");
  }

  #showNow(spec: Spec, feature: number, max: number, theme: Theme): void {
    const { fired, steered } = this.source;
    this.#box.hidden = !fired;
    if (!fired) return;
    const pos = spec.selection?.pos ?? null;
    this.#now.show(fired, feature, max, spec.fit, pos, theme);
    const { live } = this.facts;
    const on = fired.on(feature);
    const shown = steered?.message.feature === feature ? steered : null;
    this.#steering.show({ live, steer: spec.steer, fired, on, pos, steered: shown, working: this.source.steering }, this.source.words);
  }

  /** Says what became of a click, for a moment; `text` to be copied by hand stays. */
  say(message: string, text = ""): void {
    clearTimeout(this.#saidTimer);
    this.#said.replaceChildren(message);
    if (text) {
      const field = make("textarea", "lk-f-byhand");
      field.value = text;
      field.rows = text.split("\n").length;
      field.readOnly = true;
      field.setAttribute("aria-label", "to be copied");
      this.#said.append(field);
      field.select();
    } else {
      this.#saidTimer = setTimeout(() => this.#said.replaceChildren(), 2500);
    }
  }
}
