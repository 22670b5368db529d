import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "yaml";
import { type Problem, ReadError } from "../document.ts";
import { languageTag } from "../extract/page-meta.ts";
import { readAll } from "./access.ts";
import { globPattern, type Input } from "./files.ts";
import { fetchChunks, fetchJson, type HttpOptions } from "./http.ts";

/** What the card (README.md) of a data set says. */
export interface DatasetCard {
  readonly licence?: string;
  readonly language?: string;
  /** Patterns of data files, of the default configuration or the one asked for. */
  readonly dataFiles?: readonly string[];
}

const DATA = /\.(?:parquet|jsonl|ndjson|json|csv|tsv|txt|md|warc|arrow)(?:\.(?:gz|zst))?$/i;
/** Of a repository's files, those that hold data. */
export const isDataFile = (name: string): boolean =>
  DATA.test(name) &&
  !/(?:^|\/)(?:dataset_infos?|state|README|LICENSE)\.(?:json|md|txt)$/i.test(name) &&
  !name.startsWith(".");

/** The YAML at the top of a card. A card without it, or with one that is no YAML, says nothing. */
export function readCard(text: string, config?: string): DatasetCard {
  const [, source] = /^---\r?\n([\s\S]*?)\r?\n---/.exec(text) ?? [];
  if (source === undefined) return {};
  let card: unknown;
  try {
    card = parse(source);
  } catch {
    return {};
  }
  if (typeof card !== "object" || card === null) return {};
  const { license, language, configs } = card as Record<string, unknown>;
  const only = (value: unknown): string | undefined =>
    typeof value === "string"
      ? value
      : Array.isArray(value) && value.length === 1 && typeof value[0] === "string"
        ? value[0]
        : undefined;
  const dataFiles = filesOf(configs, config);
  const fields = { licence: only(license), language: languageTag(only(language)), dataFiles };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function filesOf(configs: unknown, wanted: string | undefined): string[] | undefined {
  if (!Array.isArray(configs) || configs.length === 0) {
    if (wanted !== undefined) throw new ReadError("missing", `The data set has no configuration "${wanted}".`);
    return undefined;
  }
  const named = configs as { config_name?: unknown; default?: unknown; data_files?: unknown }[];
  const chosen =
    wanted === undefined
      ? (named.find((one) => one.default === true) ?? named.find((one) => one.config_name === "default") ?? named[0])
      : named.find((one) => one.config_name === wanted);
  if (chosen === undefined)
    throw new ReadError(
      "missing",
      `The data set has no configuration "${wanted}"; it has ${named.map((one) => String(one.config_name)).join(", ")}.`,
    );
  const strings = (value: unknown): string[] => {
    if (typeof value === "string") return [value];
    if (Array.isArray(value)) return value.flatMap(strings);
    return typeof value === "object" && value !== null && "path" in value ? strings(value.path) : [];
  };
  const files = strings(chosen.data_files);
  return files.length === 0 ? undefined : files;
}

/** The card of a folder that is a data set, if it has one. */
export async function folderCard(folder: string): Promise<DatasetCard | undefined> {
  const text = await readFile(join(folder, "README.md"), "utf8").catch(() => undefined);
  return text === undefined || !/^---\r?\n/.test(text) ? undefined : readCard(text);
}

export const isRepository = (path: string): boolean => path.startsWith("hf://");

/** `hf://datasets/OWNER/NAME[@REVISION][/PATH or GLOB][?CONFIGURATION]` */
function parseRepository(path: string): {
  repository: string;
  revision: string;
  inside: string;
  config: string | undefined;
} {
  const [, owner, name, revision = "main", inside = "", config] =
    /^hf:\/\/datasets\/([\w.-]+)\/([\w.-]+)(?:@([\w.~-]+))?(?:\/([^?]+))?(?:\?([\w.-]+))?$/.exec(path) ?? [];
  if (owner === undefined)
    throw new ReadError(
      "missing",
      "A data set's address is hf://datasets/OWNER/NAME, with @REVISION, /PATH or /GLOB and ?CONFIGURATION where wanted.",
    );
  return { repository: `${owner}/${name}`, revision, inside, config };
}

const endpoint = (): string => (process.env.HF_ENDPOINT ?? "https://huggingface.co").replace(/\/$/, "");

/** What a request to the hub needs besides its address. */
export function hubOptions(url: string, options: HttpOptions): HttpOptions {
  const token = process.env.HF_TOKEN;
  return token === undefined || !url.startsWith(`${endpoint()}/`)
    ? options
    : { ...options, headers: { ...options.headers, authorization: `Bearer ${token}` } };
}

/** The data files of a data set on the Hugging Face hub (`HF_ENDPOINT` and `HF_TOKEN` as its own tools have them). */
export async function* listRepository(
  path: string,
  options: HttpOptions,
): AsyncGenerator<Input | Omit<Problem, "source">> {
  try {
    const { repository, revision, inside, config } = parseRepository(path);
    const base = `${endpoint()}/datasets/${repository}/resolve/${encodeURIComponent(revision)}`;
    const hub = hubOptions(`${base}/`, options);
    const card = await fetchChunks(`${base}/README.md`, hub).then(
      async ({ chunks }) => readCard(new TextDecoder().decode(await readAll(chunks, 2 ** 24)), config),
      (error: unknown): DatasetCard => {
        if (error instanceof ReadError && error.code === "missing") return {};
        throw error;
      },
    );
    const patterns = inside !== "" ? [inside, `${inside.replace(/\/$/, "")}/**`] : card.dataFiles;
    const fits = patterns?.map(globPattern);
    let next: string | undefined =
      `${endpoint()}/api/datasets/${repository}/tree/${encodeURIComponent(revision)}?recursive=true`;
    let found = 0;
    while (next !== undefined) {
      const page: Awaited<ReturnType<typeof fetchJson>> = await fetchJson(next, hub);
      next = page.next;
      for (const entry of page.json as { type?: unknown; path?: unknown; size?: unknown }[]) {
        if (entry.type !== "file" || typeof entry.path !== "string") continue;
        const name = entry.path;
        if (fits === undefined ? !isDataFile(name) : !fits.some((pattern) => pattern.test(name))) continue;
        found++;
        yield {
          path: `${base}/${name.split("/").map(encodeURIComponent).join("/")}`,
          name: `${repository}@${revision}/${name}`,
          kind: "url",
          named: false,
          ...(typeof entry.size === "number" ? { size: entry.size } : {}),
          meta: {
            ...(card.licence === undefined ? {} : { licence: card.licence }),
            ...(card.language === undefined ? {} : { language: card.language }),
          },
        };
      }
    }
    if (found === 0) yield { path, code: "missing", reason: "The data set has no files of data that fit." };
  } catch (error) {
    if (!(error instanceof ReadError)) throw error;
    yield { path, code: error.code, reason: error.message };
  }
}
