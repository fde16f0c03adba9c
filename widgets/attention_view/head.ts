// The right half: the chosen head large, what its query looks at, and the next token with and without some heads.
import { sequential } from "../shared/colour.ts";
import { button, make } from "../shared/dom.ts";
import type { Ink } from "./ink.ts";
import { KINDS } from "./multiples.ts";
import type { Patterns } from "./patterns.ts";
import { PatternGrid, type PatternEvents, type Place } from "./pattern.ts";
import { Looks, Said, type SaidEvents } from "./said.ts";
import { nameOf, sameHead, type Head, type Spec } from "./spec.ts";
import { share } from "./tiles.ts";

export interface HeadEvents extends PatternEvents, SaidEvents {
  ablate(): void;
  copy(): void;
}

export class HeadPanel {
  readonly element = make("div", "lk-a-head");
  readonly pattern: PatternGrid;
  /** Whether no query sees what comes after it, as far as one can see. */
  causal = true;
  readonly #name = make("span", "lk-a-title");
  readonly #score = make("span", "lk-a-score");
  readonly #ablate: HTMLButtonElement;
  readonly #ramp = make("span", "lk-a-ramp");
  readonly #unit = make("span", "lk-a-unit");
  readonly #missing = make("div", "lk-a-missing", "This page does not hold this head in full: open the notebook.");
  readonly #looks = new Looks();
  readonly #said: Said;
  readonly #note = make("div", "lk-a-note");
  #weights: Float32Array | null = null;
  #noteTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(live: boolean, events: HeadEvents, signal: AbortSignal) {
    this.pattern = new PatternGrid("which key each query looks at", events, signal);
    this.#said = new Said(live, signal, events);
    this.#ablate = button("Ablate", () => events.ablate(), signal);
    const copy = button("Copy as Python", () => events.copy(), signal);
    const actions = make("span", "lk-a-actions", ...(live ? [this.#ablate] : []), copy);
    this.#ramp.setAttribute("aria-hidden", "true");
    this.#note.setAttribute("role", "status");
    this.#missing.hidden = true;
    this.element.append(
      make("div", "lk-a-headline", this.#name, this.#score),
      this.#note,
      this.#missing,
      this.pattern.scroller,
      // Seen beside the name, and reached after the pattern: Tab leads from the heads to the pattern.
      actions,
      make("div", "lk-a-legend", "0", this.#ramp, "1", this.#unit),
      make("div", "lk-a-below", this.#looks.element, this.#said.element),
    );
    signal.addEventListener("abort", () => clearTimeout(this.#noteTimer));
  }

  /** The width it may take. */
  set room(room: number) {
    this.pattern.room = room;
    this.pattern.resized();
  }

  show(patterns: Patterns, spec: Spec, head: Head, weights: Float32Array | null, hovered: Place | null, ink: Ink, live: boolean): void {
    const ablated = spec.ablated.some((other) => sameHead(other, head));
    this.#name.textContent = `Head ${nameOf(head)}`;
    this.#score.textContent = scoreOf(patterns, spec, head);
    this.#ablate.textContent = ablated ? "Put back" : "Ablate";
    this.#ramp.style.background = `linear-gradient(to right, ${sequential(ink.theme).fill.join(", ")})`;
    this.#unit.textContent = unitOf(spec);
    this.#said.show(patterns, spec.ablated, spec.by);
    // The last good picture stays until the new one is here; a frozen page will not get it.
    this.#missing.hidden = weights !== null || live;
    this.pattern.scroller.classList.toggle("lk-a-stale", weights === null);
    if (!weights) return;
    const n = patterns.positions;
    if (weights !== this.#weights) this.causal = seesNothingLater(weights, n);
    this.#weights = weights;
    const { pos, key } = spec.selection ?? { pos: null, key: null };
    const within = (at: number | null): number | null => (at !== null && at < n ? at : null);
    this.pattern.show(patterns, { weights, causal: this.causal, pos: within(pos), key: within(key) }, ink);
    this.#looks.show(patterns, weights, hovered?.pos ?? within(pos) ?? n - 1, hovered?.key ?? within(key));
  }

  /** Says what became of a click, for a moment; `text` to be copied by hand stays. */
  note(message: string, text = ""): void {
    clearTimeout(this.#noteTimer);
    this.#note.replaceChildren(message);
    if (text) {
      const field = make("textarea", "lk-a-byhand");
      field.value = text;
      field.readOnly = true;
      field.rows = 6;
      field.setAttribute("aria-label", "to be copied");
      this.#note.append(field);
      field.select();
    } else {
      this.#noteTimer = setTimeout(() => this.#note.replaceChildren(), 2500);
    }
  }
}

function scoreOf(patterns: Patterns, spec: Spec, head: Head): string {
  const scores = patterns.scores(spec.pick);
  if (!scores) return "";
  return `${KINDS[scores.kind]} score ${share(patterns.score(spec.pick, head) as number)}`;
}

function unitOf({ show, hide_first }: Spec): string {
  const what = show === "pattern" ? "of the query's attention" : "of what the query takes in, by size: attention × |v W_O|";
  return hide_first ? `share ${what}, the first token left out` : `share ${what}`;
}

/** Whether nothing stands above the diagonal. */
function seesNothingLater(weights: Float32Array, n: number): boolean {
  for (let pos = 0; pos < n; pos++) {
    for (let key = pos + 1; key < n; key++) if (weights[pos * n + key] !== 0) return false;
  }
  return true;
}
