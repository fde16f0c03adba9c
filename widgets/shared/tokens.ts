// Tokens as text, the same everywhere: a token is never parsed as HTML and never invisible.
import { make, type Child } from "./dom.ts";

/** A token's text, or its bytes where they are not valid UTF-8 by themselves. */
export type Piece = string | readonly number[];

export interface Part {
  readonly text: string;
  /** `space` is faint, `sign` stands for something that has no ink of its own. */
  readonly kind: "text" | "space" | "sign";
}

const SPACE = "·";
const ONLY_SPACES = "␣";

const hex = (n: number, digits: number): string => n.toString(16).toUpperCase().padStart(digits, "0");

/** What stands for a character that cannot be seen, or null where it shows itself. */
function signOf(char: string, joinsNeighbours: boolean): string | null {
  const code = char.codePointAt(0) as number;
  if (char === "\n") return "↵";
  if (char === "\r") return "␍";
  if (char === "\t") return "⇥";
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "␡";
  if (code === 0xa0) return "⍽";
  // A zero-width joiner inside an emoji or a word shapes it; alone it would be invisible.
  if ((code === 0x200c || code === 0x200d) && joinsNeighbours) return null;
  if (/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u.test(char)) return `⟨${hex(code, 4)}⟩`;
  if (char !== " " && /\p{Zs}/u.test(char)) return `⟨${hex(code, 4)}⟩`;
  return null;
}

// Almost every token: one optional space, then characters that need no second look.
const PLAIN = /^ ?[\x21-\x7e\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0482\u048a-\u052f\u4e00-\u9fff]+$/;

function partsOf(piece: Piece): Part[] {
  if (typeof piece !== "string") return charsOf(textOf(piece), (code) => (isBroken(code) ? `⟨${hex(code - BROKEN, 2)}⟩` : null));
  if (PLAIN.test(piece)) {
    if (piece[0] !== " ") return [{ text: piece, kind: "text" }];
    return [
      { text: SPACE, kind: "space" },
      { text: piece.slice(1), kind: "text" },
    ];
  }
  if (piece === "") return [{ text: "∅", kind: "sign" }];
  if (/^ +$/.test(piece)) {
    return [{ text: piece.length > 4 ? `${ONLY_SPACES}×${piece.length}` : ONLY_SPACES.repeat(piece.length), kind: "text" }];
  }
  return charsOf(piece, () => null);
}

/** A byte that is no text by itself, while its neighbours are: it stands in the text as a lone surrogate. */
const BROKEN = 0xdc00;
const isBroken = (code: number): boolean => code >= BROKEN + 0x80 && code <= BROKEN + 0xff;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes as text: whole characters where they are whole, and each byte by itself where they are not. */
function textOf(bytes: readonly number[]): string {
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const lead = bytes[at] as number;
    const length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const char = decoded(bytes.slice(at, at + length));
    text += char ?? String.fromCharCode(BROKEN + lead);
    at += char === null ? 1 : length;
  }
  return text;
}

function decoded(bytes: readonly number[]): string | null {
  try {
    return utf8.decode(new Uint8Array(bytes));
  } catch {
    return null;
  }
}

/** Each character by itself, or what stands for it; `first` may know better than `signOf` what that is. */
function charsOf(piece: string, first: (code: number) => string | null): Part[] {
  const leading = (/^[ \n\r\t]*/.exec(piece) as RegExpExecArray)[0].length;
  const trailing = piece.length - (/[ \n\r\t]*$/.exec(piece) as RegExpExecArray)[0].length;
  const parts: Part[] = [];
  let run = "";
  const flush = (): void => {
    if (run) parts.push({ text: run, kind: "text" });
    run = "";
  };
  const chars = [...piece];
  let at = 0;
  chars.forEach((char, i) => {
    const sign = first(char.codePointAt(0) as number) ?? signOf(char, i > 0 && i < chars.length - 1);
    if (sign !== null || (char === " " && (at < leading || at >= trailing))) {
      flush();
      parts.push(sign === null ? { text: SPACE, kind: "space" } : { text: sign, kind: "sign" });
    } else {
      // A combining mark with nothing to sit on gets a dotted circle.
      run += run === "" && /^\p{M}/u.test(char) ? `◌${char}` : char;
    }
    at += char.length;
  });
  flush();
  return parts;
}

/** Cuts after `limit` characters, so that a token of 500 dashes costs no more to draw than another. */
function cut(parts: Part[], limit: number): Part[] {
  const kept: Part[] = [];
  let left = limit;
  for (const part of parts) {
    const chars = [...part.text];
    if (chars.length > left) {
      kept.push({ text: `${chars.slice(0, left).join("")}…`, kind: part.kind });
      return kept;
    }
    left -= chars.length;
    kept.push(part);
  }
  return kept;
}

/** A token as runs of characters, for what is drawn where there are no elements. */
export function tokenParts(piece: Piece | undefined, limit = Number.POSITIVE_INFINITY): Part[] {
  if (piece === undefined) return [{ text: "?", kind: "sign" }];
  const parts = partsOf(piece);
  return limit === Number.POSITIVE_INFINITY ? parts : cut(parts, limit);
}

/** What to put into an element for a token: text and spans, never HTML. The element should have `dir="auto"`. */
export function tokenNodes(piece: Piece | undefined, limit = Number.POSITIVE_INFINITY): Child[] {
  return tokenParts(piece, limit).map(({ text, kind }) =>
    kind === "text" ? text : make("span", kind === "space" ? "lk-space" : "lk-sign", text),
  );
}

/** A token in its own element, apart from the direction of the text around it. */
export function tokenElement(piece: Piece | undefined, className = ""): HTMLElement {
  const element = make("bdi", `lk-token ${className}`.trim(), ...tokenNodes(piece));
  element.dir = "auto";
  return element;
}

/** A token as plain characters, for labels that are read out. */
export function tokenText(piece: Piece | undefined): string {
  return tokenParts(piece)
    .map((part) => part.text)
    .join("");
}

const WIDE = /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Extended_Pictographic}/u;

/** About how many columns of a monospaced font a token takes; measuring each would force a layout. */
export function tokenWidth(piece: Piece | undefined): number {
  let width = 0;
  for (const char of tokenText(piece)) {
    width += char < "\u1100" ? 1 : WIDE.test(char) ? 1.9 : /\p{M}/u.test(char) ? 0 : 1;
  }
  return width;
}
