import type { JSX } from "preact";
import type { CorpusReport } from "../../../src/serve/data-api.ts";
import { useWords } from "../language.ts";
import { corpusLink } from "../route.ts";
import { type Bar, Bars } from "./bars.tsx";
import { ruleName, takenName } from "./names.ts";

/** More rows than these say little. */
const most = 12;

/** The report of a corpus, with ways into its documents. */
export function Overview({ name, report: r }: { name: string; report: CorpusReport }): JSX.Element {
  const { t, number, bytes, percent, tongue, language } = useWords();
  const documents = (query: Readonly<Record<string, string>>) => corpusLink(name, "documents", query);
  const counted = (counts: Readonly<Record<string, number>>, more: (key: string) => Partial<Bar> = () => ({})): Bar[] =>
    Object.entries(counts)
      .slice(0, most)
      .map(([key, value]) => ({ key, label: key === "unknown" ? t("unknown") : key, value, ...more(key) }));
  const step = (key: string, label: string, { documents, bytes: size }: { documents: number; bytes: number }): Bar => ({
    key,
    label,
    value: documents,
    note: `${percent(documents / r.read.documents)} · ${bytes(size)}`,
  });
  const facts: [string, string][] = [
    [t("documents"), number(r.final.documents)],
    [t("textSize"), bytes(r.final.bytes)],
    [t("tokens"), number(r.final.tokens)],
    [t("bytesPerToken"), r.tokenizer.bytesPerToken.toFixed(2)],
    [t("vocabularySize"), number(r.tokenizer.vocabulary)],
    [t("heldOutTokens"), number(r.holdout.tokens)],
    [t("inputFiles"), number(r.inputs)],
    [t("unreadable"), number(r.problems.count)],
  ];
  return (
    <div class="overview">
      <section class="summary">
        <dl>
          {facts.map(([label, value]) => (
            <div key={label}>
              <dt>{label}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </section>
      <Bars
        title={t("funnel")}
        of={r.read.documents}
        bars={[
          step("read", t("funnelRead"), r.read),
          step("cleaned", t("funnelCleaned"), r.cleaned),
          step("final", t("funnelFinal"), r.final),
        ]}
      />
      {r.dropped.length === 0 ? (
        <p class="muted">{t("nothingTaken")}</p>
      ) : (
        <Bars
          title={t("whatFiltersTook")}
          share={r.read.documents}
          bars={r.dropped.map(({ rule, documents: value }) => ({
            key: rule,
            label: <span title={rule}>{ruleName(rule, language)}</span>,
            value,
            href: documents({ rule }),
          }))}
        />
      )}
      <div class="columns">
        <Bars
          title={t("languages")}
          share={r.cleaned.documents}
          bars={counted(r.languages, (key) => ({ label: tongue(key), href: documents({ language: key }) }))}
        />
        <Bars title={t("lengths")} share={r.cleaned.documents} bars={lengthBars(r.lengths, number)} />
        <Bars title={t("licences")} share={r.cleaned.documents} bars={counted(r.licences)} />
        <Bars title={t("formats")} share={r.read.documents} bars={counted(r.formats)} />
        <Bars
          title={t("takenOut")}
          bars={counted(r.taken, (key) => ({ label: <span title={key}>{takenName(key, language)}</span>, note: "" }))}
        />
        <Bars
          title={t("leaks")}
          share={r.read.documents}
          bars={counted(r.leaks, (key) => ({ href: documents({ rule: `decontaminate/${key}` }) }))}
        />
      </div>
      <Mixture name={name} report={r} />
      {r.keywords.length > 0 && (
        <section>
          <h2>{t("keywords")}</h2>
          {r.keywords.map((k) => (
            <div key={k.language} class="ranked">
              {r.keywords.length > 1 && <h3>{tongue(k.language)}</h3>}
              <Chips title="TF-IDF" words={k.tfIdf.map((w) => w.word)} link={documents} />
              <Chips title="TextRank" words={k.textRank.map((w) => w.word)} link={documents} />
            </div>
          ))}
        </section>
      )}
      {r.topics.length > 0 && (
        <section>
          <h2>{t("topics")}</h2>
          {r.topics.map((topic) => (
            <Chips key={topic.words.join(" ")} title={percent(topic.share)} words={topic.words} link={documents} />
          ))}
        </section>
      )}
      {r.problems.count > 0 && (
        <details class="problems">
          <summary>
            {t("unreadable")}: {number(r.problems.count)}
          </summary>
          <ul>
            {r.problems.first.slice(0, 100).map((p) => (
              <li key={`${p.path} ${p.reason}`}>
                <code>{p.path}</code>
                <span>{p.reason}</span>
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}

function lengthBars(lengths: Readonly<Record<string, number>>, number: (n: number) => string): Bar[] {
  return Object.entries(lengths).map(([key, value]) => ({
    key,
    label: `${number(Number(key))} – ${number(2 * Number(key) - 1)}`,
    value,
  }));
}

function Chips(props: {
  title: string;
  words: readonly string[];
  link: (query: Readonly<Record<string, string>>) => string;
}): JSX.Element {
  const { title, words, link } = props;
  return (
    <div class="chips">
      <b>{title}</b>
      <ul>
        {words.map((word) => (
          <li key={word}>
            <a href={link({ q: word })}>{word}</a>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** What was asked of each source, and what came of it. */
function Mixture({ name, report }: { name: string; report: CorpusReport }): JSX.Element {
  const { t, number, bytes, percent } = useWords();
  const written = report.sources.reduce((n, s) => n + s.realised, 0);
  return (
    <section>
      <h2>{t("mixture")}</h2>
      <div class="wide">
        <table class="grid">
          <thead>
            <tr>
              {(["source", "documents", "textSize", "tokens", "epochs", "asked", "realised"] as const).map((head) => (
                <th key={head} scope="col">
                  {t(head)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {report.sources.map((s) => (
              <tr key={s.name}>
                <th scope="row">
                  <a href={corpusLink(name, "documents", { source: s.name })}>{s.name}</a>
                </th>
                <td>{number(s.documents)}</td>
                <td>{bytes(s.bytes)}</td>
                <td>{number(s.tokens)}</td>
                <td>{number(s.epochs)}</td>
                <td>{percent(s.share)}</td>
                <td>{percent(s.realised / written)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
