// Two readings as one grid: what the second says, and how far that is from what the first says.
import type { Piece } from "../shared/tokens.ts";
import { decodeAll, type Numbers } from "../shared/wire.ts";
import type { BetweenMessage, BetweenName, Difference } from "../lens_table/compared.ts";
import type { Table } from "../lens_table/table.ts";

const NAMES: readonly BetweenName[] = ["kl", "js", "total_variation", "largest_change", "changed_ids"];

export class Apart implements Difference {
  private constructor(
    readonly first: Table,
    readonly second: Table,
    private readonly pieces: ReadonlyMap<number, Piece>,
    private readonly arrays: ReadonlyMap<string, Numbers>,
  ) {}

  static of(first: Table, second: Table, message: BetweenMessage, buffers: readonly (ArrayBufferView | ArrayBuffer)[]): Apart {
    if (first.rows !== second.rows || first.positions !== second.positions) {
      throw new Error(`${first.rows} rows x ${first.positions} tokens beside ${second.rows} x ${second.positions}`);
    }
    const arrays = decodeAll(message.arrays, buffers);
    for (const name of NAMES) {
      if (arrays.get(name)?.length !== first.rows * first.positions) throw new Error(`the comparison has no whole array "${name}"`);
    }
    return new Apart(first, second, new Map(message.pieces), arrays);
  }

  get rows(): number {
    return this.first.rows;
  }
  get positions(): number {
    return this.first.positions;
  }
  get layers(): readonly number[] {
    return this.first.layers;
  }
  get site(): string {
    return this.first.site;
  }
  piece(id: number): Piece | undefined {
    return this.first.piece(id) ?? this.second.piece(id) ?? this.pieces.get(id);
  }
  tokenIds(pos: number): readonly number[] {
    return [...new Set([this.first.tokenId(pos), this.second.tokenId(pos)])];
  }
  topId(pos: number, row: number): number {
    return this.second.topId(pos, row);
  }
  /** Whether both say the same. */
  agrees(pos: number, row: number): boolean {
    return this.first.topId(pos, row) === this.second.topId(pos, row);
  }
  rowOf(layer: number): number {
    return this.first.rowOf(layer);
  }
  between(name: BetweenName, pos: number, row: number): number {
    return (this.arrays.get(name) as Numbers)[pos * this.rows + row] as number;
  }
}
