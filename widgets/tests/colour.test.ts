import { describe, expect, it } from "vitest";
import { contrast, luminance, SEQUENTIAL, sequential, stepAt, STEPS, type Theme } from "../shared/colour.ts";
import { parseColour } from "../shared/theme.ts";

const rgb = (css: string): [number, number, number] => {
  const hex = /^#(..)(..)(..)$/.exec(css.length === 4 ? css.replace(/[0-9a-f]/g, "$&$&") : css);
  if (hex) return hex.slice(1).map((s) => Number.parseInt(s, 16)) as [number, number, number];
  return [...(parseColour(css)?.rgb ?? [])] as [number, number, number];
};

describe.each(["light", "dark"] as Theme[])("the %s sequential scale", (theme) => {
  const scale = sequential(theme);

  it("starts at the colour of the page and ends at the strongest", () => {
    expect(rgb(scale.fill[0] as string)).toEqual(rgb(SEQUENTIAL[theme][0] as string));
    expect(rgb(scale.fill[STEPS - 1] as string)).toEqual(rgb(SEQUENTIAL[theme].at(-1) as string));
  });

  it("has an ink with a contrast of 4.5 at least on every step", () => {
    expect(scale.fill).toHaveLength(STEPS);
    scale.fill.forEach((fill, i) => {
      const ink = luminance(rgb(scale.ink[i] as string));
      expect(contrast(luminance(rgb(fill)), ink)).toBeGreaterThanOrEqual(4.5);
    });
  });

  it("changes its luminance in one direction only, so that order can be seen", () => {
    const ys = scale.fill.map((fill) => luminance(rgb(fill)));
    const sign = theme === "light" ? -1 : 1;
    for (let i = 1; i < ys.length; i++) expect(sign * ((ys[i] as number) - (ys[i - 1] as number))).toBeGreaterThan(0);
  });
});

describe("a place on the scale", () => {
  it("goes from the first step to the last, and stays within them", () => {
    expect([0, 1, -3, 7].map(stepAt)).toEqual([0, STEPS - 1, 0, STEPS - 1]);
  });
  it("is the page's colour where there is no number", () => {
    expect(stepAt(Number.NaN)).toBe(0);
  });
});

describe("the host's colours", () => {
  it("are read as browsers compute them", () => {
    expect(parseColour("rgb(17, 18, 20)")).toEqual({ rgb: [17, 18, 20], alpha: 1 });
    expect(parseColour("rgba(0, 0, 0, 0)")?.alpha).toBe(0);
    expect(parseColour("color(srgb 1 0.5 0 / 0.25)")).toEqual({ rgb: [255, 127.5, 0], alpha: 0.25 });
    expect(parseColour("oklch(0.5 0.1 200)")).toBeNull();
  });
});
