/**
 * What `@huggingface/jinja` leaves out of Python: `strip`, `lstrip` and `rstrip` with the characters to take off (Qwen's and SmolLM's templates
 * cut line feeds off a thought with them, and no spaces), and how lists, objects and booleans are printed.
 */
import { Environment } from "@huggingface/jinja";

/** A value while a template runs, as far as it is used here. */
interface Value {
  readonly type: string;
  readonly value: unknown;
  toString(): string;
}
type Call = new (call: (args: Value[]) => Value) => Value;
type Text = new (text: string) => Value;

const made = (value: unknown): Value => new Environment().set("value", value) as unknown as Value;
const classOf = (value: Value): { readonly prototype: object } =>
  (value as unknown as { constructor: { prototype: object } }).constructor;

const StringValue = classOf(made("")) as unknown as Text;
const builtinsOf = Object.getOwnPropertyDescriptor(StringValue.prototype, "builtins")?.get as
  | ((this: Value) => Map<string, Value>)
  | undefined;
const patched = new WeakSet<object>();

if (builtinsOf !== undefined) {
  Object.defineProperty(StringValue.prototype, "builtins", {
    configurable: true,
    get(this: Value) {
      const builtins = builtinsOf.call(this);
      if (patched.has(builtins)) return builtins;
      patched.add(builtins);
      const FunctionValue = classOf(builtins.get("strip")!) as unknown as Call;
      for (const [name, left, right] of [
        ["strip", true, true],
        ["lstrip", true, false],
        ["rstrip", false, true],
      ] as const) {
        const whole = builtins.get(name)!.value as (args: Value[]) => Value;
        const strip = (args: Value[]): Value => {
          const [set] = args;
          if (set?.type !== "StringValue") return whole(args);
          return new StringValue(stripped(this.value as string, set.value as string, left, right));
        };
        builtins.set(name, new FunctionValue(strip));
      }
      return builtins;
    },
  });
}

for (const sample of [[], {}, true]) {
  Object.defineProperty(classOf(made(sample)).prototype, "toString", {
    configurable: true,
    writable: true,
    value(this: Value) {
      return printed(this);
    },
  });
}

function stripped(from: string, set: string, left: boolean, right: boolean): string {
  const taken = new Set(set);
  const characters = [...from];
  let start = 0;
  let end = characters.length;
  while (left && start < end && taken.has(characters[start]!)) start++;
  while (right && end > start && taken.has(characters[end - 1]!)) end--;
  return characters.slice(start, end).join("");
}

/** As Python's `repr` prints it. */
function printed(value: Value): string {
  switch (value.type) {
    case "NullValue":
      return "None";
    case "BooleanValue":
      return value.value === true ? "True" : "False";
    case "StringValue":
      return quoted(value.value as string);
    case "ArrayValue":
      return `[${(value.value as Value[]).map(printed).join(", ")}]`;
    case "ObjectValue":
      return `{${[...(value.value as Map<string, Value>)].map(([key, item]) => `${quoted(key)}: ${printed(item)}`).join(", ")}}`;
    default:
      return value.toString();
  }
}

const ESCAPES: Readonly<Record<string, string>> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

function quoted(given: string): string {
  const quote = given.includes("'") && !given.includes('"') ? '"' : "'";
  const escaped = given.replace(
    /[\\\p{Cc}]/gu,
    (c) => ESCAPES[c] ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
}

export { Template } from "@huggingface/jinja";
