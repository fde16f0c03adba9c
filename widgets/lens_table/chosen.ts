// Which cells are chosen: what the spec says, as cells of the table that is shown, and the other way round.
import type { Fields } from "../shared/linked.ts";
import { carried, siteOf } from "./asking.ts";
import { regionOf, type Cell, type Region } from "./grid.ts";
import type { Facts, Selection, Spec } from "./spec.ts";
import type { Table } from "./table.ts";

export function holds(table: Table | null, { row, pos }: Cell): boolean {
  return table !== null && pos >= 0 && pos < table.positions && row >= 0 && row < table.rows;
}

/** The cell of a selection, or null where the table has none. */
export function cellOf(selection: Selection | null, spec: Spec, table: Table | null, facts: Facts): Cell | null {
  if (!table || !selection) return null;
  // Until the answer comes, the cell is marked in the table of the lens before.
  const { layer, pos } = carried(selection, siteOf(spec, facts), table.site, facts);
  const cell = { row: table.rowOf(layer), pos };
  return holds(table, cell) ? cell : null;
}

/** The cells between the pinned one and the opposite corner. */
export function regionIn(spec: Spec, table: Table | null, facts: Facts): Region | null {
  const [a, b] = [spec.selection, spec.to].map((corner) => cellOf(corner, spec, table, facts));
  return a && b ? regionOf(a, b) : null;
}

export const selectionOf = (cell: Cell, { layers }: Table): Selection => ({ layer: layers[cell.row] as number, pos: cell.pos });

/** The spec with what a linked view chose, as far as it is in this table. */
export function following(spec: Spec, table: Table | null, { layer, pos }: Fields): Spec | null {
  const takesLayer = typeof layer === "number" && (table?.rowOf(layer) ?? -1) >= 0;
  const takesPos = typeof pos === "number" && pos >= 0 && pos < (table?.positions ?? 0);
  if (!table || !(takesLayer || takesPos)) return null;
  const chosen = spec.selection ?? { layer: table.layers.at(-1) as number, pos: table.positions - 1 };
  return { ...spec, to: null, selection: { layer: takesLayer ? layer : chosen.layer, pos: takesPos ? pos : chosen.pos } };
}
