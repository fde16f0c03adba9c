import { expect, it } from "vitest";
import { milliseconds, nats, probability, whole } from "../shared/numbers.ts";

it("writes probabilities short, and never as a nought or a one that they are not", () => {
  expect([0.672, 0.0004, 0, 0.9999, 1, 0.05].map(probability)).toEqual([".672", "<.001", "0", ">.999", "1", ".050"]);
});

it("writes nats with two decimals and a true minus", () => {
  expect([1.8367, -0.4, -1e-9, Infinity, Number.NaN].map(nats)).toEqual(["1.84", "−0.40", "0.00", "∞", "n/a"]);
});

it("writes whole numbers with separators, and times in their own unit", () => {
  expect(whole(49151)).toBe("49,151");
  expect([3.21, 84.2, 1234, 65000].map(milliseconds)).toEqual(["3.2 ms", "84 ms", "1.2 s", "65 s"]);
});
