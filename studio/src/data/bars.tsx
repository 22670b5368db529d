import type { ComponentChildren, JSX } from "preact";
import { useWords } from "../language.ts";

export interface Bar {
  readonly key: string;
  readonly label: ComponentChildren;
  readonly value: number;
  /** Beside the number, instead of the share of `of`. */
  readonly note?: string;
  readonly href?: string;
}

/** Counts as bars: names, a bar against the largest (or against `of`), the number and its share. */
export function Bars(props: { title: string; bars: readonly Bar[]; of?: number; share?: number }): JSX.Element | null {
  const { title, bars, of, share } = props;
  const { number, percent } = useWords();
  if (bars.length === 0) return null;
  const most = of ?? Math.max(...bars.map((bar) => bar.value), 1);
  return (
    <section class="bars">
      <h2>{title}</h2>
      <table>
        <tbody>
          {bars.map(({ key, label, value, note, href }) => (
            <tr key={key}>
              <th scope="row">{href === undefined ? label : <a href={href}>{label}</a>}</th>
              <td class="bar" aria-hidden="true">
                <span style={{ width: `${Math.max(0.5, Math.min(100, (100 * value) / most))}%` }} />
              </td>
              <td class="count">{number(value)}</td>
              <td class="share">{note ?? percent(value / (share ?? most))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
