import { existsSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The functions of `howdah.node`. Buffers and executables are numbers: handles that only this thread's addon understands. */
export interface NativeAddon {
  allocate(bytes: number): number;
  upload(data: ArrayBufferView): number;
  /** Copies `data` to byte `at`; nothing queued may use the buffer. */
  write(buffer: number, at: number, data: ArrayBufferView): void;
  release(buffer: number): void;
  /** Fills `into` after everything queued before, and resolves to it. */
  download<A extends ArrayBufferView>(buffer: number, into: A): Promise<A>;
  sync(): Promise<void>;
  compile(program: string, constants: readonly ArrayBufferView[], bf16: boolean): number;
  /** As `compile`, in another thread. The constants are copied before this returns. */
  compileLater(program: string, constants: readonly ArrayBufferView[], bf16: boolean): Promise<number>;
  run(executable: number, inputs: Float64Array, outputs: Float64Array): void;
  /** A handle of the program with these buffers. */
  bind(executable: number, inputs: Float64Array, outputs: Float64Array): number;
  runBound(bound: number): void;
  releaseBound(bound: number): void;
  releaseExecutable(executable: number): void;
  profile(executable: number, on: boolean, trace: boolean): void;
  readProfile(executable: number): ProfileEntry[];
  /** Triples (instruction as in readProfile, start, end) in nanoseconds of `process.hrtime`'s clock. */
  readTrace(executable: number): Float64Array<ArrayBuffer>;
  /** Triples (thread, start, end): when the threads of the pool worked while a trace was on. */
  readBusy(): Float64Array<ArrayBuffer>;
  memory(): MemoryStats;
  resetPeak(): void;
  trim(): void;
  supports(op: string): boolean;
  facts(): NativeFacts;
  /** Fills `into` with the machine's best rate, measured for about so long: FLOP/s (0: no such instruction) or bytes/s. */
  probe(
    kind: "f32" | "bf16" | "read",
    seconds: number,
    into: Float64Array<ArrayBuffer>,
  ): Promise<Float64Array<ArrayBuffer>>;
}

/** Time spent in one instruction; the bodies of a loop follow their loop. */
export interface ProfileEntry {
  readonly op: string;
  readonly scope: string;
  readonly nanoseconds: number;
  readonly calls: number;
}

export interface MemoryStats {
  /** Buffers that JavaScript holds, and their bytes. */
  readonly liveBuffers: number;
  readonly liveBytes: number;
  /** Bytes in use at all: buffers, constants, and the stack that programs run on. */
  readonly usedBytes: number;
  readonly peakBytes: number;
  /** Free bytes kept for reuse. */
  readonly cachedBytes: number;
}

export interface NativeFacts {
  /** The instruction set in use, and all that this processor and build have. */
  readonly isa: string;
  readonly available: readonly string[];
  readonly threads: number;
  /** Whether matrices multiply faster with bf16 operands. */
  readonly bf16: boolean;
  /** Bytes as one core sees them. */
  readonly caches: { readonly l1: number; readonly l2: number; readonly l3: number };
}

/** The folder of package.json, whether this file runs from `src` or from `dist`. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const parent = dirname(folder);
    if (parent === folder) return folder;
    folder = parent;
  }
  return folder;
}

function addonPath(): string {
  return process.env.HOWDAH_NATIVE ?? join(packageRoot(), "native", "build", "howdah.node");
}

/** Tells one build of the addon from another. */
export function addonIdentity(): string {
  const { size, mtimeMs } = statSync(addonPath());
  return `${addonPath()} ${size} ${mtimeMs}`;
}

let loaded: NativeAddon | { readonly missing: string } | undefined;

/** Loads `native/build/howdah.node`, or the file that HOWDAH_NATIVE names (a sanitized build, say). Tried once. */
export function loadAddon(): NativeAddon | { readonly missing: string } {
  loaded ??= load();
  return loaded;
}

function load(): NativeAddon | { readonly missing: string } {
  const path = addonPath();
  if (!existsSync(path))
    return {
      missing: `The native kernels are not built (${path} is not there). Run npm start or npm test once to build them.`,
    };
  try {
    const addon = createRequire(import.meta.url)(path) as NativeAddon;
    addon.facts();
    return addon;
  } catch (error) {
    return {
      missing: `The native kernels in ${path} do not load: ${error instanceof Error ? error.message : String(error)}`,
    };
  }
}
