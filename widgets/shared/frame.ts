// The frame that every view has: title row, prompt line, picture, detail, foot.
import { make, type Child } from "./dom.ts";
import { handled, isTyping, keepFromHost, type Shortcut } from "./keys.ts";
import { ThemeWatch } from "./theme.ts";
import type { Theme } from "./colour.ts";

/** Below this width the detail goes under the picture, and the smallest layout starts. */
const NARROW = 900;
const TINY = 560;
/** Back to the wide layout only with more room than a scrollbar takes, or the two could take turns for ever. */
const AGAIN = 24;

export interface FrameEvents {
  themed(theme: Theme): void;
  /** Attached, shown, or of another width. */
  resized(): void;
  undo(): void;
  redo(): void;
}

export class Frame {
  readonly root: HTMLElement;
  readonly switches = make("div", "lk-switches");
  readonly prompts = make("div", "lk-prompts");
  readonly picture = make("div", "lk-picture");
  readonly detail = make("div", "lk-detail");
  readonly theme: ThemeWatch;
  readonly #about = make("span", "lk-about");
  readonly #error = make("div", "lk-error");
  readonly #facts = make("div", "lk-facts");
  readonly #keys: HTMLElement;
  readonly #foot: HTMLElement;
  readonly #allKeys: HTMLElement;

  constructor(
    name: string,
    shortcuts: readonly Shortcut[],
    readonly signal: AbortSignal,
    events: FrameEvents,
  ) {
    const title = make("div", "lk-title", make("span", "lk-name", name), this.#about, this.switches);
    const body = make("div", "lk-body", this.picture, this.detail);
    this.detail.setAttribute("role", "region");
    this.detail.setAttribute("aria-label", "The chosen cell");
    this.#keys = make("div", "lk-keys", ...shortcuts.filter((s) => s.foot).map(keyElement));
    this.#allKeys = make("div", "lk-allkeys", ...shortcuts.map(keyElement));
    this.#allKeys.hidden = true;
    this.#error.setAttribute("role", "alert");
    this.#foot = make("div", "lk-foot", this.#keys, this.#facts);
    this.root = make("div", "lk-root", title, this.prompts, body, this.#allKeys, this.#error, this.#foot);
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", name);
    this.root.addEventListener("keydown", (event) => this.#key(event, events), { signal });
    this.theme = new ThemeWatch(this.root, signal, events.themed);
    const sizes = new ResizeObserver(() => {
      const width = this.root.clientWidth;
      this.#narrower("lk-narrow", width, NARROW);
      this.#narrower("lk-tiny", width, TINY);
      this.theme.look();
      events.resized();
    });
    sizes.observe(this.root);
    signal.addEventListener("abort", () => {
      sizes.disconnect();
      this.root.remove();
    });
  }

  #narrower(name: string, width: number, limit: number): void {
    const { classList } = this.root;
    classList.toggle(name, width > 0 && width < (classList.contains(name) ? limit + AGAIN : limit));
  }

  #key(event: KeyboardEvent, events: FrameEvents): void {
    const typing = isTyping(event.target);
    if ((event.ctrlKey || event.metaKey) && /^[zy]$/i.test(event.key) && !typing) {
      handled(event);
      if (event.shiftKey || event.key.toLowerCase() === "y") events.redo();
      else events.undo();
    } else if (event.key === "?" && !typing) {
      handled(event);
      this.#allKeys.hidden = !this.#allKeys.hidden;
    } else if (event.key === "/" && !typing) {
      handled(event);
      this.prompts.querySelector("textarea")?.focus();
    } else {
      keepFromHost(event);
    }
  }

  /** Closes the list of all keys; whether it was open. */
  closeKeys(): boolean {
    const open = !this.#allKeys.hidden;
    this.#allKeys.hidden = true;
    return open;
  }

  /** What is being looked at, in grey beside the name. */
  set about(text: string) {
    this.#about.textContent = text;
  }

  set facts(text: string) {
    this.#facts.textContent = text;
  }

  /** An error takes the foot's place, in plain words, until it is set to null. */
  set error(text: string | null) {
    this.#error.textContent = text ?? "";
    this.root.classList.toggle("lk-failed", text !== null);
  }
}

function keyElement(shortcut: Shortcut): HTMLElement {
  const caps: Child[] = shortcut.caps.map((cap) => make("kbd", "lk-kbd", cap));
  return make("span", "lk-key", ...caps, shortcut.does);
}
