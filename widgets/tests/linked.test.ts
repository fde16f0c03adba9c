import { afterEach, describe, expect, it } from "vitest";
import type { AnyModel } from "@anywidget/types";
import { Linked, type Fields } from "../shared/linked.ts";
import { StubModel } from "./stub.ts";

const lives: AbortController[] = [];
afterEach(() => {
  for (const life of lives.splice(0)) life.abort();
});

/** A view of layers 0 to 9 that takes the fields it has. */
function view(links: readonly [string, readonly string[]][], has: readonly string[] = ["layer", "pos", "head"]) {
  const model = new StubModel({ links: links.map(([group, on]) => ({ group, on })) });
  const life = new AbortController();
  lives.push(life);
  const heard: Fields[] = [];
  let selection: Record<string, unknown> = Object.fromEntries(has.map((name) => [name, 0]));
  const linked = new Linked(model as unknown as AnyModel, life.signal, (fields) => {
    heard.push(fields);
    const taken = Object.entries(fields).filter(([name, value]) => has.includes(name) && (value as number) < 10);
    selection = { ...selection, ...Object.fromEntries(taken) };
    return selection;
  });
  const choose = (fields: Record<string, unknown>): void => {
    selection = { ...selection, ...fields };
    linked.announce(selection);
  };
  return { model, linked, heard, choose, life, get selection() { return selection; } };
}

const ALL = ["layer", "pos", "head"] as const;

describe("linked views", () => {
  it("follow what is chosen in another, both ways, and hear of it once", () => {
    const [a, b] = [view([["g", ALL]]), view([["g", ALL]])];
    a.choose({ layer: 3, pos: 2 });
    expect(b.selection).toEqual({ layer: 3, pos: 2, head: 0 });
    b.choose({ head: 5 });
    expect(a.selection).toEqual({ layer: 3, pos: 2, head: 5 });
    expect([a.heard.length, b.heard.length]).toEqual([1, 1]);
  });

  it("hear only of the fields that are linked and that are numbers", () => {
    const [a, b] = [view([["g", ["layer", "key"]]]), view([["g", ["layer", "key"]]])];
    a.choose({ layer: 3, pos: 2, key: null });
    expect(b.heard).toEqual([{ layer: 3 }]);
  });

  it("of other groups hear nothing", () => {
    const [a, b] = [view([["g", ALL]]), view([["h", ALL]])];
    a.choose({ layer: 3 });
    expect(b.heard).toEqual([]);
  });

  it("that stand in two groups pass it on, and a ring of groups comes to an end", () => {
    const a = view([["ab", ALL], ["ca", ALL]]);
    const b = view([["ab", ALL], ["bc", ALL]]);
    const c = view([["bc", ALL], ["ca", ALL]]);
    a.choose({ layer: 4 });
    expect([b.selection.layer, c.selection.layer]).toEqual([4, 4]);
    expect(a.heard.length + b.heard.length + c.heard.length).toBeLessThan(6);
  });

  it("of one widget do not tell each other: they have the same spec", () => {
    const a = view([["g", ALL]]);
    const heard: Fields[] = [];
    new Linked(a.model as unknown as AnyModel, a.life.signal, (fields) => (heard.push(fields), null));
    a.choose({ layer: 3 });
    expect(heard).toEqual([]);
  });

  it("start no echo when a follower announces what it followed", () => {
    const a = view([["g", ALL]]);
    const model = new StubModel({ links: [{ group: "g", on: ALL }] });
    const linked: Linked = new Linked(model as unknown as AnyModel, a.life.signal, (fields) => (linked.announce(fields), null));
    a.choose({ layer: 3 });
    expect(a.heard).toEqual([]);
  });

  it("are linked and unlinked while they live, and leave nothing behind", () => {
    const [a, b] = [view([]), view([["g", ALL]])];
    b.choose({ layer: 1 });
    a.model.set("links", [{ group: "g", on: ALL }]);
    b.choose({ layer: 2 });
    expect(a.heard).toEqual([{ layer: 2, pos: 0, head: 0 }]);
    a.model.set("links", []);
    b.choose({ layer: 3 });
    expect(a.heard).toHaveLength(1);
    a.model.set("links", [{ group: "g", on: ALL }]);
    a.life.abort();
    b.choose({ layer: 4 });
    expect([a.heard.length, a.model.listening]).toEqual([1, 0]);
  });
});
