import { describe, expect, it } from "vitest";
import { Table, type TableMessage } from "../lens_table/table.ts";
import { decode, decodeAll, join } from "../shared/wire.ts";

/** The bytes of `values` in a buffer of their own, `offset` bytes after its start: as a message may bring them. */
function at(offset: number, values: Float32Array | Int32Array | Uint16Array): DataView {
  const buffer = new ArrayBuffer(offset + values.byteLength + 3);
  new Uint8Array(buffer).set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), offset);
  return new DataView(buffer, offset, values.byteLength);
}

describe("a buffer", () => {
  it.each([0, 1, 2, 3, 4, 5, 6, 7])("is read right at byte %i of its message", (offset) => {
    const floats = new Float32Array([0.5, -1.25, 3e-9]);
    const ints = new Int32Array([7, -2, 49151]);
    const words = new Uint16Array([0, 65535, 300]);
    expect(decode({ name: "a", dtype: "float32", shape: [3] }, at(offset, floats))).toEqual(floats);
    expect(decode({ name: "b", dtype: "int32", shape: [1, 3] }, at(offset, ints))).toEqual(ints);
    expect(decode({ name: "c", dtype: "uint16", shape: [3, 1] }, at(offset, words))).toEqual(words);
  });

  it("may be a plain ArrayBuffer, as some hosts give it", () => {
    const ints = new Int32Array([1, 2]);
    expect(decode({ name: "a", dtype: "int32", shape: [2] }, ints.buffer)).toEqual(ints);
  });

  it("may be empty", () => {
    expect(decode({ name: "a", dtype: "float32", shape: [0, 30] }, at(1, new Float32Array(0)))).toHaveLength(0);
  });

  it("is a copy: the message it came in can be freed", () => {
    const view = at(4, new Float32Array([1]));
    expect(decode({ name: "a", dtype: "float32", shape: [1] }, view).buffer).not.toBe(view.buffer);
  });

  it("of another length than its shape is refused", () => {
    const view = at(0, new Float32Array([1, 2]));
    expect(() => decode({ name: "kl", dtype: "float32", shape: [3] }, view)).toThrow('array "kl" has 8 bytes');
  });

  it("missing from the message is noticed", () => {
    expect(() => decodeAll([{ name: "kl", dtype: "float32", shape: [1] }], [])).toThrow("1 arrays and brings 0");
  });

  it("is joined to what stays of the one before", () => {
    expect(join(new Int32Array([1, 2, 3, 4]), 2, new Int32Array([9]))).toEqual(new Int32Array([1, 2, 9]));
  });
});

const [LAYERS, K] = [2, 3];

/** A table of which every number says where it belongs: 100 times the position, plus its place in the column. */
function message(number: number, base: number | null, start: number, positions: number, mark = 0) {
  const range = (count: number): number[] =>
    Array.from({ length: positions - start }, (_, i) => Array.from({ length: count }, (_, j) => 100 * (start + i) + j + mark)).flat();
  const arrays = [
    ["ids", "int32", []],
    ["top_ids", "uint16", [LAYERS, K]],
    ["top_probs", "float32", [LAYERS, K]],
    ["entropy", "float32", [LAYERS]],
    ["kl", "float32", [LAYERS]],
    ["target_ids", "int32", []],
    ["target_log_prob", "float32", [LAYERS]],
    ["target_rank", "int32", [LAYERS]],
  ] as const;
  const kinds = { int32: Int32Array, uint16: Uint16Array, float32: Float32Array };
  const head: TableMessage = {
    v: 1, kind: "table", id: `v:${number}`, table: number, base, start, positions, prompt: "", lens: "logit", target: null, versus: null, second: null,
    other: null, written: [], words: false, beside: null, between: null, site: "resid_post",
    layers: [0, 1], k: K, pieces: [[number, `piece ${number}`]], ms: 1, recomputed: positions - start,
    arrays: arrays.map(([name, dtype, rest]) => ({ name, dtype, shape: [positions - start, ...rest] })),
  }; // prettier-ignore
  const buffers = arrays.map(([, dtype, rest], i) => {
    const count = rest.reduce<number>((n, size) => n * size, 1);
    return at(i, new kinds[dtype](range(count)));
  });
  return [head, buffers] as const;
}

describe("a table", () => {
  const first = Table.of(...message(1, null, 0, 4), null);

  it("finds each number at its layer and position", () => {
    expect([first.topId(2, 1, 0), first.topProb(3, 1, 2), first.kl(1, 1), first.tokenId(3)]).toEqual([203, 305, 101, 300]);
  });

  it("keeps the columns before a suffix and takes those in it", () => {
    const second = Table.of(...message(2, 1, 3, 6, 0.5), first);
    expect(second.positions).toBe(6);
    expect([second.entropy(2, 1), second.entropy(3, 1), second.entropy(5, 0)]).toEqual([201, 301.5, 500.5]);
    expect([second.topProb(2, 0, 2), second.topProb(3, 0, 2)]).toEqual([202, 302.5]);
    expect([second.piece(1), second.piece(2)]).toEqual(["piece 1", "piece 2"]);
  });

  it("may become shorter", () => {
    const second = Table.of(...message(2, 1, 2, 2), first);
    expect([second.positions, second.entropy(1, 1)]).toEqual([2, 101]);
  });

  it("is left as it was by the table that continues it", () => {
    Table.of(...message(2, 1, 1, 2, 0.5), first);
    expect([first.positions, first.entropy(1, 0), first.piece(2)]).toEqual([4, 100, undefined]);
  });

  it("does not continue a table that is not here", () => {
    expect(() => Table.of(...message(3, 2, 1, 2), first)).toThrow("table 3 continues table 2");
  });

  it("does not continue columns that its base does not have", () => {
    expect(() => Table.of(...message(2, 1, 6, 7), first)).toThrow("continues 6 items of an array that has 4");
  });

  it("must cover all its positions", () => {
    const [head, buffers] = message(2, 1, 3, 6);
    expect(() => Table.of({ ...head, positions: 7 }, buffers, first)).toThrow("covers 6 of 7 positions");
  });
});
