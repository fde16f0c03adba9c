// What was tried, newest first, with its result: a click goes back to it.
import { button, make, type Child } from "../shared/dom.ts";
import { effect } from "../shared/numbers.ts";
import { tokenElement } from "../shared/tokens.ts";
import { siteLabel, type Place, type Trial } from "./spec.ts";
import type { Sweep } from "./sweep.ts";

export class Tried {
  readonly element = make("div", "lk-pg-tried");
  readonly #list = make("ol", "lk-pg-list");
  #lines = new Map<Trial, HTMLElement>();
  #sweep: Sweep | null = null;
  #trials: readonly Trial[] = [];

  constructor(
    private readonly again: (trial: Trial) => void,
    private readonly signal: AbortSignal,
  ) {
    this.element.append(make("div", "lk-pg-subhead", "History"), this.#list);
  }

  /** `now`: the one that the selection stands on. */
  show(sweep: Sweep, trials: readonly Trial[], now: Trial | null): void {
    // A press takes the focus from the grid, which draws this anew: a line that is there must stay to get the click.
    if (sweep !== this.#sweep || trials !== this.#trials) this.#make(sweep, trials);
    for (const [trial, line] of this.#lines) line.classList.toggle("lk-pg-now", trial === now);
  }

  #make(sweep: Sweep, trials: readonly Trial[]): void {
    [this.#sweep, this.#trials] = [sweep, trials];
    // What was tried with other prompts waits until they are back.
    const { clean, corrupt } = sweep.header;
    const here = trials.filter((trial) => trial.clean === clean && trial.corrupt === corrupt);
    this.element.hidden = here.length === 0;
    this.#lines = new Map(
      here.map((trial) => {
        const line = button("", () => this.again(trial), this.signal);
        line.className = "lk-pg-trial";
        line.append(make("span", "lk-pg-what", ...whatOf(sweep, trial)), make("span", "lk-pg-numbers", effect(trial.share)));
        return [trial, line];
      }),
    );
    this.#list.replaceChildren(...[...this.#lines.values()].map((line) => make("li", "", line)));
  }
}

function whatOf(sweep: Sweep, trial: Trial): Child[] {
  const { selection, to } = trial;
  const layers = span(selection.layer, to?.layer ?? selection.layer);
  const parts: Child[] = [`${layers} · `];
  if (selection.head !== null) {
    parts.push(`head ${span(selection.head, to?.head ?? selection.head)}`);
  } else {
    const [first, last] = inOrder(selection.pos ?? 0, to?.pos ?? selection.pos ?? 0);
    parts.push(tokenElement(sweep.piece(sweep.clean[first] ?? null)));
    if (last !== first) parts.push("–", tokenElement(sweep.piece(sweep.clean[last] ?? null)));
  }
  const notes: string[] = [];
  const cells = sizeOf(selection, to);
  if (cells > 1) notes.push(`${cells} cells`);
  if (trial.site !== sweep.header.site) notes.push(siteLabel(trial.site));
  if (trial.direction !== sweep.header.direction) notes.push(trial.direction);
  if (trial.metric !== sweep.header.metric || trial.answer !== sweep.header.answer || trial.against !== sweep.header.against) {
    notes.push("other metric");
  }
  if (notes.length) parts.push(make("span", "lk-pg-note", ` (${notes.join(", ")})`));
  return parts;
}

const inOrder = (a: number, b: number): [number, number] => (a <= b ? [a, b] : [b, a]);

function span(a: number, b: number): string {
  const [first, last] = inOrder(a, b);
  return first === last ? String(first) : `${first}–${last}`;
}

function sizeOf(a: Place, b: Place | null): number {
  if (!b) return 1;
  const across = a.head === null ? Math.abs((a.pos ?? 0) - (b.pos ?? 0)) : Math.abs(a.head - (b.head ?? a.head));
  return (Math.abs(a.layer - b.layer) + 1) * (across + 1);
}
