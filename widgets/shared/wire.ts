// The binary half of WIRE.md: buffers to typed arrays, and a suffix onto the table it continues.

export type Numbers = Int32Array | Uint16Array | Uint8Array | Float32Array;

export interface ArrayEntry {
  readonly name: string;
  readonly dtype: "int32" | "uint16" | "uint8" | "float32";
  readonly shape: readonly number[];
}

const KINDS = { int32: Int32Array, uint16: Uint16Array, uint8: Uint8Array, float32: Float32Array } as const;

/**
 * One buffer as an array. It is always copied: it may start at a byte that is no multiple of the item's size,
 * and a view would keep the whole message alive.
 */
export function decode(entry: ArrayEntry, buffer: ArrayBufferView | ArrayBuffer): Numbers {
  const kind = KINDS[entry.dtype];
  if (!kind) throw new Error(`array "${entry.name}" has dtype ${entry.dtype}: expected one of int32, uint16, uint8, float32`);
  const bytes = ArrayBuffer.isView(buffer)
    ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)
    : new Uint8Array(buffer);
  const wanted = entry.shape.reduce((n, size) => n * size, 1) * kind.BYTES_PER_ELEMENT;
  if (bytes.byteLength !== wanted) {
    throw new Error(`array "${entry.name}" has ${bytes.byteLength} bytes, its shape ${entry.shape} needs ${wanted}`);
  }
  return new kind(bytes.slice().buffer);
}

export function decodeAll(
  entries: readonly ArrayEntry[],
  buffers: readonly (ArrayBufferView | ArrayBuffer)[],
): Map<string, Numbers> {
  if (entries.length !== buffers.length) {
    throw new Error(`the message announces ${entries.length} arrays and brings ${buffers.length} buffers`);
  }
  return new Map(entries.map((entry, i) => [entry.name, decode(entry, buffers[i] as ArrayBufferView)]));
}

/** The first `keep` items of `base`, then `suffix`. */
export function join<T extends Numbers>(base: T, keep: number, suffix: T): T {
  if (keep > base.length) throw new Error(`the suffix continues ${keep} items of an array that has ${base.length}`);
  if (keep === 0) return suffix;
  const kind = base.constructor as new (length: number) => T;
  const whole = new kind(keep + suffix.length);
  whole.set(base.subarray(0, keep));
  whole.set(suffix, keep);
  return whole;
}
