// Cells and regions of them, in the grid's own rows and columns, and as the spec names them.
import type { Sweep } from "./sweep.ts";
import type { Place } from "./spec.ts";

/** A cell: its row in the sweep's arrays (not the layer's number) and its column. */
export interface Cell {
  readonly row: number;
  readonly column: number;
}

/** A rectangle of cells, both ends included. */
export interface Region {
  readonly rows: readonly [first: number, last: number];
  readonly columns: readonly [first: number, last: number];
}

export const sameCell = (a: Cell | null, b: Cell | null): boolean => a?.row === b?.row && a?.column === b?.column;

const ordered = (a: number, b: number): [number, number] => (a <= b ? [a, b] : [b, a]);

export function regionOf(a: Cell, b: Cell): Region {
  return { rows: ordered(a.row, b.row), columns: ordered(a.column, b.column) };
}

const span = ([first, last]: readonly [number, number]): number[] =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i);

/** The layers' numbers. */
export const layersOf = (sweep: Sweep, region: Region): number[] => span(region.rows).map((row) => sweep.header.layers[row] as number);
export const columnsOf = (region: Region): number[] => span(region.columns);
export const sizeOf = (region: Region): number =>
  (region.rows[1] - region.rows[0] + 1) * (region.columns[1] - region.columns[0] + 1);

export function placeOf(sweep: Sweep, cell: Cell): Place {
  const layer = sweep.header.layers[cell.row] as number;
  return sweep.over === "pos" ? { layer, pos: cell.column, head: null } : { layer, pos: null, head: cell.column };
}

/** The cell of a place, or null where this sweep has no such cell. */
export function cellOf(sweep: Sweep, place: Place | null): Cell | null {
  if (!place) return null;
  const row = sweep.header.layers.indexOf(place.layer);
  const column = sweep.over === "pos" ? place.pos : place.head;
  return row < 0 || column === null || column < 0 || column >= sweep.columns ? null : { row, column };
}
