// Copying text also where the page may not use the clipboard (a frame, a file, plain http).
import { make } from "./dom.ts";

/** Whether it worked. `inside` must be in the document: it holds the selection for the older way. */
export async function copyText(text: string, inside: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Refused or not there: the older way needs no permission.
    return copySelection(text, inside);
  }
}

function copySelection(text: string, inside: HTMLElement): boolean {
  const back = inside.ownerDocument.activeElement;
  const field = make("textarea", "lk-offscreen");
  field.value = text;
  field.readOnly = true;
  field.setAttribute("aria-hidden", "true");
  inside.append(field);
  field.select();
  const done = document.execCommand?.("copy") ?? false;
  field.remove();
  if (back instanceof HTMLElement) back.focus({ preventScroll: true });
  return done;
}
