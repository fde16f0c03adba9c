// What a comparison of two readings needs: types here, the code in the second module, which comes with the first comparison.
import type { Cells } from "./cells.ts";
import type { DifferenceName } from "./spec.ts";
import type { Statistic } from "./statistic.ts";
import type { Table } from "./table.ts";
import type { Piece } from "../shared/tokens.ts";
import type { ArrayEntry } from "../shared/wire.ts";

export type BetweenName = "kl" | "js" | "total_variation" | "largest_change" | "changed_ids";

/** Two readings as one grid: what the second says, and how far that is from what the first says. */
export interface Difference extends Cells {
  readonly first: Table;
  readonly second: Table;
  between(name: BetweenName, pos: number, row: number): number;
}

export interface BetweenMessage {
  readonly pieces: readonly (readonly [number, Piece])[];
  readonly arrays: readonly ArrayEntry[];
}

export type DifferenceStatistic = Statistic<DifferenceName, Difference>;

/** The code that compares. */
export interface Comparing {
  readonly differences: readonly DifferenceStatistic[];
  differenceOf(first: Table, second: Table, message: BetweenMessage, buffers: readonly DataView[]): Difference;
}
