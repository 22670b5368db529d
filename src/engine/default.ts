import { BackendError } from "../tensor/errors.ts";
import { loadNativeBackend } from "./backends/native/backend.ts";
import { ReferenceBackend } from "./backends/reference/backend.ts";
import type { Backend } from "./program.ts";

export type BackendChoice = "auto" | "native" | "reference";

/**
 * The backend of that name; `auto` is native where its kernels are built, else the reference backend with one warning.
 * @throws BackendError if native is asked for by name and is missing
 */
export function chooseBackend(wanted: BackendChoice, warn: (line: string) => void): Backend {
  if (wanted === "reference") return new ReferenceBackend();
  const native = loadNativeBackend();
  if (!("missing" in native)) return native;
  if (wanted === "native") throw new BackendError(native.missing);
  warn(`${native.missing} The reference backend computes instead, many times slower.`);
  return new ReferenceBackend();
}
