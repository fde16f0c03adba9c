import { describe, expect, it } from "vitest";
import { tokenElement, tokenNodes, tokenText, tokenWidth } from "../shared/tokens.ts";

describe("a token as text", () => {
  it.each([
    ["Paris", "Paris"],
    [" Paris", "·Paris"],
    ["  x", "··x"],
    ["x ", "x·"],
    [" ", "␣"],
    ["   ", "␣␣␣"],
    ["        ", "␣×8"],
    ["\n", "↵"],
    ["\n\n", "↵↵"],
    [" \n", "·↵"],
    ["\t", "⇥"],
    ["\r\n", "␍↵"],
    ["", "∅"],
    ["\u0000", "␀"],
    ["\u007f", "␡"],
    ["\u00a0", "⍽"],
    ["\u0085", "⟨0085⟩"],
    ["\u200b", "⟨200B⟩"],
    ["\u202e", "⟨202E⟩"],
    ["\u2066abc", "⟨2066⟩abc"],
    ["\ufeff", "⟨FEFF⟩"],
    ["\u00ad", "⟨00AD⟩"],
    ["\u2028", "⟨2028⟩"],
    ["\u3000", "⟨3000⟩"],
    ["\u200d", "⟨200D⟩"],
    ["\u0301", "◌\u0301"],
    ["\ue000", "⟨E000⟩"],
    ["👩‍🚀", "👩‍🚀"],
    [" שלום", "·שלום"],
    ["日本語", "日本語"],
    ["<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"],
  ])("%j reads %s", (piece, shown) => {
    expect(tokenText(piece)).toBe(shown);
    expect(tokenElement(piece).textContent).toBe(shown);
  });

  it("shows bytes that are no text by themselves as bytes", () => {
    expect(tokenText([0xe2, 0x82])).toBe("⟨E2⟩⟨82⟩");
    expect(tokenText([10])).toBe("⟨0A⟩");
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
