// Where everything stands: layers upwards, tokens across, what is in one cell side by side.
import { tokenWidth } from "../shared/tokens.ts";
import { Tracks } from "../shared/tracks.ts";
import { EMBED, ERROR, FEATURE, LOGIT, type Network } from "./network.ts";
import type { Item, Scene } from "./scene.ts";

/** For the layers' numbers, at the left. */
export const GUTTER = 46;
const TALL = 620;
const [LOWEST, HIGHEST] = [17, 84];
/** A layer that has no node anywhere in the graph. */
const EMPTY = 5;
const PILL = 22;
const TOP = 6;
const LEAST = 1.9;
/** A character of a token, and of a group's name. */
const [MONO, SANS] = [7.3, 6.4];

/** How tight things stand, the best first; what fits none of them scrolls. If there are few, the first of its words stands beside each. */
const FITS = (
  [
    [1, 5, false, 60],
    [1, 5, false, 0],
    [0.85, 4, false, 0],
    [0.95, 4, true, 0],
    [0.78, 3, true, 0],
    [0.6, 2, true, 0],
  ] as const
).map(([radius, gap, rotated, words]) => ({ radius, gap, rotated, words }));
type Fit = (typeof FITS)[number];

export interface Row {
  /** −1 of the embeddings, the number of layers of the logits. */
  readonly layer: number;
  readonly top: number;
  readonly height: number;
}

export interface Layout {
  /** The centre of each item, and half of its width and height. */
  readonly x: Float64Array;
  readonly y: Float64Array;
  readonly wide: Float64Array;
  readonly high: Float64Array;
  /** The word beside each, or "". */
  readonly words: readonly string[];
  readonly columns: Tracks;
  /** From the top. */
  readonly rows: readonly Row[];
  /** Items of each row from left to right. */
  readonly lines: readonly (readonly number[])[];
  readonly width: number;
  readonly height: number;
  /** Whether the tokens below are set upright, because their columns are narrow. */
  readonly rotated: boolean;
  /** The largest radius, and the influence that has it. */
  readonly radius: number;
  readonly largest: number;
}

/** The height of a layer's row, so that all of them fit a screen if they can. */
export function rowHeight(filled: number, empty: number): number {
  return Math.max(LOWEST, Math.min(HIGHEST, Math.floor((TALL - empty * EMPTY) / Math.max(1, filled))));
}

export function layOut(scene: Scene, room: number): Layout {
  const { network, items } = scene;
  const filled = new Set<number>();
  for (let node = 0; node < network.count; node++) if (network.kind[node] !== LOGIT) filled.add(network.layer[node] as number);
  const high = rowHeight(filled.size, network.layers + 1 - filled.size);
  const base = Math.min(11, high * 0.46);
  const features = items.filter(({ lead, group }) => network.isFeature(lead) && group === null);
  const largest = features.reduce((most, { influence }) => Math.max(most, influence), 0);
  const cells = cellsOf(scene);
  const measured = FITS.map((fit) => measure(scene, cells, fit, base, largest));
  const tightest = measured.length - 1;
  const fits = measured.findIndex(({ total }) => total <= room - GUTTER);
  const chosen = measured[fits < 0 ? tightest : fits] as Measured;
  // What there is room for, but not so much that a short prompt falls apart.
  const stretch = Math.max(1, Math.min((room - GUTTER) / chosen.total, 2.2));
  const columns = new Tracks(chosen.widths.map((width) => Math.floor(width * stretch)));
  const width = GUTTER + columns.total;
  const pills = placePills(scene, columns, width);
  const rows = rowsOf(network, filled, high, pills.height);
  const [x, y] = [new Float64Array(items.length), new Float64Array(items.length)];
  const gap = chosen.fit.gap * Math.min(stretch, 1.8);
  for (const { layer, pos, lane, at } of cells) {
    const row = rows[network.layers - layer] as Row;
    const taken = at.reduce((sum, item) => sum + 2 * (chosen.wide[item] as number) + gap, -gap);
    const lanes = chosen.lanes[pos] as number[];
    const all = lanes.reduce((sum, width) => sum + width, 0);
    // Before it, and as wide as it; what comes from the token itself stands above it.
    const [before, width] = layer < 0 && lane === scene.open.length ? [0, all] : [lanes.slice(0, lane).reduce((sum, width) => sum + width, 0), lanes[lane] as number];
    let left = GUTTER + columns.left(pos) + ((before + width / 2) / all) * columns.width(pos) - taken / 2;
    for (const item of at) {
      x[item] = left + (chosen.wide[item] as number);
      y[item] = row.top + row.height / 2;
      left += 2 * (chosen.wide[item] as number) + gap;
    }
  }
  for (const { item, x: at, y: down } of pills.places) [x[item], y[item]] = [at, down];
  const last = rows[rows.length - 1] as Row;
  const { wide, high: tall, fit } = chosen;
  const sizes = { width, height: last.top + last.height, radius: base * fit.radius, largest };
  return { x, y, wide, high: tall, words: chosen.words, columns, rows, lines: linesOf(scene, x, y), rotated: fit.rotated, ...sizes };
}

interface Cell {
  readonly layer: number;
  readonly pos: number;
  /** Each open group has a lane of its own in a column, so that no other stands among its members; the last is for the others. */
  readonly lane: number;
  readonly at: readonly number[];
}

/** What stands in one cell: groups first, then by influence, and errors last. Logits stand in no cell. */
function cellsOf({ network, items, open }: Scene): Cell[] {
  const laneOf = (item: number): number => {
    const lane = open.findIndex(([, members]) => members.includes(item));
    return lane < 0 ? open.length : lane;
  };
  const cells = new Map<number, number[]>();
  items.forEach(({ lead }, at) => {
    if (network.kind[lead] === LOGIT) return;
    const place = ((network.layer[lead] as number) + 1) * network.tokens.length + (network.pos[lead] as number);
    const key = place * (open.length + 1) + laneOf(at);
    const cell = cells.get(key);
    if (cell) cell.push(at);
    else cells.set(key, [at]);
  });
  const rank = ({ group, lead }: Item): number => (group !== null ? 0 : network.kind[lead] === ERROR ? 2 : 1);
  return [...cells.values()].map((at) => {
    at.sort((a, b) => rank(items[a] as Item) - rank(items[b] as Item) || (items[b] as Item).influence - (items[a] as Item).influence);
    const { lead } = items[at[0] as number] as Item;
    return { layer: network.layer[lead] as number, pos: network.pos[lead] as number, lane: laneOf(at[0] as number), at };
  });
}

interface Measured {
  readonly fit: Fit;
  readonly widths: number[];
  /** Of each column, the widths of its lanes. */
  readonly lanes: number[][];
  readonly total: number;
  readonly words: readonly string[];
  readonly wide: Float64Array;
  readonly high: Float64Array;
}

function measure({ network, items, open }: Scene, cells: readonly Cell[], fit: Fit, base: number, largest: number): Measured {
  const [wide, high] = [new Float64Array(items.length), new Float64Array(items.length)];
  items.forEach((item, at) => ([wide[at], high[at]] = sizeOf(network, item, base * fit.radius, largest)));
  const widths = network.tokens.map((piece) => (fit.rotated ? 17 : Math.max(24, Math.min(92, tokenWidth(piece) * MONO + 12))));
  const words = items.map(() => "");
  const lanes = widths.map(() => new Array<number>(open.length + 1).fill(0));
  for (const { pos, lane, at } of cells) {
    const last = at[at.length - 1] as number;
    if (items.length <= fit.words && items[last]?.group === null) words[last] = network.words((items[last] as Item).lead).split(" · ")[0] as string;
    // On both sides, so that what stands above each other stays so.
    const beside = 2 * SANS * (words[last] as string).length;
    const taken = at.reduce((sum, item) => sum + 2 * (wide[item] as number) + fit.gap, fit.gap + beside + (lane < open.length ? 16 : 4));
    const of = lanes[pos] as number[];
    of[lane] = Math.max(of[lane] as number, taken);
  }
  lanes.forEach((of, pos) => (widths[pos] = Math.max(widths[pos] as number, of.reduce((sum, width) => sum + width, 0))));
  return { fit, widths, lanes, words, total: widths.reduce((sum, width) => sum + width, 0), wide, high };
}

/** Half the width and height: an area in proportion to the influence; what has a text is as wide as that. */
function sizeOf(network: Network, { group, lead, influence }: Item, radius: number, largest: number): [number, number] {
  if (network.kind[lead] === LOGIT) return [Math.min(75, tokenWidth(network.label(lead)) * MONO * 0.5 + 25), PILL / 2];
  if (group !== null) return [Math.min(70, [...group].length * SANS * 0.5 + 11), Math.max(8, Math.min(10.5, radius * 1.15))];
  const share = Math.sqrt(Math.min(1, largest > 0 ? influence / largest : 0));
  // An area for an area: a square and a diamond have their own half widths.
  const shape = network.kind[lead] === FEATURE ? 1 : network.kind[lead] === EMBED ? 0.886 : 1.12;
  const size = Math.max(LEAST, radius * share * shape);
  return [size, size];
}

function rowsOf(network: Network, filled: ReadonlySet<number>, high: number, pills: number): Row[] {
  const rows: Row[] = [{ layer: network.layers, top: TOP, height: pills }];
  let top = TOP + pills + 12;
  for (let layer = network.layers - 1; layer >= -1; layer--) {
    const height = layer === -1 ? Math.max(high, 24) : filled.has(layer) ? high : EMPTY;
    rows.push({ layer, top, height });
    top += height;
  }
  return rows;
}

interface Pills {
  readonly places: readonly { readonly item: number; readonly x: number; readonly y: number }[];
  readonly height: number;
}

/** The logits in lines above the token they follow, the likeliest first. */
function placePills({ network, items }: Scene, columns: Tracks, width: number): Pills {
  const logits = items.map((_, at) => at).filter((at) => network.kind[(items[at] as Item).lead] === LOGIT);
  logits.sort((a, b) => (items[b] as Item).influence - (items[a] as Item).influence);
  const wide = (at: number): number => 2 * sizeOf(network, items[at] as Item, 0, 0)[0] + 6;
  const lines: number[][] = [[]];
  let taken = 0;
  for (const at of logits) {
    if (taken > 0 && taken + wide(at) > width - GUTTER) {
      lines.push([]);
      taken = 0;
    }
    taken += wide(at);
    (lines[lines.length - 1] as number[]).push(at);
  }
  const places = lines.flatMap((line, row) => {
    const total = line.reduce((sum, at) => sum + wide(at), 0);
    const pos = line.length ? (network.pos[(items[line[0] as number] as Item).lead] as number) : 0;
    const centre = GUTTER + columns.left(pos) + columns.width(pos) / 2;
    let left = Math.max(GUTTER, Math.min(width - total, centre - total / 2));
    return line.map((item) => {
      const x = left + wide(item) / 2;
      left += wide(item);
      return { item, x, y: TOP + row * (PILL + 4) + PILL / 2 };
    });
  });
  return { places, height: lines.length * (PILL + 4) - 4 };
}

function linesOf({ items }: Scene, x: Float64Array, y: Float64Array): number[][] {
  const lines = new Map<number, number[]>();
  items.forEach((_, at) => lines.set(y[at] as number, [...(lines.get(y[at] as number) ?? []), at]));
  return [...lines.entries()].sort(([a], [b]) => a - b).map(([, line]) => line.sort((a, b) => (x[a] as number) - (x[b] as number)));
}
