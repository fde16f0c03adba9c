import { beforeEach, describe, expect, it, vi } from "vitest";
import { FeatureSource } from "../feature_browser/source.ts";
import { card, fired, packed, QUESTION, rows, steered } from "./feature_stub.ts";
import { StubModel } from "./stub.ts";

let model: StubModel;
let life: AbortController;
let source: FeatureSource;
let told: string[];
let progress: (number | null | undefined)[];

function made(live: boolean): FeatureSource {
  return new FeatureSource(
    model as never,
    live,
    {
      rows: () => told.push("rows"),
      card: () => told.push("card"),
      fired: () => told.push("fired"),
      steered: () => told.push("steered"),
      progress: (share) => progress.push(share),
      error: (text) => told.push(`error: ${text}`),
      silent: () => told.push("silent"),
    },
    life.signal,
  );
}

beforeEach(() => {
  vi.useFakeTimers();
  model = new StubModel({});
  life = new AbortController();
  [told, progress] = [[], []];
  source = made(true);
});

const sent = (kind: string): { id: string; [name: string]: unknown }[] => model.sent.filter((m) => (m as { kind: string }).kind === kind) as never;
const last = (kind: string): { id: string; [name: string]: unknown } => sent(kind).at(-1) as never;
const hear = ([message, buffers]: readonly [object, DataView[]]): void => model.emit("msg:custom", message, buffers);
const STEER = { prompt: "a b", feature: 5, by: "scale", amount: 0, pos: null } as const;

describe("the list's source", () => {
  it("asks for the first page, and for others only when they come into view", () => {
    source.list(QUESTION, 33);
    expect(last("rows")).toMatchObject({ start: 0, count: 64, feature: 33, sort: "density" });
    hear(rows([9, 8, 7], { id: last("rows").id, at: 150 }));
    expect([told, source.rows?.total, source.rows?.indexOf(33)]).toEqual([["rows"], 200, 150]);
    source.want(0, 20);
    expect(sent("rows")).toHaveLength(1);
    source.want(60, 80);
    expect(last("rows")).toMatchObject({ start: 64, count: 64 });
    source.want(60, 80);
    expect(sent("rows")).toHaveLength(2);
  });

  it("keeps the rows on the screen until those of another order come, and drops what comes late", () => {
    source.list(QUESTION, null);
    hear(rows([9, 8, 7], { id: last("rows").id }));
    const other = { ...QUESTION, sort: "max" as const };
    source.list(other, null);
    source.list(other, null);
    expect(sent("rows")).toHaveLength(2);
    hear(rows([1], { start: 64 }));
    expect(source.rows?.question.sort).toBe("density");
    hear(rows([4, 5], { id: last("rows").id, asked: other }));
    expect([source.rows?.question.sort, source.rows?.row(0)?.feature]).toEqual(["max", 4]);
    hear(rows([1]));
    expect(source.rows?.row(0)?.feature).toBe(4);
  });

  it("locates a feature without asking for its rows", () => {
    source.list(QUESTION, null);
    hear(rows([9], { id: last("rows").id }));
    source.locate(77);
    expect(last("rows")).toMatchObject({ start: 0, count: 0, feature: 77 });
    hear(rows([], { id: last("rows").id, at: 120 }));
    expect([source.rows?.indexOf(77), source.rows?.row(0)?.feature]).toEqual([120, 9]);
  });
});

describe("the cards' source", () => {
  it("asks for each card once, and for what it is on the prompt", () => {
    source.askCard(5);
    source.askCard(5);
    expect(sent("card")).toHaveLength(1);
    hear(card(5, { id: last("card").id }));
    expect(source.card(5)?.feature).toBe(5);
    source.askCard(5);
    expect(sent("card")).toHaveLength(1);
    hear(fired({ feature: 9 }));
    source.askCard(5);
    expect(last("on")).toMatchObject({ prompt: "a b", feature: 5 });
    const { arrays, buffers } = packed({ on: ["float32", [1, 2, 3]] });
    hear([{ kind: "on", id: "", prompt: "a b", feature: 5, pieces: [], arrays }, buffers]);
    expect(source.fired?.on(5)).toEqual([1, 2, 3]);
  });

  it("keeps the last 200 of them", () => {
    for (let feature = 0; feature < 210; feature++) hear(card(feature));
    expect([source.cards.size, source.card(9), source.card(10)?.feature]).toEqual([200, undefined, 10]);
  });
});

describe("the prompt's source", () => {
  it("takes the answer to its last question only", () => {
    source.read("a", 5);
    const old = last("read").id;
    source.read("a b", 5);
    hear([{ kind: "superseded", id: old }, []]);
    expect([source.fired, source.answered("a b"), source.answered("a")]).toEqual([null, true, false]);
    hear(fired({ id: last("read").id }));
    expect([source.fired?.message.prompt, progress.at(-1)]).toEqual(["a b", undefined]);
  });

  it("asks again, after a rest, where something else overtook it", () => {
    source.read("a b", 5);
    hear([{ kind: "superseded", id: last("read").id }, []]);
    vi.advanceTimersByTime(200);
    expect(sent("read")).toHaveLength(2);
  });

  it("tells an error, and does not count the prompt as answered", () => {
    source.read("a b", 5);
    hear([{ kind: "error", id: last("read").id, message: "too long" }, []]);
    expect([told, source.answered("a b")]).toEqual([["error: too long"], false]);
  });

  it("says when no word comes from Python", () => {
    source.read("a b", 5);
    vi.advanceTimersByTime(5000);
    expect(told).toEqual(["silent"]);
  });
});

describe("steering", () => {
  it("asks when the slider rests, for its last place", () => {
    source.steer(STEER);
    source.steer({ ...STEER, amount: 0.5 });
    vi.advanceTimersByTime(200);
    expect(sent("steer").map((m) => m["amount"])).toEqual([0.5]);
    source.steer({ ...STEER, amount: 0.5 });
    vi.advanceTimersByTime(200);
    expect(sent("steer")).toHaveLength(1);
  });

  it("takes what is known so far, and nothing of another change", () => {
    source.steer(STEER);
    vi.advanceTimersByTime(200);
    const { id } = last("steer");
    hear(steered({ id, kind: "steering", draws: 0, placebo_kl: null, placebo_spread: null }));
    expect([source.steered?.message.draws, source.steering]).toEqual([0, true]);
    hear(steered({ id: "other:1", feature: 6 }));
    expect(source.steered?.message.feature).toBe(5);
    hear(steered({ id }));
    expect([source.steered?.message.draws, source.steering]).toEqual([20, false]);
    source.steer(null);
    expect(source.steered).toBeNull();
  });

  it("asks again where a prompt was being read meanwhile", () => {
    source.steer(STEER);
    vi.advanceTimersByTime(200);
    hear([{ kind: "superseded", id: last("steer").id }, []]);
    vi.advanceTimersByTime(200);
    expect(sent("steer")).toHaveLength(2);
  });
});

describe("a frozen page's source", () => {
  it("asks once, and answers from what it got", () => {
    model = new StubModel({});
    source = made(false);
    expect(model.sent).toEqual([{ v: 1, kind: "frozen", id: "frozen" }]);
    source.list(QUESTION, null);
    const [list, ofList] = rows([5, 2, 3]);
    const [one, ofOne] = card(5);
    const message = { kind: "frozen", id: "frozen", rows: list, cards: [one], fired: null, on: [], steered: null };
    hear([message, [...ofList, ...ofOne]]);
    expect([source.rows?.total, source.rows?.row(0)?.feature, source.card(5)?.feature]).toEqual([3, 5, 5]);
    source.list({ ...QUESTION, order: "up" }, 5);
    expect([source.rows?.row(0)?.feature, source.rows?.indexOf(5)]).toEqual([2, 2]);
    expect(model.sent).toHaveLength(1);
  });
});

it("hears nothing any more when its view goes", () => {
  life.abort();
  expect(model.listening).toBe(0);
});

it("says so where an answer cannot be read", () => {
  const [message, buffers] = card(5);
  hear([message, buffers.slice(1)]);
  expect(told[0]).toContain("cannot be read");
});
