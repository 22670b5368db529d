import type { Peaks } from "../src/engine/backends/native/peaks.ts";
import { InputError } from "../src/tensor/errors.ts";
import type { Contender, Prepared, Ran } from "./protocol.ts";
import { append, median, spread } from "./stats.ts";

/** What is measured: one step of it is what a side does between two looks at the clock. */
export interface Work {
  readonly name: string;
  /** Sent to every side as it is. JSON. */
  readonly parameters: unknown;
  /** Floating-point operations of a step, and which of the machine's peaks they are held against. */
  readonly flops?: number;
  readonly peak?: "f32" | "bf16";
  /** Bytes that a step has to read from memory, held against the peak of reading. */
  readonly bytes?: number;
  /** What a step gets done, for a rate such as tokens per second. */
  readonly items?: { readonly count: number; readonly name: string };
  /** Compares what the first steps of the two computed; throws where they do different work. */
  readonly check?: (ours: Outcome, peer: Outcome) => void;
}

/** Who takes part, and how it is started. */
export interface Entrant {
  readonly name: string;
  readonly variant: string;
  start(): Contender;
}

/** What a side said and computed in its first steps. */
export interface Outcome {
  readonly name: string;
  readonly variant: string;
  readonly about: string;
  readonly outputs: readonly unknown[];
}

export interface ContestOptions {
  readonly rounds: number;
  /** Of one side in one round. */
  readonly seconds: number;
  /** Threads each side must say it uses. */
  readonly threads: number;
  readonly say: (line: string) => void;
  /** Steps before anything is timed: compilation, first touch of memory, and what is compared. Default 3. */
  readonly warmUp?: number;
  /** A step that takes shorter than this part of a turn is repeated so often at most. Default 200. */
  readonly mostSteps?: number;
  /** Each work in processes of its own, so that peak memory is its own. Default true; false saves start-up for many small works. */
  readonly fresh?: boolean;
  /** A peer's variant this much slower than the best in its first turn takes no further part. Default 1.3. */
  readonly hopeless?: number;
  /** Seconds from the start of a work after which no further round begins; one round there is always. Default: all rounds. */
  readonly budget?: number;
  /** Measures the machine between the rounds. */
  readonly peaks?: () => Promise<Peaks>;
}

export interface Samples {
  readonly variant: string;
  readonly about: string;
  readonly threads: number;
  /** Seconds of each step of the interleaved rounds. */
  readonly seconds: readonly number[];
  readonly metrics: Readonly<Record<string, readonly number[]>>;
  /** What the first steps computed. */
  readonly outputs: readonly unknown[];
  readonly peakBytes: number;
}

/** One side of one work. */
export interface SideResult {
  readonly variant: string;
  /** Median milliseconds of a step, and half the quartiles' distance as a part of it. */
  readonly ms: number;
  readonly spread: number;
  readonly gflops?: number;
  readonly gb_per_s?: number;
  /** Parts of the measured peaks. */
  readonly of_peak?: number;
  readonly of_read_peak?: number;
  readonly items_per_s?: number;
  /** Medians of the other numbers that the side measured. */
  readonly metrics?: Readonly<Record<string, number>>;
  /** Only where each work has processes of its own. */
  readonly peak_mb?: number;
}

export interface WorkResult {
  readonly work: string;
  /** Median milliseconds. */
  readonly ours: number;
  /** Of the fastest peer; null when we ran alone. */
  readonly peer: number | null;
  /** How many times as fast as that peer we are: peer / ours. */
  readonly ratio: number | null;
  readonly items?: string;
  /** Ours first, then the peers that stayed, fastest first. */
  readonly sides: readonly SideResult[];
}

export interface ContestReport {
  readonly results: readonly WorkResult[];
  readonly samples: Readonly<Record<string, readonly Samples[]>>;
  /** Every measurement of the machine, and the best of each. */
  readonly peaks: readonly Peaks[];
  readonly peak: Peaks | null;
}

interface Runner {
  readonly entrant: Entrant;
  readonly contender: Contender;
  readonly prepared: Prepared;
  readonly outcome: Outcome;
  /** Median seconds of a step in the first turn. */
  readonly first: number;
  readonly steps: number;
  readonly seconds: number[];
  readonly metrics: Record<string, number[]>;
  peakBytes: number;
}

/** Measures works: each side in a process of its own, warmed up, then turn by turn, and who goes first changes from round to round. */
export async function contest(
  works: readonly Work[],
  sides: { readonly ours: Entrant; readonly peers: readonly Entrant[] },
  o: ContestOptions,
): Promise<ContestReport> {
  const fresh = o.fresh ?? true;
  const running = new Map<Entrant, Contender>();
  const results: WorkResult[] = [];
  const samples: Record<string, Samples[]> = {};
  const peaks: Peaks[] = [];
  const leave = async (entrant: Entrant) => {
    const contender = running.get(entrant);
    running.delete(entrant);
    await contender?.close();
  };
  const lookAtMachine = async () => {
    if (o.peaks) peaks.push(await o.peaks());
  };
  const measured: { work: Work; field: Runner[] }[] = [];
  try {
    for (const work of works) {
      o.say(work.name);
      await lookAtMachine();
      const field = await oneWork(work);
      measured.push({ work, field });
      samples[work.name] = field.map(samplesOf);
      if (fresh) for (const entrant of [...running.keys()]) await leave(entrant);
    }
    await lookAtMachine();
  } finally {
    for (const entrant of [...running.keys()]) await leave(entrant);
  }
  const peak = best(peaks);
  for (const { work, field } of measured) results.push(summary(work, field, peak, fresh));
  return { results, samples, peaks, peak };

  async function enter(entrant: Entrant, work: Work): Promise<Runner> {
    const contender = running.get(entrant) ?? entrant.start();
    running.set(entrant, contender);
    const { name, variant } = entrant;
    const prepared = await contender.prepare({ work: work.name, variant, parameters: work.parameters });
    if (prepared.threads !== o.threads)
      throw new InputError(`${name} uses ${prepared.threads} threads, not ${o.threads}.`);
    const warm = await contender.run(o.warmUp ?? 3);
    const outcome = { name, variant, about: prepared.about, outputs: warm.outputs };
    const turn = await contender.run(stepsFor(o, warm.seconds.at(-1)!));
    const first = median(turn.seconds);
    o.say(`  ${name}: ${(first * 1e3).toFixed(first < 0.01 ? 3 : 1)} ms a step to begin with`);
    return {
      entrant,
      contender,
      prepared,
      outcome,
      first,
      steps: stepsFor(o, first),
      seconds: [],
      metrics: {},
      peakBytes: turn.peakBytes,
    };
  }

  /** Ours first, then the peers that were not hopeless. */
  async function oneWork(work: Work): Promise<Runner[]> {
    const began = performance.now();
    const mine = await enter(sides.ours, work);
    let peers: Runner[] = [];
    for (const entrant of sides.peers) {
      const peer = await enter(entrant, work);
      work.check?.(mine.outcome, peer.outcome);
      peers.push(peer);
      const limit = (o.hopeless ?? 1.3) * Math.min(...peers.map((p) => p.first));
      // Memory for one process more at a time: those out of the race leave at once.
      if (fresh) for (const p of peers) if (p.first > limit) await leave(p.entrant);
      peers = peers.filter((p) => p.first <= limit);
    }
    for (let round = 0; round < o.rounds; round++) {
      if (round > 0 && performance.now() - began > 1e3 * (o.budget ?? Number.POSITIVE_INFINITY)) break;
      // Whoever goes first in one round goes last in the next.
      const turn = [mine, ...peers];
      for (const runner of round % 2 ? turn.reverse() : turn) record(runner, await runner.contender.run(runner.steps));
    }
    return [mine, ...peers];
  }
}

const stepsFor = (o: ContestOptions, pace: number) =>
  Math.min(Math.max(Math.round(o.seconds / pace), 1), o.mostSteps ?? 200);

function record(runner: Runner, ran: Ran): void {
  runner.seconds.push(...ran.seconds);
  for (const [name, values] of Object.entries(ran.metrics ?? {})) append(runner.metrics, name, ...values);
  runner.peakBytes = ran.peakBytes;
}

function samplesOf(r: Runner): Samples {
  const { seconds, metrics, peakBytes } = r;
  const { about, threads } = r.prepared;
  return { variant: r.entrant.name, about, threads, seconds, metrics, outputs: r.outcome.outputs, peakBytes };
}

/** The machine's best: whatever disturbed a measurement made it lower. */
function best(all: readonly Peaks[]): Peaks | null {
  if (all.length === 0) return null;
  const most = (values: readonly number[]) => Math.max(...values);
  const bf16 = all.flatMap((p) => (p.bf16 === null ? [] : [p.bf16]));
  return {
    f32: most(all.map((p) => p.f32)),
    bf16: bf16.length === 0 ? null : most(bf16),
    read: most(all.map((p) => p.read)),
  };
}

const round = (x: number, digits: number) => Number(x.toFixed(digits));

function summary(work: Work, field: readonly Runner[], peak: Peaks | null, fresh: boolean): WorkResult {
  const [mine, ...others] = field.map((runner) => ({ runner, seconds: median(runner.seconds) }));
  const peers = others.sort((a, b) => a.seconds - b.seconds);
  const ceiling = peak && work.peak ? peak[work.peak] : null;
  const side = ({ runner, seconds }: { runner: Runner; seconds: number }): SideResult => {
    const { flops, bytes, items } = work;
    const metrics = Object.entries(runner.metrics).map(([name, values]) => [name, round(median(values), 4)] as const);
    return {
      variant: runner.entrant.variant === "" ? runner.entrant.name : runner.entrant.variant,
      ms: round(seconds * 1e3, 4),
      spread: round(spread(runner.seconds), 3),
      ...(flops === undefined ? {} : { gflops: round(flops / seconds / 1e9, 1) }),
      ...(bytes === undefined ? {} : { gb_per_s: round(bytes / seconds / 1e9, 2) }),
      ...(flops === undefined || !ceiling ? {} : { of_peak: round(flops / seconds / 1e9 / ceiling, 3) }),
      ...(bytes === undefined || !peak ? {} : { of_read_peak: round(bytes / seconds / 1e9 / peak.read, 3) }),
      ...(items === undefined ? {} : { items_per_s: round(items.count / seconds, 1) }),
      ...(metrics.length === 0 ? {} : { metrics: Object.fromEntries(metrics) }),
      ...(fresh ? { peak_mb: Math.round(runner.peakBytes / 1e6) } : {}),
    };
  };
  const rival = peers[0];
  return {
    work: work.name,
    ours: round(mine!.seconds * 1e3, 4),
    peer: rival ? round(rival.seconds * 1e3, 4) : null,
    ratio: rival ? round(rival.seconds / mine!.seconds, 3) : null,
    ...(work.items ? { items: work.items.name } : {}),
    sides: [mine!, ...peers].map(side),
  };
}

// ---- Checks that both sides did the same work ----

/** Whether the first steps gave the same numbers: |ours - peer| <= tolerance(outcomes) * |peer|. */
export function sameNumbers(
  tolerance: (ours: Outcome, peer: Outcome) => number,
  what = "output",
): (ours: Outcome, peer: Outcome) => void {
  return (ours, peer) => {
    const allowed = tolerance(ours, peer);
    if (ours.outputs.length !== peer.outputs.length)
      throw new InputError(`We gave ${ours.outputs.length} outputs, ${peer.name} ${peer.outputs.length}.`);
    peer.outputs.forEach((theirs, i) => {
      const mine = ours.outputs[i];
      if (
        typeof mine === "number" &&
        typeof theirs === "number" &&
        Math.abs(mine - theirs) <= allowed * Math.abs(theirs)
      )
        return;
      throw new InputError(
        `The two sides do not do the same work: at step ${i} our ${what} is ${mine}, that of ${peer.name} is ${theirs}.`,
      );
    });
  };
}

/** 1e-4 where both multiply f32, `coarse` where one side multiplies bf16. */
export const byPrecision =
  (coarse = 5e-3) =>
  (ours: Outcome, peer: Outcome): number =>
    [ours, peer].some((side) => `${side.variant} ${side.about}`.includes("bf16")) ? coarse : 1e-4;
