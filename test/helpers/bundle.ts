import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "vite";

/**
 * Compiles a TypeScript program that a test wants to run (and kill) in a process of its own, to one JavaScript file.
 * @param source the program; `src/...` in its imports is the repository's
 * @returns the file, and a function that removes it
 */
export async function bundle(source: string): Promise<{ file: string; remove(): void }> {
  const root = join(import.meta.dirname, "..", "..");
  const folder = mkdtempSync(join(tmpdir(), "howdah-program-"));
  const entry = join(folder, "program.ts");
  writeFileSync(entry, source);
  await build({
    root,
    configFile: false,
    logLevel: "error",
    resolve: { alias: { src: join(root, "src"), zod: join(root, "node_modules", "zod") } },
    ssr: { noExternal: true },
    build: {
      ssr: entry,
      outDir: join(folder, "out"),
      minify: false,
      rolldownOptions: { output: { entryFileNames: "program.mjs" } },
    },
  });
  return { file: join(folder, "out", "program.mjs"), remove: () => rmSync(folder, { recursive: true, force: true }) };
}
