// What is on the screen as Python that gives the same numbers.
import type { Patterns } from "./patterns.ts";
import { sameHead, type Head, type Spec } from "./spec.ts";

/** Code for a `model`: the chosen head's pattern as it is shown, and what the ablation says. */
export function pythonOf(patterns: Patterns, spec: Spec, [layer, head]: Head): string {
  const weighted = spec.show === "value-weighted";
  const keep = weighted ? `[("pattern", ${layer}), ("v", ${layer})]` : `("pattern", ${layer})`;
  const lines = [
    "import lenskit as lk",
    "",
    // JSON's escapes are Python's, so this is a Python string.
    `prompt = ${JSON.stringify(patterns.message.prompt)}`,
    `run = model.run(prompt, keep=${keep})`,
    `weights = run["pattern", ${layer}, ${head}][0]  # (query, key)`,
  ];
  if (weighted) {
    lines.push(
      `w_o = model.weights.W_O[${layer}]  # (head, d_head, d_model)`,
      `v = run["v", ${layer}][0]  # (pos, head, d_head), of key-value heads`,
      `v = v.repeat_interleave(len(w_o) // v.shape[1], 1)[:, ${head}]`,
      `weights = weights * (v @ w_o[${head}]).norm(dim=-1)  # |alpha v W_O|, Kobayashi et al. (2020)`,
    );
  }
  if (spec.hide_first) {
    lines.push(
      "rest = weights[:, 1:].sum(-1, keepdim=True) > 0.01 * weights.sum(-1, keepdim=True)  # else only noise is left",
      "weights = weights.clone()",
      "weights[:, 0] = 0",
      "weights = (weights / weights.sum(-1, keepdim=True)).where(rest, 0.0)",
    );
  } else if (weighted) lines.push("weights = weights / weights.sum(-1, keepdim=True)");
  const { pos, key } = spec.selection ?? { pos: null, key: null };
  if (pos !== null && key !== null) lines.push(`weights[${pos}, ${key}]`);
  return [...lines, ...ablationOf(spec)].join("\n");
}

/** One edit for each layer, as the view makes them. */
function ablationOf({ ablated, by }: Spec): string[] {
  const layers = [...new Set(ablated.map(([layer]) => layer))].sort((a, b) => a - b);
  if (!layers.length) return [];
  const edits = layers.map((layer) => {
    const heads = ablated.filter((head) => sameHead(head, [layer, head[1]])).map(([, head]) => head).sort((a, b) => a - b);
    const where = `layers=${layer}, heads=[${heads.join(", ")}]`;
    return by === "zero" ? `lk.Zero("z", ${where})` : `lk.Mean("z", ${where}, over="pos")`;
  });
  return [
    "",
    `edits = [${edits.join(", ")}]`,
    "before = run.logits[0, -1].softmax(-1)  # of the next token, (vocab,)",
    "after = model.run(prompt, edits=edits).logits[0, -1].softmax(-1)",
  ];
}
