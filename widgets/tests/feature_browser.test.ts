import { describe, expect, it } from "vitest";
import { pythonOf } from "../feature_browser/code.ts";
import { Frozen } from "../feature_browser/frozen.ts";
import { activation, divergence, logHeights } from "../feature_browser/histogram.ts";
import widget from "../feature_browser/index.ts";
import { percent } from "../feature_browser/list.ts";
import type { FrozenMessage } from "../feature_browser/messages.ts";
import { step, walk } from "../feature_browser/places.ts";
import { questionOf } from "../feature_browser/question.ts";
import { PAGE, Rows } from "../feature_browser/rows.ts";
import { aboutOf, changedFields, isNeutral, noted, numbered, readSpec, steeredAt, toggled } from "../feature_browser/spec.ts";
import { cardOf, Fired, rowsOf, steeredOf, Words } from "../feature_browser/values.ts";
import { card, FACTS, fired, packed, QUESTION, rows, steered } from "./feature_stub.ts";

describe("numbers", () => {
  it("say shares so that rare features can be told apart", () => {
    expect([0.471, 0.0028, 0.00012, 0.000001, 0].map(percent)).toEqual(["47 %", "0.28 %", "0.012 %", "<.01 %", "0 %"]);
  });
  it("say activations with three digits at most", () => {
    expect([143.2, 11.73, 0.153, 0.041].map(activation)).toEqual(["143", "11.7", "0.15", "0.041"]);
  });
  it("say small divergences, which matter beside each other", () => {
    expect([1.25, 0.27, 0.0123, 0.00034, 0.00001].map(divergence)).toEqual(["1.25", ".27", ".012", ".0003", "0"]);
  });
  it("draw counts on a log scale, and a lonely one too", () => {
    const heights = logHeights([100000, 1, 0]);
    expect(heights[0]).toBe(255);
    expect(heights[1]).toBeGreaterThan(0);
    expect(heights[2]).toBe(0);
  });
});

describe("the spec", () => {
  const spec = readSpec({ prompt: "a b", selection: { feature: 5, pos: 1 } });
  it("takes defaults for what is left out, and tells what changed", () => {
    expect([spec.sort, spec.steer.amount, spec.pinned]).toEqual(["peakedness", 1, []]);
    expect(changedFields(spec, { ...spec, pinned: [5], window: null })).toEqual(["window", "pinned"]);
  });
  it("pins and unpins, and forgets a note that is emptied", () => {
    expect([toggled([3], 5), toggled([3, 5], 3)]).toEqual([[3, 5], [5]]);
    expect(noted({ "3": "x" }, 5, "years")).toEqual({ "3": "x", "5": "years" });
    expect(noted({ "3": "x" }, 3, "  ")).toEqual({});
  });
  it("knows a feature by its number, with its layer or without", () => {
    expect([numbered(FACTS, "1144"), numbered(FACTS, " 20.1144 "), numbered(FACTS, "9999"), numbered(FACTS, "20.x"), numbered(FACTS, "")]).toEqual([1144, 1144, null, null, null]);
  });
  it("steers at a token only what is added", () => {
    expect([isNeutral({ by: "scale", amount: 1 }), isNeutral({ by: "add", amount: 1 })]).toEqual([true, false]);
    expect(steeredAt(spec)).toBeNull();
    expect(steeredAt({ ...spec, steer: { by: "add", amount: 1 } })).toBe(1);
  });
  it("says what is looked at", () => {
    expect(aboutOf(FACTS)).toBe("tiny · mlp_post.20 · 1,536 neurons · 21,120 tokens");
    expect(aboutOf({ ...FACTS, model: null })).toBe("mlp_post.20 · 1,536 neurons · 21,120 tokens");
  });
});

describe("what the list is asked for", () => {
  const spec = readSpec({ prompt: "a b", find: "years", selection: { feature: 5, pos: 1 } });
  it("depends on the prompt only where it is ordered by what fires there", () => {
    const one = new Fired(...fired());
    expect(questionOf(FACTS, spec, one)).toMatchObject({ find: "years", prompt: null, pos: null });
    expect(questionOf(FACTS, { ...spec, sort: "prompt" }, one)).toMatchObject({ prompt: "a b", pos: null });
    expect(questionOf(FACTS, { ...spec, sort: "token" }, one)).toMatchObject({ prompt: "a b", pos: 1 });
  });
  it("waits for the prompt, and takes the last token where none is chosen", () => {
    expect(questionOf(FACTS, { ...spec, sort: "prompt" }, null)).toBeNull();
    expect(questionOf(FACTS, { ...spec, sort: "token", selection: null }, new Fired(...fired()))).toMatchObject({ pos: 2 });
  });
  it("looks for a number in the whole list", () => {
    expect(questionOf(FACTS, { ...spec, find: "1144" }, null)).toMatchObject({ find: "" });
  });
});

describe("keys", () => {
  it("walk the list by one, by screens and to its ends, and stop there", () => {
    expect(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"].map((key) => walk(key, 5, 100, 20))).toEqual([6, 4, 25, 0, 0, 99]);
    expect([walk("x", 5, 100, 20), walk("ArrowDown", 99, 100, 20), walk("ArrowDown", 0, 0, 20)]).toEqual([null, 99, null]);
  });
  it("step through the prompt from either end", () => {
    expect([step("ArrowRight", null, 4), step("ArrowLeft", null, 4), step("ArrowRight", 3, 4), step("ArrowUp", 3, 4)]).toEqual([0, 3, 3, null]);
  });
});

describe("rows", () => {
  it("ask for each page once, and again for what never came", () => {
    const list = new Rows(QUESTION);
    expect(list.lacking(0, 3 * PAGE - 1)).toEqual([0, 1, 2]);
    expect(list.lacking(PAGE, 5 * PAGE)).toEqual([3, 4]);
    const [message, buffers] = rows([9, 8, 7], { start: PAGE });
    list.take(message, rowsOf(message, buffers), null);
    list.forget();
    expect(list.lacking(0, 3 * PAGE)).toEqual([0, 2]);
  });
  it("know where a feature stands, of those that are here or were looked for", () => {
    const list = new Rows(QUESTION);
    const [message, buffers] = rows([9, 8, 7], { start: 64, at: 150 });
    list.take(message, rowsOf(message, buffers), 33);
    expect([list.indexOf(8), list.indexOf(33), list.indexOf(1), list.total]).toEqual([65, 150, null, 200]);
  });
  it("leave out tokens that are none", () => {
    expect(rowsOf(...rows([4]))[0]).toMatchObject({ feature: 4, tokens: [1], bars: [255, 0, 9], max: 8 });
  });
});

describe("values", () => {
  it("of a card keep examples apart by their band", () => {
    const one = cardOf(...card(5));
    expect(one.examples.map(({ band, ids, peak }) => [band, ids, peak])).toEqual([[null, [3, 4, 1], 1], [1, [2], 0]]);
    expect(one.similar).toEqual([{ id: 7, value: 0.5, promotes: [2, 3] }]);
    expect(one.coactive).toEqual([]);
  });
  it("of a prompt give the strongest at each token, and features one by one", () => {
    const one = new Fired(...fired());
    expect([one.top(0), one.top(2).map(({ id }) => id)]).toEqual([[], [5, 6]]);
    expect([one.on(5), one.on(6)]).toEqual([[0, 4, 8], undefined]);
    const { arrays, buffers } = packed({ on: ["float32", [1, 0, 0]] });
    one.add({ kind: "on", id: "", prompt: "another", feature: 6, pieces: [], arrays }, buffers);
    expect(one.on(6)).toBeUndefined();
    one.add({ kind: "on", id: "", prompt: "a b", feature: 6, pieces: [], arrays }, buffers);
    expect(one.on(6)).toEqual([1, 0, 0]);
  });
  it("of a change stand beside the placebo's", () => {
    const [first] = steeredOf(...steered()).odds;
    expect(first?.before).toBeCloseTo(0.814);
    expect(first?.spread).toBeCloseTo(0.004);
  });
});

describe("a frozen page", () => {
  const part = (): { frozen: Frozen; words: Words } => {
    const [list, ofList] = rows([5, 2, 3], { total: 3 });
    const [one, ofOne] = card(5);
    const [now, ofNow] = fired();
    const message: FrozenMessage = { kind: "frozen", id: "frozen", rows: list, cards: [one], fired: now, on: [], steered: null };
    const words = new Words();
    return { frozen: new Frozen(message, [...ofList, ...ofOne, ...ofNow], words), words };
  };
  const shown = (change: Partial<typeof QUESTION>): number[] => part().frozen.list({ ...QUESTION, ...change }).map(({ feature }) => feature);

  it("orders what it holds, either way", () => {
    expect([shown({}), shown({ order: "up" }), shown({ sort: "number" })]).toEqual([[5, 3, 2], [2, 3, 5], [5, 3, 2]]);
  });
  it("finds by what is promoted and by what fires, and shows what was found first", () => {
    expect(shown({ find: "LONG" })).toEqual([5, 3]);
    expect(shown({ find: "long", by: "fires" })).toEqual([5]);
    expect(part().frozen.list({ ...QUESTION, find: "long" })[0]).toMatchObject({ tokens: [4, 1], matches: 1 });
  });
  it("keeps to the pinned ones, and to those that fire on the prompt", () => {
    expect(shown({ only: "pinned", pinned: [2, 9] })).toEqual([2]);
    expect(shown({ sort: "prompt", prompt: "a b" })).toEqual([5]);
  });
});

describe("copied Python", () => {
  const spec = readSpec({ prompt: 'say "hi"', selection: { feature: 1144, pos: 2 } });
  it("names the card, and what fires", () => {
    expect(pythonOf(FACTS, spec, 1144).split("\n")).toEqual([
      "card = index.card(1144)  # neuron 20.1144",
      "",
      'prompt = "say \\"hi\\""',
      "active = index.firing(model, prompt).of(1144)  # (pos,)",
    ]);
    expect(pythonOf({ ...FACTS, model: null }, spec, 1144)).toBe("card = index.card(1144)  # neuron 20.1144");
  });
  it("makes the same edits as the view", () => {
    const scaled = pythonOf(FACTS, { ...spec, steer: { by: "scale", amount: 0 } }, 1144);
    expect(scaled).toContain('edits = LiveFeatures(index, model).edits(prompt, 1144, by="scale", amount=0)\n');
    const added = pythonOf(FACTS, { ...spec, steer: { by: "add", amount: -1.5 } }, 1144);
    expect(added).toContain('by="add", amount=-1.5, pos=2)');
  });
});

it("the module renders, and nothing else", () => {
  expect(Object.keys(widget)).toEqual(["render"]);
});
