import { beforeEach, describe, expect, it, vi } from "vitest";
import { SweepSource } from "../patch_grid/source.ts";
import type { Sweep } from "../patch_grid/sweep.ts";
import { cells, header, patched, QUESTION, swept } from "./patch_stub.ts";
import { StubModel } from "./stub.ts";

let model: StubModel;
let life: AbortController;
let source: SweepSource;
let shown: Sweep[];
let errors: string[];
let progress: (number | null | undefined)[];
let results: string[];

beforeEach(() => {
  vi.useFakeTimers();
  model = new StubModel({});
  life = new AbortController();
  [shown, errors, progress, results] = [[], [], [], []];
  source = new SweepSource(
    model as never,
    {
      sweep: (sweep) => shown.push(sweep),
      cells: () => {},
      progress: (share) => progress.push(share),
      patched: (_, layers, columns) => results.push(`${layers}/${columns}`),
      error: (text) => errors.push(text),
      silent: () => {},
    },
    life.signal,
  );
});

const last = (): { kind: string; id: string } => model.sent.at(-1) as never;
const hear = ([message, buffers]: readonly [object, DataView[]]): void => model.emit("msg:custom", message, buffers);

describe("the source of sweeps", () => {
  it("keeps the last good picture until the new one has its first cells", () => {
    source.ask(QUESTION);
    const first = last().id;
    hear(header({ id: first }));
    hear(swept([1, 2, 3, 4], { id: first }));
    expect(shown).toHaveLength(1);

    source.ask({ ...QUESTION, site: "mlp_out" });
    hear(header({ id: last().id, site: "mlp_out" }));
    expect(shown).toHaveLength(1);
    hear(cells([0], [1], [0], last().id));
    expect(shown).toHaveLength(2);
    expect(source.sweep?.header.site).toBe("mlp_out");
  });

  it("leaves out what belongs to a question that is no longer its last", () => {
    source.ask(QUESTION);
    const old = last().id;
    hear(header({ id: old }));
    hear(cells([0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 0, 0], old));
    source.ask({ ...QUESTION, clean: "x b" });
    hear(header({ id: old, clean: "stale" }));
    hear(swept([9, 9, 9, 9], { id: old }));
    expect(source.sweep?.value(0, 0)).toBe(0);
    expect(source.working).toBe(true);
  });

  it("stops the sweep under way by its id, and not once it is done", () => {
    source.ask(QUESTION);
    const { id } = last();
    source.stop();
    expect(last()).toEqual({ v: 1, kind: "stop", id });
    hear(swept([1, 2, 3, 4], { id, stopped: true }));
    expect(source.working).toBe(false);
    const count = model.sent.length;
    source.stop();
    expect(model.sent).toHaveLength(count);
  });

  it("stops its sweep when its view goes, and hears nothing any more", () => {
    source.ask(QUESTION);
    life.abort();
    expect(last().kind).toBe("stop");
    expect(model.listening).toBe(0);
  });

  it("patches what is on the screen, and takes the result for that question only", () => {
    source.patch([0], [1]);
    expect(model.sent).toHaveLength(0);
    source.ask(QUESTION);
    hear(swept([1, 2, 3, 4], { id: last().id }));
    source.patch([0, 1], [1]);
    expect(last()).toMatchObject({ kind: "patch", layers: [0, 1], columns: [1], clean: "a b" });
    hear(patched([0, 1], [1], last().id));
    const [other, buffers] = patched([0], [0], last().id);
    hear([{ ...other, site: "mlp_out" }, buffers]);
    expect(results).toEqual(["0,1/1"]);
  });

  it("tells an error of its last question, and asks again where it is told to", () => {
    source.ask(QUESTION);
    hear([{ v: 1, kind: "error", id: last().id, message: "they do not line up" }, []]);
    expect([errors, progress.at(-1), source.asked(QUESTION)]).toEqual([["they do not line up"], undefined, false]);
  });

  it("asks again, after a rest, where something else overtook it", () => {
    source.ask(QUESTION);
    hear([{ v: 1, kind: "superseded", id: last().id }, []]);
    const count = model.sent.length;
    vi.advanceTimersByTime(200);
    expect(model.sent).toHaveLength(count + 1);
  });

  it("shows what another view of the widget has asked for", () => {
    source.ask(QUESTION);
    hear(swept([1, 2, 3, 4], { id: last().id }));
    source.askAfterOthers(() => ({ ...QUESTION, site: "attn_out" }));
    const count = model.sent.length;
    hear(header({ id: "other:5", site: "attn_out" }));
    hear(cells([0], [3], [1], "other:5"));
    vi.advanceTimersByTime(200);
    expect(model.sent).toHaveLength(count);
    expect(source.sweep?.header.site).toBe("attn_out");
  });

  it("says so where an answer cannot be read", () => {
    source.ask(QUESTION);
    hear(header({ id: last().id }, [1, 2], [1]));
    expect(errors[0]).toContain("cannot be read");
  });
});
