// Tokens set on a canvas: measured once each, cut where they do not fit, in their own direction.
import { tokenParts, type Part, type Piece } from "./tokens.ts";

const RTL = /^[^\p{L}]*[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;
/** Nothing longer fits any column. */
const LIMIT = 40;

interface Word {
  readonly parts: readonly (Part & { readonly width: number })[];
  readonly width: number;
  readonly rtl: boolean;
}

export class Typesetter {
  #words = new Map<string, Word>();
  #font = "";

  constructor(readonly context: CanvasRenderingContext2D) {}

  set font(font: string) {
    if (font !== this.#font) this.#words.clear();
    this.#font = font;
    this.prepare();
  }

  /** To be called before setting: a canvas forgets its font whenever it is resized. */
  prepare(): void {
    this.context.font = this.#font;
    this.context.textBaseline = "alphabetic";
    this.context.textAlign = "left";
  }

  #word(piece: Piece | undefined): Word {
    const key = typeof piece === "string" ? `"${piece}` : String(piece);
    let word = this.#words.get(key);
    if (!word) this.#words.set(key, (word = this.#measure(tokenParts(piece, LIMIT))));
    return word;
  }

  #measure(parts: readonly Part[]): Word {
    const measured = parts.map((part) => ({ ...part, width: this.context.measureText(part.text).width }));
    const width = measured.reduce((sum, part) => sum + part.width, 0);
    return { parts: measured, width, rtl: RTL.test(parts.map((part) => part.text).join("")) };
  }

  width(piece: Piece | undefined): number {
    return this.#word(piece).width;
  }

  /** Sets a token in the middle of `[left, left + room]`, cut with … where it is wider. */
  set(piece: Piece | undefined, left: number, room: number, baseline: number): void {
    const whole = this.#word(piece);
    const word = whole.width <= room ? whole : this.#cut(whole, room);
    const { context } = this;
    context.direction = word.rtl ? "rtl" : "ltr";
    let x = left + (room - word.width) / 2;
    for (const part of word.rtl ? [...word.parts].reverse() : word.parts) {
      if (part.kind === "space") context.globalAlpha = 0.38;
      // Aligned left whatever its direction: where it goes has been worked out here.
      context.fillText(part.text, x, baseline);
      if (part.kind === "space") context.globalAlpha = 1;
      x += part.width;
    }
  }

  #cut(word: Word, room: number): Word {
    const key = `${room}|${word.parts.map((part) => part.text).join("|")}`;
    const known = this.#words.get(key);
    if (known) return known;
    const kept: Part[] = [];
    let left = room - this.context.measureText("…").width;
    for (const part of word.parts) {
      if (part.width <= left) {
        kept.push(part);
        left -= part.width;
        continue;
      }
      const chars = [...part.text];
      while (chars.length && this.context.measureText(chars.join("")).width > left) chars.pop();
      kept.push({ text: `${chars.join("")}…`, kind: part.kind });
      break;
    }
    const cut = this.#measure(kept);
    this.#words.set(key, cut);
    return cut;
  }
}
