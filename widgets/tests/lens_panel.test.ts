import type { AnyModel } from "@anywidget/types";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Doings, Looked, Panel } from "../lens_panel/contract.ts";
import { counted } from "../lens_panel/counts.ts";
import panelOf from "../lens_panel/index.ts";
import type { Answer } from "../lens_table/source.ts";
import type { Spec } from "../lens_table/spec.ts";
import { Table, type TableMessage } from "../lens_table/table.ts";
import { FACTS, SPEC, StubModel, tableReply, type Reply } from "./stub.ts";

function answerOf(reply: Reply): Answer {
  const [message, buffers] = tableReply("0", reply);
  const first = Table.of(message as unknown as TableMessage, buffers, null);
  return { message: message as unknown as TableMessage, first, second: null, difference: null };
}

let life: AbortController;
let model: StubModel;
let spec: Spec;
let lit: number;
let panel: Panel;
let copied: string;

/** What the table shows: `written` is already read. */
function look(more: Partial<Looked> = {}, reply: Partial<Reply> = {}): void {
  const answer = answerOf({ table: 1, positions: 2 + spec.written.length, written: spec.written, ...reply });
  panel.show({ spec, answer, active: { row: 1, pos: 1 }, pinned: false, region: null, two: false, ...more });
}

function start(facts: object = {}): void {
  life = new AbortController();
  model = new StubModel({});
  [spec, lit, copied] = [SPEC, 0, ""];
  const doings: Doings = {
    model: model as unknown as AnyModel,
    facts: { ...FACTS, ...facts },
    signal: life.signal,
    change: (patch) => (spec = { ...spec, ...patch }),
    light: (cells) => (lit = cells.length),
    makeTarget: (target) => (spec = { ...spec, target }),
    clearTarget: () => {},
    copy: () => {},
    copyText: (text) => {
      copied = text;
      return Promise.resolve(true);
    },
  };
  panel = panelOf(doings);
  document.body.append(panel.element, panel.strip);
}

beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  life.abort();
  panel.element.remove();
  panel.strip.remove();
  expect([model.listening, vi.getTimerCount()]).toEqual([0, 0]);
  vi.useRealTimers();
});

const find = (selector: string): HTMLElement => panel.element.querySelector(selector) as HTMLElement;
const REGION = { rows: [0, 1], columns: [0, 1] } as const;

describe("counting", () => {
  it("counts each token of a region once a cell, and the likelier first where counts are equal", () => {
    start();
    const { first } = answerOf({ table: 1, token: 3 });
    expect(counted(first, REGION).map(({ id, cells }) => [id, cells.length])).toEqual([[3, 4]]);
    expect(counted(first, { rows: [1, 1], columns: [0, 1] })[0]?.cells).toEqual([
      { pos: 0, row: 1 },
      { pos: 1, row: 1 },
    ]);
  });

  it("lists what a region holds, lights its cells, and writes it as Python", async () => {
    start();
    look({ region: REGION }, { token: 3 });
    const line = find(".lk-counts .lk-top-line");
    expect([line.textContent, line.title]).toEqual(["·tok34", "in 4 of 4 cells; make it the target"]);
    line.dispatchEvent(new Event("pointerenter"));
    expect(lit).toBe(4);
    [...panel.element.querySelectorAll("button")].find((b) => b.textContent === "Copy as Python" && b.closest(".lk-counts"))?.click();
    await vi.runAllTimersAsync();
    expect(copied).toBe('lens.read("a b").counts(layers=slice(0, 2), pos=slice(0, 2))');
    look();
    expect([find(".lk-counts").hidden, lit]).toEqual([true, 0]);
  });

  it("works in a frozen page, where no token can be made the target", () => {
    start({ live: false });
    look({ region: REGION });
    find(".lk-counts .lk-top-line").click();
    expect(spec.target).toBeNull();
    expect(find(".lk-acting").hidden).toBe(true);
  });
});

describe("the rank of a token", () => {
  it("is one step away, and one step back", () => {
    start();
    look({}, { token: 2 });
    panel.do("r");
    expect(spec).toMatchObject({ target: 2, statistic: "rank", cells: "numbers", scale: null });
    look({}, { token: 2 });
    panel.do("r");
    expect(spec).toMatchObject({ target: null, statistic: "probability", cells: "tokens" });
  });
});

describe("writing on", () => {
  async function written(): Promise<readonly number[]> {
    await Promise.resolve();
    return spec.written;
  }

  it("puts the model's own next token, and the next once that is read, until there are enough", async () => {
    start();
    look({}, { token: 2 });
    (panel.strip.querySelector("input") as HTMLInputElement).value = "2";
    panel.do("g");
    expect(await written()).toEqual([2]);
    look({}, { token: 3, written: [], positions: 2 }); // an answer from before
    expect(await written()).toEqual([2]);
    look({}, { token: 3 });
    expect(await written()).toEqual([2, 3]);
    look({}, { token: 1 });
    expect(await written()).toEqual([2, 3]);
    expect(panel.stop()).toBe(false);
  });

  it("ends with the end of the text, with Esc, and with anybody's change", async () => {
    start();
    look({}, { token: 0 });
    panel.do("g");
    expect(await written()).toEqual([]);
    look({}, { token: 2 });
    panel.do("g");
    expect(await written()).toEqual([2]);
    expect(panel.stop()).toBe(true);
    look({}, { token: 2 });
    expect(await written()).toEqual([2]);
    panel.do("g");
    expect(await written()).toEqual([2, 2]);
    spec = { ...spec, written: [] };
    look({}, { token: 2 });
    expect(await written()).toEqual([]);
  });

  it("can be taken into the prompt, as text", () => {
    start();
    spec = { ...spec, written: [2] };
    look({}, { token: 2 });
    [...panel.strip.querySelectorAll("button")].find((b) => b.textContent === "Take into the prompt")?.click();
    expect(spec).toMatchObject({ prompt: "a b tok0", written: [] });
  });
});

describe("acting", () => {
  const asked = (): object | undefined => model.sent.at(-1);
  const acted = (kind: string, more: object = {}): void => {
    const ids = new DataView(new Int32Array([1, 2]).buffer);
    const odds = new DataView(new Float32Array([0.7, 0.1]).buffer);
    const names = ["before", "after", "placebo", "next_ids", "next_before", "next_after", "next_placebo"];
    const arrays = names.map((name, i) => ({ name, dtype: i < 4 ? "int32" : "float32", shape: [2] }));
    const message = { v: 1, kind, id: model.sent.at(-1)?.id, token: 2, with: 3, python: "lk.Swap", pieces: [[2, " Rome"]], arrays, ...more };
    model.emit("msg:custom", message, names.map((_, i) => (i < 4 ? ids : odds)));
  };

  it("begins along the token of the cell, at middle layers from its position on, and waits for the other word", () => {
    start({ layers: 30 });
    look({}, { token: 2 });
    panel.do("w");
    expect(spec.act).toEqual({ how: "swap", token: 2, with: null, strength: 1, layers: [12, 23], pos: 1 });
    look();
    vi.runAllTimers();
    expect(model.sent).toEqual([]);
    const other = find("[aria-label='swap with']") as HTMLInputElement;
    other.value = "Germany";
    other.dispatchEvent(new Event("change"));
    look();
    vi.runAllTimers();
    expect(asked()).toMatchObject({ kind: "act", how: "swap", token: 2, with: "Germany", prompt: "a b", lens: "logit", layers: [12, 23], pos: 1 });
  });

  it("acts in the region that is chosen", () => {
    start();
    look({ region: { rows: [0, 1], columns: [1, 1] } }, { token: 2 });
    panel.do("a");
    expect(spec.act).toMatchObject({ how: "ablate", layers: [0, 1], pos: 1 });
  });

  it("asks once for what is asked, and shows the three continuations and the odds", () => {
    start();
    spec = { ...spec, act: { how: "steer", token: 2, with: null, strength: 0.05, layers: [0, 1], pos: 1 } };
    look();
    look();
    vi.runAllTimers();
    look();
    vi.runAllTimers();
    expect(model.sent).toHaveLength(1);
    acted("acting");
    expect(find(".lk-act-line .lk-progress").hidden).toBe(false);
    acted("acted");
    expect(find(".lk-act-line .lk-progress").hidden).toBe(true);
    expect([...panel.element.querySelectorAll(".lk-side-caption")].map((e) => e.textContent)).toEqual(["before", "after", "placebo"]);
    expect(find(".lk-odds-line.lk-target").textContent).toBe("·Rome.100 → .100.100");
    panel.stop();
    look();
    expect(asked()).toMatchObject({ kind: "act", how: null });
    expect(find(".lk-acting").hidden).toBe(true);
  });

  it("takes what another view of the same widget was answered, and not what is wrong there", () => {
    start();
    spec = { ...spec, act: { how: "steer", token: 2, with: null, strength: 0.05, layers: [0, 1], pos: 1 } };
    look();
    vi.runAllTimers();
    acted("superseded");
    acted("error", { id: "other:1", message: "not mine" });
    expect(find("[role=alert]").textContent).toBe("");
    acted("acted", { id: "other:1" });
    expect(panel.element.querySelectorAll(".lk-odds-line")).toHaveLength(2);
  });

  it("shows what is wrong in its place", () => {
    start();
    spec = { ...spec, act: { how: "steer", token: "notaword", with: null, strength: 0.05, layers: [0, 1], pos: 1 } };
    look();
    vi.runAllTimers();
    acted("error", { message: "'notaword' is not one token" });
    expect(find("[role=alert]").textContent).toBe("'notaword' is not one token");
  });
});
