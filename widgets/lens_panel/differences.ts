// What can colour a difference: measures between two whole predictions, and the second's value less the first's.
import { nats, probability, signed, whole } from "../shared/numbers.ts";
import type { DifferenceStatistic } from "../lens_table/compared.ts";
import { KL_END, place } from "../lens_table/statistic.ts";

/** Ten nats more or less are a factor of e^10: what is further away is all the same. */
const NATS_END = 10;

/** `+.312`, `−.045`: a change of a probability. */
export function change(p: number): string {
  const size = probability(Math.abs(p));
  return size === "0" || Number.isNaN(p) ? size : `${p > 0 ? "+" : "−"}${size}`;
}

const divergence = (x: number): string => (Number.isFinite(x) && x < 9.995 ? x.toFixed(3).replace(/^0\./, ".") : nats(x));
const plain = { smallIsStrong: false, signed: false, place };
const bothWays = { smallIsStrong: false, signed: true, place };

export const DIFFERENCES: readonly DifferenceStatistic[] = [
  {
    ...plain,
    name: "js",
    label: "Jensen-Shannon",
    title: "Jensen-Shannon divergence",
    unit: "nats",
    ends: () => [0, Math.LN2],
    value: (both, pos, row) => both.between("js", pos, row),
    show: divergence,
  },
  {
    ...plain,
    name: "kl",
    label: "KL of the two",
    title: "KL of the second from the first",
    unit: "nats",
    ends: () => [0, KL_END],
    value: (both, pos, row) => both.between("kl", pos, row),
    show: nats,
  },
  {
    ...plain,
    name: "total_variation",
    label: "total variation",
    title: "total variation",
    unit: "",
    ends: () => [0, 1],
    value: (both, pos, row) => both.between("total_variation", pos, row),
    show: probability,
  },
  {
    ...bothWays,
    name: "largest_change",
    label: "largest change",
    title: "largest change in a token's probability",
    unit: "",
    ends: () => [-1, 1],
    value: (both, pos, row) => both.between("largest_change", pos, row),
    show: change,
  },
  {
    ...bothWays,
    name: "target_probability",
    label: "Δ p(target)",
    title: "probability of the target, second less first",
    unit: "",
    ends: () => [-1, 1],
    value: ({ first, second }, pos, row) => second.targetProb(pos, row) - first.targetProb(pos, row),
    show: change,
  },
  {
    ...bothWays,
    name: "target_log_prob",
    label: "Δ log p(target)",
    title: "log-probability of the target, second less first",
    unit: "nats",
    ends: () => [-NATS_END, NATS_END],
    value: ({ first, second }, pos, row) => second.targetLogProb(pos, row) - first.targetLogProb(pos, row),
    show: signed,
  },
  {
    ...bothWays,
    name: "entropy",
    label: "Δ entropy",
    title: "entropy, second less first",
    unit: "nats",
    ends: () => [-NATS_END, NATS_END],
    value: ({ first, second }, pos, row) => second.entropy(pos, row) - first.entropy(pos, row),
    show: signed,
  },
  {
    ...bothWays,
    name: "rank",
    label: "Δ rank",
    title: "rank of the target, second less first, log scale",
    unit: "",
    ends: (facts) => [1 - facts.vocab, facts.vocab - 1],
    value: ({ first, second }, pos, row) => second.targetRank(pos, row) - first.targetRank(pos, row),
    place: (value, [low, high]) => place(logOf(value), [logOf(low), logOf(high)]),
    show: (value) => (value > 0 ? `+${whole(value)}` : whole(value).replace("-", "−")),
  },
];

const logOf = (value: number): number => Math.sign(value) * Math.log1p(Math.abs(value));
