// What the list is asked for, as the spec has it.
import type { ListQuestion } from "./messages.ts";
import { numbered, type Facts, type Spec } from "./spec.ts";
import type { Fired } from "./values.ts";

/** What the list shows, or null while that depends on a prompt that has not been read. */
export function questionOf(facts: Facts, { find, by, only, pinned, sort, order, selection }: Spec, fired: Fired | null): ListQuestion | null {
  const fires = sort === "prompt" || sort === "token";
  if (fires && !fired) return null;
  const last = (fired?.positions ?? 0) - 1;
  return {
    // A number is looked for in the whole list.
    find: numbered(facts, find) === null ? find : "",
    by,
    only,
    pinned: only === "pinned" ? pinned : [],
    sort,
    order,
    prompt: fires ? (fired?.message.prompt ?? null) : null,
    pos: sort === "token" ? Math.min(last, selection?.pos ?? last) : null,
  };
}
