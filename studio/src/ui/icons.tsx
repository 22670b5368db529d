import type { JSX } from "preact";

/** Line icons on a 20 x 20 grid, drawn in the text's colour. Decorative: the control that holds one has the name. */
const paths = {
  copy: "M7 7h9v10H7zM4 13V3h9",
  redo: "M16 10a6 6 0 1 1-2-4.500M14.500 2v4h-4",
  up: "M6 9v8H3V9zm0 0 4-6c1.500 0 2 1 2 2l-.6 4H16c1 0 1.500.8 1.300 1.600l-1.400 5.200c-.2.800-.8 1.200-1.600 1.200H6",
  down: "M6 11V3H3v8zm0 0 4 6c1.500 0 2-1 2-2l-.6-4H16c1 0 1.500-.8 1.300-1.600l-1.400-5.200C15.700 3.400 15.100 3 14.300 3H6",
  check: "m4 10.500 4 4 8-9",
  close: "M5 5l10 10M15 5 5 15",
  sliders: "M3 6h6m4 0h4M3 14h2m4 0h8M9 6a2 2 0 1 0 4 0 2 2 0 0 0-4 0m-4 8a2 2 0 1 0 4 0 2 2 0 0 0-4 0",
  trash: "M3.500 5.500h13M8 5V3h4v2m-6.500.5.7 11.500h7.600l.7-11.500M8.500 9v5m3-5v5",
  columns: "M3 4h14v12H3zM10 4v12",
  send: "M10 16.500V4m-5 5 5-5 5 5",
  stop: "M6 6h8v8H6z",
  sun: "M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7M10 2v1.500m0 13V18M2 10h1.500m13 0H18M4.300 4.300l1.100 1.100m9.200 9.200 1.100 1.100m0-11.400-1.100 1.100m-9.200 9.200-1.100 1.100",
  moon: "M16.500 11.500A7 7 0 0 1 8.500 3.500a7 7 0 1 0 8 8z",
  auto: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14m0 0v14M10 6.500c4 0 4 7 0 7",
  back: "M12 4l-6 6 6 6",
  arrow: "M4 10h12m-5-5 5 5-5 5",
  star: "m10 3 2.100 4.500 4.900.6-3.600 3.400.9 4.900-4.300-2.400-4.300 2.400.9-4.900L3 8.100l4.900-.6z",
  download: "M10 3v10m-4-4 4 4 4-4M4 17h12",
} as const;

export type IconName = keyof typeof paths;

export function Icon({ name, filled = false }: { name: IconName; filled?: boolean }): JSX.Element {
  return (
    <svg class={filled ? "icon filled" : "icon"} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={paths[name]} />
    </svg>
  );
}

/** A howdah on its elephant, in one line. */
export function Mark(): JSX.Element {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <path d="M6 25v-6a6 6 0 0 1 6-6h6a6 6 0 0 1 6 6v3a2.500 2.500 0 0 0 4 2M11 25v-4m8 4v-4" />
      <path d="M10.500 9.500 15 5.500l4.500 4M11.500 9.500V13m7-3.500V13" />
    </svg>
  );
}
