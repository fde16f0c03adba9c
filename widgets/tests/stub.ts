// A model without a kernel: it keeps what is sent, counts its listeners and delivers replies.
import type { Facts, Spec } from "../lens_table/spec.ts";

type Listener = (...args: unknown[]) => void;

export interface Sent {
  readonly v: number;
  readonly kind: string;
  readonly id: string;
  readonly prompt: string;
  readonly target: number | null;
  readonly have: number | null;
  readonly have_beside?: number | null;
  readonly lens?: string;
  readonly second?: string | null;
  readonly other?: string | null;
}

export class StubModel {
  readonly sent: Sent[] = [];
  readonly listeners = new Map<string, Set<Listener>>();
  saves = 0;

  constructor(readonly state: Record<string, unknown>) {}

  get(name: string): unknown {
    return this.state[name];
  }
  set(name: string, value: unknown): void {
    this.state[name] = value;
    this.emit(`change:${name}`);
  }
  save_changes(): void {
    this.saves += 1;
  }
  send(message: unknown): void {
    this.sent.push(message as Sent);
  }
  on(event: string, listener: Listener): void {
    this.listeners.set(event, (this.listeners.get(event) ?? new Set()).add(listener));
  }
  off(event: string, listener: Listener): void {
    this.listeners.get(event)?.delete(listener);
  }
  emit(event: string, ...args: unknown[]): void {
    for (const listener of [...(this.listeners.get(event) ?? [])]) listener(...args);
  }
  get listening(): number {
    return [...this.listeners.values()].reduce((n, set) => n + set.size, 0);
  }
}

export const FACTS: Facts = {
  v: 1,
  live: true,
  title: "Lens table",
  model: "stub",
  lenses: ["logit"],
  sites: { logit: "resid_post" },
  layers: 2,
  vocab: 50,
  context: 64,
  ends: [0],
  words: true,
  dtype: "float32",
  device: "cpu",
};

export const SPEC: Spec = {
  v: 1,
  prompt: "a b",
  lens: "logit",
  statistic: "probability",
  target: null,
  versus: null,
  second: null,
  other: null,
  view: "one",
  difference: "js",
  order: "last-first",
  selection: null,
  to: null,
  scale: null,
  cells: "tokens",
  written: [],
  act: null,
};

export interface Reply {
  readonly table: number;
  readonly base?: number | null;
  readonly start?: number;
  readonly positions?: number;
  readonly prompt?: string;
  readonly token?: number;
  readonly written?: readonly number[];
}

/** A `table` message of two layers in which every cell says `token`. */
export function tableReply(id: string, { table, base = null, start = 0, positions = 2, prompt = "a b", token = 1, written = [] }: Reply) {
  const count = positions - start;
  const names: [string, "int32" | "uint16" | "float32", number[]][] = [
    ["ids", "int32", []],
    ["top_ids", "uint16", [2, 1]],
    ["top_probs", "float32", [2, 1]],
    ["entropy", "float32", [2]],
    ["kl", "float32", [2]],
    ["target_ids", "int32", []],
    ["target_log_prob", "float32", [2]],
    ["target_rank", "int32", [2]],
  ];
  const kinds = { int32: Int32Array, uint16: Uint16Array, float32: Float32Array };
  const buffers = names.map(([name, dtype, rest]) => {
    const size = count * rest.reduce((n, m) => n * m, 1);
    return new DataView(new kinds[dtype](size).fill(name === "top_ids" ? token : 0.5).buffer);
  });
  const message = {
    v: 1,
    kind: "table",
    id,
    table,
    base,
    start,
    positions,
    prompt,
    lens: "logit",
    target: null,
    versus: null,
    second: null,
    other: null,
    written,
    words: false,
    beside: null,
    between: null,
    site: "resid_post",
    layers: [0, 1],
    k: 1,
    pieces: [0, 1, 2, 3].map((n) => [n, ` tok${n}`]),
    ms: 1,
    recomputed: count,
    arrays: names.map(([name, dtype, rest]) => ({ name, dtype, shape: [count, ...rest] })),
  };
  return [message, buffers] as const;
}
