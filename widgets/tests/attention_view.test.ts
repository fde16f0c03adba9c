import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { pythonOf } from "../attention_view/code.ts";
import widget from "../attention_view/index.ts";
import { orderOf, otherLayer, walkCells, walkHeads } from "../attention_view/order.ts";
import { Patterns, type PatternsMessage } from "../attention_view/patterns.ts";
import { readSpec, type Facts, type Head, type Spec } from "../attention_view/spec.ts";
import { StubModel } from "./stub.ts";

const LAYERS = [0, 2];
const N = 3;

interface Parts {
  readonly table?: number;
  readonly modes?: readonly string[];
  readonly exact?: readonly Head[];
  readonly scores?: readonly number[];
  readonly norms?: boolean;
  readonly prompt?: string;
}

/** Two layers (0 and 2) of two heads over three tokens; every row of a pattern is uniform. */
function reply(id: string, { table = 1, modes = ["pattern/shown"], exact = [], scores = [], norms = false, prompt = "a b c" }: Parts = {}) {
  const arrays: { name: string; dtype: string; shape: number[] }[] = [];
  const buffers: DataView[] = [];
  const add = (name: string, dtype: string, shape: number[], array: ArrayBufferView): void => {
    arrays.push({ name, dtype, shape });
    buffers.push(new DataView(array.buffer as ArrayBuffer));
  };
  add("ids", "int32", [N], Int32Array.of(1, 2, 1));
  if (modes.length) add("tiles", "uint8", [modes.length, 2, 2, N, N], new Uint8Array(modes.length * 4 * N * N).fill(85));
  if (scores.length) add("scores", "float32", [1, 2, 2], Float32Array.from(scores));
  if (exact.length) {
    const uniform = Array.from({ length: N * N }, (_, i) => (i % N <= Math.floor(i / N) ? 1 / (Math.floor(i / N) + 1) : 0));
    add("pattern", "float32", [exact.length, N, N], Float32Array.from(exact.flatMap(() => uniform)));
    if (norms) add("value_norm", "float32", [exact.length, N], Float32Array.from(exact.flatMap(() => [1, 3, 2])));
  }
  add("next_ids", "int32", [2], Int32Array.of(2, 1));
  add("next_before", "float32", [2], Float32Array.of(0.6, 0.2));
  add("next_after", "float32", [2], Float32Array.of(0.6, 0.2));
  const message = {
    v: 1, kind: "patterns", id, table, positions: N, prompt, layers: LAYERS, heads: [2, 2], side: N, modes,
    scored: scores.length ? [{ kind: "previous", positions: 2, random: false }] : [],
    exact, ablated: [], by: "zero", kl: 0, pieces: [[1, " a"], [2, " b"]], ms: 1, recomputed: N, arrays,
  };
  return [message as unknown as PatternsMessage, buffers] as const;
}

const patterns = (parts: Parts = {}, before: Patterns | null = null): Patterns => new Patterns(...reply("x", parts), before);
const arrow = (key: string, ctrlKey = false) => ({ key, ctrlKey, metaKey: false });

describe("the order of the heads", () => {
  const scored = patterns({ scores: [0.1, 0.9, 0.5, 0.2] });

  it("has the last layer on top", () => {
    expect(orderOf(scored, "all", 9).rows).toEqual([[[2, 0], [2, 1]], [[0, 0], [0, 1]]]);
  });

  it("is by score, highest first, in rows of as many as fit; and by layer until the scores are here", () => {
    expect(orderOf(scored, "previous", 3).rows).toEqual([[[0, 1], [2, 0], [2, 1]], [[0, 0]]]);
    expect(orderOf(scored, "induction", 3).sorted).toBe(false);
  });

  it("is walked with the arrows, within its bounds", () => {
    const all = orderOf(scored, "all", 9);
    expect(walkHeads(arrow("ArrowDown"), all, [2, 1])).toEqual([0, 1]);
    expect(walkHeads(arrow("ArrowDown"), all, [0, 1])).toEqual([0, 1]);
    expect(walkHeads(arrow("ArrowRight"), all, [2, 1])).toEqual([2, 1]);
    expect(walkHeads(arrow("Home", true), all, [0, 1])).toEqual([2, 0]);
    expect(walkHeads(arrow("x"), all, [0, 1])).toBeNull();
    const sorted = orderOf(scored, "previous", 2);
    expect(walkHeads(arrow("ArrowRight"), sorted, [2, 0])).toEqual([2, 1]);
    expect(walkHeads(arrow("ArrowLeft"), sorted, [2, 1])).toEqual([2, 0]);
  });

  it("leads to other layers that have patterns, by their numbers", () => {
    expect(otherLayer(scored, [0, 1], 1)).toEqual([2, 1]);
    expect(otherLayer(scored, [2, 1], 1)).toBeNull();
  });

  it("lets a query see itself and what is before it, in a causal model", () => {
    expect(walkCells(arrow("ArrowUp"), { pos: 2, key: 2 }, 3, true)).toEqual({ pos: 1, key: 1 });
    expect(walkCells(arrow("ArrowRight"), { pos: 1, key: 1 }, 3, true)).toEqual({ pos: 1, key: 1 });
    expect(walkCells(arrow("ArrowRight"), { pos: 1, key: 1 }, 3, false)).toEqual({ pos: 1, key: 2 });
    expect(walkCells(arrow("End", true), { pos: 0, key: 0 }, 3, true)).toEqual({ pos: 2, key: 2 });
  });
});

describe("patterns", () => {
  it("grow by what is asked for, and begin anew with another table", () => {
    const one = patterns({ exact: [[0, 1]] });
    const two = patterns({ modes: ["pattern/hidden"], exact: [[2, 1]], scores: [0, 0, 0, 0] }, one);
    expect([two.modes, two.kinds, two.full("pattern")]).toEqual([["pattern/shown", "pattern/hidden"], ["previous"], [[0, 1], [2, 1]]]);
    const other = patterns({ table: 2 }, two);
    expect([other.modes, other.kinds, other.full("pattern")]).toEqual([["pattern/shown"], [], []]);
  });

  it("are weighed by the values and without the first token as in Python", () => {
    const here = patterns({ exact: [[0, 1]], norms: true });
    const rows = (weights: Float32Array | null): number[][] =>
      [0, 1, 2].map((query) => [...(weights as Float32Array).subarray(3 * query, 3 * query + 3)].map((w) => Math.round(w * 1000) / 1000));
    expect(rows(here.weights([0, 1], "value-weighted", false))).toEqual([[1, 0, 0], [0.25, 0.75, 0], [0.167, 0.5, 0.333]]);
    expect(rows(here.weights([0, 1], "pattern", true))).toEqual([[0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]]);
    expect(rows(here.weights([0, 1], "value-weighted", true))).toEqual([[0, 0, 0], [0, 1, 0], [0, 0.6, 0.4]]);
    expect(here.weights([0, 0], "pattern", false)).toBeNull();
    expect(patterns({ exact: [[0, 1]] }).weights([0, 1], "value-weighted", false)).toBeNull();
  });

  it("refuse a message that lacks what it announces", () => {
    const [message, buffers] = reply("x");
    expect(() => new Patterns(message, buffers.slice(1), null)).toThrow(/announces 5 arrays and brings 4/);
  });
});

describe("the code", () => {
  it("quotes the prompt and makes one edit for each layer", () => {
    const spec = readSpec({ ablated: [[2, 1], [0, 1], [2, 0]], by: "mean", selection: { layer: 2, head: 1, pos: 2, key: 0 } });
    const code = pythonOf(patterns({ prompt: 'say "a"\n\\b' }), spec, [2, 1]);
    expect(code).toContain('prompt = "say \\"a\\"\\n\\\\b"');
    expect(code).toContain('edits = [lk.Mean("z", layers=0, heads=[1], over="pos"), lk.Mean("z", layers=2, heads=[0, 1], over="pos")]');
    expect(code).toContain("weights[2, 0]");
  });
});

const FACTS: Facts = {
  v: 1, live: true, title: "Attention", model: "stub", layers: LAYERS, heads: 2, why: null, vocab: 50, context: 64,
  dtype: "float32", device: "cpu",
};
const observing = new Set<StubResizeObserver>();
class StubResizeObserver {
  constructor(readonly changed: () => void) {}
  observe(element: Element): void {
    Object.defineProperty(element, "clientWidth", { value: 1200 });
    observing.add(this);
  }
  disconnect(): void {
    observing.delete(this);
  }
}

let model: StubModel;
let el: HTMLElement;
let end: () => void;

function start(spec: Partial<Spec> = {}): void {
  const whole = readSpec({ prompt: "a b c", selection: { layer: 2, head: 0, pos: null, key: null }, ...spec });
  model = new StubModel({ spec: whole, facts: FACTS, links: [] });
  el = document.createElement("div");
  document.body.append(el);
  end = widget.render({ model, el, signal: new AbortController().signal } as unknown as Parameters<typeof widget.render>[0]) as () => void;
  for (const observer of observing) observer.changed();
}

const answer = (parts: Parts = {}): void => model.emit("msg:custom", ...reply(model.sent.at(-1)?.id ?? "", parts));
const heads = (): HTMLElement => el.querySelector("[aria-label='the pattern of each head']") as HTMLElement;
const press = (key: string, more: KeyboardEventInit = {}): void =>
  void heads().dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
const spec = (): Spec => model.state.spec as Spec;

describe("the view", () => {
  beforeEach(() => {
    vi.stubGlobal("ResizeObserver", StubResizeObserver);
    vi.spyOn(HTMLCanvasElement.prototype, "getContext").mockReturnValue(null);
  });
  afterEach(() => {
    end();
    el.remove();
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it("asks for what it lacks, with what it holds, and for one head in full while walking", () => {
    start();
    expect(model.sent).toMatchObject([{ kind: "read", prompt: "a b c", head: [2, 0], have: { table: null, modes: [], heads: [] } }]);
    answer({ exact: [[2, 0]] });
    press("ArrowRight");
    expect(spec().selection).toMatchObject({ layer: 2, head: 1 });
    expect(model.sent.at(-1)).toMatchObject({ kind: "head", table: 1, layer: 2, head: 1 });
    press("f");
    expect(model.sent.at(-1)).toMatchObject({ kind: "read", hide_first: true, have: { table: 1, modes: ["pattern/shown"], heads: [[2, 0]] } });
    answer({ modes: ["pattern/hidden"], exact: [[2, 1]] });
    const count = model.sent.length;
    press("f");
    press("ArrowLeft");
    expect(model.sent).toHaveLength(count);
  });

  it("ablates, and takes it back", () => {
    start();
    answer();
    press("a");
    expect(spec().ablated).toEqual([[2, 0]]);
    expect(model.sent.at(-1)).toMatchObject({ kind: "read", ablated: [[2, 0]] });
    press("z", { ctrlKey: true });
    expect(spec().ablated).toEqual([]);
  });

  it("tells linked views what is chosen here, and not what came from Python", () => {
    const heard: object[] = [];
    const bus = ((globalThis as unknown as Record<symbol, EventTarget>)[Symbol.for("lenskit.linked")] ??= new EventTarget());
    const listener = (event: Event): void => void heard.push((event as CustomEvent).detail.fields);
    bus.addEventListener("g", listener);
    start();
    answer();
    model.set("links", [{ group: "g", on: ["layer", "head", "pos"] }]);
    model.set("spec", { ...spec(), selection: { layer: 0, head: 1, pos: 1, key: 0 } });
    expect(heard).toEqual([]);
    press("ArrowLeft");
    expect(heard).toEqual([{ layer: 0, head: 0, pos: 1 }]);
    bus.dispatchEvent(new CustomEvent("g", { detail: { from: {}, fields: { layer: 2, pos: 99 }, reached: new Set(["g"]) } }));
    expect(spec().selection).toEqual({ layer: 2, head: 0, pos: 1, key: 0 });
    expect(heard).toHaveLength(2);
    bus.removeEventListener("g", listener);
  });

  it("leaves no listener, no observer, no timer and no element", () => {
    vi.useFakeTimers();
    start();
    answer();
    expect([model.listening, observing.size]).toEqual([3, 1]);
    end();
    expect([model.listening, observing.size, vi.getTimerCount(), el.childElementCount]).toEqual([0, 0, 0, 0]);
  });
});
