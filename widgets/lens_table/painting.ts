// The cells' colours and tokens, on a canvas.
// Thirty by twenty-six cells of text cost a browser 45 ms of style, layout and paint, and a canvas 5: the elements of
// the grid above it are empty, and carry the names, the marks and the pointer.
import { stepAt, type Scale } from "../shared/colour.ts";
import { make } from "../shared/dom.ts";
import type { Piece } from "../shared/tokens.ts";
import { Typesetter } from "../shared/typeset.ts";
import type { Columns } from "./columns.ts";
import type { Ends, Statistic } from "./statistic.ts";
import type { Cells } from "./cells.ts";

export const ROW = 21;
const CELL = 20;
const RADIUS = 2.5;
const PADDING = 3;
const BASELINE = 14;
const CORNER = 6;
const FONT_SIZE = 12;
const STEP = 512;

/** How the cells are coloured. */
export interface Paint<C extends Cells = Cells> {
  readonly statistic: Statistic<string, C>;
  readonly ends: Ends;
  readonly scale: Scale;
  /** Whether the statistic's numbers stand in the cells. */
  readonly numbers: boolean;
}

export class Painting<C extends Cells> {
  readonly canvas = make("canvas", "lk-painting");
  readonly #typesetter: Typesetter | null;
  #ratio = 0;

  constructor() {
    this.canvas.setAttribute("aria-hidden", "true");
    const context = this.canvas.getContext("2d");
    this.#typesetter = context && new Typesetter(context);
  }

  /** Takes the font that the page gives the cells; the width of one of its characters, or 0 where there is no canvas. */
  takeFont(): number {
    if (!this.#typesetter) return 0;
    this.#typesetter.font = `${FONT_SIZE}px ${getComputedStyle(this.canvas).fontFamily || "monospace"}`;
    return this.#typesetter.width("0");
  }

  /** Whether a cell of this width shows its token whole. */
  fits(table: C, paint: Paint<C>, row: number, pos: number, width: number): boolean {
    const wanted = this.#typesetter?.width(textOf(table, paint, row, pos)) ?? 0;
    return wanted <= width - 2 * PADDING;
  }

  coloursOf(table: C, { statistic, ends, scale }: Paint<C>, row: number, pos: number): { fill: string; ink: string } {
    const value = statistic.value(table, pos, row);
    // Of what is no number, neither end is true: nothing is.
    const step = stepAt(Number.isNaN(value) && statistic.signed ? 0.5 : statistic.place(value, ends));
    return { fill: scale.fill[step] as string, ink: scale.ink[step] as string };
  }

  /** Paints the columns `first … end - 1`. */
  draw(table: C, paint: Paint<C>, columns: Columns, [first, end]: readonly [number, number], rowOf: (line: number) => number): void {
    const typesetter = this.#typesetter;
    if (!typesetter || end <= first) return;
    const { context } = typesetter;
    const ratio = globalThis.devicePixelRatio || 1;
    const origin = columns.left(first);
    const [width, height] = [columns.left(end) - origin, table.rows * ROW];
    this.#size(width, height, ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    typesetter.prepare();
    // Edges on whole device pixels, or they blur where a pixel of the page is one and a half of the screen.
    const snap = (x: number): number => Math.round(x * ratio) / ratio;
    for (let pos = first; pos < end; pos++) {
      const left = snap(columns.left(pos) - origin);
      const right = snap(columns.left(pos) - origin + columns.width(pos) - 1);
      for (let line = 0; line < table.rows; line++) {
        const row = rowOf(line);
        const { fill, ink } = this.coloursOf(table, paint, row, pos);
        const [top, bottom] = [snap(line * ROW), snap(line * ROW + CELL)];
        context.fillStyle = fill;
        context.beginPath();
        context.roundRect(left, top, right - left, bottom - top, RADIUS);
        context.fill();
        context.fillStyle = ink;
        if (table.agrees(pos, row)) markCorner(context, right, top);
        typesetter.set(textOf(table, paint, row, pos), left + PADDING, right - left - 2 * PADDING, top + BASELINE);
      }
    }
  }

  /** Makes the canvas large enough. Setting a canvas's size throws its memory away, so it grows by steps. */
  #size(width: number, height: number, ratio: number): void {
    const { canvas } = this;
    const [w, h] = [Math.ceil((width * ratio) / STEP) * STEP, Math.ceil(height * ratio)];
    if (w <= canvas.width && w > canvas.width - 2 * STEP && h === canvas.height && ratio === this.#ratio) return;
    [canvas.width, canvas.height, this.#ratio] = [w, h, ratio];
    canvas.style.width = `${w / ratio}px`;
    canvas.style.height = `${h / ratio}px`;
  }
}

/** What stands in a cell. */
function textOf<C extends Cells>(table: C, { numbers, statistic }: Paint<C>, row: number, pos: number): Piece | undefined {
  return numbers ? statistic.show(statistic.value(table, pos, row)) : table.piece(table.topId(pos, row));
}

/** A cell that already says what the last layer says: one sees where the answer arrives. */
function markCorner(context: CanvasRenderingContext2D, right: number, top: number): void {
  context.globalAlpha = 0.55;
  context.beginPath();
  context.moveTo(right - CORNER - 1, top);
  context.lineTo(right - RADIUS, top);
  context.quadraticCurveTo(right, top, right, top + RADIUS);
  context.lineTo(right, top + CORNER + 1);
  context.closePath();
  context.fill();
  context.globalAlpha = 1;
}
