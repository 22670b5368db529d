/**
 * What `@huggingface/jinja` leaves out of Python: `strip`, `lstrip` and `rstrip` with the characters to take off (Qwen's and SmolLM's templates
 * cut line feeds off a thought with them, and no spaces), how values are printed, compared and joined, which filters are lazy, and what `safe`
 * does to the text beside it. What would come out otherwise than in Python is refused by name.
 */
import { Environment, Interpreter } from "@huggingface/jinja";

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
const ArrayValue = classOf(made([])) as unknown as new (items: Value[]) => Value;
const BooleanValue = classOf(made(true)) as unknown as new (value: boolean) => Value;
const UndefinedValue = classOf(made(undefined)) as unknown as new () => Value;

/** Lists that Python has as tuples; as generators, which only a loop or a filter reads; strings that `safe` has marked. */
const tuples = new WeakSet<Value>();
const lazies = new WeakSet<Value>();
const safes = new WeakSet<Value>();
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
      builtins.set("format", new FunctionValue((args) => formatted(this.value as string, args)));
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

/** `str.format` for the field `{}`, which takes the arguments one after another. */
function formatted(pattern: string, args: readonly Value[]): Value {
  const fields = pattern.split("{}");
  if (/[{}]/.test(fields.join("")) || args.some(({ type }) => type === "KeywordArgumentsValue"))
    throw new Error(`format: only the field {} is known here, and ${JSON.stringify(pattern)} has others`);
  if (fields.length - 1 > args.length) throw new Error("format: fewer arguments than fields {}");
  return new StringValue(fields.map((part, i) => (i === 0 ? part : printedText(args[i - 1]!) + part)).join(""));
}

/** As Python's `str` prints it. */
function printedText(value: Value): string {
  if (value.type === "StringValue") return value.value as string;
  return value.type === "UndefinedValue" ? "" : printed(value);
}

/** As Python's `repr` prints it. */
function printed(value: Value): string {
  if (lazies.has(value)) throw new Error("a lazy filter's result is printed without `| list`");
  switch (value.type) {
    case "NullValue":
      return "None";
    case "UndefinedValue":
      return "Undefined";
    case "BooleanValue":
      return value.value === true ? "True" : "False";
    case "IntegerValue":
      if (!Number.isSafeInteger(value.value)) throw new Error(`the number ${value.value} is too large to be exact`);
      return String(value.value);
    case "FloatValue":
      return float(value.value as number);
    case "StringValue":
      return quoted(value.value as string);
    case "ArrayValue":
    case "TupleValue": {
      const items = (value.value as Value[]).map(printed);
      if (!tuples.has(value)) return `[${items.join(", ")}]`;
      return items.length === 1 ? `(${items[0]},)` : `(${items.join(", ")})`;
    }
    case "ObjectValue":
      return `{${[...(value.value as Map<string, Value>)].map(([key, item]) => `${quoted(key)}: ${printed(item)}`).join(", ")}}`;
    default:
      throw new Error(`a ${value.type} is printed`);
  }
}

/** As Python prints a float: the fewest digits that give it back, with an exponent below 1e-4 and from 1e16 on. */
function float(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [digits, exponent] = value.toExponential().split("e") as [string, string];
  const power = Number(exponent);
  if (power < -4 || power >= 16) return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  // JavaScript has an exponent from 1e-7 down, so these are written out.
  return Number.isInteger(value) ? value.toFixed(1) : String(value);
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

/** The parts of the interpreter that are changed here; its types call them private. */
interface Evaluator {
  evaluate(node: Node | undefined, scope: unknown): Value;
  evaluateBlock(nodes: readonly Node[], scope: unknown): Value;
  evaluateBinaryExpression(node: Node, scope: unknown): Value;
  evaluateMemberExpression(node: Node, scope: unknown): Value;
  evaluateTestExpression(node: Node, scope: unknown): Value;
  applyFilter(operand: Value, filter: Node, scope: unknown): Value;
}
interface Node {
  readonly type: string;
  readonly [part: string]: unknown;
}

const evaluator = Interpreter.prototype as unknown as Evaluator;
const theirs: Evaluator = {
  evaluate: evaluator.evaluate,
  evaluateBlock: evaluator.evaluateBlock,
  evaluateBinaryExpression: evaluator.evaluateBinaryExpression,
  evaluateMemberExpression: evaluator.evaluateMemberExpression,
  evaluateTestExpression: evaluator.evaluateTestExpression,
  applyFilter: evaluator.applyFilter,
};

/** A value that is already there, as a node. */
const ready = (value: Value): Node => ({ type: "Ready", value });

const controlOf = (type: string): (abstract new () => object) => {
  try {
    theirs.evaluate.call(evaluator, { type }, undefined);
  } catch (error) {
    return (error as { constructor: abstract new () => object }).constructor;
  }
  throw new Error(`@huggingface/jinja: ${type} no longer leaves a loop`);
};
const BreakControl = controlOf("Break");
const ContinueControl = controlOf("Continue");
const loopBodies = new WeakSet<object>();
/** What blocks had printed before they were left. */
const before = new WeakMap<object, string>();

/** These give None and print nothing. */
const SILENT: ReadonlySet<string> = new Set(["Set", "Macro", "Comment"]);
const ITERABLE: ReadonlySet<string> = new Set(["ArrayValue", "StringValue", "ObjectValue", "UndefinedValue"]);
const METHODS: ReadonlySet<string> = new Set(["get", "items", "keys", "values"]);
const LAZY: ReadonlySet<string> = new Set(["map", "selectattr", "rejectattr", "unique"]);
/** Filters that read a generator, and those that a safe string goes through. */
const OF_LAZY: ReadonlySet<string> = new Set([...LAZY, "list", "first", "join", "sort", "min", "max"]);
const OF_TEXT: ReadonlySet<string> = new Set(["trim", "upper", "lower"]);
const OF_SAFE: ReadonlySet<string> = new Set(["safe", "string", "trim", "length", "tojson", "default"]);

Object.assign(evaluator, {
  evaluate(this: Evaluator, node, scope) {
    if (node?.type === "Ready") return node.value as Value;
    if (node?.type === "For") return theirs.evaluate.call(this, loopOver.call(this, node, scope), scope);
    const value = theirs.evaluate.call(this, node, scope);
    if (node?.type !== "TupleLiteral") return value;
    // A loop takes apart what it takes for a list.
    const tuple = new ArrayValue(value.value as Value[]);
    tuples.add(tuple);
    return tuple;
  },
  evaluateBlock(this: Evaluator, nodes, scope) {
    let text = "";
    try {
      for (const node of nodes) {
        const value = this.evaluate(node, scope);
        if (value.type !== "NullValue" || !SILENT.has(node.type)) text += printedText(value);
      }
    } catch (error) {
      if (!(error instanceof BreakControl || error instanceof ContinueControl)) throw error;
      // The loop would forget what was printed before `continue` or `break`.
      text += before.get(error) ?? "";
      if (loopBodies.has(nodes) && error instanceof ContinueControl) return new StringValue(text);
      if (loopBodies.has(nodes) && text !== "") throw new Error("text before a break", { cause: error });
      before.set(error, text);
      throw error;
    }
    return new StringValue(text);
  },
  evaluateBinaryExpression(this: Evaluator, node, scope) {
    const operator = (node.operator as { readonly value: string }).value;
    if (operator === "and" || operator === "or") return theirs.evaluateBinaryExpression.call(this, node, scope);
    const left = this.evaluate(node.left as Node, scope);
    const right = this.evaluate(node.right as Node, scope);
    if (operator === "==" || operator === "!=") return new BooleanValue(equal(left, right) === (operator === "=="));
    if (operator === "~") return new StringValue(printedText(left) + printedText(right));
    if ((operator === "in" || operator === "not in") && right.type === "ArrayValue")
      return new BooleanValue((right.value as Value[]).some((item) => equal(item, left)) === (operator === "in"));
    if (operator === "+" && (left.type === "StringValue" || right.type === "StringValue")) return sum(left, right);
    return theirs.evaluateBinaryExpression.call(this, { ...node, left: ready(left), right: ready(right) }, scope);
  },
  evaluateMemberExpression(this: Evaluator, node, scope) {
    const object = this.evaluate(node.object as Node, scope);
    if (lazies.has(object)) throw new Error("a part of a lazy filter's result is asked for without `| list`");
    const property = node.property as Node;
    if (object.type === "ObjectValue" && node.computed !== true && METHODS.has(String(property.value))) {
      // In Python an object's methods come before its keys.
      return (object as unknown as { readonly builtins: ReadonlyMap<string, Value> }).builtins.get(
        String(property.value),
      )!;
    }
    if (object.type === "ObjectValue" && node.computed === true && property.type !== "SliceExpression") {
      const key = this.evaluate(property, scope);
      // The keys of an object are strings, so there is nothing under another.
      if (key.type !== "StringValue") return new UndefinedValue();
      return theirs.evaluateMemberExpression.call(
        this,
        { ...node, object: ready(object), property: ready(key) },
        scope,
      );
    }
    return theirs.evaluateMemberExpression.call(this, { ...node, object: ready(object) }, scope);
  },
  evaluateTestExpression(this: Evaluator, node, scope) {
    if ((node.test as Node).value !== "iterable") return theirs.evaluateTestExpression.call(this, node, scope);
    const { type } = this.evaluate(node.operand as Node, scope);
    return new BooleanValue(ITERABLE.has(type) !== (node.negate === true));
  },
  applyFilter(this: Evaluator, operand, filter, scope) {
    const name = String((filter.type === "CallExpression" ? (filter.callee as Node) : filter).value);
    const nothing = operand.type === "UndefinedValue" || operand.type === "NullValue";
    if (nothing && (LAZY.has(name) || (name === "items" && operand.type === "UndefinedValue"))) return lazy([]);
    if (lazies.has(operand) && !OF_LAZY.has(name))
      throw new Error(`${name} of a lazy filter's result without \`| list\``);
    if (safes.has(operand) && !OF_SAFE.has(name)) throw new Error(`the filter ${name} after safe`);
    if (OF_TEXT.has(name) && (nothing || isNumber(operand)))
      return theirs.applyFilter.call(this, new StringValue(printedText(operand)), filter, scope);
    switch (name) {
      case "string":
        return safes.has(operand) ? operand : new StringValue(printedText(operand));
      case "safe": {
        const text = new StringValue(printedText(operand));
        safes.add(text);
        return text;
      }
      case "list":
        if (operand.type === "ArrayValue") return new ArrayValue([...(operand.value as Value[])]);
        break;
      case "min":
      case "max":
        return extreme(name, operand, filter);
      case "tojson": {
        const json = theirs.applyFilter.call(this, jsonable(operand, isSorted(filter)), filter, scope).value as string;
        return new StringValue(json.replace(/"(?:\ufdd3|\\ufdd3)([^"]*)"/g, "$1"));
      }
    }
    const result = theirs.applyFilter.call(this, operand, filter, scope) ?? new UndefinedValue();
    if (name === "trim" && safes.has(operand)) safes.add(result);
    return LAZY.has(name) || (name === "reverse" && result.type === "ArrayValue")
      ? lazy(result.value as Value[])
      : result;
  },
} satisfies Evaluator);

/** The same loop, over nothing where its list is not defined, and over the characters of a string. */
function loopOver(this: Evaluator, node: Node, scope: unknown): Node {
  loopBodies.add(node.body as object);
  const iterable = node.iterable as Node;
  const chosen = iterable.type === "SelectExpression";
  const given = this.evaluate(chosen ? (iterable.lhs as Node) : iterable, scope);
  const items =
    given.type === "UndefinedValue"
      ? new ArrayValue([])
      : given.type === "StringValue"
        ? new ArrayValue([...(given.value as string)].map((character) => new StringValue(character)))
        : given;
  return { ...node, iterable: chosen ? { ...iterable, lhs: ready(items) } : ready(items) };
}

const truth = Object.getOwnPropertyDescriptor(ArrayValue.prototype, "__bool__")?.value as (this: Value) => Value;
Object.defineProperty(ArrayValue.prototype, "__bool__", {
  configurable: true,
  writable: true,
  // A generator is true, whether anything will come or not.
  value(this: Value) {
    return lazies.has(this) ? new BooleanValue(true) : truth.call(this);
  },
});

function lazy(items: Value[]): Value {
  const value = new ArrayValue(items);
  lazies.add(value);
  return value;
}

const isNumber = ({ type }: Value): boolean =>
  type === "IntegerValue" || type === "FloatValue" || type === "BooleanValue";

/** As Python's `==` compares. */
function equal(left: Value, right: Value): boolean {
  if (isNumber(left) && isNumber(right)) return Number(left.value) === Number(right.value);
  if (left.type !== right.type) return false;
  if (left.type === "ArrayValue") {
    const [a, b] = [left.value as Value[], right.value as Value[]];
    if (lazies.has(left) || lazies.has(right) || tuples.has(left) !== tuples.has(right)) return left === right;
    return a.length === b.length && a.every((item, i) => equal(item, b[i]!));
  }
  if (left.type === "ObjectValue") {
    const [a, b] = [left.value as Map<string, Value>, right.value as Map<string, Value>];
    return a.size === b.size && [...a].every(([key, item]) => b.has(key) && equal(item, b.get(key)!));
  }
  return left.value === right.value;
}

const HTML: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;" };

/** Two strings; beside a safe one the other is escaped, and the whole is safe. */
function sum(left: Value, right: Value): Value {
  if (left.type !== "StringValue" || right.type !== "StringValue")
    throw new Error(`a ${left.type} + a ${right.type}, which Python does not add`);
  const marked = safes.has(left) || safes.has(right);
  const part = (value: Value): string =>
    marked && !safes.has(value)
      ? (value.value as string).replace(/[&<>'"]/g, (c) => HTML[c]!)
      : (value.value as string);
  const text = new StringValue(part(left) + part(right));
  if (marked) safes.add(text);
  return text;
}

/** The least or largest of numbers; the first of equals. */
function extreme(name: "min" | "max", operand: Value, filter: Node): Value {
  if (operand.type !== "ArrayValue" || filter.type === "CallExpression" || !(operand.value as Value[]).every(isNumber))
    throw new Error(`${name} is known here for a list of numbers, without arguments`);
  let best: Value | undefined;
  for (const item of operand.value as Value[]) {
    const better = best === undefined || (name === "min" ? item.value! < best.value! : item.value! > best.value!);
    if (better) best = item;
  }
  return best ?? new UndefinedValue();
}

const isSorted = ({ args = [] }: Node): boolean =>
  (args as Node[]).some(({ key }) => (key as { readonly value?: unknown } | undefined)?.value === "sort_keys");

/** Keys are sorted by the language's order, and in Python by their characters' numbers. */
function requireSameOrder(keys: readonly string[]): void {
  const ours = [...keys].sort((a, b) => a.localeCompare(b));
  const pythons = [...keys].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  if (ours.join("\0") !== pythons.join("\0")) throw new Error(`tojson with sort_keys of the keys ${keys.join(", ")}`);
}

/** What JSON writes as Python does: floats that JavaScript writes otherwise become marked strings. */
function jsonable(value: Value, sorted: boolean): Value {
  if (lazies.has(value)) throw new Error("tojson of a lazy filter's result without `| list`");
  switch (value.type) {
    case "UndefinedValue":
      throw new Error("tojson of a value that is not defined");
    case "FloatValue": {
      const number = value.value as number;
      const text = Number.isNaN(number) ? "NaN" : float(number).replace("inf", "Infinity");
      return text === JSON.stringify(number) ? value : new StringValue(`\ufdd3${text}`);
    }
    case "ArrayValue":
      return new ArrayValue((value.value as Value[]).map((item) => jsonable(item, sorted)));
    case "ObjectValue": {
      const entries = [...(value.value as Map<string, Value>)].map(
        ([key, item]) => [key, jsonable(item, sorted)] as const,
      );
      if (sorted) requireSameOrder(entries.map(([key]) => key));
      return new (value.constructor as new (entries: Map<string, Value>) => Value)(new Map(entries));
    }
    default:
      return value;
  }
}

export { Template } from "@huggingface/jinja";
