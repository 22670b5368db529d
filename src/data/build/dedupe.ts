import { rmSync } from "node:fs";
import { join } from "node:path";
import { makeFolder } from "../../runs/atomic.ts";
import { PassageDuplicates } from "../dedup/exact.ts";
import { KeyIndex } from "../dedup/key-index.ts";
import { NearDuplicates, type NearReport } from "../dedup/near.ts";
import { SubstringDuplicates } from "../dedup/substrings.ts";
import { jsonLines, records } from "./lines.ts";
import { PartFile } from "./part-file.ts";
import type { DataRecipe } from "./recipe.ts";
import { type KeptDocument, type UnitResult, unitFiles } from "./unit.ts";

export interface DuplicateCluster {
  readonly kind: "exact" | "near";
  readonly size: number;
  /** The one that stays, and some of those that go. */
  readonly members: readonly { readonly id: string; readonly text: string }[];
}

export interface DedupeReport {
  readonly exact: number;
  readonly near: number;
  readonly passages: number;
  readonly substringCharacters: number;
  /** Documents of which nothing was left without repeated passages and substrings. Not in what older versions wrote. */
  readonly emptied?: number;
  readonly nearReport?: Omit<NearReport, "documents">;
  /** The largest. */
  readonly clusters: readonly DuplicateCluster[];
  /** What stays, by source. */
  readonly sources: Readonly<Record<string, { readonly documents: number; readonly bytes: number }>>;
  /** Files of the documents that stay, in order, with how many are in each. */
  readonly files: readonly {
    readonly path: string;
    readonly source: string;
    readonly documents: number;
    readonly hash: string;
  }[];
  /** Documents that went, by id: the id of the one that stays. The first ones. */
  readonly dropped: readonly { readonly id: string; readonly kept: string; readonly kind: "exact" | "near" }[];
}

const SHOWN_CLUSTERS = 20;
const SHOWN_MEMBERS = 4;
const SHOWN_DROPS = 20_000;

/**
 * Takes duplicates out of all units together and writes what stays, a file a unit. The order of units decides which of two stays, so that the result
 * does not depend on who read what when.
 */
export async function dedupe(
  units: readonly UnitResult[],
  folder: string,
  out: string,
  recipe: DataRecipe["dedup"],
  tick: (documents: number) => void,
): Promise<DedupeReport> {
  const { near: nearStep, exact, passages, substrings, memory } = recipe;
  const spill = { memory, folder };
  makeFolder(folder);
  makeFolder(out);

  // Ordinals count the documents of all units in order.
  using near = nearStep ? new NearDuplicates({ ...nearStep, ...spill }) : undefined;
  const words = 2 + (near ? near.banding.bands * near.banding.rows : 0);
  const drops = new Map<number, { first: number; kind: "exact" | "near" }>();
  let nearReport: DedupeReport["nearReport"];
  const members = new Map<number, { kind: "exact" | "near"; members: number[] }>();
  {
    using index = new KeyIndex(spill);
    let ordinal = 0;
    for (const unit of units) {
      for (const record of records(unitFiles(folder, unit.key).signatures, words)) {
        if (exact) index.add(record[0]!, record[1]!, ordinal);
        near?.add(record.subarray(2));
        if (++ordinal % 4096 === 0) {
          tick(ordinal);
          await new Promise(setImmediate);
        }
      }
    }
    index.duplicates((first, again) => {
      drops.set(again, { first, kind: "exact" });
      const known = members.get(first);
      if (known) known.members.push(again);
      else members.set(first, { kind: "exact", members: [first, again] });
    });
  }
  if (near) {
    const { clusters, drop, report } = near.finish();
    nearReport = report;
    for (const [again, first] of drop) if (!drops.has(again)) drops.set(again, { first, kind: "near" });
    for (const [root, list] of clusters) {
      const different = list.some((m) => drops.get(m)?.kind === "near");
      if (different) members.set(root, { kind: "near", members: [...list] });
    }
  }
  // A chain of copies ends at the one that stays.
  const root = (i: number): number => {
    let at = i;
    for (let next = drops.get(at); next; next = drops.get(at)) at = next.first;
    return at;
  };
  const largest = [...members.values()]
    .sort((a, b) => b.members.length - a.members.length || a.members[0]! - b.members[0]!)
    .slice(0, SHOWN_CLUSTERS);
  const shown = new Map<number, { id: string; text: string } | undefined>();
  for (const c of largest)
    for (const m of c.members.sort((a, b) => a - b).slice(0, SHOWN_MEMBERS)) shown.set(m, undefined);
  const dropIds = new Map<number, string | undefined>();
  let listed = 0;
  for (const [again] of drops) {
    if (listed++ >= SHOWN_DROPS) break;
    dropIds.set(again, undefined);
    dropIds.set(root(again), undefined);
  }

  const walk = function* (): Generator<{ document: KeptDocument; ordinal: number; unit: number }> {
    let ordinal = 0;
    for (const [unit, { key }] of units.entries())
      for (const document of jsonLines<KeptDocument>(unitFiles(folder, key).documents))
        yield { document, ordinal: ordinal++, unit };
  };

  // Passages need the texts that are left twice, and substrings what is left of those three times.
  const texts = async (use: (text: string) => void): Promise<void> => {
    for (const { document, ordinal } of walk()) {
      if (!drops.has(ordinal)) use(document.text);
      if (ordinal % 256 === 0) {
        tick(ordinal);
        await new Promise(setImmediate);
      }
    }
  };
  using passageFinder = passages === "none" ? undefined : new PassageDuplicates({ of: passages, ...spill });
  let passageCount = 0;
  if (passageFinder) {
    await texts((text) => passageFinder.see(text));
    passageFinder.finish();
  }
  using substringFinder =
    substrings === undefined ? undefined : new SubstringDuplicates({ least: substrings, ...spill });
  let substringCharacters = 0;
  if (substringFinder) {
    const left = (text: string) => passageFinder?.take(text).text ?? text;
    await texts((text) => substringFinder.see(left(text)));
    substringFinder.found();
    passageFinder?.restart();
    await texts((text) => substringFinder.look(left(text)));
    substringFinder.finish();
    passageFinder?.restart();
  }

  const sources: Record<string, { documents: number; bytes: number }> = {};
  const files: { path: string; source: string; documents: number; hash: string }[] = [];
  let emptied = 0;
  let current: { readonly unit: number; readonly file: PartFile; documents: number } | undefined;
  const close = () => {
    if (!current) return;
    const { file, unit, documents } = current;
    const hash = file.finish();
    if (documents > 0) files.push({ path: file.path, source: units[unit]!.source, documents, hash });
    else rmSync(file.path);
    current = undefined;
  };
  for (const { document, ordinal, unit } of walk()) {
    if (shown.has(ordinal)) shown.set(ordinal, { id: document.id, text: document.text.slice(0, 600) });
    if (dropIds.has(ordinal)) dropIds.set(ordinal, document.id);
    if (current?.unit !== unit) {
      close();
      current = { unit, file: new PartFile(join(out, `${String(unit).padStart(6, "0")}.jsonl`)), documents: 0 };
    }
    if (ordinal % 1024 === 0) {
      tick(ordinal);
      await new Promise(setImmediate);
    }
    if (drops.has(ordinal)) continue;
    let { text } = document;
    if (passageFinder) {
      const result = passageFinder.take(text);
      text = result.text;
      passageCount += result.taken;
    }
    if (substringFinder) {
      const spans = substringFinder.take(text);
      for (const { start, end } of spans) substringCharacters += end - start;
      text = spans.reduceRight((t, { start, end }) => t.slice(0, start) + t.slice(end), text);
    }
    if (text.trim() === "") {
      emptied++;
      continue;
    }
    current.file.write(`${JSON.stringify({ ...document, text })}\n`);
    current.documents++;
    const entry = sources[document.source] ?? { documents: 0, bytes: 0 };
    entry.documents++;
    entry.bytes += Buffer.byteLength(text);
    sources[document.source] = entry;
  }
  close();
  let [exactCount, nearCount] = [0, 0];
  for (const { kind } of drops.values())
    if (kind === "exact") exactCount++;
    else nearCount++;
  return {
    exact: exactCount,
    near: nearCount,
    passages: passageCount,
    substringCharacters,
    emptied,
    ...(nearReport ? { nearReport } : {}),
    clusters: largest.map(({ kind, members: list }) => ({
      kind,
      size: list.length,
      members: list.slice(0, SHOWN_MEMBERS).flatMap((m) => shown.get(m) ?? []),
    })),
    sources,
    files,
    dropped: [...drops]
      .slice(0, SHOWN_DROPS)
      .map(([again, { kind }]) => ({ id: dropIds.get(again) ?? "", kept: dropIds.get(root(again)) ?? "", kind })),
  };
}
