import { readdirSync, readFileSync } from "node:fs";
import { join, sep } from "node:path";
import { expect, test } from "vitest";
import { below, importsOf, type Room, rooms, violations } from "../layers.ts";

const src = join(import.meta.dirname, "..", "..", "src");

test("every import in src/ points down the layers", () => {
  const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
  expect(files.length).toBeGreaterThan(0);
  const wrong = files.flatMap((file) => violations(file.split(sep).join("/"), readFileSync(join(src, file), "utf8")));
  expect(wrong).toEqual([]);
});

test("no room stands on itself, and each stands on rooms that exist", () => {
  for (const [name, room] of Object.entries(rooms)) {
    for (const lower of room.on) {
      expect(Object.keys(rooms)).toContain(lower);
      expect(below(lower).has(name), `${name} and ${lower} import each other`).toBe(false);
    }
  }
});

test("the language and the engine have no npm dependency", () => {
  expect(rooms.tensor?.npm ?? []).toEqual([]);
  expect(rooms.engine?.npm ?? []).toEqual([]);
});

test("an import that points up, an npm package, an unknown room and a missing .ts are each found", () => {
  const table: Record<string, Room> = { tensor: { on: [] }, nn: { on: ["tensor"], npm: ["zod"] } };
  expect(violations("tensor/a.ts", 'import { x } from "../nn/b.ts";', table)).toHaveLength(1);
  expect(violations("nn/a.ts", 'import { x } from "../tensor/b.ts";', table)).toEqual([]);
  expect(violations("tensor/ops/a.ts", 'export type { x } from "../../nn/b.ts";', table)).toHaveLength(1);
  expect(violations("tensor/a.ts", 'const m = await import("zod");', table)).toHaveLength(1);
  expect(violations("nn/a.ts", 'import * as z from "zod/v4";\nimport "node:fs";', table)).toEqual([]);
  expect(violations("attic/a.ts", "", table)).toHaveLength(1);
  expect(violations("nn/a.ts", 'import { x } from "./b";', table)).toHaveLength(1);
});

test("imports are read across lines and not from comments", () => {
  const source = `// import { a } from "comment"
/**
 * import { b } from "comment";
 */
import {
  c,
  d,
} from "./many.ts";
import "./bare.ts";
export * from "./star.ts";
const later = import("./lazy.ts");
const text = "from './text.ts'";`;
  expect(importsOf(source)).toEqual(["./many.ts", "./bare.ts", "./star.ts", "./lazy.ts"]);
});
