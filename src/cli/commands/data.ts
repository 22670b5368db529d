import { open, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { performance } from "node:perf_hooks";
import { z } from "zod";
import { explainWrite, formatBytes, makeFolder } from "../../runs/atomic.ts";
import { HowdahError } from "../../tensor/errors.ts";
import { defineCommand } from "../command.ts";
import { Interrupted } from "../interrupt.ts";
import { formatSeconds } from "../text.ts";

/** Problems printed one by one; the rest is counted. */
const SHOWN = 20;

export const dataExtract = defineCommand({
  name: "data extract",
  summary: "text out of files, archives, pages and data sets",
  description:
    "Reads files, folders, globs, addresses (http, https, hf://datasets/OWNER/NAME): plain text, Markdown, HTML, PDF, Word, EPUB, CSV, JSON, JSONL, Parquet, " +
    "WARC, .po, packed with gzip or zstd or in ZIP archives. Writes one document a line: {id, text, source, meta}. What cannot be read is " +
    "named with its reason, and the rest goes on.",
  options: z.object({
    paths: z.array(z.string().min(1)).min(1).describe("files, folders, globs, addresses"),
    out: z
      .string()
      .optional()
      .describe("the JSONL file to write; without it, only counts")
      .meta({ value: "FILE", short: "o" }),
    limit: z.number().int().min(1).optional().describe("stop after so many documents"),
    textField: z.string().optional().describe("the field of rows that holds the text; found by its name if not given"),
    keep: z.array(z.string()).default([]).describe("a field of rows to keep in meta.extra").meta({ value: "FIELD" }),
    name: z.string().optional().describe("what documents call their source"),
    licence: z.string().optional().describe("the licence of what does not say its own"),
    language: z.string().optional().describe("the language of what does not say its own"),
  }),
  positional: ["paths"],
  examples: [
    ["howdah data extract notes/ -o notes.jsonl", "a folder of PDF, Word and Markdown files"],
    ["howdah data extract 'crawl/*.warc.gz' -o pages.jsonl", "the main text of every page of a crawl"],
    ["howdah data extract hf://datasets/OWNER/NAME --limit 5 -o look.jsonl", "a look into a data set"],
  ],
  async run({ paths, out, limit, textField, keep, name, licence, language }, { print, warn, signal, stdout }) {
    const [{ isProblem }, { readDocuments }] = await Promise.all([
      import("../../data/document.ts"),
      import("../../data/sources/index.ts"),
    ]);
    const options = {
      keep,
      ...(textField === undefined ? {} : { textField }),
      ...(name === undefined ? {} : { name }),
      ...(licence === undefined ? {} : { licence }),
      ...(language === undefined ? {} : { language }),
    };
    const start = performance.now();
    const reasons: Record<string, number> = {};
    const formats: Record<string, number> = {};
    let documents = 0;
    let bytes = 0;
    let problems = 0;
    let shown = start;
    const rate = () => documents / Math.max(0.001, (performance.now() - start) / 1000);
    const progress = () =>
      `${documents} documents, ${formatBytes(bytes)}, ${rate().toFixed(0)} a second, ${problems} problems`;
    const writer = out === undefined ? undefined : await openOutput(out);
    const counts = () => ({
      documents,
      bytes,
      problems,
      reasons,
      formats,
      ...(out === undefined ? {} : { out }),
      seconds: (performance.now() - start) / 1000,
    });
    try {
      for await (const item of readDocuments(paths, options, signal)) {
        if (isProblem(item)) {
          reasons[item.code] = (reasons[item.code] ?? 0) + 1;
          if (++problems <= SHOWN) warn(`${item.path}: ${item.reason}`);
          continue;
        }
        documents++;
        bytes += Buffer.byteLength(item.text);
        const format = item.meta.mediaType ?? "unknown";
        formats[format] = (formats[format] ?? 0) + 1;
        await writer?.write(`${JSON.stringify(item)}\n`);
        if (documents === limit) break;
        const now = performance.now();
        if (now - shown < (stdout.isTTY ? 200 : 5000)) continue;
        shown = now;
        if (stdout.isTTY) stdout.write(`\r\u001b[2K${progress()}`);
        else print(progress());
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      if (stdout.isTTY) stdout.write("\r\u001b[2K");
    }
    await writer?.close(signal.aborted || documents === 0 ? "part" : "whole");
    if (signal.aborted)
      throw new Interrupted(
        `Stopped after ${progress()}.${writer === undefined ? "" : ` They are in ${writer.part}.`}`,
        { ...counts(), ...(writer === undefined ? {} : { out: writer.part }) },
      );
    if (problems > SHOWN) warn(`and ${problems - SHOWN} more problems`);
    if (documents === 0) {
      const why = Object.entries(reasons)
        .map(([code, count]) => `${count} ${code}`)
        .join(", ");
      throw new HowdahError(
        "nothing-read",
        `No document could be read from ${paths.join(", ")}${why === "" ? ": there are no files of a known kind" : ` (problems: ${why})`}.`,
      );
    }
    print(`${progress()}, ${formatSeconds((performance.now() - start) / 1000)}${out === undefined ? "" : `: ${out}`}`);
    return counts();
  },
});

interface Output {
  readonly part: string;
  write(line: string): Promise<void>;
  /** `whole` gives the file its name; `part` leaves it beside. */
  close(state: "whole" | "part"): Promise<void>;
}

/** Written beside and renamed, so that a file of that name is always whole. Lines are gathered to a megabyte. */
async function openOutput(path: string): Promise<Output> {
  const part = `${path}.part`;
  const fail = (error: unknown): never => {
    throw explainWrite(error, part, "What was there before is untouched.");
  };
  try {
    makeFolder(dirname(path));
  } catch (error) {
    fail(error);
  }
  const handle = await open(part, "w").catch(fail);
  let lines: string[] = [];
  let size = 0;
  const flush = async () => {
    if (lines.length > 0) await handle.appendFile(lines.join("")).catch(fail);
    lines = [];
    size = 0;
  };
  return {
    part,
    async write(line) {
      lines.push(line);
      size += line.length;
      if (size > 2 ** 20) await flush();
    },
    async close(state) {
      await flush();
      await handle.sync().catch(fail);
      await handle.close();
      if (state === "whole") await rename(part, path).catch(fail);
    },
  };
}
