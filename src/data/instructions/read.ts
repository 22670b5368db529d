import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { InputError } from "../../tensor/errors.ts";
import { decodeText } from "../text.ts";
import { type Example, flaw } from "./example.ts";
import { detectFormat, type InstructionFormat, instructionFormats, type Row, RowError, readRow } from "./formats.ts";

export interface ReadInstructionsOptions {
  /** Default: by the keys of each row. */
  readonly format?: InstructionFormat;
  /** Rows that are wrong: "error" ends with the first one, "skip" counts them. Default "error". */
  readonly wrong?: "error" | "skip";
}

export interface Instructions {
  readonly examples: readonly Example[];
  readonly rows: number;
  /** Places of rows that were wrong, with what is wrong. */
  readonly flaws: readonly { readonly place: string; readonly reason: string }[];
}

/** Rows with the line they begin in: of a JSON list, of one JSON object, or of JSONL. */
export function* rowsOf(text: string, path: string): Generator<{ row: unknown; line: number }> {
  const start = text.search(/\S/);
  if (start < 0) throw new InputError(`${path}: the file is empty.`);
  if (text[start] === "[") {
    yield* listElements(text, start, path);
    return;
  }
  const lines = text.split("\n");
  let whole: unknown;
  try {
    // One object over several lines: a task of natural-instructions.
    whole = lines.filter((l) => l.trim() !== "").length > 1 ? JSON.parse(text) : undefined;
  } catch {
    whole = undefined;
  }
  if (whole !== undefined) {
    yield { row: whole, line: 1 };
    return;
  }
  for (const [i, line] of lines.entries()) {
    if (line.trim() === "") continue;
    try {
      yield { row: JSON.parse(line), line: i + 1 };
    } catch (error) {
      throw new InputError(`${path}:${i + 1}: this line is not JSON (${(error as Error).message}).`, { cause: error });
    }
  }
}

/** Elements of a JSON list one by one, so that each has its line and a mistake is found where it is. */
function* listElements(text: string, open: number, path: string): Generator<{ row: unknown; line: number }> {
  let line = 1;
  for (let i = 0; i < open; i++) if (text[i] === "\n") line++;
  let depth = 0;
  let inString = false;
  let begin = -1;
  let beginLine = line;
  for (let i = open + 1; i < text.length; i++) {
    const c = text[i]!;
    if (c === "\n") line++;
    if (inString) {
      if (c === "\\") i++;
      else if (c === '"') inString = false;
      continue;
    }
    if (begin < 0 && !/[\s,\]]/.test(c)) {
      begin = i;
      beginLine = line;
    }
    if (c === '"') inString = true;
    else if (c === "{" || c === "[") depth++;
    else if ((c === "}" || c === "]") && depth > 0) depth--;
    else if ((c === "," || c === "]") && depth === 0) {
      if (begin >= 0) yield { row: parseElement(text.slice(begin, i), path, beginLine), line: beginLine };
      begin = -1;
      if (c === "]") return;
    }
  }
  throw new InputError(
    `${path}:${line}: the list that begins in line ${beginLine} is not closed: the file is cut off.`,
  );
}

function parseElement(text: string, path: string, line: number): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InputError(`${path}:${line}: the element that begins here is not JSON (${(error as Error).message}).`, {
      cause: error,
    });
  }
}

/**
 * Conversations, preferences, labels and rankings from JSON, JSONL, each also with `.gz`: Alpaca, ShareGPT, OpenAI's messages, natural-instructions,
 * prompt/chosen/rejected, HH-RLHF transcripts, pairwise annotations, ranked or scored lists.
 * @throws InputError naming file, line and field of what is wrong
 */
export async function readInstructions(path: string, options: ReadInstructionsOptions = {}): Promise<Instructions> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new InputError(`${path}: the file cannot be read (${(error as Error).message}).`, { cause: error });
  }
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) {
    try {
      bytes = gunzipSync(bytes);
    } catch (error) {
      throw new InputError(`${path}: the gzip stream is broken (${(error as Error).message}).`, { cause: error });
    }
  }
  return parseInstructions(decodeText(bytes, path), path, options);
}

/** The same for a text that is there. */
export function parseInstructions(text: string, path: string, options: ReadInstructionsOptions = {}): Instructions {
  const { wrong = "error" } = options;
  const examples: Example[] = [];
  const flaws: { place: string; reason: string }[] = [];
  let rows = 0;
  for (const { row, line } of rowsOf(text, path)) {
    rows++;
    const place = `${path}:${line}`;
    const reason = take(row, place);
    if (reason === undefined) continue;
    if (wrong === "error") throw new InputError(`${place}: ${reason}.`);
    flaws.push({ place, reason });
  }
  if (examples.length === 0)
    throw new InputError(
      `${path}: none of its ${rows} rows could be used. The first: ${flaws[0]?.reason ?? "no rows"}.`,
    );
  return { examples, rows, flaws };

  function take(row: unknown, place: string): string | undefined {
    if (typeof row !== "object" || row === null || Array.isArray(row))
      return `a row is an object, not ${JSON.stringify(row)?.slice(0, 60)}`;
    const format = options.format ?? detectFormat(row as Row);
    if (format === undefined)
      return `the keys ${Object.keys(row).slice(0, 8).join(", ")} belong to no format known here (${instructionFormats.join(", ")})`;
    try {
      const read = readRow(row as Row, format, place);
      for (const example of read) {
        const found = flawOf(example);
        if (found !== undefined) return found;
      }
      examples.push(...read);
      return undefined;
    } catch (error) {
      if (error instanceof RowError) return error.message;
      throw error;
    }
  }
}

function flawOf(example: Example): string | undefined {
  if (example.kind === "conversation") return flaw(example.messages);
  const replies =
    example.kind === "preference"
      ? [example.chosen, example.rejected]
      : example.kind === "label"
        ? [example.reply]
        : example.replies.map((r) => r.messages);
  for (const reply of replies) {
    const found = example.prompt.length === 0 ? flaw(reply) : flaw([...example.prompt, ...reply]);
    if (found !== undefined) return found;
  }
  if (example.kind === "preference" && JSON.stringify(example.chosen) === JSON.stringify(example.rejected))
    return "the chosen and the rejected reply are the same";
  return undefined;
}
