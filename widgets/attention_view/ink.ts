// What a canvas needs of the page: its colours, its font, and a palette for pictures of numbers.
import { sequential, stepAt, type Theme } from "../shared/colour.ts";

export interface Ink {
  readonly theme: Theme;
  readonly ink: string;
  readonly second: string;
  readonly third: string;
  readonly line: string;
  readonly faint: string;
  readonly accent: string;
  readonly opposite: string;
  readonly page: string;
  readonly mono: string;
  readonly sans: string;
  /** RGBA of 0 to 255; nothing at all is the page itself. */
  readonly palette: Uint8ClampedArray;
}

export function inkOf(root: HTMLElement, theme: Theme): Ink {
  const style = getComputedStyle(root);
  const read = (name: string): string => style.getPropertyValue(`--lk-${name}`).trim();
  const palette = new Uint8ClampedArray(4 * 256);
  const { fill } = sequential(theme);
  for (let value = 1; value < 256; value++) {
    const rgb = (fill[stepAt(value / 255)] as string).match(/\d+/g) as string[];
    palette.set([...rgb.map(Number), 255], 4 * value);
  }
  return {
    theme,
    ink: read("ink"),
    second: read("ink-2"),
    third: read("ink-3"),
    line: read("line"),
    faint: read("line-2"),
    accent: read("accent"),
    opposite: read("opposite"),
    page: read("page"),
    mono: read("mono") || "monospace",
    sans: read("sans") || "sans-serif",
    palette,
  };
}

/** Makes a canvas of a size in page pixels sharp on this screen, and clears it. Null where nothing can be drawn. */
export function prepare(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D | null {
  const ratio = globalThis.devicePixelRatio || 1;
  const [w, h] = [Math.ceil(width * ratio), Math.ceil(height * ratio)];
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context?.setTransform(ratio, 0, 0, ratio, 0, 0);
  context?.clearRect(0, 0, width, height);
  return context;
}
