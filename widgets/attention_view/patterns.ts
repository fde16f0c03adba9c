// What is here of one prompt's patterns: tiles of all heads, scores, and some heads in full. Parts come as they are asked for.
import type { Piece } from "../shared/tokens.ts";
import { decodeAll, type ArrayEntry, type Numbers } from "../shared/wire.ts";
import { nameOf, type By, type Head, type Kind, type Show } from "./spec.ts";

export interface Scored {
  readonly kind: Kind;
  /** How many queries had a place to look at. */
  readonly positions: number;
  /** Of repeated random tokens, because no token of the prompt comes twice. */
  readonly random: boolean;
}

export interface PatternsMessage {
  readonly v: 1;
  readonly kind: "patterns";
  readonly id: string;
  readonly table: number;
  readonly positions: number;
  readonly prompt: string;
  readonly layers: readonly number[];
  /** How many heads each of the layers has. */
  readonly heads: readonly number[];
  readonly side: number;
  readonly modes: readonly string[];
  readonly scored: readonly Scored[];
  readonly exact: readonly Head[];
  readonly ablated: readonly Head[];
  readonly by: By;
  readonly kl: number | null;
  readonly pieces: readonly (readonly [number, Piece])[];
  readonly ms: number;
  readonly recomputed: number;
  readonly arrays: readonly ArrayEntry[];
}

export interface HeadMessage {
  readonly v: 1;
  readonly kind: "head";
  readonly id: string;
  readonly table: number;
  readonly exact: readonly Head[];
  readonly arrays: readonly ArrayEntry[];
}

export interface Scores extends Scored {
  /** (layer, head) */
  readonly values: Numbers;
}

/** What the model says next: as it is, and with heads ablated. */
export interface Next {
  readonly ids: Numbers;
  readonly before: Numbers;
  readonly after: Numbers;
  readonly ablated: readonly Head[];
  readonly by: By;
  readonly kl: number | null;
}

interface Exact {
  readonly pattern: Float32Array;
  readonly valueNorm: Float32Array | null;
}

/** As in `Attention.weights`: what a query leaves to others than the first token is noise below this share. */
const FAINT = 0.01;
/** How many numbers of heads in full are held. */
const HELD = 4_000_000;

export class Patterns {
  readonly ids: Numbers;
  readonly next: Next;
  readonly #pieces: ReadonlyMap<number, Piece>;
  readonly #tiles = new Map<string, Numbers>();
  readonly #scores = new Map<Kind, Scores>();
  readonly #exact = new Map<string, Exact>();
  /** What was worked out last. */
  #weighed: { readonly name: string; readonly of: Exact; readonly weights: Float32Array } | null = null;

  constructor(
    readonly message: PatternsMessage,
    buffers: readonly (ArrayBufferView | ArrayBuffer)[],
    before: Patterns | null,
  ) {
    const arrays = decodeAll(message.arrays, buffers);
    const need = (name: string): Numbers => {
      const array = arrays.get(name);
      if (!array) throw new Error(`the patterns have no array "${name}"`);
      return array;
    };
    if (before?.number === message.table) {
      for (const [mode, tiles] of before.#tiles) this.#tiles.set(mode, tiles);
      for (const [kind, scores] of before.#scores) this.#scores.set(kind, scores);
      for (const [name, exact] of before.#exact) this.#exact.set(name, exact);
    }
    this.ids = need("ids");
    this.#pieces = new Map(message.pieces);
    const { ablated, by, kl } = message;
    this.next = { ids: need("next_ids"), before: need("next_before"), after: need("next_after"), ablated, by, kl };
    const heads = message.layers.length * this.columns;
    const size = heads * message.side ** 2;
    message.modes.forEach((mode, i) => this.#tiles.set(mode, need("tiles").subarray(i * size, (i + 1) * size)));
    message.scored.forEach((scored, i) => {
      this.#scores.set(scored.kind, { ...scored, values: need("scores").subarray(i * heads, (i + 1) * heads) });
    });
    this.#keep(message.exact, arrays);
  }

  /** Takes heads in full that were asked for by themselves. */
  add(message: HeadMessage, buffers: readonly (ArrayBufferView | ArrayBuffer)[]): void {
    this.#keep(message.exact, decodeAll(message.arrays, buffers));
  }

  #keep(heads: readonly Head[], arrays: ReadonlyMap<string, Numbers>): void {
    const n = this.positions;
    const [pattern, norms] = [arrays.get("pattern") as Float32Array, arrays.get("value_norm") as Float32Array | undefined];
    heads.forEach((head, i) => {
      this.#exact.set(nameOf(head), {
        pattern: pattern.subarray(i * n * n, (i + 1) * n * n),
        valueNorm: norms?.subarray(i * n, (i + 1) * n) ?? null,
      });
    });
    // A frozen page holds what it holds; live, a head that was looked at long ago can be asked for again.
    for (const name of this.#exact.keys()) {
      if (heads.length > 1 || this.#exact.size * n * n <= HELD || this.#exact.size < 2) break;
      this.#exact.delete(name);
    }
  }

  get number(): number {
    return this.message.table;
  }
  get positions(): number {
    return this.message.positions;
  }
  get layers(): readonly number[] {
    return this.message.layers;
  }
  get side(): number {
    return this.message.side;
  }
  /** The largest number of heads in a layer: the arrays' second axis. */
  get columns(): number {
    return Math.max(...this.message.heads);
  }
  get modes(): string[] {
    return [...this.#tiles.keys()];
  }
  get kinds(): Kind[] {
    return [...this.#scores.keys()];
  }

  piece(id: number): Piece | undefined {
    return this.#pieces.get(id);
  }
  /** The prompt's own token. */
  token(pos: number): Piece | undefined {
    return this.#pieces.get(this.ids[pos] as number);
  }
  scores(kind: string): Scores | undefined {
    return this.#scores.get(kind as Kind);
  }
  score(kind: string, [layer, head]: Head): number | undefined {
    return this.#scores.get(kind as Kind)?.values[this.layers.indexOf(layer) * this.columns + head];
  }
  has([layer, head]: Head): boolean {
    const row = this.layers.indexOf(layer);
    return row >= 0 && head >= 0 && head < (this.message.heads[row] as number);
  }

  /** The tile of a head in one mode, (side, side), 255 for all of the attention; undefined where it has not come. */
  tile(mode: string, [layer, head]: Head): Numbers | undefined {
    const size = this.side ** 2;
    const at = (this.layers.indexOf(layer) * this.columns + head) * size;
    return this.#tiles.get(mode)?.subarray(at, at + size);
  }

  /** The heads in full that can be shown so. */
  full(show: Show): Head[] {
    const usable = [...this.#exact].filter(([, exact]) => show === "pattern" || exact.valueNorm);
    return usable.map(([name]) => name.split(".").map(Number) as unknown as Head);
  }

  /** (query, key) of one head, each row a share of 1, as `Attention.weights` in Python; null where it is not here. */
  weights(head: Head, show: Show, hideFirst: boolean): Float32Array | null {
    const exact = this.#exact.get(nameOf(head));
    if (!exact || (show !== "pattern" && !exact.valueNorm)) return null;
    if (show === "pattern" && !hideFirst) return exact.pattern;
    const name = `${nameOf(head)} ${show} ${hideFirst}`;
    if (this.#weighed?.name === name && this.#weighed.of === exact) return this.#weighed.weights;
    const n = this.positions;
    const made = new Float32Array(n * n);
    for (let query = 0; query < n; query++) {
      const row = made.subarray(query * n, (query + 1) * n);
      let total = 0;
      for (let key = 0; key < n; key++) {
        const norm = show === "pattern" ? 1 : (exact.valueNorm?.[key] as number);
        total += row[key] = (exact.pattern[query * n + key] as number) * norm;
      }
      const first = row[0] as number;
      const rest = hideFirst ? row.subarray(1).reduce((sum, w) => sum + w, 0) : total;
      if (hideFirst) row[0] = 0;
      const kept = hideFirst ? rest > FAINT * (rest + first) : total > 0;
      for (let key = 0; key < n; key++) row[key] = kept ? (row[key] as number) / rest : 0;
    }
    this.#weighed = { name, of: exact, weights: made };
    return made;
  }
}
