import { existsSync } from "node:fs";
import { availableParallelism, cpus, loadavg } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { InputError } from "../src/tensor/errors.ts";
import type { Entrant } from "./contest.ts";
import { ProcessContender } from "./protocol.ts";

/** The folder of package.json: these files run compiled, from a folder further down. */
export const root = (() => {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
})();

/** The Python that has the peers. */
export function python(): string {
  const path = process.env.HOWDAH_PYTHON;
  if (path) return path;
  throw new InputError(
    "The peers are Python packages, and HOWDAH_PYTHON does not name a Python that has them. Make one outside this folder:\n" +
      "  python3 -m venv VENV && VENV/bin/pip install -r bench/peers/requirements.txt\n" +
      "then set HOWDAH_PYTHON=VENV/bin/python; or give --alone to measure our side only.",
  );
}

/** The path of one of llama.cpp's programs, such as `llama-bench`. */
export function llamaTool(name: string): string {
  const folder = process.env.HOWDAH_LLAMA_CPP;
  const path = folder && [join(folder, name), join(folder, "bin", name)].find((file) => existsSync(file));
  if (path) return path;
  const why = folder
    ? `${name} is not in HOWDAH_LLAMA_CPP (${folder})`
    : "HOWDAH_LLAMA_CPP does not name the folder of its programs";
  throw new InputError(
    `The peer is llama.cpp, and ${why}. The source package of llama-cpp-python on PyPI carries its tree; about ten minutes build it:\n` +
      "  pip download --no-deps --no-binary :all: llama-cpp-python && tar xf llama_cpp_python-*.tar.gz\n" +
      "  cmake -S llama_cpp_python-*/vendor/llama.cpp -B LLAMA -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF\n" +
      "  cmake --build LLAMA --parallel --target llama-bench llama-server llama-quantize\n" +
      "then set HOWDAH_LLAMA_CPP=LLAMA/bin; or give --alone to measure our side only.",
  );
}

/** Threads of every side: HOWDAH_THREADS, or the cores there are. */
export function threads(): number {
  const text = process.env.HOWDAH_THREADS;
  const count = text === undefined ? availableParallelism() : Number(text);
  if (Number.isInteger(count) && count >= 1) return count;
  throw new InputError(`HOWDAH_THREADS must be a whole number of threads, got ${text}.`);
}

/** Threads of every library in a measured process, so that no default decides. */
export function environmentOf(count = threads()): NodeJS.ProcessEnv {
  const n = String(count);
  return {
    ...process.env,
    HOWDAH_THREADS: n,
    OMP_NUM_THREADS: n,
    MKL_NUM_THREADS: n,
    OPENBLAS_NUM_THREADS: n,
    RAYON_NUM_THREADS: n,
    PYTHONUNBUFFERED: "1",
  };
}

/** Our side: `workers/<worker>.ts` in a process of its own. */
export function ours(worker: string, variant = "auto", env: NodeJS.ProcessEnv = environmentOf()): Entrant {
  const file = fileURLToPath(new URL("./worker.js", import.meta.url));
  const start = () => new ProcessContender("howdah", process.execPath, [file, worker], env);
  return { name: "howdah", variant, start };
}

/** A peer: `peers/<script>.py` in the Python of HOWDAH_PYTHON. `name` says what it is, such as `PyTorch`. */
export function pythonPeer(name: string, script: string, variant: string, env = environmentOf()): Entrant {
  const command = python();
  const file = join(root, "bench", "peers", `${script}.py`);
  const full = [name, variant].filter((part) => part !== "").join(" ");
  return { name: full, variant, start: () => new ProcessContender(full, command, [file], env) };
}

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly threads: number;
  /** Runnable processes over the last 1, 5 and 15 minutes, before the run. */
  readonly load: readonly number[];
}

/** What the run happens on, said in a line or two. */
export function machine(say: (line: string) => void): Machine {
  const it = {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    threads: threads(),
    load: loadavg(),
  };
  say(`${it.cpu}, ${it.cores} cores, load ${it.load[0]!.toFixed(1)}; ${it.threads} threads a side`);
  if (it.load[0]! > it.cores / 4)
    say("The machine is busy: threads wait for each other on all sides, and what is measured now says little.");
  return it;
}
