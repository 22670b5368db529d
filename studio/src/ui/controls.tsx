import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icons.tsx";

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: () => void;
  /** For buttons that stay down: whether it is. */
  pressed?: boolean;
  disabled?: boolean;
  children?: ComponentChildren;
  class?: string;
}

/** A quiet button; without children the label is its tooltip and its name. */
export function IconButton({
  icon,
  label,
  onClick,
  pressed,
  disabled,
  children,
  class: extra,
}: IconButtonProps): JSX.Element {
  return (
    <button
      type="button"
      class={`quiet ${extra ?? ""}`}
      title={children === undefined ? label : undefined}
      aria-label={children === undefined ? label : undefined}
      aria-pressed={pressed}
      disabled={disabled}
      onClick={onClick}
    >
      <Icon name={icon} filled={pressed === true} />
      {children}
    </button>
  );
}

/** An empty page's few words in the middle. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <div class="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

export interface Tab {
  id: string;
  label: string;
}

/** A row of tabs with the keys of the ARIA pattern: arrows, Home and End move, focus selects. */
export function Tabs(props: {
  tabs: readonly Tab[];
  selected: string;
  onSelect: (id: string) => void;
  label: string;
}): JSX.Element {
  const { tabs, selected, onSelect, label } = props;
  const row = useRef<HTMLDivElement>(null);
  // On a narrow screen the row is wider than it.
  useEffect(() => {
    row.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [selected]);
  const move = (event: KeyboardEvent) => {
    const at = tabs.findIndex((tab) => tab.id === selected);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = (to + tabs.length) % tabs.length;
    onSelect(tabs[next]?.id ?? selected);
    row.current?.querySelectorAll<HTMLElement>("[role=tab]")[next]?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label={label} ref={row} onKeyDown={move}>
      {tabs.map(({ id, label }) => (
        <button
          key={id}
          type="button"
          role="tab"
          id={`tab-${id}`}
          aria-selected={id === selected}
          aria-controls={`panel-${id}`}
          tabIndex={id === selected ? 0 : -1}
          onClick={() => onSelect(id)}
        >
          {label}
        </button>
      ))}
    </div>
  );
}

export function TabPanel({ id, children }: { id: string; children: ComponentChildren }): JSX.Element {
  return (
    <div role="tabpanel" id={`panel-${id}`} aria-labelledby={`tab-${id}`} class="panel">
      {children}
    </div>
  );
}

/** A dialog of the browser's own kind: it keeps the focus in, and Esc closes it. */
export function Dialog(props: { title: string; onClose: () => void; children: ComponentChildren }): JSX.Element {
  const { title, onClose, children } = props;
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-label={title} onClose={onClose}>
      <h2>{title}</h2>
      {children}
    </dialog>
  );
}
