// Random statements by seed: predicates over the columns of `messages` that cannot fail, and hostile variations of
// anything.

/** mulberry32: small, seeded, good enough to choose with. */
export class Random {
  constructor(private state: number) {}

  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  below(n: number): number {
    return Math.floor(this.next() * n);
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  chance(p: number): boolean {
    return this.next() < p;
  }
}

const textColumns = ["conversation_id", "from", "content", "client_msg_id", "conversation_type"] as const;
const words = ["alpha", "Beta", "gamma ray", "", "100%", "a_b", "it''s", "ünïcödé", "zebra", "c1", "c2", "u1", "ai"];

export interface Ids {
  from: number;
  to: number;
}

export class Predicates {
  constructor(
    readonly random: Random,
    readonly ids: Ids,
  ) {}

  private id(): string {
    const { from, to } = this.ids;
    return String(from - 2 + this.random.below(to - from + 5));
  }

  private time(): string {
    return `TIMESTAMPTZ '2025-06-0${1 + this.random.below(9)} ${String(this.random.below(24)).padStart(2, "0")}:00:00Z'`;
  }

  text(depth: number): string {
    const r = this.random;
    if (depth <= 0 || r.chance(0.5)) return r.chance(0.7) ? r.pick(textColumns) : `'${r.pick(words)}'`;
    switch (r.below(7)) {
      case 0:
        return `lower(${this.text(depth - 1)})`;
      case 1:
        return `coalesce(${this.text(depth - 1)}, ${this.text(depth - 1)})`;
      case 2:
        return `(${this.text(depth - 1)} || ${this.text(depth - 1)})`;
      case 3:
        return `substr(${this.text(depth - 1)}, ${1 + r.below(3)}, ${r.below(5)})`;
      case 4:
        return `CASE WHEN ${this.predicate(depth - 1)} THEN ${this.text(depth - 1)} ELSE ${this.text(depth - 1)} END`;
      case 5:
        return `nullif(${this.text(depth - 1)}, ${this.text(depth - 1)})`;
      default:
        return `(metadata->>'${r.pick(["kind", "n", "none"])}')`;
    }
  }

  number(depth: number): string {
    const r = this.random;
    if (depth <= 0 || r.chance(0.4)) return r.chance(0.6) ? "msg_id" : r.chance(0.5) ? this.id() : String(r.below(40) - 10);
    switch (r.below(5)) {
      case 0:
        return `length(${this.text(depth - 1)})`;
      case 1:
        return `(${this.number(depth - 1)} ${r.pick(["+", "-"])} ${r.below(20)})`;
      case 2:
        return `(${this.number(depth - 1)} ${r.pick(["/", "%"])} ${1 + r.below(9)})`;
      case 3:
        return `position('${r.pick(["a", "b", "e"])}' IN ${this.text(depth - 1)})`;
      default:
        return `CASE WHEN ${this.predicate(depth - 1)} THEN ${this.number(depth - 1)} END`;
    }
  }

  predicate(depth: number): string {
    const r = this.random;
    const compare = () => r.pick(["=", "<>", "<", "<=", ">", ">="]);
    if (depth > 0 && r.chance(0.45)) {
      switch (r.below(4)) {
        case 0:
          return `(${this.predicate(depth - 1)} AND ${this.predicate(depth - 1)})`;
        case 1:
          return `(${this.predicate(depth - 1)} OR ${this.predicate(depth - 1)})`;
        case 2:
          return `NOT (${this.predicate(depth - 1)})`;
        default:
          return `((${this.predicate(depth - 1)}) IS ${r.pick(["TRUE", "FALSE", "NOT TRUE", "NOT FALSE", "NULL", "NOT NULL"])})`;
      }
    }
    switch (r.below(10)) {
      case 0:
      case 1:
        return `${this.number(depth)} ${compare()} ${this.number(depth)}`;
      case 2:
      case 3:
        return `${this.text(depth)} ${compare()} ${this.text(depth)}`;
      case 4:
        return `timestamp ${compare()} ${this.time()}`;
      case 5:
        return `${this.text(depth)} ${r.pick(["", "NOT "])}${r.pick(["LIKE", "ILIKE"])} '${r.pick(["%a%", "_l%", "%", "", "100\\%", "%ray", "a\\_b"])}'`;
      case 6:
        return `${this.number(depth)} ${r.pick(["", "NOT "])}BETWEEN ${this.id()} AND ${this.id()}`;
      case 7:
        return `${this.text(depth)} ${r.pick(["", "NOT "])}IN ('${r.pick(words)}', '${r.pick(words)}'${r.chance(0.2) ? ", NULL" : ""})`;
      case 8:
        return `${this.text(depth)} IS ${r.pick(["", "NOT "])}NULL`;
      default:
        return `${this.text(depth)} IS ${r.pick(["", "NOT "])}DISTINCT FROM ${this.text(depth)}`;
    }
  }
}

/** Variations of a statement that keep most of it: words swapped, repeated, dropped, replaced by others. */
export function mutate(random: Random, statements: readonly string[], spice: readonly string[]): string {
  const word = () => random.pick(random.pick(statements).match(/\w+/g) ?? ["x"]);
  const tokens = (sql: string) => sql.match(/\s+|'(?:[^']|'')*'|"[^"]*"|\w+|[^\s\w]/g) ?? [];
  const out = tokens(random.pick(statements));
  for (let i = random.below(3); i >= 0; i--) {
    const at = random.below(out.length + 1);
    switch (random.below(10)) {
      case 0:
        out.splice(at, 1);
        break;
      case 1:
        out.splice(at, 0, " ", random.pick(spice), " ");
        break;
      case 2:
        out.splice(at, 1, random.pick(spice));
        break;
      case 6:
      case 7:
      case 8:
      case 9: {
        const words = out.map((t, i) => (/^\w+$/.test(t) ? i : -1)).filter((i) => i >= 0);
        if (words.length > 0) out[random.pick(words)] = word();
        break;
      }
      case 3: {
        const other = tokens(random.pick(statements));
        const from = random.below(other.length);
        out.splice(at, random.below(3), " ", ...other.slice(from, from + 1 + random.below(6)), " ");
        break;
      }
      case 4:
        out.splice(at, 0, ...out.slice(random.below(out.length + 1), random.below(out.length + 1)));
        break;
      default: {
        const with_ = `(${random.pick(statements).replace(/;\s*$/, "")})`;
        out.splice(at, random.below(2), with_);
      }
    }
  }
  return out.join("").slice(0, 4000);
}
