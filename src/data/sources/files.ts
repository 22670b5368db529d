import type { Dirent } from "node:fs";
import { readdir, realpath, stat } from "node:fs/promises";
import { join, relative, resolve, sep } from "node:path";
import { type Problem, ReadError } from "../document.ts";

/** Something to read: a file or an address. */
export interface Input {
  /** As it is opened. */
  readonly path: string;
  /** As it stands in ids: relative to the folder it was found in, with forward slashes; an address as it is. */
  readonly name: string;
  readonly kind: "file" | "url";
  /** In bytes, where it is known. */
  readonly size?: number;
  /** Named by a person, not found in a folder: what is not read is then a problem, never passed over. */
  readonly named: boolean;
  /** What is known of everything in it, such as a repository's licence. */
  readonly meta?: { readonly licence?: string; readonly language?: string };
}

/** What a folder of documents has beside documents: passed over when it was not named. */
const beside = new Set(
  (
    "png jpg jpeg gif webp svg ico bmp tif tiff avif heic mp3 mp4 wav flac ogg m4a avi mov mkv webm woff woff2 ttf otf eot css map lock exe dll so dylib o a " +
    "class pyc wasm bin db sqlite npy npz pt pth safetensors gguf onnx DS_Store"
  ).split(" "),
);

export const extensionOf = (name: string): string => /\.([A-Za-z0-9_]+)$/.exec(name)?.[1]?.toLowerCase() ?? "";

/** What a system's refusal means. */
export function systemProblem(error: unknown): ReadError {
  if (error instanceof ReadError) return error;
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  const message = error instanceof Error ? error.message : String(error);
  const known: Record<string, readonly [Problem["code"], string]> = {
    ENOENT: ["missing", "There is no such file or folder (any more)."],
    ENOTDIR: ["missing", "A part of its path is no folder."],
    EACCES: ["unreadable", "Permission denied."],
    EPERM: ["unreadable", "Permission denied."],
    ELOOP: ["unreadable", "Its symbolic links lead in a circle."],
    ENAMETOOLONG: ["unreadable", "Its name is too long."],
    EISDIR: ["unsupported", "It is a folder."],
    EIO: ["unreadable", "The disk could not read it."],
  };
  const [kind, reason] = known[code] ?? (["unreadable", `It cannot be read (${message}).`] as const);
  return new ReadError(kind, reason, { cause: error });
}

/** A pattern such as `notes/**` + `/*.{md,txt}`: `*` and `?` within a name, `**` over folders, `[a-z]`, `{a,b}`. */
export function globPattern(glob: string): RegExp {
  let source = "";
  let braces = 0;
  for (let i = 0; i < glob.length; i++) {
    const one = glob[i]!;
    if (glob.startsWith("**/", i) && (i === 0 || glob[i - 1] === "/")) {
      source += "(?:[^/]+/)*";
      i += 2;
    } else if (glob.startsWith("**", i)) {
      source += ".*";
      i++;
    } else if (one === "*") source += "[^/]*";
    else if (one === "?") source += "[^/]";
    else if (one === "{") {
      source += "(?:";
      braces++;
    } else if (one === "}" && braces > 0) {
      source += ")";
      braces--;
    } else if (one === "," && braces > 0) source += "|";
    else if (one === "[") {
      const end = glob.indexOf("]", i + 2);
      if (end === -1) source += "\\[";
      else {
        source += `[${glob
          .slice(i + 1, end)
          .replace(/^!/, "^")
          .replaceAll("\\", "\\\\")}]`;
        i = end;
      }
    } else source += one.replace(/[.+^$()|\\{}[\]]/g, "\\$&");
  }
  return new RegExp(`^${source}${")".repeat(braces)}$`, "u");
}

export const isGlob = (path: string): boolean => /[*?{[]/.test(path);
export const isUrl = (path: string): boolean => /^https?:\/\//i.test(path);

export const slashes = (path: string): string => (sep === "/" ? path : path.split(sep).join("/"));

/**
 * The files a path stands for, in the order of their names: itself, those in a folder and its folders, or those a glob fits. Names that
 * begin with a dot are passed over. A folder is entered once, however many links lead to it; a link back to a folder that is being walked
 * is a problem.
 */
export async function* listFiles(path: string): AsyncGenerator<Input | Omit<Problem, "source">> {
  const problem = (where: string, error: unknown): Omit<Problem, "source"> => {
    const { code, message } = systemProblem(error);
    return { path: where, code, reason: message };
  };
  const info = await stat(path).catch((error: unknown) => error as Error);
  if (!(info instanceof Error)) {
    if (info.isDirectory()) yield* walk(path, path, undefined);
    else if (info.isFile()) yield { path, name: slashes(path), kind: "file", size: info.size, named: true };
    else yield { path, code: "unsupported", reason: "It is neither a file nor a folder." };
    return;
  }
  if (!isGlob(path)) {
    yield problem(path, info);
    return;
  }
  const parts = slashes(path).split("/");
  const fixed = parts.findIndex(isGlob);
  const base = parts.slice(0, fixed).join("/") || (path.startsWith("/") ? "/" : ".");
  const there = await stat(base).catch((error: unknown) => error as Error);
  if (there instanceof Error) {
    yield problem(base, there);
    return;
  }
  const pattern = globPattern(parts.slice(fixed).join("/"));
  let found = 0;
  for await (const item of walk(base, base, pattern)) {
    found++;
    yield item;
  }
  if (found === 0) yield { path, code: "missing", reason: "No file fits this pattern." };
}

async function* walk(
  root: string,
  folder: string,
  pattern: RegExp | undefined,
): AsyncGenerator<Input | Omit<Problem, "source">> {
  const entered = new Set<string>();
  const linkedFiles = new Set<string>();
  const realRoot = await realpath(root);
  const visit = async function* (
    path: string,
    above: readonly string[],
  ): AsyncGenerator<Input | Omit<Problem, "source">> {
    const refuse = (where: string, error: unknown) => {
      const { code, message } = systemProblem(error);
      return { path: where, code, reason: message };
    };
    let real: string;
    let entries: Dirent[];
    try {
      real = await realpath(path);
      if (above.includes(real)) {
        yield {
          path,
          code: "unreadable",
          reason: "A symbolic link leads back to a folder it is in; it is not followed.",
        };
        return;
      }
      if (entered.has(real)) return;
      entered.add(real);
      entries = await readdir(path, { withFileTypes: true });
    } catch (error) {
      yield refuse(path, error);
      return;
    }
    entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
    for (const entry of entries) {
      if (entry.name.startsWith(".")) continue;
      const inside = join(path, entry.name);
      try {
        let isFolder = entry.isDirectory();
        let isFile = entry.isFile();
        if (entry.isSymbolicLink()) {
          const info = await stat(inside);
          isFolder = info.isDirectory();
          isFile = info.isFile();
          if (isFile) {
            // A link to a file that is found where it lies, or by another link, is not read twice.
            const target = await realpath(inside);
            const lies = relative(realRoot, target);
            if (linkedFiles.has(target) || (!lies.startsWith("..") && resolve(lies) !== lies && !isHidden(lies)))
              continue;
            linkedFiles.add(target);
          }
        }
        if (isFolder) yield* visit(inside, [...above, real]);
        else if (isFile) {
          const name = slashes(relative(root, inside));
          if (pattern === undefined ? beside.has(extensionOf(entry.name)) : !pattern.test(name)) continue;
          const { size } = await stat(inside);
          yield { path: inside, name, kind: "file", size, named: false };
        }
      } catch (error) {
        yield refuse(inside, error);
      }
    }
  };
  yield* visit(folder, []);
}

const isHidden = (path: string): boolean => path.split(sep).some((part) => part.startsWith("."));
