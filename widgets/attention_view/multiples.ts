// The left half: every head small, and below them what they are sorted by and which one is pointed at.
import { make } from "../shared/dom.ts";
import type { Ink } from "./ink.ts";
import type { Patterns, Scores } from "./patterns.ts";
import { nameOf, type Head } from "./spec.ts";
import { share, Tiles, type TilesLook } from "./tiles.ts";

export const KINDS = { previous: "previous token", induction: "induction", duplicate: "duplicate token" } as const;

export interface MultiplesEvents {
  clicked(head: Head): void;
  pressed(event: KeyboardEvent): void;
}

export class Multiples {
  readonly element = make("div", "lk-a-multiples");
  readonly tiles: Tiles;
  readonly #pointed = make("span", "lk-a-pointed");
  readonly #sorting = make("span", "lk-a-sorting");
  #patterns: Patterns | null = null;
  #look: TilesLook | null = null;

  constructor(events: MultiplesEvents, signal: AbortSignal) {
    this.tiles = new Tiles("the pattern of each head", { ...events, hovered: (head) => this.#point(head) }, signal);
    this.element.append(this.tiles.scroller, make("div", "lk-a-under", this.#sorting, this.#pointed));
  }

  /** As `Tiles.fit`. */
  fit(room: number, heads: number, beside: boolean): number {
    return this.tiles.fit(room, heads, beside);
  }

  show(patterns: Patterns, look: TilesLook, ink: Ink): void {
    [this.#patterns, this.#look] = [patterns, look];
    this.tiles.show(patterns, look, ink);
    const scores = patterns.scores(look.pick);
    this.#sorting.textContent = look.pick === "all" ? "rows are layers, columns heads" : scores ? basisOf(scores) : "";
  }

  #point(head: Head | null): void {
    const score = head && this.#patterns?.score(this.#look?.pick ?? "all", head);
    const said = typeof score === "number" ? ` · ${KINDS[this.#look?.pick as keyof typeof KINDS]} ${share(score)}` : "";
    this.#pointed.textContent = head ? `head ${nameOf(head)}${said}` : "";
  }
}

/** What heads are sorted by, and what that was measured on. */
export function basisOf({ kind, positions, random }: Scores): string {
  const where = random ? "repeated random tokens, as no token of this prompt comes twice" : `${positions} ${positions === 1 ? "position" : "positions"} of this prompt`;
  return `sorted by ${KINDS[kind]} score, on ${where}`;
}
