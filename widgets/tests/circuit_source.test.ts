import { describe, expect, it } from "vitest";
import widget from "../circuit_graph/index.ts";
import type { AblatedMessage, FrozenMessage, NodeCardMessage } from "../circuit_graph/messages.ts";
import { CircuitSource } from "../circuit_graph/source.ts";
import panel from "../circuit_panel/index.ts";
import type { Shown } from "../circuit_panel/contract.ts";
import { byHandMessage } from "./circuit_stub.ts";
import { card } from "./feature_stub.ts";
import { StubModel } from "./stub.ts";

interface Asked {
  readonly id: string;
  readonly kind: string;
  readonly nodes?: readonly string[];
}

function opened(live = true) {
  const model = new StubModel({});
  const life = new AbortController();
  const told: string[] = [];
  const source = new CircuitSource(
    model as never,
    live,
    {
      graph: () => told.push("graph"),
      card: () => told.push("card"),
      ablated: () => told.push("ablated"),
      progress: (share) => told.push(`progress ${share}`),
      error: (text) => told.push(text),
      silent: () => told.push("silent"),
    },
    life.signal,
  );
  const hear = (message: object, buffers: readonly DataView[] = []): void => model.emit("msg:custom", message, buffers);
  const asked = (kind: string): Asked[] => (model.sent as unknown as Asked[]).filter((each) => each.kind === kind);
  return { model, life, told, source, hear, asked };
}

function nodeCard(node: string): [NodeCardMessage, DataView[]] {
  const [message, buffers] = card(7);
  return [{ ...message, node, unit: "feature" }, buffers];
}

const ablated = (id: string, nodes: readonly string[]): AblatedMessage => ({
  kind: "ablated", id, nodes, scale: 0, before: [[" years", 0.6], [" long", 0.1]], after: [[" years", 0.4], [" long", 0.2]],
  effects: [{ label: " years", before: 4, after: 2.5 }], predicted: [-2.25], kl: 0.08, ms: 3,
  placebo: { mean: [-0.02], spread: [0.11], n: 12, kl: 0.004, kl_spread: 0.003 },
});

describe("what is asked", () => {
  it("is the graph, once, and each card when it is wanted", () => {
    const { source, hear, asked, told } = opened();
    expect(asked("graph")).toHaveLength(1);
    hear(...byHandMessage());
    expect([source.network?.count, told]).toEqual([7, ["graph"]]);
    expect([source.card("1.7@1"), source.card("1.7@1")]).toEqual([undefined, undefined]);
    expect(asked("card")).toHaveLength(1);
    hear(...nodeCard("1.7@1"));
    expect(source.card("1.7@1")).toMatchObject({ message: { feature: 7 } });
    expect(source.words.piece(1)).toBe(" years");
    source.card("0.error@1");
    hear({ kind: "card", id: "t:1", node: "0.error@1", missing: "what a dictionary misses has no card." });
    expect([source.card("0.error@1"), asked("card").length]).toEqual(["what a dictionary misses has no card.", 2]);
  });
  it("is an ablation once, in whatever order, and the last one wins", () => {
    const { source, hear, asked } = opened();
    source.ablate(["0.5@0", "1.7@1"], true);
    source.ablate(["1.7@1", "0.5@0"], true);
    expect(asked("ablate").map(({ nodes }) => nodes)).toEqual([["0.5@0", "1.7@1"]]);
    expect(source.ablating).toBe(true);
    source.ablate(["0.6@1"], true);
    const [first, second] = asked("ablate") as [Asked, Asked];
    hear(ablated(first.id, ["0.5@0", "1.7@1"]));
    expect([source.ablated, source.ablating]).toEqual([null, true]);
    hear(ablated(second.id, ["0.6@1"]));
    expect([source.ablated?.nodes, source.ablating]).toEqual([["0.6@1"], false]);
    source.ablate([], true);
    expect([source.ablated, asked("ablate").length]).toEqual([null, 3]);
  });
  it("is asked again after it failed, and the error is told", () => {
    const { source, hear, asked, told } = opened();
    source.ablate(["0.5@0"], true);
    hear({ kind: "error", id: (asked("ablate")[0] as Asked).id, message: "no memory" });
    expect([told.at(-1), source.ablating]).toEqual(["no memory", false]);
    source.ablate(["0.5@0"], true);
    expect(asked("ablate")).toHaveLength(2);
  });
  it("tells of an answer that cannot be read", () => {
    const { hear, told } = opened();
    const [message, buffers] = byHandMessage();
    hear(message, buffers.slice(1));
    expect(told.at(-1)).toBe("the kernel's answer cannot be read: the message announces 14 arrays and brings 13 buffers");
  });
});

describe("a frozen page", () => {
  it("holds the graph, some cards and the ablation in one reply, and asks for nothing else", () => {
    const { source, hear, model } = opened(false);
    const [[graph, first], [message, second]] = [byHandMessage(), nodeCard("1.7@1")];
    const frozen: FrozenMessage = { kind: "frozen", id: "frozen", graph, cards: [message], ablated: ablated("", ["1.7@1"]) };
    hear(frozen, [...first, ...second]);
    expect([source.network?.edges, source.ablated?.kl]).toEqual([9, 0.08]);
    expect(source.card("1.7@0")).toMatchObject({ message: { feature: 7 }, buffers: second });
    expect(source.card("0.5@0")).toBe("this page does not hold its card: open the notebook");
    source.ablate(["0.5@0"], true);
    expect(model.sent.map(({ kind }) => kind)).toEqual(["frozen"]);
  });
});

it("leaves no listener behind", () => {
  const { model, life } = opened();
  expect(model.listening).toBe(1);
  life.abort();
  expect(model.listening).toBe(0);
});

describe("the second module", () => {
  const { source, hear } = opened();
  hear(...nodeCard("1.7@1"));
  const shown: Shown = {
    ablation: { nodes: ["1.7@1"], placebo: true, groups: {}, answer: ablated("t:1", ["1.7@1"]), working: false, live: true },
    card: source.card("1.7@1"), active: 1.5, words: source.words, theme: "light",
  };
  const made = (change: Partial<Shown> = {}) => {
    const panels = panel(() => {}, new AbortController().signal);
    panels.show({ ...shown, ...change });
    return panels;
  };
  it("shows what was predicted beside what was measured, and random features beside both", () => {
    const { ablation } = made();
    expect([...ablation.querySelectorAll("tbody th, tbody td")].map((cell) => cell.textContent)).toEqual(["·years", "−2.25", "−1.50", "−0.02 ± 0.11"]);
    expect(ablation.querySelector(".lk-c-odds")?.textContent).toContain("·years.600 → .400");
    expect(ablation.querySelector(".lk-f-verdict")?.textContent).toBe("the prediction moves by .080 nats · by as many random features .0040 ± .0030 (12 draws)");
  });
  it("names a group by its name, and asks for random features or not", () => {
    const changes: unknown[] = [];
    const { ablation, show } = panel((to) => changes.push(to), new AbortController().signal);
    show({ ...shown, ablation: { ...shown.ablation, groups: { "of <b>time</b>": ["0.error@1", "1.7@1"] } } });
    expect(ablation.querySelector("h4")?.textContent).toBe("Without of <b>time</b>");
    show(shown);
    expect(ablation.querySelector("h4")?.textContent).toBe("Without 1.7@1");
    document.body.append(ablation);
    const box = ablation.querySelector("input") as HTMLInputElement;
    expect(box.checked).toBe(true);
    box.click();
    ablation.querySelector("button")?.click();
    ablation.remove();
    expect(changes).toEqual([{ placebo: false }, { ablated: [] }]);
  });
  it("shows the card, or why there is none, and nothing where nothing is chosen", () => {
    expect(made().card.textContent).toContain("fires on 0.28 % of tokens · max 8.00 · mean 2.00");
    expect(made({ card: "there is no index" }).card.textContent).toContain("there is no index");
    expect(made({ card: null }).card.hidden).toBe(true);
    expect(made({ ablation: { ...shown.ablation, nodes: [] } }).ablation.hidden).toBe(true);
  });
});

it("the module renders, and nothing else", () => {
  expect(Object.keys(widget)).toEqual(["render"]);
});
