import type { JSX } from "preact";
import type { ComparedRow, CorpusComparison, CorpusSummary } from "../../../src/serve/data-api.ts";
import { type Text, useWords } from "../language.ts";
import { corpusLink } from "../route.ts";
import { ruleName } from "./names.ts";
import { useLoaded } from "./use-loaded.ts";

const numberText: Record<string, Text> = {
  inputs: "inputFiles",
  problems: "unreadable",
  read: "funnelRead",
  cleaned: "funnelCleaned",
  exact: "equalDocuments",
  near: "similarDocuments",
  documents: "documentsThatStay",
  bytes: "textSize",
  tokens: "tokens",
  vocabulary: "vocabularySize",
  bytesPerToken: "bytesPerToken",
  heldOut: "heldOutTokens",
};
const mostRows = 15;

/** This corpus beside another: sizes, what filters took, settings, words. */
export function Compare(props: { name: string; corpora: readonly CorpusSummary[]; other: string }): JSX.Element {
  const { name, corpora, other } = props;
  const { t } = useWords();
  const others = corpora.filter((c) => c.name !== name && c.documents !== undefined);
  const chosen = others.find((c) => c.name === other) ?? (others.length === 1 ? others[0] : undefined);
  const path = chosen && `/api/data/${encodeURIComponent(name)}/compare/${encodeURIComponent(chosen.name)}`;
  const { value, error } = useLoaded<CorpusComparison>(path, chosen?.updated);
  if (others.length === 0) return <p class="muted">{t("nothingToCompare")}</p>;
  return (
    <div class="comparison">
      <label class="with">
        <span>{t("compareWith")}</span>
        <select
          value={chosen?.name ?? ""}
          onChange={(event) => {
            location.hash = corpusLink(name, "compare", { with: event.currentTarget.value });
          }}
        >
          <option value="">{t("chooseOther")}</option>
          {others.map((c) => (
            <option key={c.name} value={c.name}>
              {c.name}
            </option>
          ))}
        </select>
      </label>
      {error !== undefined && <p class="note failed">{error}</p>}
      {chosen && !value && error === undefined && <p class="muted">{t("loading")}</p>}
      {value && <Differences compared={value} />}
    </div>
  );
}

function Differences({ compared }: { compared: CorpusComparison }): JSX.Element {
  const { t, tongue, language, number, bytes } = useWords();
  const { a, b, numbers, tables, settings, words } = compared;
  const plain = (key: string) => (key === "unknown" ? t("unknown") : key);
  const sides = [
    ["dropped", t("whatFiltersTook"), (key: string) => ruleName(key, language)],
    ["sources", t("source"), plain],
    ["languages", t("languages"), tongue],
    ["lengths", t("lengths"), (key: string) => `${number(Number(key))} – ${number(2 * Number(key) - 1)}`],
    ["licences", t("licences"), plain],
    ["formats", t("formats"), plain],
  ] as const;
  return (
    <>
      <Sides
        title={t("sizes")}
        names={[a, b]}
        rows={numbers}
        label={(key) => t(numberText[key] ?? "unknown")}
        show={(key, value) => (key === "bytes" ? bytes(value) : number(value))}
      />
      <section>
        <h2>{t("settingsThatDiffer")}</h2>
        {settings.length === 0 ? (
          <p class="muted">{t("noSettingsDiffer")}</p>
        ) : (
          <div class="wide">
            <table class="grid recipe-settings">
              <thead>
                <tr>
                  <th scope="col">{t("setting")}</th>
                  <th scope="col">{a}</th>
                  <th scope="col">{b}</th>
                </tr>
              </thead>
              <tbody>
                {settings.map((s) => (
                  <tr key={s.key}>
                    <th scope="row">{s.key}</th>
                    <td>{s.a ?? "–"}</td>
                    <td>{s.b ?? "–"}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </section>
      {sides.map(([key, title, label]) => (
        <Sides key={key} title={title} names={[a, b]} rows={tables[key]} label={label} />
      ))}
      {words.map((w) => (
        <section key={w.language}>
          <h2>
            {t("keywords")}: {tongue(w.language)}
          </h2>
          <div class="three">
            {(
              [
                [t("onlyIn", { name: a }), w.onlyA],
                [t("inBoth"), w.both],
                [t("onlyIn", { name: b }), w.onlyB],
              ] as const
            ).map(([title, list]) => (
              <div key={title}>
                <h3>{title}</h3>
                <p>{list.length === 0 ? <span class="muted">{t("noWords")}</span> : list.join(" · ")}</p>
              </div>
            ))}
          </div>
        </section>
      ))}
    </>
  );
}

interface SidesProps {
  title: string;
  names: readonly [string, string];
  rows: readonly ComparedRow[];
  label: (key: string) => string;
  show?: (key: string, value: number) => string;
}

function Sides({ title, names, rows, label, show }: SidesProps): JSX.Element | null {
  const { t, number } = useWords();
  if (rows.length === 0) return null;
  const shown = show ?? ((_: string, value: number) => number(value));
  return (
    <section>
      <h2>{title}</h2>
      <div class="wide">
        <table class="grid">
          <thead>
            <tr>
              <td />
              <th scope="col">{names[0]}</th>
              <th scope="col">{names[1]}</th>
              <th scope="col">{t("difference")}</th>
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, mostRows).map(({ key, a, b }) => (
              <tr key={key} class={a === b ? "equal" : undefined}>
                <th scope="row">{label(key)}</th>
                <td>{shown(key, a)}</td>
                <td>{shown(key, b)}</td>
                <td class="difference">{a === b ? "=" : `${b > a ? "+" : "−"}${shown(key, Math.abs(b - a))}`}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
