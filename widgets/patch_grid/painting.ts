// The cells on a canvas: an estimate is a disc, an exact value a filled cell with its number.
import { stepAt, type Scale } from "../shared/colour.ts";
import { make } from "../shared/dom.ts";
import { effect } from "../shared/numbers.ts";
import type { Tracks } from "../shared/tracks.ts";
import type { Sweep } from "./sweep.ts";

export const ROW = 21;
const CELL = 20;
const RADIUS = 2.5;
const DISC = 6.5;
const DOT = 1.25;
const BASELINE = 14;
const STEP = 512;
/** On the scale's own length, effects below it are drawn as a dot, and get no number. */
const LEAST = 0.02;

export interface Paint {
  readonly ends: readonly [low: number, high: number];
  readonly scale: Scale;
}

interface Inks {
  readonly page: string;
  readonly panel: string;
  readonly line: string;
  readonly dot: string;
}

export class Painting {
  readonly canvas = make("canvas", "lk-pg-painting");
  readonly #context: CanvasRenderingContext2D | null;
  #ratio = 0;

  constructor() {
    this.canvas.setAttribute("aria-hidden", "true");
    this.#context = this.canvas.getContext("2d");
  }

  /** Paints the columns `first … end - 1`, the last layer on top. */
  draw(sweep: Sweep, { ends, scale }: Paint, tracks: Tracks, [first, end]: readonly [number, number]): void {
    const context = this.#context;
    if (!context || end <= first) return;
    const ratio = globalThis.devicePixelRatio || 1;
    const origin = tracks.left(first);
    this.#size(tracks.left(end) - origin, sweep.rows * ROW, ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const style = getComputedStyle(this.canvas);
    context.font = `11px ${style.fontFamily || "sans-serif"}`;
    context.textAlign = "center";
    const ink = (name: string): string => style.getPropertyValue(name).trim() || "#888";
    const inks: Inks = { page: ink("--lk-page"), panel: ink("--lk-pg-panel"), line: ink("--lk-line-2"), dot: ink("--lk-ink-3") };
    // Edges on whole device pixels, or they blur where a pixel of the page is one and a half of the screen.
    const snap = (x: number): number => Math.round(x * ratio) / ratio;
    const length = Math.max(Math.abs(ends[0]), Math.abs(ends[1]));
    for (let column = first; column < end; column++) {
      const left = snap(tracks.left(column) - origin);
      const right = snap(tracks.left(column) - origin + tracks.width(column) - 1);
      for (let row = 0; row < sweep.rows; row++) {
        const top = snap((sweep.rows - 1 - row) * ROW);
        const box = { left, top, width: right - left, height: snap(top + CELL) - top };
        const value = sweep.effect(row, column);
        const step = stepAt((value - ends[0]) / (ends[1] - ends[0]));
        const colours = { fill: scale.fill[step] as string, ink: scale.ink[step] as string };
        const small = !(Math.abs(value) >= LEAST * length);
        if (sweep.isExact(row, column)) drawExact(context, box, colours, inks, small ? "" : effect(value));
        else drawEstimate(context, box, colours, inks, Number.isNaN(value) ? null : small);
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

interface Box {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

interface Colours {
  readonly fill: string;
  readonly ink: string;
}

function roundedBox(context: CanvasRenderingContext2D, { left, top, width, height }: Box, fill: string, line: string): void {
  context.beginPath();
  context.roundRect(left + 0.5, top + 0.5, width - 1, height - 1, RADIUS);
  context.fillStyle = fill;
  context.fill();
  context.strokeStyle = line;
  context.lineWidth = 1;
  context.stroke();
}

function drawExact(context: CanvasRenderingContext2D, box: Box, colours: Colours, inks: Inks, number: string): void {
  // A cell without an effect has the colour of the page: its outline shows that it is there.
  if (number === "") {
    roundedBox(context, box, colours.fill, inks.line);
    return;
  }
  context.beginPath();
  context.roundRect(box.left, box.top, box.width, box.height, RADIUS);
  context.fillStyle = colours.fill;
  context.fill();
  context.fillStyle = colours.ink;
  context.fillText(number, box.left + box.width / 2, box.top + BASELINE);
}

/** `small`: whether it is a dot only; null where nothing is known yet. */
function drawEstimate(context: CanvasRenderingContext2D, box: Box, colours: Colours, inks: Inks, small: boolean | null): void {
  roundedBox(context, box, inks.panel, inks.line);
  if (small === null) return;
  context.beginPath();
  context.arc(box.left + box.width / 2, box.top + box.height / 2, small ? DOT : DISC, 0, 2 * Math.PI);
  context.fillStyle = small ? inks.dot : colours.fill;
  context.fill();
  if (small) return;
  context.strokeStyle = inks.dot;
  context.lineWidth = 0.75;
  context.stroke();
}
