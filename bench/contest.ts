import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadNativeBackend, useBackend } from "../src/engine/index.ts";
import { initGPT, saveModel, trainingFlopsPerToken } from "../src/models/index.ts";
import { BackendError, InputError } from "../src/tensor/errors.ts";
import { randomKey } from "../src/tensor/ops/random.ts";
import { disposeTree } from "./dispose.ts";
import { Contender, type Prepared } from "./protocol.ts";
import { median, spread } from "./stats.ts";
import { configOf } from "./step.ts";
import { batches, type GPTWork, training } from "./works.ts";

export interface ContestOptions {
  /** The Python that has PyTorch. */
  readonly python: string;
  /** Folder of `gpt.py`. */
  readonly peers: string;
  readonly threads: number;
  readonly rounds: number;
  /** Of one side in one round. */
  readonly seconds: number;
  readonly compile: boolean;
  /** Of our matmuls; `auto` is what training uses. */
  readonly precision: "auto" | "f32" | "bf16";
  readonly say: (line: string) => void;
}

export interface Samples {
  readonly variant: string;
  readonly about: string;
  readonly threads: number;
  /** Seconds of each step of the interleaved rounds. */
  readonly seconds: readonly number[];
  /** Losses of the first steps, from the same weights and tokens. */
  readonly losses: readonly number[];
  readonly peakBytes: number;
}

export interface WorkResult {
  readonly work: string;
  /** Median milliseconds of a step, the quartiles' half distance as a part of it, GFLOP/s, and the process's peak memory. */
  readonly ours: number;
  readonly peer: number;
  /** How many times as fast as the peer we are: peer / ours. */
  readonly ratio: number;
  readonly peer_variant: string;
  readonly ours_spread: number;
  readonly peer_spread: number;
  readonly ours_gflops: number;
  readonly peer_gflops: number;
  readonly ours_peak_mb: number;
  readonly peer_peak_mb: number;
}

/** Steps before anything is timed: compilation, first touch of memory, and the losses that are compared. */
const WARM_UP = 3;
/** A peer's variant this much slower than the best in its first round takes no further part. */
const HOPELESS = 1.3;

interface Entrant {
  readonly contender: Contender;
  readonly prepared: Prepared;
  readonly variant: string;
  readonly losses: readonly number[];
  readonly seconds: number[];
  steps: number;
  peakBytes: number;
}

const stepsFor = (o: ContestOptions, pace: number) => Math.min(Math.max(Math.round(o.seconds / pace), 1), 200);

/** Threads of every library in the process, so that no default decides. */
function environment(threads: number): NodeJS.ProcessEnv {
  const n = String(threads);
  return {
    ...process.env,
    HOWDAH_THREADS: n,
    OMP_NUM_THREADS: n,
    MKL_NUM_THREADS: n,
    OPENBLAS_NUM_THREADS: n,
    PYTHONUNBUFFERED: "1",
  };
}

/** Measures one work: ours and PyTorch's variants in processes of their own, turn by turn. */
export async function contest(work: GPTWork, o: ContestOptions): Promise<{ result: WorkResult; samples: Samples[] }> {
  const folder = await mkdtemp(join(tmpdir(), "howdah-bench-"));
  const entrants: Entrant[] = [];
  try {
    const { flops, weights, data } = await material(work, folder);
    const enter = async (contender: Contender, variant: string): Promise<Entrant> => {
      try {
        const prepared = await contender.prepare({ work, training, weights, batches: data, variant });
        if (prepared.threads !== o.threads)
          throw new InputError(`${contender.name} uses ${prepared.threads} threads, not ${o.threads}.`);
        const { seconds, losses, peakBytes } = await contender.run(WARM_UP);
        const pace = seconds[WARM_UP - 1]!;
        const entrant: Entrant = { contender, prepared, variant, losses, seconds: [], steps: 1, peakBytes };
        const first = await contender.run(stepsFor(o, pace));
        entrant.steps = stepsFor(o, median(first.seconds));
        o.say(`  ${contender.name}: ${(median(first.seconds) * 1e3).toFixed(1)} ms a step to begin with`);
        entrants.push(entrant);
        firsts.set(entrant, median(first.seconds));
        return entrant;
      } catch (error) {
        await contender.close();
        throw error;
      }
    };
    const firsts = new Map<Entrant, number>();
    const worker = fileURLToPath(new URL("./worker.js", import.meta.url));
    const env = environment(o.threads);
    const ours = await enter(new Contender("howdah", process.execPath, [worker], env), o.precision);
    const styles = o.compile ? ["eager", "compile"] : ["eager"];
    let peers: Entrant[] = [];
    for (const style of styles)
      for (const precision of ["f32", "bf16"]) {
        const variant = `${style} ${precision}`;
        const process = new Contender(`PyTorch ${variant}`, o.python, [join(o.peers, "gpt.py")], env);
        const peer = await enter(process, variant);
        checkLosses(ours, peer);
        peers.push(peer);
        // Memory for one process more at a time: those out of the race leave at once.
        const best = Math.min(...peers.map((p) => firsts.get(p)!));
        for (const p of peers) if (firsts.get(p)! > HOPELESS * best) await p.contender.close();
        peers = peers.filter((p) => firsts.get(p)! <= HOPELESS * best);
      }
    for (let round = 0; round < o.rounds; round++) {
      // Whoever goes first in one round goes last in the next.
      const turn = [ours, ...peers];
      for (const e of round % 2 ? turn.reverse() : turn) {
        const { seconds, peakBytes } = await e.contender.run(e.steps);
        e.seconds.push(...seconds);
        e.peakBytes = peakBytes;
      }
    }
    const best = peers.reduce((a, b) => (median(b.seconds) < median(a.seconds) ? b : a));
    const result = summary(work, flops, ours, best);
    const samples = [ours, ...peers].map(
      (e): Samples => ({
        variant: e.contender.name,
        about: e.prepared.about,
        threads: e.prepared.threads,
        seconds: e.seconds,
        losses: e.losses,
        peakBytes: e.peakBytes,
      }),
    );
    return { result, samples };
  } finally {
    for (const e of entrants) await e.contender.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Weights and tokens both sides start from, as files; and the floating-point operations of a step. */
async function material(work: GPTWork, folder: string): Promise<{ flops: number; weights: string; data: string }> {
  const backend = loadNativeBackend();
  if ("missing" in backend) throw new BackendError(backend.missing);
  useBackend(backend);
  const model = initGPT(configOf(work), randomKey(1));
  const flops = trainingFlopsPerToken(model) * work.batch * work.context;
  await saveModel(model, folder);
  disposeTree(model);
  backend.trim();
  const data = join(folder, "batches.bin");
  await writeFile(data, batches(work));
  return { flops, weights: folder, data };
}

/** The same work on both sides: the first losses agree as far as the precision goes. */
export function checkLosses(
  ours: { readonly losses: readonly number[]; readonly prepared: Prepared },
  peer: { readonly losses: readonly number[]; readonly variant: string },
): void {
  const coarse = peer.variant.includes("bf16") || ours.prepared.about.includes("bf16");
  const tolerance = coarse ? 5e-3 : 1e-4;
  peer.losses.forEach((loss, i) => {
    const mine = ours.losses[i]!;
    if (!(Math.abs(mine - loss) <= tolerance * Math.abs(loss)))
      throw new InputError(
        `The two sides do not do the same work: at step ${i} our loss is ${mine}, PyTorch's (${peer.variant}) is ${loss}.`,
      );
  });
}

function summary(work: GPTWork, flops: number, ours: Entrant, peer: Entrant): WorkResult {
  const [a, b] = [median(ours.seconds), median(peer.seconds)];
  const round = (x: number, digits: number) => Number(x.toFixed(digits));
  return {
    work: work.name,
    ours: round(a * 1e3, 3),
    peer: round(b * 1e3, 3),
    ratio: round(b / a, 3),
    peer_variant: peer.variant,
    ours_spread: round(spread(ours.seconds), 3),
    peer_spread: round(spread(peer.seconds), 3),
    ours_gflops: round(flops / a / 1e9, 1),
    peer_gflops: round(flops / b / 1e9, 1),
    ours_peak_mb: Math.round(ours.peakBytes / 1e6),
    peer_peak_mb: Math.round(peer.peakBytes / 1e6),
  };
}
