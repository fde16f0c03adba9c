// The picture: two canvases with the axes around them in one scroller, and what the pointer does there.
import type { Theme } from "../shared/colour.ts";
import { make, set, uniqueId, type Child } from "../shared/dom.ts";
import { Axes } from "./axes.ts";
import { Hits } from "./hits.ts";
import { GUTTER, type Layout } from "./layout.ts";
import { Lighting, type Lights } from "./lighting.ts";
import { Painting } from "./painting.ts";
import type { Scene } from "./scene.ts";
import { inksOf, type Inks } from "./sheet.ts";

export interface StageEvents {
  hovered(item: number | null): void;
  /** A click on an item, or on none; `more` with Shift, which gathers. */
  clicked(item: number | null, more: boolean): void;
  twice(item: number): void;
  /** A rectangle was drawn around these. */
  gathered(items: readonly number[], more: boolean): void;
  pressed(event: KeyboardEvent): void;
}

type Point = readonly [x: number, y: number];
/** A hand trembles: less is a click. */
const TREMBLE = 5;

export class Stage {
  readonly element = make("div", "lk-c-stage");
  readonly scroller = make("div", "lk-c-scroller");
  readonly #sheet = make("div", "lk-c-sheet");
  readonly #axes = new Axes();
  readonly #painting = new Painting();
  readonly #lighting = new Lighting();
  readonly #tip = make("div", "lk-c-tip");
  readonly #said = make("div", "lk-offscreen");
  readonly #line = make("div", "lk-progress");
  #scene: Scene | null = null;
  #layout: Layout | null = null;
  #hits: Hits | null = null;
  #inks: Inks | null = null;
  #lights: Lights | null = null;
  #hovered: number | null = null;
  #drag: { from: Point; to: Point; moved: boolean } | null = null;

  constructor(
    private readonly events: StageEvents,
    signal: AbortSignal,
  ) {
    this.#said.id = uniqueId("said");
    set(this.#said, { role: "status", "aria-live": "polite" });
    const told = { "aria-label": "attribution graph", "aria-roledescription": "graph", "aria-describedby": this.#said.id };
    set(this.scroller, { role: "application", tabindex: 0, ...told });
    this.#tip.setAttribute("aria-hidden", "true");
    this.#tip.hidden = this.#line.hidden = true;
    this.#sheet.append(this.#painting.sheet.canvas, this.#lighting.sheet.canvas, this.#axes.targets, this.#axes.layers, this.#tip);
    this.scroller.append(this.#sheet, this.#axes.tokens);
    this.element.append(this.scroller, make("div", "lk-c-work", this.#line), this.#said);
    const on = <K extends keyof HTMLElementEventMap>(name: K, heard: (event: HTMLElementEventMap[K]) => void): void =>
      this.#sheet.addEventListener(name, heard, { signal });
    on("pointerdown", (event) => this.#press(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerleave", () => this.#drag ?? this.#hover(null));
    on("dblclick", (event) => {
      const item = this.#at(event);
      if (item !== null) events.twice(item);
    });
    document.addEventListener("pointerup", (event) => this.#release(event), { signal });
    document.addEventListener("pointercancel", () => this.#drop(), { signal });
    this.scroller.addEventListener("keydown", events.pressed, { signal });
  }

  // --- the pointer

  #point(event: MouseEvent): Point {
    const box = this.#sheet.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #at(event: MouseEvent): number | null {
    return this.#hits?.at(...this.#point(event)) ?? null;
  }

  #press(event: PointerEvent): void {
    if (event.button !== 0) return;
    const from = this.#point(event);
    this.#drag = { from, to: from, moved: false };
  }

  #move(event: PointerEvent): void {
    const drag = this.#drag;
    if (!drag) {
      if (event.pointerType !== "touch") this.#hover(this.#at(event));
      return;
    }
    // A finger that moves scrolls.
    if (event.pointerType === "touch") return;
    drag.to = this.#point(event);
    drag.moved ||= Math.hypot(drag.to[0] - drag.from[0], drag.to[1] - drag.from[1]) > TREMBLE;
    if (drag.moved) this.#light();
  }

  #release(event: PointerEvent): void {
    const drag = this.#drag;
    if (!drag) return;
    if (event.pointerType !== "touch") this.#move(event);
    this.#drop();
    if (drag.moved) this.events.gathered(this.#hits?.within(drag.from, drag.to) ?? [], event.shiftKey);
    else this.events.clicked(this.#hits?.at(...drag.from) ?? null, event.shiftKey);
    this.scroller.focus({ preventScroll: true });
  }

  #drop(): void {
    this.#drag = null;
    this.#light();
  }

  #hover(item: number | null): void {
    if (item === this.#hovered) return;
    this.#hovered = item;
    this.#sheet.classList.toggle("lk-c-on", item !== null);
    this.events.hovered(item);
  }

  // --- drawing

  /** Paints a scene anew; what was lit is dark until `light` is called. */
  show(scene: Scene, layout: Layout, theme: Theme): void {
    [this.#scene, this.#layout, this.#hits, this.#lights] = [scene, layout, new Hits(layout), null];
    this.#inks = inksOf(this.scroller, theme);
    this.#hovered = null;
    this.#sheet.style.width = `${layout.width}px`;
    this.#sheet.style.height = `${layout.height}px`;
    this.#axes.draw(scene, layout);
    this.#painting.draw(scene, layout, this.#inks);
  }

  light(lights: Omit<Lights, "band">): void {
    this.#lights = { ...lights, band: null };
    this.#light();
  }

  #light(): void {
    const [scene, layout, inks, lights, drag] = [this.#scene, this.#layout, this.#inks, this.#lights, this.#drag];
    if (!scene || !layout || !inks || !lights) return;
    const band = drag?.moved ? ([drag.from, drag.to] as const) : null;
    const gathered = band ? [...lights.gathered, ...(this.#hits?.within(...band) ?? [])] : lights.gathered;
    this.#sheet.classList.toggle("lk-c-lit", lights.focus !== null);
    this.#lighting.draw(scene, layout, { ...lights, gathered, band }, inks);
    const at = lights.focus ?? lights.chosen;
    const lead = at === null ? null : scene.item(at).lead;
    this.#axes.mark(lead === null ? null : (scene.network.layer[lead] as number), lead === null ? null : (scene.network.pos[lead] as number));
  }

  /** A few words beside an item; null hides them. */
  tip(item: number | null, ...words: Child[]): void {
    const [layout, tip] = [this.#layout, this.#tip];
    tip.hidden = item === null;
    if (item === null || !layout) return;
    tip.replaceChildren(...words);
    const [x, y, high] = [layout.x[item] as number, layout.y[item] as number, layout.high[item] as number];
    const { scrollLeft, clientWidth, scrollTop } = this.scroller;
    const { offsetWidth: width, offsetHeight: height } = tip;
    const left = Math.max(scrollLeft + GUTTER, Math.min(x - width / 2, scrollLeft + clientWidth - width - 2));
    // Above it, or below where there is no room.
    const above = y - high - height - 8;
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(above >= scrollTop ? above : y + high + 8)}px)`;
  }

  /** Scrolls so that an item is seen. */
  reveal(item: number): void {
    const { scroller, element } = this;
    const layout = this.#layout;
    if (!layout || !element.clientWidth) return;
    const seen = (at: number, half: number, from: number, length: number): number => {
      if (at - half - 12 < from) return at - half - 12;
      return at + half + 12 > from + length ? at + half + 12 - length : from;
    };
    const [x, y] = [layout.x[item] as number, layout.y[item] as number];
    const left = seen(x - GUTTER, layout.wide[item] as number, scroller.scrollLeft, scroller.clientWidth - GUTTER);
    const top = seen(y, layout.high[item] as number, scroller.scrollTop, scroller.clientHeight - this.#axes.tokens.offsetHeight);
    if (left !== scroller.scrollLeft) scroller.scrollLeft = left;
    if (top !== scroller.scrollTop) scroller.scrollTop = top;
  }

  /** Read out, for those who do not see the picture. */
  say(text: string): void {
    this.#said.textContent = text;
  }

  /** Work under way: a share of 1, `null` while its length is unknown, `undefined` when there is none. */
  set progress(share: number | null | undefined) {
    this.#line.hidden = share === undefined;
    this.#line.classList.toggle("lk-unknown", share === null);
    this.#line.style.transform = typeof share === "number" ? `scaleX(${Math.max(0.01, share)})` : "";
    this.scroller.setAttribute("aria-busy", String(share !== undefined));
  }
}
