import { expect, it } from "vitest";
import { History } from "../shared/history.ts";

interface Spec {
  readonly n: number;
}

it("goes back and forth through what was changed", () => {
  const history = new History<Spec>();
  history.record({ n: 0 }, ["a"], 0);
  history.record({ n: 1 }, ["b"], 10);
  expect(history.undo({ n: 2 })).toEqual({ n: 1 });
  expect(history.undo({ n: 1 })).toEqual({ n: 0 });
  expect(history.undo({ n: 0 })).toBeUndefined();
  expect(history.redo({ n: 0 })).toEqual({ n: 1 });
  expect(history.redo({ n: 1 })).toEqual({ n: 2 });
  expect(history.redo({ n: 2 })).toBeUndefined();
});

it("takes quick changes of the same thing as one step, as typing is", () => {
  const history = new History<Spec>();
  history.record({ n: 0 }, ["prompt"], 0);
  history.record({ n: 1 }, ["prompt"], 400);
  history.record({ n: 2 }, ["prompt"], 800);
  history.record({ n: 3 }, ["prompt"], 5000);
  expect(history.undo({ n: 4 })).toEqual({ n: 3 });
  expect(history.undo({ n: 3 })).toEqual({ n: 0 });
});

it("forgets what was undone once something new is done", () => {
  const history = new History<Spec>();
  history.record({ n: 0 }, ["a"], 0);
  history.undo({ n: 1 });
  history.record({ n: 0 }, ["b"], 10);
  expect(history.redo({ n: 5 })).toBeUndefined();
});
