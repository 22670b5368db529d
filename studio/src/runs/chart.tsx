import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";
import { useWords } from "../language.ts";
import { useTheme } from "../theme.ts";
import { type Curve, isNoisy, smooth } from "./curves.ts";

const height = 168;

/** One metric over the steps of a stage. */
export function Chart({ curve }: { curve: Curve }): JSX.Element {
  const { metric, number, t } = useWords();
  const theme = useTheme();
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const [cursor, setCursor] = useState<number | null>(null);
  // Noise is drawn faint, under a smooth line.
  const noisy = isNoisy(curve.points);
  const broken = curve.points.filter(([, value]) => !Number.isFinite(value)).length;
  const hasHeldOut = curve.heldOut !== undefined;
  const data = dataOf(curve, noisy);

  const latestData = useRef(data);
  latestData.current = data;

  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    let gone = false;
    let observer: ResizeObserver | undefined;
    void import("uplot").then(({ default: Plot }) => {
      if (gone) return;
      const made = new Plot(optionsOf(element, noisy, hasHeldOut, number, setCursor), latestData.current, element);
      plot.current = made;
      observer = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
      observer.observe(element);
    });
    return () => {
      gone = true;
      observer?.disconnect();
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [noisy, hasHeldOut, theme, number]);

  useEffect(() => plot.current?.setData(data));

  const at = cursor === null ? undefined : data[0][cursor];
  const shown = cursor === null ? curve.points.at(-1)?.[1] : data[1]?.[cursor];
  const held = cursor === null ? curve.heldOut?.at(-1)?.[1] : data[noisy ? 3 : 2]?.[cursor];
  const label = metric(curve.name);
  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-name" title={curve.name}>
          {label}
        </span>
        <span class="chart-values">
          {broken > 0 && <span class="value-broken">{t("notFinite", { count: broken })}</span>}
          {at !== undefined && <span class="chart-step">{t("step", { step: number(at) })}</span>}
          {shown != null && (
            <span class="value-own">
              {hasHeldOut && <i>{t("trained")}</i>}
              <b>{number(shown)}</b>
            </span>
          )}
          {held != null && (
            <span class="value-held">
              <i>{t("heldOut")}</i>
              <b>{number(held)}</b>
            </span>
          )}
        </span>
      </figcaption>
      <div class="plot" ref={box} role="img" aria-label={`${label}: ${shown == null ? "–" : number(shown)}`} />
    </figure>
  );
}

/** Steps, then values, [their smooth line], [held-out values], all on the union of the steps. */
function dataOf(curve: Curve, noisy: boolean): uPlot.AlignedData {
  const steps = new Set<number>(curve.points.map(([step]) => step));
  for (const [step] of curve.heldOut ?? []) steps.add(step);
  const x = [...steps].sort((a, b) => a - b);
  const place = new Map(x.map((step, i) => [step, i]));
  const column = (points: readonly (readonly [number, number | null])[]) => {
    const values: (number | null)[] = new Array(x.length).fill(null);
    for (const [step, value] of points) {
      if (value !== null && Number.isFinite(value)) values[place.get(step) ?? 0] = value;
    }
    return values;
  };
  const columns = [column(curve.points)];
  if (noisy) {
    const line = smooth(curve.points);
    columns.push(column(curve.points.map(([step], i) => [step, line[i] ?? null])));
  }
  if (curve.heldOut !== undefined) columns.push(column(curve.heldOut));
  return [x, ...columns];
}

function optionsOf(
  element: HTMLElement,
  noisy: boolean,
  hasHeldOut: boolean,
  number: (value: number) => string,
  setCursor: (index: number | null) => void,
): uPlot.Options {
  // Colours live in the style sheet, for both themes; a canvas needs them spelled out.
  const color = (name: string) => {
    element.style.color = `var(${name})`;
    const { color } = getComputedStyle(element);
    element.style.color = "";
    return color;
  };
  const font = `11px ${getComputedStyle(element).fontFamily}`;
  const axis = { stroke: color("--ink-3"), font, ticks: { show: false } };
  const line = { spanGaps: true, points: { show: false } };
  const own = color("--curve");
  return {
    width: element.clientWidth || 300,
    height,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: false } },
    axes: [
      { ...axis, size: 26, gap: 4, grid: { show: false }, space: 70, values: (_, splits) => splits.map(number) },
      {
        ...axis,
        size: 52,
        gap: 6,
        grid: { stroke: color("--line"), width: 1 },
        space: 28,
        values: (_, splits) => splits.map(number),
      },
    ],
    series: [
      {},
      { ...line, stroke: noisy ? color("--curve-faint") : own, width: noisy ? 1 : 1.8 },
      ...(noisy ? [{ ...line, stroke: own, width: 2 }] : []),
      ...(hasHeldOut
        ? [
            {
              ...line,
              stroke: color("--curve-2"),
              width: 2,
              dash: [6, 4],
              points: { show: true, size: 5, fill: color("--curve-2") },
            },
          ]
        : []),
    ],
    hooks: { setCursor: [(plot) => setCursor(plot.cursor.idx ?? null)] },
  };
}
