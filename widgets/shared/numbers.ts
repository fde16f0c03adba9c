// How numbers read: probabilities as .672, nats with two decimals, whole numbers with separators.

export function probability(p: number): string {
  if (!Number.isFinite(p)) return "n/a";
  if (p === 0) return "0";
  if (p < 0.0005) return "<.001";
  if (p >= 0.9995) return p >= 0.9999995 ? "1" : ">.999";
  return p.toFixed(3).slice(1);
}

export function nats(x: number): string {
  if (Number.isNaN(x)) return "n/a";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  // A KL of −1e-8 is rounding; it should not read as "−0.00".
  const rounded = Math.abs(x) < 0.005 ? 0 : x;
  return rounded.toFixed(2).replace("-", "−");
}

/** An effect on a scale where 1 is all of it: two decimals and a true minus, as `.96`, `1.01`, `−.12`. */
export function effect(x: number): string {
  if (!Number.isFinite(x)) return nats(x);
  return nats(x).replace(/^(−?)0\./, "$1.").replace(/^\.00$/, "0");
}

/** A quantity whose sign matters: `+6.12`, `−5.49`, `0.00`. */
export function signed(x: number): string {
  return nats(x) !== "0.00" && x > 0 ? `+${nats(x)}` : nats(x);
}

// Made once: making one is a thousand times the work of using it.
const separated = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function whole(n: number): string {
  return separated.format(n);
}

export function milliseconds(ms: number): string {
  if (ms >= 10000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}
