// One sweep: two prompts, the cells' values, and which of them are exact already.
import type { Piece } from "../shared/tokens.ts";
import { decodeAll, type ArrayEntry, type Numbers } from "../shared/wire.ts";
import { sameQuestion, type Known, type Question } from "./spec.ts";

export interface SweepHeader extends Question {
  readonly v: 1;
  readonly kind: "pair" | "swept";
  readonly id: string;
  /** The layers' numbers, ascending: the rows. */
  readonly layers: readonly number[];
  readonly over: "pos" | "head";
  readonly columns: number;
  /** The position at which the metric reads. */
  readonly read: number;
  /** The metric of the prompt that is run, and of the one whose activations are put in. */
  readonly base: number;
  readonly target: number;
  readonly pieces: readonly (readonly [number, Piece])[];
  readonly arrays: readonly ArrayEntry[];
}

export interface SweptMessage extends SweepHeader {
  readonly kind: "swept";
  readonly done: number;
  readonly total: number;
  readonly stopped: boolean;
  readonly ms: number;
  readonly engine: string;
  /** Why not the fast engine, in words. */
  readonly why: string | null;
}

export interface CellsMessage {
  readonly v: 1;
  readonly kind: "cells";
  readonly id: string;
  readonly done: number;
  readonly total: number;
  /** Seconds, or null while unknown. */
  readonly left: number | null;
  readonly arrays: readonly ArrayEntry[];
}

export interface PatchedMessage extends Question {
  readonly v: 1;
  readonly kind: "patched";
  readonly id: string;
  readonly layers: readonly number[];
  readonly columns: readonly number[];
  readonly value: number;
  readonly pieces: readonly (readonly [number, Piece])[];
  readonly arrays: readonly ArrayEntry[];
}

/** A token and its probability after each of two runs. */
export interface Odds {
  readonly id: number;
  readonly before: number;
  readonly after: number;
}

/** What one patch did. */
export interface Patched {
  readonly value: number;
  readonly odds: readonly Odds[];
}

type Buffers = readonly (ArrayBufferView | ArrayBuffer)[];

function named(arrays: ReadonlyMap<string, Numbers>, name: string): Numbers {
  const found = arrays.get(name);
  if (!found) throw new Error(`the message has no array "${name}"`);
  return found;
}

function oddsOf(ids: Numbers, before: Numbers, after: Numbers): Odds[] {
  return Array.from(ids, (id, i) => ({ id, before: before[i] as number, after: after[i] as number }));
}

export class Sweep {
  readonly rows: number;
  readonly pieces: Map<number, Piece>;
  readonly clean: Numbers;
  readonly corrupt: Numbers;
  /** The most likely next tokens of either prompt: `before` is the clean one's, `after` the corrupt one's. */
  readonly next: readonly Odds[];
  readonly values: Float32Array;
  readonly exact: Uint8Array;
  done = 0;
  readonly total: number;
  left: number | null = null;
  readonly patched = new Map<string, Patched>();
  /** The final message, once it has come. */
  final: SweptMessage | null = null;

  constructor(
    readonly header: SweepHeader,
    buffers: Buffers,
  ) {
    const arrays = decodeAll(header.arrays, buffers);
    this.rows = header.layers.length;
    this.total = this.rows * header.columns;
    this.pieces = new Map(header.pieces);
    this.clean = named(arrays, "clean_ids");
    this.corrupt = named(arrays, "corrupt_ids");
    this.next = oddsOf(named(arrays, "next_ids"), named(arrays, "next_clean"), named(arrays, "next_corrupt"));
    this.values = new Float32Array(this.total).fill(Number.NaN);
    this.exact = new Uint8Array(this.total);
    if (this.clean.length !== this.corrupt.length) throw new Error("the two prompts have different numbers of tokens");
    if (header.kind === "swept") this.#fill(named(arrays, "values"), named(arrays, "exact"));
  }

  #fill(values: Numbers, exact: Numbers): void {
    if (values.length !== this.total) throw new Error(`the sweep has ${values.length} of ${this.total} cells`);
    this.values.set(values);
    this.exact.set(exact);
  }

  /** Takes some cells; their indices count along the rows. */
  take(message: CellsMessage, buffers: Buffers): void {
    const arrays = decodeAll(message.arrays, buffers);
    const [index, value, exact] = [named(arrays, "index"), named(arrays, "value"), named(arrays, "exact")];
    for (let i = 0; i < index.length; i++) {
      const at = index[i] as number;
      if (at >= this.total) throw new Error(`cell ${at} of ${this.total}`);
      this.values[at] = value[i] as number;
      this.exact[at] = exact[i] as number;
    }
    [this.done, this.left] = [message.done, message.left];
  }

  /** Takes the final message, which holds the whole sweep. */
  finish(message: SweptMessage, buffers: Buffers): void {
    const arrays = decodeAll(message.arrays, buffers);
    this.#fill(named(arrays, "values"), named(arrays, "exact"));
    for (const [id, piece] of message.pieces) this.pieces.set(id, piece);
    this.end(message);
  }

  end(message: SweptMessage): void {
    [this.done, this.left, this.final] = [message.done, null, message];
  }

  keep(message: PatchedMessage, buffers: Buffers): Patched {
    const arrays = decodeAll(message.arrays, buffers);
    for (const [id, piece] of message.pieces) this.pieces.set(id, piece);
    const odds = oddsOf(named(arrays, "ids"), named(arrays, "before"), named(arrays, "after"));
    const patched = { value: message.value, odds };
    this.patched.set(keyOf(message.layers, message.columns), patched);
    return patched;
  }

  /** Takes a result that came with a frozen page. */
  know({ layers, columns, value, odds, pieces }: Known): void {
    for (const [id, piece] of pieces) this.pieces.set(id, piece);
    this.patched.set(keyOf(layers, columns), { value, odds });
  }

  get columns(): number {
    return this.header.columns;
  }
  get over(): "pos" | "head" {
    return this.header.over;
  }
  get positions(): number {
    return this.clean.length;
  }
  differs(pos: number): boolean {
    return this.clean[pos] !== this.corrupt[pos];
  }
  piece(id: number | null): Piece | undefined {
    return id === null ? undefined : this.pieces.get(id);
  }
  value(row: number, column: number): number {
    return this.values[row * this.columns + column] as number;
  }
  isExact(row: number, column: number): boolean {
    return this.exact[row * this.columns + column] === 1;
  }

  /** Whether there is a difference to restore a share of; otherwise effects are shown as they are. */
  get hasShare(): boolean {
    const { base, target } = this.header;
    return Math.abs(target - base) > 1e-6 * Math.max(1, Math.abs(base), Math.abs(target));
  }

  /** The effect of a value: the share of the way from the base to the target, or the plain change. */
  effectOf(value: number): number {
    const { base, target } = this.header;
    return this.hasShare ? (value - base) / (target - base) : value - base;
  }
  effect(row: number, column: number): number {
    return this.effectOf(this.value(row, column));
  }

  /** The largest effect there is, as the end of a scale. */
  largest(): number {
    let most = 0;
    for (const value of this.values) {
      const size = Math.abs(this.effectOf(value));
      if (size > most) most = size;
    }
    return most;
  }

  /** The cell with the largest effect: where to look first. */
  strongest(): { row: number; column: number } {
    let [best, most] = [this.rows * this.columns - 1, -1];
    this.values.forEach((value, i) => {
      const size = Math.abs(this.effectOf(value));
      if (size > most) [best, most] = [i, size];
    });
    return { row: Math.floor(best / this.columns), column: best % this.columns };
  }

  answers(question: Question): boolean {
    return sameQuestion(this.header, question);
  }
}

/** What was patched, as the key that its result is kept by. */
export function keyOf(layers: readonly number[], columns: readonly number[]): string {
  return `${layers.join()}|${columns.join()}`;
}
