// Colour scales: interpolated in OKLab, so that equal steps of a number look like equal steps.

export type Theme = "light" | "dark";
type Triple = readonly [number, number, number];

/** From nothing (the colour of the page) to all. */
export const SEQUENTIAL: Record<Theme, readonly string[]> = {
  light: ["#ffffff", "#d9e8f2", "#8fbfdc", "#3a86b7", "#0d4f82", "#06294d"],
  dark: ["#111214", "#15283a", "#1d4c70", "#2f7fae", "#74b8da", "#d8eef9"],
};

/** Signed effects: from the strongest against, through nothing (the colour of the page), to the strongest for. */
export const DIVERGING: Record<Theme, readonly string[]> = {
  light: ["#8a3403", "#d9782f", "#f3c9a1", "#ffffff", "#a9cfe6", "#3a86b7", "#063f6e"],
  dark: ["#ffb67a", "#c86a22", "#5f3211", "#111214", "#123a58", "#2f86ba", "#a8dcf8"],
};

/**
 * As many steps as a row of cells can tell apart; a table of them is quicker than a computation for each cell.
 * Odd, so that a diverging scale has a middle.
 */
export const STEPS = 97;

export interface Scale {
  /** CSS colours, `STEPS` of them, from the lower end of the scale to the upper. */
  readonly fill: readonly string[];
  /** The ink for text on each of them. */
  readonly ink: readonly string[];
}

function hexToRgb(hex: string): Triple {
  const n = Number.parseInt(hex.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}

const linear = (c: number): number => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const gamma = (c: number): number => (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055);

function rgbToOklab(rgb: Triple): Triple {
  const [r, g, b] = [linear(rgb[0] / 255), linear(rgb[1] / 255), linear(rgb[2] / 255)];
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function oklabToRgb(lab: Triple): Triple {
  const l = (lab[0] + 0.3963377774 * lab[1] + 0.2158037573 * lab[2]) ** 3;
  const m = (lab[0] - 0.1055613458 * lab[1] - 0.0638541728 * lab[2]) ** 3;
  const s = (lab[0] - 0.0894841775 * lab[1] - 1.291485548 * lab[2]) ** 3;
  const byte = (c: number): number => Math.round(255 * Math.min(1, Math.max(0, gamma(c))));
  return [
    byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    byte(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

/** Relative luminance as WCAG defines it: 0 for black, 1 for white. */
export function luminance(rgb: Triple): number {
  return 0.2126 * linear(rgb[0] / 255) + 0.7152 * linear(rgb[1] / 255) + 0.0722 * linear(rgb[2] / 255);
}

export function contrast(a: number, b: number): number {
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}

/** Black or white, whichever reads better: at least 4.58 on any colour there is. */
function inkOn(rgb: Triple): string {
  const y = luminance(rgb);
  return contrast(y, 0) >= contrast(y, 1) ? "#000" : "#fff";
}

function scaleOf(stops: readonly string[]): Scale {
  const labs = stops.map((hex) => rgbToOklab(hexToRgb(hex)));
  const colours = Array.from({ length: STEPS }, (_, i): Triple => {
    const t = (i / (STEPS - 1)) * (labs.length - 1);
    const low = Math.min(Math.floor(t), labs.length - 2);
    const [a, b] = [labs[low] as Triple, labs[low + 1] as Triple];
    const mix = (k: 0 | 1 | 2): number => a[k] + (b[k] - a[k]) * (t - low);
    return oklabToRgb([mix(0), mix(1), mix(2)]);
  });
  return { fill: colours.map((c) => `rgb(${c.join(", ")})`), ink: colours.map(inkOn) };
}

const divergingScales = { light: scaleOf(DIVERGING.light), dark: scaleOf(DIVERGING.dark) };

export function diverging(theme: Theme): Scale {
  return divergingScales[theme];
}

const sequentialScales = { light: scaleOf(SEQUENTIAL.light), dark: scaleOf(SEQUENTIAL.dark) };

export function sequential(theme: Theme): Scale {
  return sequentialScales[theme];
}

/** The step of a scale for a place in it, 0 to 1; what lies outside, or is no number, takes the nearer end. */
export function stepAt(place: number): number {
  return place > 0 ? Math.round(Math.min(place, 1) * (STEPS - 1)) : 0;
}
