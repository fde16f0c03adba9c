// A patch as the Python that does it: plain parts of lenskit, so that one can go on from there.
import { tokenText } from "../shared/tokens.ts";
import { columnsOf, layersOf, type Region } from "./region.ts";
import type { Sweep } from "./sweep.ts";

// JSON's escapes are Python's, so this is a Python string.
const text = (string: string): string => JSON.stringify(string);

const numbers = (list: readonly number[]): string => (list.length === 1 ? String(list[0]) : `[${list.join(", ")}]`);

/** Gives the metric of the patched run as its last line. `model` is the reader's own. */
export function pythonOf(sweep: Sweep, region: Region): string {
  const { clean, corrupt, site, direction } = sweep.header;
  const [source, base] = direction === "denoise" ? ["clean", "corrupt"] : ["corrupt", "clean"];
  const columns = sweep.over === "head" ? "heads" : "pos";
  const where = `layers=${numbers(layersOf(sweep, region))}, ${columns}=${numbers(columnsOf(region))}`;
  return [
    `clean = ${text(clean)}`,
    `corrupt = ${text(corrupt)}`,
    `source = model.run(${source}, keep=${text(site)})`,
    `patched = model.run(${base}, edits=lk.Patch(${text(site)}, source, ${where}))`,
    ...metricLines(sweep, source as string),
  ].join("\n");
}

function metricLines(sweep: Sweep, source: string): string[] {
  const { metric, answer, against, read } = sweep.header;
  const said = (id: number | null): string => (id === null ? "" : tokenText(sweep.piece(id)).replaceAll(/[\r\n]/g, " "));
  const logits = `logits = patched.logits[0, ${read}]`;
  if (metric === "logit_diff") return [logits, `logits[${answer}] - logits[${against}]  # ${said(answer)} − ${said(against)}`];
  if (metric === "prob") return [logits, `logits.softmax(-1)[${answer}]  # ${said(answer)}`];
  if (metric === "log_prob") return [logits, `logits.log_softmax(-1)[${answer}]  # ${said(answer)}`];
  if (metric === "rank") return [logits, `(logits > logits[${answer}]).sum()  # ${said(answer)}`];
  if (metric === "given") return ["metric(patched)"];
  return [
    `reference = ${source === "clean" ? "source.logits" : "model.run(clean).logits"}[0, ${read}].log_softmax(-1)`,
    `${logits}.log_softmax(-1)`,
    "(reference.exp() * (reference - logits)).sum()",
  ];
}
