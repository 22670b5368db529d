import { closeSync, openSync, readSync } from "node:fs";
import { readFull } from "../../runs/atomic.ts";

/** Characters of a dropped document that are kept for people to look at. */
export const SHOWN = 4000;

/** The lines of a file as JSON, one after the other, without holding more than a megabyte and the longest line. Written by us: not checked. */
export function* jsonLines<T>(path: string): Generator<T> {
  const file = openSync(path, "r");
  try {
    const chunk = Buffer.alloc(2 ** 20);
    let rest: Buffer[] = [];
    for (;;) {
      const n = readSync(file, chunk);
      if (n === 0) break;
      let start = 0;
      for (;;) {
        const end = chunk.indexOf(10, start);
        if (end < 0 || end >= n) break;
        const line = Buffer.concat([...rest, chunk.subarray(start, end)]).toString("utf8");
        rest = [];
        start = end + 1;
        if (line !== "") yield JSON.parse(line) as T;
      }
      if (start < n) rest.push(Buffer.from(chunk.subarray(start, n)));
    }
    const last = Buffer.concat(rest).toString("utf8");
    if (last !== "") yield JSON.parse(last) as T;
  } finally {
    closeSync(file);
  }
}

/** Records of a fixed number of 32-bit words; each is good until the next is asked for. */
export function* records(path: string, words: number): Generator<Uint32Array> {
  const file = openSync(path, "r");
  try {
    const many = new Uint32Array(words * Math.max(1, Math.floor(2 ** 18 / words)));
    const bytes = Buffer.from(many.buffer);
    for (;;) {
      const filled = readFull(file, bytes);
      for (let at = 0; at + words * 4 <= filled; at += words * 4) yield many.subarray(at / 4, at / 4 + words);
      if (filled < bytes.length) return;
    }
  } finally {
    closeSync(file);
  }
}
