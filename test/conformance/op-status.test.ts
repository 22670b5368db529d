import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import type { Backend } from "../../src/engine/program.ts";
import { isFloat } from "../../src/tensor/dtype.ts";
import type { Aval } from "../../src/tensor/graph.ts";
import { show } from "../../src/tensor/shape.ts";
import { allOps, type Op } from "../helpers/all-ops.ts";

const source = new URL("../../src/tensor/", import.meta.url);
const file = new URL("../../docs/op-status.md", import.meta.url);
const native = loadNativeBackend();

/** What each op says of itself: the first sentence of the comment above its definition. */
function descriptions(): Map<string, string> {
  const out = new Map<string, string>();
  const pattern =
    /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\s*(?:export )?const \w+(?:: Op)? = (?:defineOp|\w+)\((?:\{\s*name: )?"(\w+)"/g;
  for (const path of readdirSync(source, { recursive: true, encoding: "utf8" })) {
    if (!path.endsWith(".ts")) continue;
    for (const [, comment, name] of readFileSync(new URL(path.replaceAll("\\", "/"), source), "utf8").matchAll(
      pattern,
    )) {
      const text = comment!
        .replace(/^\s*\*? ?/gm, " ")
        .replace(/\s+/g, " ")
        .trim();
      out.set(name!, (/^.*?\.(?= [A-Z]|$)/.exec(text)?.[0] ?? text).replace(/\.$/, ""));
    }
  }
  return out;
}

const aval = (x: Aval) => `${x.dtype}${show(x.shape)}`;

/** The largest case as a shape rule by example. */
function example(op: Op): string {
  const size = (c: { inputs: readonly { shape: readonly number[] }[] }) =>
    c.inputs.reduce((n, x) => n + x.shape.length + (x.shape.includes(0) ? -100 : 0), 0);
  const c = [...(op.cases ?? [])].sort((a, b) => size(b) - size(a))[0];
  if (!c) return "";
  const inputs = c.inputs.map((x): Aval => ({ dtype: x.dtype ?? "f32", shape: x.shape }));
  const outputs = op.infer(inputs, c.attributes ?? {}, []);
  return `${inputs.map(aval).join(" ")} → ${outputs.map(aval).join(" ")}`.trim();
}

function gradient(op: Op): string {
  if (!op.gradient && !op.decompose) return "no";
  if (!op.cases) return "yes";
  const tested = op.cases?.some(
    (c) => c.differentiable !== false && c.inputs.some((x) => isFloat(x.dtype ?? "f32") && !x.shape.includes(0)),
  );
  return tested ? "yes" : "zero";
}

function kernel(backend: Backend, op: Op): string {
  if (["constant", "reshape", "stop_gradient", "identity", "optimization_barrier"].includes(op.name)) return "no code";
  if (op.name === "custom_gradient") return "inlined";
  const c = op.cases?.[0];
  const dtypes = c?.inputs.map((x) => x.dtype ?? "f32") ?? ["f32"];
  if (backend.supports(op.name, c?.attributes ?? {}, dtypes)) return "kernel";
  return op.decompose ? "decomposed" : "**missing**";
}

function page(backend: Backend): string {
  const reference = new ReferenceBackend();
  const said = descriptions();
  const rows = allOps().map((op) => {
    const what = said.get(op.name) ?? (op.elementwise ? "Element by element" : "");
    const cells = [
      `\`${op.name}\``,
      what,
      example(op),
      gradient(op),
      kernel(reference, op),
      kernel(backend, op),
      op.cases ? String(op.cases.length) : "by hand",
    ];
    return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  });
  return `# Ops

Written by \`npx vitest run test/conformance/op-status.test.ts -u\` from the table of ops; the test fails when it is out of date.

- **Gradient**: \`yes\` is checked against central differences in f64, and its gradient again; \`zero\` means constant between jumps; \`no\` means that
  asking for it is an error.
- **Reference**, **native**: \`kernel\` is code of its own, \`decomposed\` is made of simpler ops by the compiler, \`no code\` costs nothing when compiled.
- **Cases**: how many the conformance suite runs on each backend, one by one and compiled, mapped by \`vmap\`, in f32 and (element-wise ones) bf16 and f16.

| op | what it does | shapes, by example | gradient | reference | native | cases |
| --- | --- | --- | --- | --- | --- | --- |
${rows.join("\n")}
`;
}

test("every op has a kernel or a decomposition on the reference backend", () => {
  const missing = allOps().filter((op) => kernel(new ReferenceBackend(), op) === "**missing**");
  expect(missing.map((op) => op.name)).toEqual([]);
});

test.skipIf("missing" in native)("every op has a kernel or a decomposition on the native backend", () => {
  const missing = allOps().filter((op) => kernel(native as Backend, op) === "**missing**");
  expect(missing.map((op) => op.name)).toEqual([]);
});

test("docs/op-status.md names every op, and no other", () => {
  const named = [...readFileSync(file, "utf8").matchAll(/^\| `(\w+)` \|/gm)].map((m) => m[1]!);
  expect(named.sort()).toEqual(
    allOps()
      .map((op) => op.name)
      .sort(),
  );
});

test.skipIf("missing" in native)("docs/op-status.md is up to date", async () => {
  await expect(page(native as Backend)).toMatchFileSnapshot(file.pathname);
});
