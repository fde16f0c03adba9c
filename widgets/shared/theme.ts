// Light or dark, from what is really behind the widget: hosts do not agree on how to say it.
import { luminance, type Theme } from "./colour.ts";

interface Colour {
  readonly rgb: readonly [number, number, number];
  readonly alpha: number;
}

/** Computed colours come as `rgb(…)`, `rgba(…)` or, from wide-gamut stylesheets, `color(srgb …)`. */
export function parseColour(css: string): Colour | null {
  const match = /^(rgba?|color)\((.+)\)$/.exec(css.trim());
  if (!match) return null;
  const numbers = (match[2] as string).match(/-?[\d.]+(e-?\d+)?%?/g)?.map((s) => Number.parseFloat(s)) ?? [];
  if (numbers.length < 3) return null;
  const size = match[1] === "color" ? 255 : 1;
  if (match[1] === "color" && !(match[2] as string).startsWith("srgb ")) return null;
  const [r, g, b, alpha = 1] = numbers as [number, number, number, number?];
  return { rgb: [r * size, g * size, b * size], alpha };
}

function parentOf(element: Element): Element | null {
  if (element.parentElement) return element.parentElement;
  const root = element.getRootNode();
  return root instanceof ShadowRoot ? root.host : null;
}

/** The first background above `element` that hides what is behind it, or null where the page has none. */
export function backgroundOf(element: Element): string | null {
  for (let at: Element | null = element; at; at = parentOf(at)) {
    const css = getComputedStyle(at).backgroundColor;
    const colour = parseColour(css);
    if (colour && colour.alpha > 0.5) return `rgb(${colour.rgb.map(Math.round).join(", ")})`;
  }
  return null;
}

export function themeOf(element: Element): { theme: Theme; background: string | null } {
  const background = backgroundOf(element);
  const behind = background && parseColour(background);
  if (behind) return { theme: luminance(behind.rgb) < 0.18 ? "dark" : "light", background };
  // A transparent page (VS Code's frame, a dark colour scheme): its text is light where it is dark.
  const ink = parseColour(getComputedStyle(parentOf(element) ?? element).color);
  return { theme: ink && luminance(ink.rgb) > 0.5 ? "dark" : "light", background: null };
}

/** Keeps `root[data-lk-theme]` and `--lk-bg` in step with the host, and tells of changes. */
export class ThemeWatch {
  theme: Theme = "light";
  readonly #root: HTMLElement;
  readonly #changed: (theme: Theme) => void;
  readonly #observer: MutationObserver;
  #background: string | null | undefined;

  constructor(root: HTMLElement, signal: AbortSignal, changed: (theme: Theme) => void) {
    this.#root = root;
    this.#changed = changed;
    this.#observer = new MutationObserver(() => this.look());
    const options = { attributes: true, attributeFilter: ["class", "style", "data-theme", "data-jp-theme-light", "theme"] };
    this.#observer.observe(document.documentElement, options);
    if (document.body) this.#observer.observe(document.body, options);
    const media = globalThis.matchMedia?.("(prefers-color-scheme: dark)");
    media?.addEventListener("change", () => this.look(), { signal });
    signal.addEventListener("abort", () => this.#observer.disconnect());
    this.look();
  }

  /** Looks again: also to be called when the widget is attached or shown. */
  look(): void {
    const { theme, background } = themeOf(this.#root.parentElement ?? this.#root);
    if (theme === this.theme && background === this.#background && this.#root.dataset.lkTheme) return;
    this.theme = theme;
    this.#background = background;
    this.#root.dataset.lkTheme = theme;
    // What is sticky must hide what scrolls under it, so it needs the very colour of the page.
    if (background) this.#root.style.setProperty("--lk-bg", background);
    else this.#root.style.removeProperty("--lk-bg");
    this.#changed(theme);
  }
}
