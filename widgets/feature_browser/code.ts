// What is on the screen as Python that gives the same numbers. `index` and `model` are the reader's own.
import { isNeutral, nameOf, steeredAt, type Facts, type Spec } from "./spec.ts";

export function pythonOf(facts: Facts, spec: Spec, feature: number): string {
  const lines = [`card = index.card(${feature})  # ${facts.unit} ${nameOf(facts, feature)}`];
  if (facts.model === null || !spec.prompt) return lines.join("\n");
  // JSON's escapes are Python's, so this is a Python string.
  lines.push("", `prompt = ${JSON.stringify(spec.prompt)}`, `active = index.firing(model, prompt).of(${feature})  # (pos,)`);
  if (!isNeutral(spec.steer)) {
    const { by, amount } = spec.steer;
    const pos = steeredAt(spec);
    lines.push(
      "",
      "from lenskit.transcoders.live import LiveFeatures",
      "",
      `edits = LiveFeatures(index, model).edits(prompt, ${feature}, by=${JSON.stringify(by)}, amount=${amount}${pos === null ? "" : `, pos=${pos}`})`,
      "before = model.run(prompt).logits[0, -1].softmax(-1)  # of the next token, (vocab,)",
      "after = model.run(prompt, edits=edits).logits[0, -1].softmax(-1)",
    );
  }
  return lines.join("\n");
}
