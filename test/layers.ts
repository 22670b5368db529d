/** A room of `src/`: the rooms it may build on (and through them whatever those build on), and the npm packages it may import. */
export interface Room {
  readonly on: readonly string[];
  readonly npm?: readonly string[];
}

/**
 * The import layers, from the language up to the command line. A room imports itself, the rooms it stands on, and Node;
 * `tensor` and `engine` never import an npm package, so that they run wherever JavaScript does.
 */
export const rooms: Readonly<Record<string, Room>> = {
  // Typed errors live in `tensor`, which is why every room stands on it.
  tensor: { on: [] },
  engine: { on: ["tensor"] },
  nn: { on: ["engine"] },
  // What is on disk and in recipes knows nothing of models.
  runs: { on: ["tensor"], npm: ["zod"] },
  recipe: { on: ["runs"], npm: ["yaml", "zod"] },
  // Long texts go through the native kernels, where they are built.
  tokenizers: { on: ["engine", "runs"], npm: ["@huggingface/jinja", "zod"] },
  data: { on: ["tokenizers", "recipe"], npm: ["eld", "fzstd", "hyparquet", "unpdf", "yaml", "zod"] },
  checkpoint: { on: ["engine", "runs"], npm: ["zod"] },
  models: { on: ["nn", "checkpoint", "tokenizers"], npm: ["zod"] },
  generate: { on: ["models"] },
  evaluate: { on: ["generate", "data"] },
  train: { on: ["evaluate", "recipe"] },
  tune: { on: ["train"] },
  align: { on: ["tune"] },
  // The stages of a recipe, one after the other: what `howdah start` and `howdah train` run.
  pipeline: { on: ["align"], npm: ["zod"] },
  inspect: { on: ["align"] },
  guard: { on: ["align"] },
  apply: { on: ["generate", "data"] },
  scale: { on: ["train"] },
  serve: { on: ["align", "apply"], npm: ["@electric-sql/pglite", "@hono/node-server", "hono", "pg", "yaml", "zod"] },
  cli: { on: ["pipeline", "serve", "inspect", "guard", "scale"], npm: ["commander", "zod"] },
};

/** The rooms that `room` may import, itself included. */
export function below(room: string, table: Readonly<Record<string, Room>> = rooms): Set<string> {
  const found = new Set<string>();
  const visit = (name: string) => {
    if (found.has(name)) return;
    found.add(name);
    for (const lower of table[name]?.on ?? []) visit(lower);
  };
  visit(room);
  return found;
}

/** The modules a source file names: `import`, `export ... from`, `import()`. Comment lines are left out. */
export function importsOf(source: string): string[] {
  const code = source
    .split("\n")
    .filter((line) => !/^\s*(\*|\/\/|\/\*)/.test(line))
    .join("\n");
  const pattern =
    /(?:^|[\s;}])(?:import|export)\s(?:[^"'`;]*?\sfrom\s*)?["']([^"'\n]+)["']|\bimport\s*\(\s*["']([^"'\n]+)["']/g;
  return [...code.matchAll(pattern)].map((match) => (match[1] ?? match[2])!);
}

/** The package of a bare import: `@scope/name/x` is `@scope/name`. */
const packageOf = (name: string) =>
  name
    .split("/")
    .slice(0, name.startsWith("@") ? 2 : 1)
    .join("/");

/**
 * What is wrong with the imports of one file.
 * @param path relative to `src/`, with forward slashes, such as `nn/linear.ts`
 */
export function violations(path: string, source: string, table: Readonly<Record<string, Room>> = rooms): string[] {
  const parts = path.split("/");
  // `src/index.ts` is the public face of every room.
  if (parts.length === 1) return [];
  const room = parts[0]!;
  const entry = table[room];
  if (entry === undefined) return [`src/${path}: the room "${room}" is not in the table of test/layers.ts`];
  const allowed = below(room, table);
  const wrong: string[] = [];
  for (const name of importsOf(source)) {
    if (name.startsWith("node:")) continue;
    if (!name.startsWith(".")) {
      if (!(entry.npm ?? []).includes(packageOf(name))) {
        wrong.push(`src/${path}: "${room}" may not import the npm package "${packageOf(name)}"`);
      }
      continue;
    }
    if (!name.endsWith(".ts")) wrong.push(`src/${path}: relative imports end in .ts: "${name}"`);
    const target = parts.slice(0, -1);
    for (const step of name.split("/")) {
      if (step === "..") target.pop();
      else if (step !== ".") target.push(step);
    }
    if (target.length < 2) wrong.push(`src/${path}: "${name}" leaves its room through src/`);
    else if (!allowed.has(target[0]!)) wrong.push(`src/${path}: "${room}" may not import "${target[0]}" ("${name}")`);
  }
  return wrong;
}
