import type { AnyModel } from "@anywidget/types";
import { describe, expect, it } from "vitest";
import { keepingItsCell, questionOf, siteOf, withLens, withView } from "../lens_table/asking.ts";
import { copied } from "../lens_table/copied.ts";
import { Apart } from "../lens_panel/difference.ts";
import { change, DIFFERENCES } from "../lens_panel/differences.ts";
import type { DifferenceStatistic } from "../lens_table/compared.ts";
import type { DifferenceName } from "../lens_table/spec.ts";
import { TableSource, type Answer } from "../lens_table/source.ts";
import { fittedEnds, statisticOf } from "../lens_table/statistic.ts";
import { FACTS, SPEC, StubModel, tableReply } from "./stub.ts";

const facts = { ...FACTS, lenses: ["logit", "tuned"], sites: { logit: "resid_post", tuned: "resid_pre" } };
const between = ["kl", "js", "total_variation", "largest_change", "changed_ids"];

const differenceOf = (name: DifferenceName): DifferenceStatistic => DIFFERENCES.find((each) => each.name === name) as DifferenceStatistic;

/** The answer of Python for two sides of two columns and two rows. */
function pair(id: string, number: number, base: number | null = null, start = 0) {
  const [first, ours] = tableReply(id, { table: number, base, start, token: 1 });
  const [beside, theirs] = tableReply(id, { table: 10 * number, base: base === null ? null : 10 * base, start, token: 2 });
  const values = between.map((name, i) => (name === "changed_ids" ? new Int32Array(4).fill(3) : new Float32Array([0, 1, 2, 3].map((n) => n / 10 + i))));
  const arrays = between.map((name) => ({ name, dtype: name === "changed_ids" ? "int32" : "float32", shape: [2, 2] }));
  const message = { ...first, second: "tuned", beside, between: { pieces: [[3, " Paris"]], arrays } };
  return [message, [...ours, ...theirs, ...values.map((array) => new DataView(array.buffer))]] as const;
}

function heard() {
  const model = new StubModel({ spec: SPEC, facts });
  const [answers, froms, errors]: [Answer[], number[], string[]] = [[], [], []];
  const events = {
    table: (answer: Answer, from: number) => void (answers.push(answer), froms.push(from)),
    progress: () => {},
    error: (text: string) => void errors.push(text),
    silent: () => {},
    // As the second module does when it has come.
    comparing: (then: () => void) => {
      source.comparing = { differences: DIFFERENCES, differenceOf: Apart.of };
      then();
    },
  };
  const source: TableSource = new TableSource(model as unknown as AnyModel, events, new AbortController().signal);
  const ask = (prompt = "a b"): string => {
    source.read({ prompt, target: null, versus: null, lens: "logit", second: "tuned", other: null, written: [], words: false });
    return model.sent.at(-1)?.id ?? "";
  };
  const hear = (reply: readonly [object, readonly DataView[]]): void => model.emit("msg:custom", ...reply);
  return { model, answers, froms, errors, ask, hear };
}

describe("an answer of two sides", () => {
  it("is taken apart into both tables and what is between them", () => {
    const { answers, ask, hear, errors } = heard();
    hear(pair(ask(), 1));
    expect(errors).toEqual([]);
    const { first, second, difference } = answers[0] as Answer;
    expect([first.number, second?.number, first.topId(1, 1), second?.topId(1, 1)]).toEqual([1, 10, 1, 2]);
    expect(difference?.between("js", 1, 0)).toBeCloseTo(1.2);
    expect([difference?.between("changed_ids", 0, 0), difference?.piece(3)]).toEqual([3, " tok3"]);
    expect([difference?.topId(0, 0), difference?.agrees(0, 0)]).toEqual([2, false]);
  });

  it("goes on from both tables that are here", () => {
    const { model, froms, ask, hear, errors } = heard();
    hear(pair(ask(), 1));
    const id = ask("a c");
    expect(model.sent[1]).toMatchObject({ have: 1, have_beside: 10 });
    hear(pair(id, 2, 1, 1));
    expect([errors, froms]).toEqual([[], [0, 1]]);
  });

  it("whose other side's base is not here makes the view ask for the whole", () => {
    const { model, answers, ask, hear } = heard();
    const [message, buffers] = pair(ask(), 2);
    hear([{ ...message, beside: { ...message.beside, base: 7, start: 1 } }, buffers]);
    expect(answers).toEqual([]);
    expect(model.sent[1]).toMatchObject({ have: null, have_beside: null });
  });

  it("that is not whole is said to be so", () => {
    const { answers, errors, ask, hear } = heard();
    const [message, buffers] = pair(ask(), 1);
    hear([message, buffers.slice(0, -1)]);
    expect(answers).toEqual([]);
    expect(errors[0]).toMatch(/^the kernel's answer cannot be read/);
  });

  it("is copied as the comparison that it is", () => {
    const { answers, ask, hear } = heard();
    hear(pair(ask(), 1));
    expect(copied(answers[0] as Answer, { row: 1, pos: 0 }, true)).toBe(
      'lk.compare(table.lenses["logit"], "a b", table.lenses["tuned"])[1, 0].to_pandas()',
    );
  });
});

describe("the spec", () => {
  it("asks for the other side only where it is shown", () => {
    expect(questionOf({ ...SPEC, second: "tuned" })).toMatchObject({ second: null, other: null, written: [], words: false });
    expect(questionOf({ ...SPEC, second: "tuned", view: "side" })).toMatchObject({ second: "tuned", other: null, written: [], words: false });
  });

  it("reads two lenses of different sites before each layer", () => {
    expect(siteOf(SPEC, facts)).toBe("resid_post");
    expect(siteOf({ ...SPEC, second: "tuned", view: "difference" }, facts)).toBe("resid_pre");
  });

  it("keeps the chosen state when the site changes, and what another choice says when it says so", () => {
    const before = { ...SPEC, selection: { layer: 1, pos: 0 } };
    const after = { ...before, lens: "tuned" };
    expect(keepingItsCell(before, after, facts).selection).toEqual({ layer: 2, pos: 0 });
    expect(keepingItsCell(after, { ...before, selection: { layer: 0, pos: 1 } }, facts).selection).toEqual({ layer: 0, pos: 1 });
  });

  it("begins a comparison with another lens, or with the prompt where there is no other", () => {
    expect(withView(SPEC, "side", ["logit", "tuned"])).toMatchObject({ second: "tuned" });
    expect(withView(SPEC, "side", ["logit"])).toMatchObject({ other: "a b" });
    expect(withLens({ ...SPEC, second: "tuned" }, "tuned")).toEqual({ lens: "tuned", second: "logit" });
  });
});

describe("the scale of a difference", () => {
  it("is fitted as far to either side", () => {
    const { answers, ask, hear } = heard();
    hear(pair(ask(), 1));
    const { first, difference } = answers[0] as Answer;
    expect(fittedEnds([difference as NonNullable<typeof difference>], differenceOf("largest_change"))).toEqual([-3.299999952316284, 3.299999952316284]);
    expect(fittedEnds([first], statisticOf("cross_entropy"))).toEqual([-0.5, 1]);
  });

  it("has nothing in the middle, whichever way the numbers run", () => {
    const rank = differenceOf("rank");
    const ends = rank.ends(facts);
    expect([rank.place(ends[0], ends), rank.place(0, ends), rank.place(ends[1], ends)]).toEqual([0, 0.5, 1]);
    expect(rank.place(3, ends)).toBeGreaterThan(0.6);
  });

  it.each([
    [0.3124, "+.312"],
    [-0.045, "−.045"],
    [0, "0"],
    [1, "+1"],
    [Number.NaN, "n/a"],
  ])("writes %f as %s", (value, text) => {
    expect(change(value)).toBe(text);
  });
});
