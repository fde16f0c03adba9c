// The picture at rest: all links faintly, all items as what they are.
import { trace } from "./curves.ts";
import { GUTTER, type Layout } from "./layout.ts";
import { EMBED, ERROR, LOGIT } from "./network.ts";
import type { Scene } from "./scene.ts";
import { Sheet, type Inks } from "./sheet.ts";

/** Links by how much of the influence goes along them: those of a class are one stroke, which costs a hundredth. */
const CLASSES = [
  { least: 0, alpha: 0.07, width: 0.7 },
  { least: 0.06, alpha: 0.13, width: 0.8 },
  { least: 0.15, alpha: 0.24, width: 1 },
  { least: 0.32, alpha: 0.4, width: 1.4 },
  { least: 0.6, alpha: 0.6, width: 2 },
] as const;
/** One stroke of more curves than this takes longer than two of half of them. */
const CHUNK = 128;
/** So many links stand as they are; of more, all but the strongest are fainter, and few are bolder. */
const CALM = 700;

export class Painting {
  readonly sheet = new Sheet("lk-c-painting");

  draw(scene: Scene, layout: Layout, inks: Inks): void {
    const context = this.sheet.clear(layout.width, layout.height);
    if (!context) return;
    drawGrid(context, layout, inks);
    for (const [name, items] of scene.open) {
      const posOf = (at: number): number => scene.network.pos[scene.item(at).lead] as number;
      for (const pos of new Set(items.map(posOf))) drawBox(context, name, items.filter((at) => posOf(at) === pos), layout, inks);
    }
    drawLinks(context, scene, layout, inks);
    context.globalAlpha = 1;
    for (let at = 0; at < scene.items.length; at++) drawItem(context, scene, layout, at, inks);
  }
}

function drawGrid(context: CanvasRenderingContext2D, { columns, rows, height, rotated }: Layout, inks: Inks): void {
  context.lineWidth = 1;
  context.strokeStyle = inks.hair;
  context.beginPath();
  const below = (rows[1]?.top ?? 0) - 4;
  // Between narrow columns they would be a curtain.
  for (const left of rotated ? [0, columns.total] : columns.lefts) {
    const x = Math.round(GUTTER + left) - 0.5;
    context.moveTo(x, below);
    context.lineTo(x, height);
  }
  for (const { top, layer, height: tall } of rows) {
    // Every fifth layer, so that one can count across the picture.
    if (layer < 0 || tall < 10 || layer % 5 !== 0) continue;
    context.moveTo(GUTTER, Math.round(top + tall) - 0.5);
    context.lineTo(GUTTER + columns.total, Math.round(top + tall) - 0.5);
  }
  context.stroke();
}

/** An open group at one token: a rounded box around its members, with its name. */
function drawBox(context: CanvasRenderingContext2D, name: string, items: readonly number[], { x, y, wide, high, words }: Layout, inks: Inks): void {
  const edge = (sign: 1 | -1, centre: Float64Array, half: Float64Array): number =>
    sign * Math.max(...items.map((at) => sign * (centre[at] as number) + (half[at] as number) + 5));
  const [left, right, top, bottom] = [edge(-1, x, wide), edge(1, x, wide.map((half, at) => half + 6 * (words[at] as string).length)), edge(-1, y, high), edge(1, y, high)];
  context.beginPath();
  context.roundRect(left, top, right - left, bottom - top, 7);
  context.globalAlpha = 0.5;
  context.fillStyle = inks.soft;
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = inks.accent;
  context.lineWidth = 0.8;
  context.stroke();
  context.font = `600 11px ${inks.sans}`;
  context.textAlign = "left";
  written(context, name, left + 3, top - 5, inks.accent, inks);
}

/** Text that lines run behind. */
export function written(context: CanvasRenderingContext2D, text: string, x: number, y: number, ink: string, inks: Inks): void {
  [context.lineWidth, context.lineJoin, context.strokeStyle, context.fillStyle] = [3.5, "round", inks.page, ink];
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function drawLinks(context: CanvasRenderingContext2D, scene: Scene, layout: Layout, inks: Inks): void {
  const most = scene.links.reduce((largest, { flow }) => Math.max(largest, flow), 0) || 1;
  const classes = CLASSES.map((): [number[], number[]] => [[], []]);
  scene.links.forEach(({ flow, share }, at) => {
    const strength = Math.sqrt(flow / most);
    const found = CLASSES.filter(({ least }) => strength >= least).length;
    (classes[Math.max(1, found) - 1] as [number[], number[]])[share < 0 ? 1 : 0].push(at);
  });
  const signs = [inks.bar, inks.opposite];
  const calm = Math.max(0.5, Math.min(1.7, Math.sqrt(CALM / scene.links.length)));
  classes.forEach((both, at) => {
    const { alpha, width } = CLASSES[at] as (typeof CLASSES)[number];
    [context.globalAlpha, context.lineWidth] = [at < 3 || calm > 1 ? Math.min(0.85, calm * alpha) : alpha, width];
    both.forEach((links, sign) => {
      context.strokeStyle = signs[sign] as string;
      for (let from = 0; from < links.length; from += CHUNK) {
        context.beginPath();
        for (const link of links.slice(from, from + CHUNK)) trace(context, layout, scene.link(link));
        context.stroke();
      }
    });
  });
}

/** An item as what it is: a disc, a square, a hollow diamond, or a box with a group's name. Targets are elements: see axes.ts. */
export function drawItem(context: CanvasRenderingContext2D, scene: Scene, layout: Layout, at: number, inks: Inks): void {
  const { network } = scene;
  const { group, lead } = scene.item(at);
  const kind = network.kind[lead];
  if (kind === LOGIT) return;
  if (group !== null) drawGroup(context, group, layout, at, inks);
  else {
    outline(context, layout, at, 0, shapeOf(scene, at));
    context.fillStyle = kind === ERROR ? inks.page : kind === EMBED ? inks.third : inks.bar;
    context.fill();
    context.lineWidth = 1.1;
    context.strokeStyle = kind === ERROR ? inks.second : inks.page;
    context.stroke();
    context.font = `11px ${inks.sans}`;
    context.textAlign = "left";
    written(context, layout.words[at] as string, (layout.x[at] as number) + (layout.wide[at] as number) + 6, (layout.y[at] as number) + 4, inks.second, inks);
  }
}

type Shape = "disc" | "square" | "diamond" | "pill";

export function shapeOf(scene: Scene, at: number): Shape {
  const { group, lead } = scene.item(at);
  const kind = scene.network.kind[lead];
  if (group !== null || kind === LOGIT) return "pill";
  return kind === EMBED ? "square" : kind === ERROR ? "diamond" : "disc";
}

/** The outline of an item, so much outside its edge. */
export function outline(context: CanvasRenderingContext2D, layout: Layout, at: number, outside: number, shape: Shape): void {
  const { x, y, wide, high } = layout;
  const [cx, cy, w, h] = [x[at] as number, y[at] as number, (wide[at] as number) + outside, (high[at] as number) + outside];
  context.beginPath();
  if (shape === "disc") context.arc(cx, cy, w, 0, 2 * Math.PI);
  else if (shape === "diamond") {
    context.moveTo(cx, cy - h);
    for (const [dx, dy] of [[w, 0], [0, h], [-w, 0]] as const) context.lineTo(cx + dx, cy + dy);
    context.closePath();
  } else context.roundRect(cx - w, cy - h, 2 * w, 2 * h, shape === "pill" ? 6 : 1);
}

function drawGroup(context: CanvasRenderingContext2D, name: string, layout: Layout, at: number, inks: Inks): void {
  outline(context, layout, at, 0, "pill");
  context.fillStyle = inks.soft;
  context.fill();
  context.lineWidth = 1.2;
  context.strokeStyle = inks.accent;
  context.stroke();
  context.fillStyle = inks.accent;
  context.font = `600 11px ${inks.sans}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const room = 2 * (layout.wide[at] as number) - 10;
  let text = name;
  while (text.length > 1 && context.measureText(text).width > room) text = `${[...text.replace(/…$/, "")].slice(0, -1).join("")}…`;
  context.fillText(text, layout.x[at] as number, (layout.y[at] as number) + 0.5);
  context.textBaseline = "alphabetic";
}
