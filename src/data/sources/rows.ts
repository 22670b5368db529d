import { type DocumentMeta, ReadError } from "../document.ts";
import { isoDate, languageTag } from "../extract/page-meta.ts";

/** Which fields of a row mean what. */
export interface RowOptions {
  /** The field that holds the text, with dots for fields inside of fields. Found by its name if not given. */
  readonly textField?: string;
  /** Fields to keep in `meta.extra`. */
  readonly keep?: readonly string[];
}

/** Names that text goes by in public data sets, the most telling first. */
const textNames = [
  "text",
  "content",
  "raw_content",
  "article",
  "articleBody",
  "body",
  "document",
  "markdown",
  "passage",
  "paragraphs",
  "sentence",
  "code",
  "story",
  "page_content",
  "contents",
  "value",
];

export type Row = Readonly<Record<string, unknown>>;

export function fieldAt(row: Row, path: string): unknown {
  if (path in row) return row[path];
  let value: unknown = row;
  for (const key of path.split(".")) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[key];
  }
  return value;
}

/** The name of the field that holds the text among the names of a row's fields. */
export function findTextField(names: readonly string[], options: RowOptions): string {
  if (options.textField !== undefined) return options.textField;
  const byLower = new Map(names.map((name) => [name.toLowerCase(), name]));
  for (const name of textNames) {
    const found = byLower.get(name.toLowerCase());
    if (found !== undefined) return found;
  }
  if (names.length === 1) return names[0]!;
  throw new ReadError(
    "unsupported",
    `No field is called ${textNames.slice(0, 4).join(", ")} or the like. Name the one that holds the text (its fields: ${names.slice(0, 20).join(", ")}).`,
  );
}

/** Text of a field: a string, or a list of strings as lines. */
export function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (Array.isArray(value) && value.length > 0 && value.every((one) => typeof one === "string"))
    return value.join("\n");
  return undefined;
}

/** What a row says of its text besides it. */
export function rowMeta(row: Row, textField: string, options: RowOptions): Partial<DocumentMeta> {
  const string = (...names: readonly string[]): string | undefined => {
    for (const name of names) {
      const value = row[name];
      if (name !== textField && typeof value === "string" && value !== "" && value.length < 2000) return value;
      if (name !== textField && value instanceof Date) return value.toISOString();
    }
    return undefined;
  };
  const nested = row.meta ?? row.metadata;
  const inner =
    typeof nested === "object" && nested !== null && !Array.isArray(nested) ? rowMeta(nested as Row, "", {}) : {};
  const fields = {
    url: string("url", "source_url", "link"),
    title: string("title", "headline"),
    date: isoDate(string("date", "timestamp", "published", "created")),
    author: string("author", "authors", "by"),
    language: languageTag(string("language", "lang", "lang_code")),
    licence: string("license", "licence"),
    extra: extraOf(row, options.keep ?? []),
  };
  return { ...inner, ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) };
}

function extraOf(row: Row, keep: readonly string[]): Record<string, unknown> | undefined {
  if (keep.length === 0) return undefined;
  return Object.fromEntries(
    keep.map((name) => [name, plain(fieldAt(row, name))]).filter(([, value]) => value !== undefined),
  );
}

/** Values that JSON can say: 64-bit integers become numbers where they fit, else strings. */
function plain(value: unknown): unknown {
  return typeof value === "bigint" ? (Number.isSafeInteger(Number(value)) ? Number(value) : String(value)) : value;
}
