import { describe, expect, it } from "vitest";
import { ablating, groupOf, naming } from "../circuit_graph/doing.ts";
import { first, walk } from "../circuit_graph/hands.ts";
import { Hits } from "../circuit_graph/hits.ts";
import { influence, mostOf, pruned, shares } from "../circuit_graph/influence.ts";
import { layOut, rowHeight, type Layout } from "../circuit_graph/layout.ts";
import { linesOf, topLines } from "../circuit_graph/lists.ts";
import { followed, Looking } from "../circuit_graph/looking.ts";
import { Network } from "../circuit_graph/network.ts";
import { shown, type Scene } from "../circuit_graph/scene.ts";
import { aboutOf, changedFields, footOf, freshName, grouped, readSpec, renamed, toggled, ungrouped } from "../circuit_graph/spec.ts";
import { lineText, numbersOf, saidOf, sumOf, titleText } from "../circuit_graph/words.ts";
import { pythonOf } from "../circuit_panel/code.ts";
import { byHand, byHandMessage, FACTS, graphMessage, NUMBERS, sceneOf, written } from "./circuit_stub.ts";

describe("influence and pruning", () => {
  it("are what Python says, on a graph that Python wrote down", () => {
    const { source, target, weight, size, weights } = written();
    const found = influence(source, target, shares(source, target, weight, size), weights);
    expect(found).toHaveLength(NUMBERS.influence.length);
    found.forEach((each, node) => expect(each).toBeCloseTo(NUMBERS.influence[node] as number, 6));
  });
  it.each(NUMBERS.pruned)("keep the same nodes and edges at $nodes and $edges", ({ nodes, edges, kept, links }) => {
    const network = written();
    const small = pruned(network, nodes, edges);
    const names = (flags: Uint8Array): number[] => [...flags.keys()].filter((at) => flags[at]);
    expect(names(small.nodes).map((node) => network.names[node])).toEqual(kept);
    const name = (end: ArrayLike<number>, edge: number): string | undefined => network.names[end[edge] as number];
    expect(names(small.edges).map((edge) => `${name(network.source, edge)} > ${name(network.target, edge)}`)).toEqual(links);
  });
  it("take as few of the largest as make up the share, and nothing that is 0", () => {
    expect([...mostOf([1, 4, 0, 3, 2], 0.7)]).toEqual([0, 1, 0, 1, 0]);
    expect([...mostOf([1, 4, 0, 3, 2], 0.71)]).toEqual([0, 1, 0, 1, 1]);
    expect([...mostOf([1, 4, 0, 3, 2], 1)]).toEqual([1, 1, 0, 1, 1]);
    expect([...mostOf([2, 2, 2], 0.5)]).toEqual([1, 1, 0]);
    expect([...mostOf([0, 0], 1)]).toEqual([0, 0]);
  });
});

describe("the graph", () => {
  it("knows its nodes by name, and the edges at each", () => {
    const network = byHand();
    expect(network.names).toEqual(["embed@0", "embed@1", "0.5@0", "0.6@1", "0.error@1", "1.7@1", "logit.0@1"]);
    expect([network.number("1.7@1"), network.number("9.9@9")]).toEqual([5, undefined]);
    expect([network.into(5), [...network.outOf(2)]]).toEqual([[3, 4, 5], [3, 6]]);
    expect(network.selection(5)).toEqual({ node: "1.7@1", kind: "feature", layer: 1, pos: 1, feature: 7 });
  });
  it("refuses arrays that are not as long as they are announced", () => {
    const [message, buffers] = byHandMessage({ n_nodes: 8 });
    expect(() => new Network(message, buffers)).toThrow(/7 numbers "kind" where 8 belong/);
  });
  it("adds up: a value is its edges, drawn or not, its bias and its rest", () => {
    const scene = sceneOf(byHand(), { edges: 0.5 });
    const sum = sumOf(scene, 5);
    expect(sum).toMatchObject({ value: 1.5, bias: 0.5, rest: 0, off: 0 });
    expect((sum?.drawn ?? 0) + (sum?.hidden ?? 0)).toBe(1);
    expect((sum?.drawnEdges ?? 0) + (sum?.hiddenEdges ?? 0)).toBe(3);
    expect(sumOf(scene, 0)).toBeNull();
  });
  it("reads in words", () => {
    const network = byHand();
    expect([0, 4, 5, 6].map((node) => titleText(network, node))).toEqual(["Embedding of The (0)", "Error of layer 0 at ·key (1)", "Feature 1.7 at ·key (1)", "Target ·years"]);
    expect([0, 5, 6].map((node) => numbersOf(network, node))).toEqual(["influence 25 %", "activation 1.50 · influence 50 %", "value 4.00 · weight 1"]);
    expect(saidOf(sceneOf(network), 5)).toBe("Feature 1.7 at ·key (1), activation 1.50 · influence 50 %, years · decades. Fed by 3, most Feature 0.5 at The (0). Feeds 1, most Target ·years.");
  });
});

describe("what is drawn", () => {
  it("is what pruning leaves, and what is pinned with its edges to what is drawn", () => {
    const network = byHand();
    const few = shown(network, readSpec({ nodes: 0.3, edges: 0.3 }));
    expect([...few.nodes]).toEqual([1, 1, 0, 0, 0, 0, 1]);
    const pins = shown(network, readSpec({ nodes: 0.3, edges: 0.3, pinned: ["0.6@1", "1.7@1"] }));
    expect([...pins.nodes]).toEqual([1, 1, 0, 1, 0, 1, 1]);
    expect([...pins.edges]).toEqual([0, 1, 1, 0, 1, 0, 0, 1, 1]);
  });
  it("draws a folded group as one, with the sums of its edges and none within it", () => {
    const network = byHand();
    const scene = sceneOf(network, { groups: { both: ["0.5@0", "0.6@1"] }, folded: ["both"] });
    expect(scene.items.map(({ group, nodes }) => [group, nodes])).toEqual([["both", [2, 3]], [null, [0]], [null, [1]], [null, [4]], [null, [5]], [null, [6]]]);
    const link = (from: string, to: string) => scene.links.find((each) => lineText(scene, each.source).includes(from) && lineText(scene, each.target).includes(to));
    // From the group: weights add up, 2 − 1.5 and 1 − 0.25, and so do shares.
    expect(link("both", "1.7")).toMatchObject({ edges: 2, weight: 0.5, share: (2 - 1.5) / 4 });
    expect(link("both", "years")).toMatchObject({ edges: 2, weight: 0.75 });
    // Into it: each member counts as it matters: all of 0.5@0, half of 0.6@1.
    expect(link("of The", "both")?.share).toBeCloseTo((1 * 0.25 + 0.5 * 0.125) / 0.375);
    const inside = sceneOf(network, { groups: { all: ["0.5@0", "0.6@1", "1.7@1"] }, folded: ["all"] });
    expect(inside.links.every(({ source, target }) => source !== target)).toBe(true);
    expect(inside.edges).toBe(9);
  });
  it("lists what feeds a node and what it feeds, the strongest first, with the sign", () => {
    const scene = sceneOf(byHand());
    expect(linesOf(scene, 5, "source").map(({ item, number, share }) => [item, number, share])).toEqual([[2, "+2.00", 0.5], [3, "−1.50", -0.375], [4, "+0.50", 0.125]]);
    expect(linesOf(scene, 5, "target").map(({ item, title }) => [item, title])).toEqual([[6, "56 % of all that reaches Target ·years"]]);
    expect(topLines(scene).map(({ item, number }) => [item, number])).toEqual([[5, "50 %"], [2, "25 %"], [3, "13 %"]]);
  });
  it("tells the most influential node of a place", () => {
    const scene = sceneOf(byHand());
    expect([scene.at(0, 1), scene.at(0, 0), scene.at(5, 0)]).toEqual([3, 2, undefined]);
  });
  it("follows a linked view to the most influential node of a place, and stays where it stands there already", () => {
    const scene = sceneOf(byHand());
    const { network } = scene;
    expect(followed(scene, null, { layer: 0, pos: 1 })).toEqual(network.selection(3));
    expect(followed(scene, network.selection(5), { layer: 0 })).toEqual(network.selection(3));
    expect(followed(scene, network.selection(4), { layer: 0, pos: 1, head: 3 })).toEqual(network.selection(4));
    expect([followed(scene, network.selection(5), { pos: 0 }), followed(scene, null, { pos: 0 })]).toEqual([null, null]);
  });
});

describe("the layout", () => {
  const scene = sceneOf(written());
  const layout = layOut(scene, 900);
  const at = (each: Layout, item: number) => ({ x: each.x[item] as number, y: each.y[item] as number, wide: each.wide[item] as number });

  it("has layers upwards and tokens across", () => {
    const { network, items } = scene;
    for (const [a, { lead }] of items.entries()) {
      for (const [b, other] of items.entries()) {
        if ((network.layer[lead] as number) > (network.layer[other.lead] as number)) expect(at(layout, a).y).toBeLessThan(at(layout, b).y);
        const both = [lead, other.lead].every((node) => network.kind[node] !== 3);
        if (both && (network.pos[lead] as number) > (network.pos[other.lead] as number)) expect(at(layout, a).x).toBeGreaterThan(at(layout, b).x);
      }
    }
  });
  it("sets what stands in one row side by side, and inside the picture", () => {
    for (const line of layout.lines) {
      line.slice(1).forEach((item, i) => {
        const [left, right] = [at(layout, line[i] as number), at(layout, item)];
        expect(right.x - right.wide).toBeGreaterThanOrEqual(left.x + left.wide);
      });
      for (const item of line) expect(at(layout, item).x + at(layout, item).wide).toBeLessThanOrEqual(layout.width);
    }
    expect(layout.width).toBeLessThanOrEqual(900);
  });
  it("gives an open group a lane of its own, in which nothing else stands", () => {
    const { network } = scene;
    const column = scene.items.map(({ lead }) => lead).filter((node) => network.isFeature(node) && network.pos[node] === network.pos[network.count - 1]);
    const members = column.filter((_, i) => i % 2 === 0);
    expect([members.length > 2, column.length - members.length > 2]).toEqual([true, true]);
    const open = sceneOf(network, { groups: { some: members.map((node) => network.names[node] as string) } });
    const laid = layOut(open, 900);
    const edges = (nodes: readonly number[], sign: 1 | -1): number[] => nodes.map((node) => at(laid, open.of(node) as number)).map(({ x, wide }) => x + sign * wide);
    const others = column.filter((node) => !members.includes(node));
    expect(Math.max(...edges(members, 1)) + 5).toBeLessThan(Math.min(...edges(others, -1)));
  });
  it("gives a feature an area in proportion to its influence", () => {
    const features = scene.items.map((_, i) => i).filter((i) => scene.network.isFeature(scene.item(i).lead));
    const large = features.filter((i) => at(layout, i).wide > 2.5);
    const ratio = large.map((i) => at(layout, i).wide ** 2 / scene.item(i).influence);
    expect(large.length).toBeGreaterThan(5);
    expect(Math.max(...ratio)).toBeCloseTo(Math.min(...ratio), 3);
  });
  it("sets the tokens of a long prompt upright, and lets the picture grow where nothing else helps", () => {
    const long = (count: number): Scene => {
      const tokens = Array.from({ length: count }, (_, i) => ` token${i}`);
      const change = { tokens, n_nodes: NUMBERS.influence.length };
      return sceneOf(new Network(...graphMessage({ ...NUMBERS, ...change })));
    };
    expect([layout.rotated, layOut(long(40), 900).rotated]).toEqual([false, true]);
    expect(layOut(long(40), 900).width).toBeLessThanOrEqual(900);
    expect(layOut(long(200), 900).width).toBeGreaterThan(900);
  });
  it("fits 30 layers on a screen", () => {
    expect(rowHeight(31, 0) * 31).toBeLessThanOrEqual(640);
    expect(rowHeight(31, 0)).toBeGreaterThan(16);
    expect(rowHeight(2, 28)).toBeGreaterThan(rowHeight(31, 0));
  });
  it("finds what is under the pointer, near it, and in a rectangle", () => {
    const hits = new Hits(layout);
    for (const item of scene.items.keys()) expect(hits.at(layout.x[item] as number, layout.y[item] as number)).toBe(item);
    const [item] = layout.lines[3] as [number];
    expect(hits.at((layout.x[item] as number) - (layout.wide[item] as number) - 4, layout.y[item] as number)).toBe(item);
    expect(hits.at(1, 1)).toBeNull();
    expect(hits.within([layout.width, layout.height], [0, 0]).length).toBe(scene.items.length);
  });
});

describe("keys", () => {
  const scene = sceneOf(byHand());
  const layout = layOut(scene, 700);
  const press = (key: string, from: number | null, shiftKey = false): number | null => walk({ key, shiftKey } as KeyboardEvent, scene, layout, from);

  it("walk along a layer and stop at its ends", () => {
    expect([press("ArrowRight", 2), press("ArrowRight", 3), press("ArrowRight", 4), press("ArrowLeft", 2)]).toEqual([3, 4, 4, 2]);
    expect([press("Home", 4), press("End", 2)]).toEqual([2, 4]);
  });
  it("walk to the nearest of the next layer, and along the strongest edge with Shift", () => {
    expect([press("ArrowUp", 5), press("ArrowDown", 6), press("ArrowUp", 6), press("ArrowDown", 0)]).toEqual([6, 5, 6, 0]);
    expect([press("ArrowDown", 5, true), press("ArrowUp", 4, true), press("ArrowDown", 0, true)]).toEqual([2, 5, 0]);
  });
  it("begin at the most influential feature, and leave other keys alone", () => {
    expect([press("ArrowUp", null), first(scene), press("x", 5), press("Enter", 5)]).toEqual([5, 5, null, null]);
  });
});

describe("the spec", () => {
  it("takes defaults for what is left out, and tells what changed", () => {
    const spec = readSpec({ nodes: 0.5 });
    expect([spec.nodes, spec.edges, spec.placebo]).toEqual([0.5, 0.98, true]);
    expect(changedFields(spec, { ...spec, pinned: ["a"], folded: ["b"] })).toEqual(["pinned", "folded"]);
  });
  it("pins several at once, and unpins them only where all are pinned", () => {
    expect(toggled(["a"], ["a", "b"])).toEqual(["a", "b"]);
    expect(toggled(["c", "a", "b"], ["a", "b"])).toEqual(["c"]);
  });
  it("keeps a node in one group at most, and no group without nodes", () => {
    const one = grouped({ groups: {}, folded: [] }, "x", ["a", "b"]);
    expect(one).toEqual({ groups: { x: ["a", "b"] }, folded: ["x"] });
    expect(grouped(one, "y", ["b", "c"])).toEqual({ groups: { x: ["a"], y: ["b", "c"] }, folded: ["x", "y"] });
    expect(grouped(one, "y", ["a", "b"])).toEqual({ groups: { y: ["a", "b"] }, folded: ["y"] });
    expect(ungrouped(one, "x")).toEqual({ groups: {}, folded: [] });
  });
  it("renames a group unless the name is taken, and proposes one that is not", () => {
    const two = { groups: { x: ["a"], y: ["b"] }, folded: ["y"] };
    expect(renamed(two, "y", "z")).toEqual({ groups: { x: ["a"], z: ["b"] }, folded: ["z"] });
    expect(renamed(two, "y", "x")).toEqual(two);
    expect([freshName({}), freshName({ "group 2": ["a"] })]).toEqual(["group 1", "group 3"]);
  });
  it("says what is looked at, and in the foot what of a larger graph is here", () => {
    expect(aboutOf(FACTS)).toBe("tiny · 7 nodes, 9 edges");
    expect(footOf({ ...FACTS, cut: "7 of 90 nodes" })).toBe("the most influential 7 of 90 nodes · float32 · cpu");
    expect(footOf({ ...FACTS, model: null, dtype: "", device: "" })).toBe("give it a model to ablate");
  });
});

describe("what one can do", () => {
  const network = byHand();
  const scene = sceneOf(network);
  const chosen = readSpec({ selection: network.selection(5) });

  it("gathers: what is chosen first, then more, and no targets", () => {
    const looking = new Looking();
    expect(looking.nodes(scene, chosen)).toEqual([5]);
    looking.gatherOne(scene, chosen, 3);
    expect(looking.gathered).toEqual([5, 3]);
    looking.gatherOne(scene, chosen, 3);
    expect(looking.gathered).toEqual([5]);
    looking.gather(scene, [2, 6], true);
    expect(looking.nodes(scene, chosen)).toEqual([5, 2]);
  });
  it("makes a group of what is gathered, and chooses it by its most influential node", () => {
    expect(naming(network, chosen, [2, 5], ["0.5@0", "1.7@1"], "time")).toEqual({
      groups: { time: ["0.5@0", "1.7@1"] }, folded: ["time"], selection: network.selection(5),
    });
    const has = { ...chosen, groups: { time: ["0.5@0", "1.7@1"] } };
    expect(groupOf(has, ["1.7@1"])).toBe("time");
    expect(naming(network, has, [], ["1.7@1"], "years")).toEqual({ groups: { years: ["0.5@0", "1.7@1"] }, folded: [] });
  });
  it("ablates the features among them, and gives the same ones back", () => {
    expect(ablating(network, chosen, ["0.error@1", "1.7@1", "0.5@0"])).toEqual({ ablated: ["1.7@1", "0.5@0"] });
    expect(ablating(network, { ...chosen, ablated: ["0.5@0", "1.7@1"] }, ["1.7@1", "0.5@0"])).toEqual({ ablated: [] });
    expect(ablating(network, chosen, ["embed@0", "0.error@1"])).toBeNull();
  });
  it("ablates of a folded group what is not drawn too, and of an open one what is chosen", () => {
    const group = { groups: { time: ["0.5@0", "0.6@1", "1.7@1"] }, folded: ["time"] };
    expect(ablating(network, { ...chosen, ...group }, ["1.7@1"])).toEqual({ ablated: ["0.5@0", "0.6@1", "1.7@1"] });
    expect(ablating(network, { ...chosen, ...group, folded: [] }, ["1.7@1"])).toEqual({ ablated: ["1.7@1"] });
  });
  it("copies as Python that gives the same graph", () => {
    const spec = { ...readSpec({ nodes: 0.7, groups: { 'the "x"': ["0.5@0", "0.6@1"] }, ablated: ["1.7@1"] }) };
    expect(pythonOf(spec, ["1.7@1"], ["transcoder", "neurons"]).split("\n")).toEqual([
      'graph = graph.grouped("the \\"x\\"", ["0.5@0", "0.6@1"])',
      "small = graph.pruned(nodes=0.7, edges=0.98)",
      'fed_by = graph.into("1.7@1")  # the largest effects first',
      'feeds = graph.out_of("1.7@1")',
      'ablated = lk.circuits.LiveCircuit(model, graph, transcoders).ablate(["1.7@1"])',
    ]);
    expect(pythonOf(spec, [], ["neurons"])).toContain('LiveCircuit(model, graph).ablate(["1.7@1"])');
    expect(pythonOf(spec, [], null)).not.toContain("LiveCircuit");
  });
});
