// One table: what the lens reads at each position and layer. Immutable; a suffix gives a new one.
import type { Piece } from "../shared/tokens.ts";
import { decodeAll, join, type ArrayEntry, type Numbers } from "../shared/wire.ts";
import type { Cells } from "./cells.ts";
import type { BetweenMessage } from "./compared.ts";

/** One side of a message. */
export interface SideMessage {
  readonly table: number;
  readonly base: number | null;
  readonly start: number;
  readonly positions: number;
  readonly site: string;
  readonly layers: readonly number[];
  readonly k: number;
  readonly pieces: readonly (readonly [number, Piece])[];
  readonly arrays: readonly ArrayEntry[];
}

/** The first side, and what was asked; `beside` is the other side, and `between` how far apart they are. */
export interface TableMessage extends SideMessage {
  readonly v: 1;
  readonly kind: "table";
  readonly id: string;
  readonly prompt: string;
  readonly lens: string;
  readonly target: number | null;
  readonly versus: number | null;
  readonly second: string | null;
  readonly other: string | null;
  readonly written: readonly number[];
  readonly words: boolean;
  readonly beside: SideMessage | null;
  readonly between: BetweenMessage | null;
  readonly ms: number;
  readonly recomputed: number;
}

const NAMES = ["ids", "top_ids", "top_probs", "entropy", "kl", "target_ids", "target_log_prob", "target_rank"] as const;
const OPTIONAL = ["versus_ids", "versus_log_prob"] as const;
type Name = (typeof NAMES)[number] | (typeof OPTIONAL)[number];

/** How many numbers of an array belong to one position. */
function perPosition(name: Name, layers: number, k: number): number {
  if (name === "ids" || name === "target_ids" || name === "versus_ids") return 1;
  return name === "top_ids" || name === "top_probs" ? layers * k : layers;
}

export class Table implements Cells {
  readonly rows: number;

  private constructor(
    readonly message: SideMessage,
    readonly pieces: ReadonlyMap<number, Piece>,
    private readonly arrays: Readonly<Partial<Record<Name, Numbers>>>,
  ) {
    this.rows = message.layers.length;
  }

  /** The table of a message; `base` is the one it continues, where it continues one. */
  static of(message: SideMessage, buffers: readonly (ArrayBufferView | ArrayBuffer)[], base: Table | null): Table {
    if (message.base !== null && base?.number !== message.base) {
      throw new Error(`table ${message.table} continues table ${message.base}, which is not here`);
    }
    const continues = message.base === null ? null : base;
    const sent = decodeAll(message.arrays, buffers);
    const missing = NAMES.find((name) => !sent.has(name));
    if (missing) throw new Error(`the table has no array "${missing}"`);
    const whole: Partial<Record<Name, Numbers>> = {};
    for (const name of [...NAMES, ...OPTIONAL]) {
      const suffix = sent.get(name);
      if (!suffix) continue;
      const size = perPosition(name, message.layers.length, message.k);
      const before = continues?.arrays[name];
      const joined = before ? join(before, message.start * size, suffix) : suffix;
      whole[name] = joined;
      if (joined.length !== message.positions * size) {
        throw new Error(`array "${name}" covers ${joined.length / size} of ${message.positions} positions`);
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
  get site(): string {
    return this.message.site;
  }
  get k(): number {
    return this.message.k;
  }

  piece(id: number): Piece | undefined {
    return this.pieces.get(id);
  }
  /** The prompt's own token. */
  tokenId(pos: number): number {
    return this.#at("ids", pos);
  }
  tokenIds(pos: number): readonly number[] {
    return [this.tokenId(pos)];
  }
  #at(name: Name, index: number): number {
    return this.arrays[name]?.[index] as number;
  }
  topId(pos: number, row: number, place = 0): number {
    return this.#at("top_ids", (pos * this.rows + row) * this.k + place);
  }
  topProb(pos: number, row: number, place = 0): number {
    return this.#at("top_probs", (pos * this.rows + row) * this.k + place);
  }
  entropy(pos: number, row: number): number {
    return this.#at("entropy", pos * this.rows + row);
  }
  kl(pos: number, row: number): number {
    return this.#at("kl", pos * this.rows + row);
  }
  targetId(pos: number): number {
    return this.#at("target_ids", pos);
  }
  targetLogProb(pos: number, row: number): number {
    return this.#at("target_log_prob", pos * this.rows + row);
  }
  targetProb(pos: number, row: number): number {
    return Math.exp(this.targetLogProb(pos, row));
  }
  /** The second target, where there is one. */
  versusId(pos: number): number | null {
    return this.arrays.versus_ids ? this.#at("versus_ids", pos) : null;
  }
  /** The log-probability of the target less that of the second; no number where there is no second. */
  logProbDifference(pos: number, row: number): number {
    if (!this.arrays.versus_log_prob) return Number.NaN;
    return this.targetLogProb(pos, row) - this.#at("versus_log_prob", pos * this.rows + row);
  }
  targetRank(pos: number, row: number): number {
    return this.#at("target_rank", pos * this.rows + row);
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
