// Which cells are looked at: under the pointer, under the keys, being drawn over, chosen; and what was tried there.
import type { Fields } from "../shared/linked.ts";
import { cellOf, regionOf, type Cell, type Region } from "./region.ts";
import { questionOf, sameQuestion, type Spec, type Trial } from "./spec.ts";
import type { Sweep } from "./sweep.ts";

/** As many trials as one goes back to. */
const KEPT = 30;

export class Looking {
  hovered: Cell | null = null;
  /** Where the keys have gone, while they are used. */
  cursor: Cell | null = null;
  /** A region that is being drawn with the pointer. */
  drawn: [Cell, Cell] | null = null;

  constructor(private readonly now: () => readonly [Sweep | null, Spec]) {}

  forget(): void {
    this.hovered = this.cursor = this.drawn = null;
  }

  /** The cell that is only passed over: the pointer's or the keys'. */
  get passing(): Cell | null {
    return this.hovered ?? this.cursor;
  }

  /** The corners of what is chosen: of the drawn region, or of the spec's. */
  corners(): [Cell, Cell] | null {
    if (this.drawn) return this.drawn;
    const [sweep, spec] = this.now();
    const from = sweep && cellOf(sweep, spec.selection);
    return from ? [from, cellOf(sweep, spec.to) ?? from] : null;
  }

  chosen(): Region | null {
    const corners = this.corners();
    return corners && regionOf(...corners);
  }

  /** The cell that is passed over, or the end of the chosen region, or where the effect is largest. */
  active(): Cell {
    return this.passing ?? this.corners()?.[1] ?? (this.now()[0] as Sweep).strongest();
  }

  /** What the detail is about. */
  region(): Region {
    const cell = this.active();
    const passing = this.passing !== null && !this.drawn;
    return (passing ? null : this.chosen()) ?? regionOf(cell, cell);
  }
}

/** The cell of a linked view's choice: what of it this grid has, beside what is chosen now; null where it has nothing. */
export function followed(sweep: Sweep, now: Cell, fields: Fields): Cell | null {
  const row = sweep.header.layers.indexOf(Number(fields.layer ?? Number.NaN));
  const column = Number((sweep.over === "pos" ? fields.pos : fields.head) ?? -1);
  const there = column >= 0 && column < sweep.columns;
  if (row < 0 && !there) return null;
  return { row: row < 0 ? now.row : row, column: there ? column : now.column };
}

export function standsOn(spec: Spec, trial: Trial): boolean {
  const same = JSON.stringify([trial.selection, trial.to]) === JSON.stringify([spec.selection, spec.to]);
  return same && sameQuestion(trial, spec);
}

/** The spec with what came of its chosen cells. */
export function withTrial(spec: Spec, sweep: Sweep, value: number): Spec {
  const { selection, to } = spec;
  if (!selection) return spec;
  const trial: Trial = { ...questionOf(sweep.header), selection, to, value, share: sweep.effectOf(value) };
  const others = spec.tried.filter((each) => !standsOn(spec, each));
  return { ...spec, tried: [trial, ...others].slice(0, KEPT) };
}
