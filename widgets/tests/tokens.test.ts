import { describe, expect, it } from "vitest";
import { tokenElement, tokenNodes, tokenText, tokenWidth, type Piece } from "../shared/tokens.ts";
import pairs from "./tokens.json" with { type: "json" };

describe("a token as text", () => {
  // The same pairs hold for Python's `show`: tests/models/test_text.py reads them too.
  it.each(pairs as [Piece, string][])("%j reads %s", (piece, shown) => {
    expect(tokenText(piece)).toBe(shown);
    expect(tokenElement(piece).textContent).toBe(shown);
  });

  it("shows a lone surrogate as its number", () => {
    expect(tokenText("\ud83d")).toBe("⟨D83D⟩");
  });

  it("says so where the text of a token was never sent", () => {
    expect(tokenText(undefined)).toBe("?");
  });

  it("makes only a space faint, and makes no element that the token names", () => {
    const element = tokenElement(" </script><img src=x>");
    expect([...element.querySelectorAll("*")].map((e) => [e.tagName, e.className])).toEqual([["SPAN", "lk-space"]]);
  });

  it("keeps its own direction", () => {
    const element = tokenElement(" שלום");
    expect([element.tagName, element.dir]).toEqual(["BDI", "auto"]);
  });

  it("ends in … where it is cut, and is not cut where it just fits", () => {
    const text = (limit: number): string => tokenElement("x").appendChild(div(tokenNodes(" abcdef", limit))).textContent ?? "";
    expect(text(4)).toBe("·abc…");
    expect(text(7)).toBe("·abcdef");
  });

  it("is never cut in the middle of a character", () => {
    expect(div(tokenNodes("😀😀😀", 2)).textContent).toBe("😀😀…");
  });
});

function div(children: (Node | string)[]): HTMLElement {
  const element = document.createElement("div");
  element.append(...children);
  return element;
}

describe("the width of a token", () => {
  it("counts wide characters as wide and marks as nothing", () => {
    expect(tokenWidth(" abc")).toBe(4);
    expect(tokenWidth("日本")).toBeCloseTo(3.8);
    expect(tokenWidth("e\u0301")).toBeLessThan(2.1);
  });
});
