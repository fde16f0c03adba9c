// What is looked at, over the picture: what feeds it and what it feeds, with numbers; marks of what is pinned and ablated.
import { percent } from "../feature_browser/list.ts";
import { signed } from "../shared/numbers.ts";
import { trace, widthOf } from "./curves.ts";
import type { Layout } from "./layout.ts";
import { EMBED, LOGIT } from "./network.ts";
import { drawItem, outline, shapeOf, written } from "./painting.ts";
import type { Link, Scene } from "./scene.ts";
import { Sheet, signedInk, type Inks } from "./sheet.ts";

/** So many links of an item are lit, and so many a step further; the numbers of the strongest are set beside them. */
const [NEAR, FAR, NUMBERS] = [300, 120, 6];

export interface Lights {
  /** What is looked at, of which all is lit. */
  readonly focus: number | null;
  readonly chosen: number | null;
  readonly pinned: readonly number[];
  readonly ablated: readonly number[];
  /** What was gathered to become a group. */
  readonly gathered: readonly number[];
  /** A rectangle that is being drawn, by two corners. */
  readonly band: readonly [readonly [number, number], readonly [number, number]] | null;
}

export class Lighting {
  readonly sheet = new Sheet("lk-c-lighting");

  draw(scene: Scene, layout: Layout, lights: Lights, inks: Inks): void {
    const context = this.sheet.clear(layout.width, layout.height);
    if (!context) return;
    const { focus, chosen, pinned } = lights;
    const lit = new Set<number>();
    for (const at of pinned) if (at !== focus) lightUp(context, scene, layout, at, inks, 0.45, lit);
    if (chosen !== null && chosen !== focus) lightUp(context, scene, layout, chosen, inks, 0.35, lit);
    if (focus !== null) {
      lightFar(context, scene, layout, focus, inks);
      lightUp(context, scene, layout, focus, inks, 1, lit);
    }
    context.globalAlpha = 1;
    for (const at of lit) drawItem(context, scene, layout, at, inks);
    drawMarks(context, scene, layout, lights, inks);
    if (focus !== null) drawNumbers(context, scene, layout, focus, inks);
    if (lights.band) drawBand(context, lights.band, inks);
  }
}

/** The strongest links of an item, the weakest first so that the strongest lie above them. */
function strongest(scene: Scene, at: number, most: number): Link[] {
  const links = [...(scene.into[at] ?? []).slice(0, most), ...(scene.outOf[at] ?? []).slice(0, most)];
  return links.map((link) => scene.link(link)).reverse();
}

function lightUp(context: CanvasRenderingContext2D, scene: Scene, layout: Layout, at: number, inks: Inks, alpha: number, lit: Set<number>): void {
  lit.add(at);
  for (const link of strongest(scene, at, NEAR)) {
    lit.add(link.source).add(link.target);
    context.beginPath();
    trace(context, layout, link);
    context.globalAlpha = alpha * Math.min(1, 0.4 + 1.4 * Math.sqrt(Math.abs(link.share)));
    context.lineWidth = widthOf(link.share);
    context.strokeStyle = signedInk(inks, link.share);
    context.stroke();
  }
}

/** One step further: what feeds what feeds it, and what is fed by what it feeds. */
function lightFar(context: CanvasRenderingContext2D, scene: Scene, layout: Layout, at: number, inks: Inks): void {
  const below = (scene.into[at] ?? []).flatMap((link) => scene.into[scene.link(link).source] ?? []);
  const above = (scene.outOf[at] ?? []).flatMap((link) => scene.outOf[scene.link(link).target] ?? []);
  const links = [...new Set([...below, ...above])].map((link) => scene.link(link)).sort((a, b) => b.flow - a.flow);
  context.globalAlpha = 0.16;
  context.lineWidth = 1;
  for (const positive of [true, false]) {
    context.beginPath();
    for (const link of links.slice(0, FAR)) if (link.share >= 0 === positive) trace(context, layout, link);
    context.strokeStyle = signedInk(inks, positive ? 0.4 : -0.4);
    context.stroke();
  }
}

function drawMarks(context: CanvasRenderingContext2D, scene: Scene, layout: Layout, lights: Lights, inks: Inks): void {
  const { focus, chosen, pinned, ablated, gathered } = lights;
  const ring = (at: number, outside: number, width: number, colour: string, dashes: number[] = []): void => {
    context.setLineDash(dashes);
    outline(context, layout, at, outside, shapeOf(scene, at));
    [context.lineWidth, context.strokeStyle] = [width, colour];
    context.stroke();
    context.setLineDash([]);
  };
  for (const at of pinned) ring(at, 2.6, 1.6, inks.accent);
  for (const at of gathered) ring(at, 4, 1.4, inks.ink, [3, 2]);
  if (chosen !== null) ring(chosen, 3, 2.2, inks.ink);
  if (focus !== null && focus !== chosen) ring(focus, 2.6, 1.3, inks.ink);
  for (const at of ablated) {
    const shape = shapeOf(scene, at);
    outline(context, layout, at, 0, shape);
    [context.fillStyle, context.lineWidth, context.strokeStyle] = [inks.page, 1.6, inks.opposite];
    if (shape === "disc") {
      // Empty and struck out; what has a name keeps it.
      const [x, y, size] = [layout.x[at] as number, layout.y[at] as number, 2.5 + 0.7 * (layout.high[at] as number)];
      context.moveTo(x - size, y + size);
      context.lineTo(x + size, y - size);
      context.fill();
    }
    context.stroke();
  }
}

/** What an effect is in its target's own units or, of a group, which part of all that reaches it. */
export const linkNumber = (scene: Scene, { target, weight, share }: Link): string =>
  scene.item(target).nodes.length === 1 ? signed(weight) : `${share < 0 ? "−" : "+"}${percent(Math.abs(share))}`;

/** The strongest effects at the other ends of their links, where they do not cover each other. */
function drawNumbers(context: CanvasRenderingContext2D, scene: Scene, layout: Layout, focus: number, inks: Inks): void {
  context.font = `600 11px ${inks.sans}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const taken: [x: number, y: number, half: number][] = [];
  for (const [links, end] of [[scene.into[focus], "source"], [scene.outOf[focus], "target"]] as const) {
    for (const link of (links ?? []).slice(0, NUMBERS).map((each) => scene.link(each))) {
      const text = linkNumber(scene, link);
      const half = context.measureText(text).width / 2;
      const [x, y] = besides(scene, layout, link[end], end === "target", half);
      if (taken.some(([left, top, w]) => Math.abs(top - y) < 12 && Math.abs(left - x) < w + half + 3)) continue;
      taken.push([x, y, half]);
      written(context, text, x, y, link.share < 0 ? inks.opposite : inks.accent, inks);
    }
  }
  context.textBaseline = "alphabetic";
}

/** Where a number stands: at the left if nothing stands there, since words stand at the right; else away from what is looked at. */
function besides({ network, items }: Scene, { x, y, wide, high }: Layout, at: number, above: boolean, half: number): [number, number] {
  const kind = network.kind[items[at]?.lead ?? -1];
  const [middle, row, size] = [x[at] as number, y[at] as number, wide[at] as number];
  if (kind === EMBED) return [middle + size + half + 4, row];
  const left = middle - size - half - 5;
  const free = x.every((other, o) => other >= middle || Math.abs((y[o] as number) - row) > 9 || other + (wide[o] as number) < left - half);
  return free ? [left, row] : [middle, row + (above && kind !== LOGIT ? -1 : 1) * ((high[at] as number) + 8)];
}

function drawBand(context: CanvasRenderingContext2D, [from, to]: NonNullable<Lights["band"]>, inks: Inks): void {
  context.beginPath();
  context.roundRect(Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 5);
  context.globalAlpha = 0.35;
  context.fillStyle = inks.soft;
  context.fill();
  context.globalAlpha = 1;
  [context.lineWidth, context.strokeStyle] = [1, inks.accent];
  context.stroke();
}
