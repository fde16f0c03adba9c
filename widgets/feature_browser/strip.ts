// Tokens coloured by how active a feature is on them.
import { sequential, stepAt, type Theme } from "../shared/colour.ts";
import { make } from "../shared/dom.ts";
import { tokenNodes, type Piece } from "../shared/tokens.ts";
import { activation } from "./histogram.ts";

/** Below this share a token keeps the colour of the page: every feature flickers there. */
const FAINT = 0.02;

/** A token in the colour of its activation: a share of the feature's maximum, which is the scale's end. */
export function tinted(piece: Piece | undefined, value: number, max: number, theme: Theme): HTMLElement {
  const element = make("bdi", "lk-token lk-f-tinted", ...tokenNodes(piece));
  element.dir = "auto";
  tint(element, value, max, theme);
  return element;
}

export function tint(element: HTMLElement, value: number, max: number, theme: Theme): void {
  const share = max > 0 ? value / max : 0;
  const scale = sequential(theme);
  const shown = share >= FAINT;
  element.style.background = shown ? (scale.fill[stepAt(share)] as string) : "";
  element.style.color = shown ? (scale.ink[stepAt(share)] as string) : "";
  element.title = shown ? activation(value) : "";
}

/** Tokens in a line of text, which may break before a word and nowhere within one. */
export function flowing(tokens: readonly HTMLElement[], pieces: readonly (Piece | undefined)[]): Node[] {
  return tokens.flatMap((token, i) => (i > 0 && startsWord(pieces[i]) ? [make("wbr"), token] : [token]));
}

function startsWord(piece: Piece | undefined): boolean {
  return typeof piece === "string" ? /^\s/.test(piece) : true;
}
