import { describe, expect, it } from "vitest";
import { DIVERGING, diverging, stepAt, STEPS } from "../shared/colour.ts";
import { effect, signed } from "../shared/numbers.ts";
import { Tracks } from "../shared/tracks.ts";
import { pythonOf } from "../patch_grid/code.ts";
import { cellOf, placeOf, regionOf, sizeOf } from "../patch_grid/region.ts";
import { asksAnew, changedFields, readSpec, sameQuestion, withToken, type Question } from "../patch_grid/spec.ts";
import { keyOf, Sweep, type SweepHeader } from "../patch_grid/sweep.ts";
import { effectInWords, measured, regionInWords, scaleTitle } from "../patch_grid/words.ts";
import { cells, header, QUESTION, swept } from "./patch_stub.ts";

const sweep = (change: Partial<SweepHeader> = {}): Sweep => new Sweep(...header(change));

describe("numbers of effects", () => {
  it("have two decimals and a true minus, and no zero before the point", () => {
    expect([0.961, 1.006, -0.124, -1.5, 0.001, -0.004, 12].map(effect)).toEqual([".96", "1.01", "−.12", "−1.50", "0", "0", "12.00"]);
    expect(effect(Number.NaN)).toBe("n/a");
  });
  it("show the sign of a quantity in its own unit", () => {
    expect([6.123, -5.494, 0.001].map(signed)).toEqual(["+6.12", "−5.49", "0.00"]);
  });
});

describe.each(["light", "dark"] as const)("the %s diverging scale", (theme) => {
  it("has the colour of the page exactly in its middle", () => {
    const page = DIVERGING[theme][3] as string;
    const rgb = [1, 3, 5].map((i) => Number.parseInt(page.slice(i, i + 2), 16)).join(", ");
    expect(diverging(theme).fill[stepAt(0.5)]).toBe(`rgb(${rgb})`);
    expect(diverging(theme).fill).toHaveLength(STEPS);
  });
});

describe("tracks", () => {
  const tracks = new Tracks([50, 60, 70]);
  it("know where each column starts, and which of them a stretch shows", () => {
    expect([tracks.count, tracks.total, tracks.left(2), tracks.width(1)]).toEqual([3, 180, 110, 60]);
    expect([tracks.within(0, 180), tracks.within(55, 100), tracks.within(49, 51)]).toEqual([[0, 3], [1, 2], [0, 2]]);
  });
});

describe("a sweep", () => {
  it("begins without values, and takes estimates and exact cells by their index along the rows", () => {
    const s = sweep();
    expect(Number.isNaN(s.value(0, 0))).toBe(true);
    s.take(...cells([0, 1, 2, 3], [-5, -3, 0, 5], [0, 0, 0, 0]));
    expect([s.value(1, 1), s.isExact(1, 1)]).toEqual([5, false]);
    s.take(...cells([3], [4.5], [1]));
    expect([s.value(1, 1), s.isExact(1, 1), s.isExact(0, 0)]).toEqual([4.5, true, false]);
  });
  it("gives effects as the share of the way from the base to the target", () => {
    const s = sweep({ base: -5, target: 5 });
    expect([-5, 0, 5, 6].map((x) => s.effectOf(x))).toEqual([0, 0.5, 1, 1.1]);
  });
  it("gives plain changes where the two prompts have one value", () => {
    const s = sweep({ base: 2, target: 2 });
    expect([s.hasShare, s.effectOf(3.5)]).toEqual([false, 1.5]);
    expect(scaleTitle(s)).toBe("change of the logit difference, logits");
  });
  it("finds its strongest cell in either direction, and leaves out what is not known", () => {
    const s = sweep({ base: 0, target: 1 });
    s.take(...cells([0, 1, 2], [0.2, -0.9, 0.5], [1, 1, 1]));
    expect(s.strongest()).toEqual({ row: 0, column: 1 });
    expect(s.largest()).toBeCloseTo(0.9);
  });
  it("takes the whole at the end", () => {
    const s = sweep();
    s.finish(...swept([1, 2, 3, 4]));
    expect([s.value(1, 0), s.isExact(0, 0), s.done]).toEqual([3, true, 4]);
  });
  it("refuses a cell that it has not, and prompts of different lengths", () => {
    expect(() => sweep().take(...cells([4], [1], [1]))).toThrow("cell 4 of 4");
    expect(() => new Sweep(...header({}, [1, 2], [1]))).toThrow("different numbers of tokens");
  });
});

describe("places and cells", () => {
  it("name each other, over positions and over heads", () => {
    const [byPos, byHead] = [sweep(), sweep({ over: "head", layers: [3, 4] })];
    expect(placeOf(byPos, { row: 1, column: 0 })).toEqual({ layer: 1, pos: 0, head: null });
    expect(placeOf(byHead, { row: 1, column: 0 })).toEqual({ layer: 4, pos: null, head: 0 });
    expect(cellOf(byHead, { layer: 4, pos: null, head: 1 })).toEqual({ row: 1, column: 1 });
  });
  it("are none where the grid has no such layer, position or head", () => {
    const s = sweep();
    for (const place of [null, { layer: 9, pos: 0, head: null }, { layer: 0, pos: 2, head: null }, { layer: 0, pos: null, head: 1 }]) {
      expect(cellOf(s, place)).toBeNull();
    }
  });
  it("span the same region from whichever corner", () => {
    const region = regionOf({ row: 3, column: 1 }, { row: 1, column: 4 });
    expect(region).toEqual(regionOf({ row: 1, column: 4 }, { row: 3, column: 1 }));
    expect(sizeOf(region)).toBe(12);
  });
});

describe("the spec", () => {
  const spec = readSpec(QUESTION);
  it("asks anew for what a sweep answers, and for nothing else", () => {
    const site = changedFields(spec, { ...spec, site: "z" });
    expect([site, asksAnew(site)]).toEqual([["site"], true]);
    expect(asksAnew(changedFields(spec, { ...spec, selection: { layer: 0, pos: 1, head: null }, scale: [-2, 2] }))).toBe(false);
    expect([sameQuestion(spec, QUESTION), sameQuestion(null, QUESTION)]).toEqual([true, false]);
  });
  it("never measures a token against itself: the two change places", () => {
    expect(withToken(spec, "answer", 8)).toEqual({ answer: 8, against: 7 });
    expect(withToken(spec, "against", 7)).toEqual({ metric: "logit_diff", answer: 8, against: 7 });
  });
  it("measures one token by its probability, and two by their difference", () => {
    const kl = { ...spec, metric: "kl" as const, answer: null, against: null };
    expect(withToken(kl, "answer", 5)).toEqual({ metric: "prob", answer: 5, against: null });
    expect(withToken({ ...spec, metric: "prob", against: null }, "against", 5)).toEqual({ metric: "logit_diff", answer: 7, against: 5 });
    expect(withToken(kl, "against", 5)).toEqual({});
  });
});

describe("words", () => {
  const s = sweep({ base: -5, target: 5 });
  s.take(...cells([0, 1], [0, 5], [0, 1]));
  it("say a cell's effect, and how sure it is", () => {
    expect(effectInWords(s, 0, 0)).toBe("0.50 of the difference restored, estimate");
    expect(effectInWords(s, 0, 1)).toBe("1.00 of the difference restored, exact");
    expect(effectInWords(s, 1, 1)).toBe("not known yet");
  });
  it("say what is measured, with its tokens", () => {
    expect(measured(s.header, s)).toBe("logit difference ·Mary − ·John");
    expect(measured({ ...QUESTION, metric: "prob", answer: 99 }, s)).toBe("probability of #99");
    expect(scaleTitle(s)).toBe("share of the difference restored (1 = 10.00 logits)");
  });
  it("say a region", () => {
    const one = regionInWords(s, { rows: [1, 1], columns: [0, 0] });
    expect([one.layers, one.columns, one.cells]).toEqual(["Layer 1", "position 0", ""]);
    const four = regionInWords(s, { rows: [0, 1], columns: [0, 1] });
    expect([four.layers, four.columns, four.cells]).toEqual(["Layers 0–1", "positions 0–1", "4 cells"]);
  });
});

describe("copied Python", () => {
  const region = { rows: [1, 1], columns: [0, 0] } as const;
  const lines = (change: Partial<Question & SweepHeader>, where: Parameters<typeof pythonOf>[1] = region): string[] =>
    pythonOf(sweep(change), where).split("\n");

  it("puts the clean run's activation into the corrupt prompt, or the other way round", () => {
    expect(lines({})).toEqual([
      'clean = "a b"',
      'corrupt = "a c"',
      'source = model.run(clean, keep="resid_pre")',
      'patched = model.run(corrupt, edits=lk.Patch("resid_pre", source, layers=1, pos=0))',
      "logits = patched.logits[0, 1]",
      "logits[7] - logits[8]  # ·Mary − ·John",
    ]);
    expect(lines({ direction: "noise" }).slice(2, 4)).toEqual([
      'source = model.run(corrupt, keep="resid_pre")',
      'patched = model.run(clean, edits=lk.Patch("resid_pre", source, layers=1, pos=0))',
    ]);
  });
  it("names heads where the grid goes over heads, and all of a region", () => {
    const all = { rows: [0, 1], columns: [0, 1] } as const;
    expect(lines({ site: "z", over: "head" }, all)[3]).toContain('lk.Patch("z", source, layers=[0, 1], heads=[0, 1])');
  });
  it("writes any prompt as a Python string", () => {
    expect(lines({ clean: 'say "hi"\n\\' })[0]).toBe('clean = "say \\"hi\\"\\n\\\\"');
  });
});

describe("what was patched", () => {
  it("is kept by its layers and columns", () => {
    expect(keyOf([1, 2], [3])).toBe("1,2|3");
  });
});
