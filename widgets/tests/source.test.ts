import type { AnyModel } from "@anywidget/types";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { TableSource } from "../lens_table/source.ts";
import type { Answer } from "../lens_table/source.ts";
import { REST_MS } from "../shared/requests.ts";
import { FACTS, SPEC, StubModel, tableReply, type Reply } from "./stub.ts";

const question = (prompt: string) => ({ prompt, target: null, versus: null, lens: "logit", second: null, other: null, written: [], words: false });

let model: StubModel;
let source: TableSource;
let life: AbortController;
let shown: [table: number, from: number][];
let errors: string[];
let progress: (number | null | undefined)[];

beforeEach(() => {
  vi.useFakeTimers();
  [shown, errors, progress] = [[], [], []];
  model = new StubModel({ spec: SPEC, facts: FACTS });
  life = new AbortController();
  const events = {
    table: ({ first }: Answer, from: number) => void shown.push([first.number, from]),
    progress: (share: number | null | undefined) => void progress.push(share),
    error: (text: string) => void errors.push(text),
    comparing: (): void => {},
    silent: () => {},
  };
  source = new TableSource(model as unknown as AnyModel, events, life.signal);
});

const idOf = (n: number): string => model.sent[n]?.id ?? "";
const hear = (message: object, buffers: readonly DataView[] = []): void => model.emit("msg:custom", message, buffers);
const reply = (n: number, table: Reply): void => hear(...tableReply(idOf(n), table));

describe("a question", () => {
  it("asks for the whole table first, and then for what follows the one that is here", () => {
    source.read(question("a"));
    reply(0, { table: 5 });
    source.read(question("a b"));
    expect(model.sent.map(({ v, kind, prompt, have }) => ({ v, kind, prompt, have }))).toEqual([
      { v: 1, kind: "read", prompt: "a", have: null },
      { v: 1, kind: "read", prompt: "a b", have: 5 },
    ]);
    expect(new Set(model.sent.map((m) => m.id)).size).toBe(2);
  });

  it("waits until typing rests, and only the last is sent", () => {
    for (const text of ["a", "ab", "abc"]) {
      source.readSoon(() => source.read(question(text)));
      vi.advanceTimersByTime(REST_MS - 1);
    }
    expect(model.sent).toHaveLength(0);
    vi.advanceTimersByTime(1);
    expect(model.sent.map((m) => m.prompt)).toEqual(["abc"]);
  });

  it("sent at once takes the place of one that waits", () => {
    source.readSoon(() => source.read(question("slow")));
    source.read(question("now"));
    vi.advanceTimersByTime(10 * REST_MS);
    expect(model.sent.map((m) => m.prompt)).toEqual(["now"]);
  });

  it("of another lens names it, and what is held: Python knows which columns are the same", () => {
    source.read(question("a"));
    reply(0, { table: 5 });
    source.read({ ...question("a"), lens: "tuned" });
    expect(model.sent[1]).toMatchObject({ lens: "tuned", have: 5, have_beside: null });
  });
});

describe("of several replies", () => {
  it("the last question's wins, and an earlier one that comes late is ignored", () => {
    source.read(question("a"));
    source.read(question("a b"));
    reply(1, { table: 8 });
    reply(0, { table: 9 });
    expect(shown).toEqual([[8, 0]]);
  });

  it("an older table is ignored, whoever asked for it", () => {
    source.read(question("a"));
    reply(0, { table: 8 });
    hear(...tableReply("other:1", { table: 7 }));
    expect(shown).toEqual([[8, 0]]);
  });

  it("one to an earlier question is shown while the last one's is under way, which then still finds its base", () => {
    source.read(question("a"));
    reply(0, { table: 1 });
    source.read(question("a b"));
    source.read(question("a b c"));
    reply(1, { table: 2, base: 1, start: 1, positions: 2 });
    reply(2, { table: 3, base: 1, start: 1, positions: 3 });
    expect(shown).toEqual([
      [1, 0],
      [2, 1],
      [3, 0],
    ]);
  });

  it("an error of an earlier question says nothing any more", () => {
    source.read(question(""));
    source.read(question("a"));
    hear({ v: 1, kind: "error", id: idOf(0), prompt: "", message: "empty" });
    expect(errors).toEqual([]);
    hear({ v: 1, kind: "error", id: idOf(1), prompt: "a", message: "broken" });
    expect(errors).toEqual(["broken"]);
  });

  it("an error of another view is not this one's", () => {
    source.read(question("a"));
    hear({ v: 1, kind: "error", id: "other:1", prompt: "", message: "theirs" });
    expect(errors).toEqual([]);
  });
});

describe("a suffix", () => {
  it("is drawn from where it starts", () => {
    source.read(question("a"));
    reply(0, { table: 1, positions: 4 });
    source.read(question("a b"));
    reply(1, { table: 2, base: 1, start: 3, positions: 5 });
    expect(shown).toEqual([
      [1, 0],
      [2, 3],
    ]);
    expect(source.table?.positions).toBe(5);
  });

  it("whose base is not here makes the view ask for the whole", () => {
    source.read(question("a"));
    reply(0, { table: 9, base: 4, start: 1 });
    expect(shown).toEqual([]);
    expect(model.sent[1]).toMatchObject({ prompt: "a", have: null });
    reply(1, { table: 10 });
    expect(shown).toEqual([[10, 0]]);
  });
});

it("a reply that cannot be read says so, and the next one is taken", () => {
  source.read(question("a"));
  hear({ ...tableReply(idOf(0), { table: 1 })[0] }, []);
  expect(errors).toEqual(["the kernel's answer cannot be read: the message announces 8 arrays and brings 0 buffers"]);
  source.read(question("a"));
  reply(1, { table: 2 });
  expect(shown).toEqual([[2, 0]]);
});

describe("another view's question", () => {
  it("is not asked twice: its progress is heard, and its reply taken", () => {
    source.readAfterOthers(() => question("from elsewhere"));
    hear({ v: 1, kind: "progress", id: "other:1", done: 1, total: 4 });
    vi.advanceTimersByTime(10 * REST_MS);
    hear(...tableReply("other:1", { table: 3 }));
    expect(model.sent).toEqual([]);
    expect(shown).toEqual([[3, 0]]);
  });

  it("does not stop what is being typed here", () => {
    source.readSoon(() => source.read(question("mine")));
    hear({ v: 1, kind: "progress", id: "other:1", done: 1, total: 4 });
    vi.advanceTimersByTime(10 * REST_MS);
    expect(model.sent.map((m) => m.prompt)).toEqual(["mine"]);
  });
});

describe("work under way", () => {
  it("is shown from the question to its reply", () => {
    source.read(question("a"));
    hear({ v: 1, kind: "progress", id: idOf(0), done: 1, total: 4 });
    reply(0, { table: 1 });
    expect(progress).toEqual([null, 0.25, undefined]);
  });

  it("ends when another question took its place", () => {
    source.read(question("a"));
    hear({ v: 1, kind: "superseded", id: idOf(0) });
    expect(progress.at(-1)).toBeUndefined();
  });
});

describe("a question that was given up", () => {
  beforeEach(() => {
    source.read(question("a"));
    hear({ v: 1, kind: "superseded", id: idOf(0) });
  });

  it("is asked again where nobody else is heard to ask, for a cell of the notebook had taken its place", () => {
    vi.advanceTimersByTime(REST_MS);
    expect(model.sent.map((m) => m.prompt)).toEqual(["a", "a"]);
  });

  it("is not asked again where another view asks: two views would else supersede each other for ever", () => {
    hear({ v: 1, kind: "progress", id: "other:1", done: 1, total: 4 });
    vi.advanceTimersByTime(10 * REST_MS);
    expect(model.sent).toHaveLength(1);
  });

  it("is not asked again once a table has come", () => {
    hear(...tableReply("other:1", { table: 3 }));
    vi.advanceTimersByTime(10 * REST_MS);
    expect(model.sent).toHaveLength(1);
  });

  it("is forgotten for what is typed next", () => {
    source.readSoon(() => source.read(question("ab")));
    vi.advanceTimersByTime(10 * REST_MS);
    expect(model.sent.map((m) => m.prompt)).toEqual(["a", "ab"]);
  });
});

it("after its end nothing listens, waits or is sent", () => {
  source.readSoon(() => source.read(question("a")));
  life.abort();
  vi.advanceTimersByTime(10 * REST_MS);
  expect([model.listening, model.sent.length, vi.getTimerCount()]).toEqual([0, 0, 0]);
});
