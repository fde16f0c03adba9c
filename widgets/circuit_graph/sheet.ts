// A canvas as large as the picture, sharp on every screen, and the inks that are drawn with.
import { diverging, STEPS, type Scale, type Theme } from "../shared/colour.ts";
import { make } from "../shared/dom.ts";

/** A canvas that is larger costs more memory than a page should take: then it gets coarser. */
const [MOST, LONGEST] = [24e6, 16000];

export class Sheet {
  readonly canvas: HTMLCanvasElement;
  readonly context: CanvasRenderingContext2D | null;

  constructor(name: string) {
    this.canvas = make("canvas", name);
    this.canvas.setAttribute("aria-hidden", "true");
    this.context = this.canvas.getContext("2d");
  }

  /** An empty sheet of this size, in the page's pixels. */
  clear(width: number, height: number): CanvasRenderingContext2D | null {
    const { canvas, context } = this;
    if (!context) return null;
    const most = Math.min(Math.sqrt(MOST / (width * height)), LONGEST / Math.max(width, height));
    const ratio = Math.min(globalThis.devicePixelRatio || 1, most);
    const [w, h] = [Math.ceil(width * ratio), Math.ceil(height * ratio)];
    // Setting a canvas's size throws its memory away.
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return context;
  }
}

export interface Inks {
  readonly page: string;
  readonly ink: string;
  readonly second: string;
  readonly third: string;
  readonly hair: string;
  readonly accent: string;
  readonly soft: string;
  readonly bar: string;
  readonly opposite: string;
  readonly sans: string;
  readonly scale: Scale;
}

export function inksOf(element: HTMLElement, theme: Theme): Inks {
  const style = getComputedStyle(element);
  const ink = (name: string): string => style.getPropertyValue(`--lk-${name}`).trim() || "#888";
  return {
    page: ink("page"),
    ink: ink("ink"),
    second: ink("ink-2"),
    third: ink("ink-3"),
    hair: ink("line-2"),
    accent: ink("accent"),
    soft: ink("accent-soft"),
    bar: ink("bar"),
    opposite: ink("opposite"),
    sans: style.fontFamily || "sans-serif",
    scale: diverging(theme),
  };
}

const MIDDLE = (STEPS - 1) / 2;

/** The colour of a signed share: never so pale that a line of it is lost on the page. */
export function signedInk({ scale }: Inks, share: number): string {
  const strength = 0.5 + 0.42 * Math.sqrt(Math.min(1, Math.abs(share)));
  return scale.fill[Math.round(MIDDLE + Math.sign(share) * MIDDLE * strength)] as string;
}
