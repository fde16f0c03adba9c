// One table: what the lens reads at each position and layer. Immutable; a suffix gives a new one.
import type { Piece } from "../shared/tokens.ts";
import { decodeAll, join, type ArrayEntry, type Numbers } from "../shared/wire.ts";

export interface TableMessage {
  readonly v: 1;
  readonly kind: "table";
  readonly id: string;
  readonly table: number;
  readonly base: number | null;
  readonly start: number;
  readonly positions: number;
  readonly prompt: string;
  readonly target: number | null;
  readonly layers: readonly number[];
  readonly k: number;
  readonly pieces: readonly (readonly [number, Piece])[];
  readonly ms: number;
  readonly recomputed: number;
  readonly arrays: readonly ArrayEntry[];
}

const NAMES = ["ids", "top_ids", "top_probs", "entropy", "kl", "target_ids", "target_prob", "target_rank"] as const;
type Name = (typeof NAMES)[number];

/** How many numbers of an array belong to one position. */
function perPosition(name: Name, layers: number, k: number): number {
  if (name === "ids" || name === "target_ids") return 1;
  return name === "top_ids" || name === "top_probs" ? layers * k : layers;
}

export class Table {
  readonly rows: number;

  private constructor(
    readonly message: TableMessage,
    readonly pieces: ReadonlyMap<number, Piece>,
    private readonly arrays: Readonly<Record<Name, Numbers>>,
  ) {
    this.rows = message.layers.length;
  }

  /** The table of a message; `base` is the one it continues, where it continues one. */
  static of(message: TableMessage, buffers: readonly (ArrayBufferView | ArrayBuffer)[], base: Table | null): Table {
    if (message.base !== null && base?.number !== message.base) {
      throw new Error(`table ${message.table} continues table ${message.base}, which is not here`);
    }
    const continues = message.base === null ? null : base;
    const sent = decodeAll(message.arrays, buffers);
    const whole = {} as Record<Name, Numbers>;
    for (const name of NAMES) {
      const suffix = sent.get(name);
      if (!suffix) throw new Error(`the table has no array "${name}"`);
      const size = perPosition(name, message.layers.length, message.k);
      whole[name] = continues ? join(continues.arrays[name], message.start * size, suffix) : suffix;
      if (whole[name].length !== message.positions * size) {
        throw new Error(`array "${name}" covers ${whole[name].length / size} of ${message.positions} positions`);
      }
    }
    return new Table(message, new Map([...(continues?.pieces ?? []), ...message.pieces]), whole);
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
  get k(): number {
    return this.message.k;
  }

  piece(id: number): Piece | undefined {
    return this.pieces.get(id);
  }
  /** The prompt's own token. */
  tokenId(pos: number): number {
    return this.arrays.ids[pos] as number;
  }
  topId(pos: number, row: number, place = 0): number {
    return this.arrays.top_ids[(pos * this.rows + row) * this.k + place] as number;
  }
  topProb(pos: number, row: number, place = 0): number {
    return this.arrays.top_probs[(pos * this.rows + row) * this.k + place] as number;
  }
  entropy(pos: number, row: number): number {
    return this.arrays.entropy[pos * this.rows + row] as number;
  }
  kl(pos: number, row: number): number {
    return this.arrays.kl[pos * this.rows + row] as number;
  }
  targetId(pos: number): number {
    return this.arrays.target_ids[pos] as number;
  }
  targetProb(pos: number, row: number): number {
    return this.arrays.target_prob[pos * this.rows + row] as number;
  }
  targetRank(pos: number, row: number): number {
    return this.arrays.target_rank[pos * this.rows + row] as number;
  }
  /** Whether a layer below the last already says what the last one says. */
  agrees(pos: number, row: number): boolean {
    return row < this.rows - 1 && this.topId(pos, row) === this.topId(pos, this.rows - 1);
  }
  /** The row of a layer's number, or -1. */
  rowOf(layer: number): number {
    return this.layers.indexOf(layer);
  }
}
