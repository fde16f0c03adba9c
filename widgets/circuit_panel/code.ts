// What is on the screen as Python that gives the same. `graph`, `model` and `transcoders` are the reader's own.
import type { Spec } from "../circuit_graph/spec.ts";

// JSON's escapes are Python's, so these are Python's strings.
const listed = (nodes: readonly string[]): string => `[${nodes.map((node) => JSON.stringify(node)).join(", ")}]`;

/** `nodes` are those that are chosen: one, or those of a group; `layers` what the layers are made of, or null without a model. */
export function pythonOf(spec: Spec, nodes: readonly string[], layers: readonly string[] | null): string {
  const lines: string[] = [];
  for (const [name, of] of Object.entries(spec.groups)) lines.push(`graph = graph.grouped(${JSON.stringify(name)}, ${listed(of)})`);
  lines.push(`small = graph.pruned(nodes=${spec.nodes}, edges=${spec.edges})`);
  const [node] = nodes;
  if (nodes.length === 1 && node !== undefined) {
    lines.push(`fed_by = graph.into(${JSON.stringify(node)})  # the largest effects first`, `feeds = graph.out_of(${JSON.stringify(node)})`);
  } else if (nodes.length) lines.push(`nodes = ${listed(nodes)}`);
  if (layers && spec.ablated.length) {
    const given = layers.includes("transcoder") ? ", transcoders" : "";
    lines.push(`ablated = lk.circuits.LiveCircuit(model, graph${given}).ablate(${listed(spec.ablated)})`);
  }
  return lines.join("\n");
}
