// The keys of the graph, and where the arrows lead.
import type { Shortcut } from "../shared/keys.ts";
import type { Layout } from "./layout.ts";
import type { Scene } from "./scene.ts";

export function keysOf(live: boolean): Shortcut[] {
  return [
    { caps: ["← →"], does: "along the layer", foot: true },
    { caps: ["↑ ↓"], does: "to the next layer", foot: true },
    { caps: ["Shift ↑ ↓"], does: "along the strongest edge", foot: true },
    { caps: ["Home", "End"], does: "first, last of the layer" },
    { caps: ["Enter"], does: "pin", foot: true },
    { caps: ["Esc"], does: "clear", foot: true },
    { caps: ["drag"], does: "gather", foot: true },
    { caps: ["Space", "Shift click"], does: "gather one more" },
    { caps: ["G"], does: "group", foot: true },
    { caps: ["F"], does: "fold, unfold" },
    ...(live ? [{ caps: ["A"], does: "ablate", foot: true }] : []),
    { caps: ["/"], does: "thresholds" },
    { caps: ["Ctrl Z"], does: "undo" },
    { caps: ["Ctrl Shift Z"], does: "redo" },
    { caps: ["?"], does: "all keys", foot: true },
  ];
}

/** The item that a key leads to, or null of a key that leads nowhere; from nothing, the most influential one. */
export function walk(event: KeyboardEvent, scene: Scene, layout: Layout, from: number | null): number | null {
  if (!/^(Arrow(Up|Down|Left|Right)|Home|End)$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return null;
  if (from === null) return first(scene);
  if (event.shiftKey && event.key === "ArrowUp") return scene.outOf[from]?.[0] === undefined ? from : scene.link(scene.outOf[from][0]).target;
  if (event.shiftKey && event.key === "ArrowDown") return scene.into[from]?.[0] === undefined ? from : scene.link(scene.into[from][0]).source;
  const row = layout.lines.findIndex((line) => line.includes(from));
  const line = layout.lines[row] ?? [];
  const at = line.indexOf(from);
  if (event.key === "ArrowLeft") return line[Math.max(0, at - 1)] ?? from;
  if (event.key === "ArrowRight") return line[Math.min(line.length - 1, at + 1)] ?? from;
  if (event.key === "Home") return line[0] ?? from;
  if (event.key === "End") return line[line.length - 1] ?? from;
  const next = layout.lines[row + (event.key === "ArrowUp" ? -1 : 1)];
  return next ? nearest(next, layout, layout.x[from] as number) : from;
}

function nearest(line: readonly number[], { x }: Layout, to: number): number {
  return line.reduce((best, at) => (Math.abs((x[at] as number) - to) < Math.abs((x[best] as number) - to) ? at : best));
}

/** The most influential feature or, where there is none, anything. */
export function first({ items, network }: Scene): number | null {
  const features = items.map((_, at) => at).filter((at) => network.isFeature((items[at] as Scene["items"][number]).lead));
  const best = features.length ? features : items.map((_, at) => at);
  return best.length ? best.reduce((most, at) => ((items[at]?.influence ?? 0) > (items[most]?.influence ?? 0) ? at : most)) : null;
}
