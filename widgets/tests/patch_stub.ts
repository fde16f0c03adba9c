// Sweeps of two layers and two columns, as messages.
import type { Question } from "../patch_grid/spec.ts";
import type { CellsMessage, PatchedMessage, SweepHeader, SweptMessage } from "../patch_grid/sweep.ts";
import type { ArrayEntry } from "../shared/wire.ts";

export const QUESTION: Question = {
  clean: "a b",
  corrupt: "a c",
  site: "resid_pre",
  direction: "denoise",
  metric: "logit_diff",
  answer: 7,
  against: 8,
};

const KINDS = { int32: Int32Array, uint16: Uint16Array, float32: Float32Array };
type Given = Record<string, readonly ["int32" | "uint16" | "float32", readonly number[]]>;

function packed(given: Given): [ArrayEntry[], DataView[]] {
  const entries = Object.entries(given).map(([name, [dtype, values]]) => ({ name, dtype, shape: [values.length] }));
  const buffers = Object.values(given).map(([dtype, values]) => new DataView(new KINDS[dtype](values).buffer));
  return [entries, buffers];
}

const PIECES = [[1, "a"], [2, " b"], [3, " c"], [7, " Mary"], [8, " John"]] as const;

function ofPrompts(clean: readonly number[], corrupt: readonly number[]): Given {
  return {
    clean_ids: ["int32", clean],
    corrupt_ids: ["int32", corrupt],
    next_ids: ["int32", [7, 8]],
    next_clean: ["float32", [0.75, 0.125]],
    next_corrupt: ["float32", [0.125, 0.5]],
  };
}

export function header(change: Partial<SweepHeader> = {}, clean = [1, 2], corrupt = [1, 3]): [SweepHeader, DataView[]] {
  const [arrays, buffers] = packed(ofPrompts(clean, corrupt));
  const message = {
    ...QUESTION, v: 1, kind: "pair", id: "t:1", layers: [0, 1], over: "pos", columns: 2, read: 1, base: -5, target: 5,
    pieces: PIECES, arrays, ...change,
  } as const;
  return [message, buffers];
}

export function cells(index: readonly number[], value: readonly number[], exact: readonly number[], id = "t:1"): [CellsMessage, DataView[]] {
  const [arrays, buffers] = packed({ index: ["int32", index], value: ["float32", value], exact: ["uint16", exact] });
  return [{ v: 1, kind: "cells", id, done: exact.filter(Boolean).length, total: 4, left: 2, arrays }, buffers];
}

export function swept(values: readonly number[], change: Partial<SweptMessage> = {}): [SweptMessage, DataView[]] {
  const whole: Given = { values: ["float32", values], exact: ["uint16", values.map(() => 1)] };
  const [arrays, buffers] = packed({ ...ofPrompts([1, 2], [1, 3]), ...whole });
  const end = { kind: "swept", done: 4, total: 4, stopped: false, ms: 12, engine: "packed rows", why: null } as const;
  return [{ ...header()[0], ...end, arrays, ...change }, buffers];
}

export function patched(layers: readonly number[], columns: readonly number[], id: string): [PatchedMessage, DataView[]] {
  const [arrays, buffers] = packed({ ids: ["int32", [7, 8]], before: ["float32", [0.125, 0.5]], after: ["float32", [0.5, 0.25]] });
  return [{ ...QUESTION, v: 1, kind: "patched", id, layers, columns, value: 4, pieces: PIECES, arrays }, buffers];
}
