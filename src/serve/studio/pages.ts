import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { extname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const mediaTypes: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".json": "application/json",
  ".txt": "text/plain; charset=utf-8",
};

/** The page may load its own files and talk to its own server, and nothing else. */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

interface Page {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly type: string;
  readonly etag: string;
  /** Vite puts a hash of the content into the names under assets/, so that these never change. */
  readonly immutable: boolean;
}

/**
 * The built Studio. Its few files are read once into a table of paths, so that no request names a file on disk.
 */
export class Pages {
  readonly #dir: string;
  #pages: Map<string, Page> | undefined;

  constructor(dir?: string) {
    // The same two steps up from src/serve/studio and from dist/serve/studio.
    this.#dir = dir ?? fileURLToPath(new URL("../../../studio/dist", import.meta.url));
  }

  answer(path: string, ifNoneMatch: string | undefined): Response {
    this.#pages ??= existsSync(join(this.#dir, "index.html")) ? readPages(this.#dir) : undefined;
    if (this.#pages === undefined) {
      const text = "The Studio is not built here. Build it with `npx vite build studio`, then load this page again.\n";
      return new Response(text, { status: 503, headers: { "Content-Type": "text/plain; charset=utf-8" } });
    }
    const page = this.#pages.get(path === "/" ? "/index.html" : path);
    if (page === undefined) {
      return new Response("Not found\n", { status: 404, headers: { "Content-Type": "text/plain; charset=utf-8" } });
    }
    const headers = {
      ETag: page.etag,
      "Cache-Control": page.immutable ? "public, max-age=31536000, immutable" : "no-cache",
      "Content-Security-Policy": contentSecurityPolicy,
      "Cross-Origin-Opener-Policy": "same-origin",
    };
    if (ifNoneMatch === page.etag) return new Response(null, { status: 304, headers });
    return new Response(page.body, { headers: { ...headers, "Content-Type": page.type } });
  }
}

function readPages(dir: string): Map<string, Page> {
  const pages = new Map<string, Page>();
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    const type = mediaTypes[extname(entry.name)];
    if (!entry.isFile() || type === undefined) continue;
    const file = join(entry.parentPath, entry.name);
    const path = `/${relative(dir, file).split(sep).join("/")}`;
    const body = new Uint8Array(readFileSync(file));
    const etag = `"${createHash("sha256").update(body).digest("base64url").slice(0, 22)}"`;
    pages.set(path, { body, type, etag, immutable: path.startsWith("/assets/") });
  }
  return pages;
}
