// Random statements of several people in groups and ai conversations, against a model of what groups are: every
// table of everybody, every counter and every live device must be as the model says, through consolidation, restarts
// and SIGKILL in the middle of a statement. KALAMDB_MODEL_ROUNDS plays more rounds, KALAMDB_TEST_SEED another game.
import assert from "node:assert/strict";
import { it } from "node:test";
import { Server, type Answer } from "./harness.ts";
import { random } from "./crash.ts";
import * as model from "./group-model.ts";
import type { Role, State, Step } from "./group-model.ts";

const people = ["ann", "ben", "cat", "dan", "eve"];
const ids = ["g0", "g1", "g2", "g3"];
const roles: Role[] = ["owner", "admin", "member"];
const ranks: Record<Role, number> = { member: 0, admin: 1, owner: 2 };

class Game {
  state: State = model.empty();
  readonly mirrors = people.map((name) => new model.Mirror(name));
  readonly trace: string[] = [];
  private n = 0;

  constructor(
    readonly server: Server,
    readonly rng: () => number,
  ) {}

  pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.rng() * list.length)];
  }

  chance(p: number): boolean {
    return this.rng() < p;
  }

  private text(actor: string): string {
    const text = `${actor} ${++this.n}`;
    return this.chance(0.06) ? text + "x".repeat(model.LARGE + this.n) : text;
  }

  private step(actor: string, sql: string, params: any[], status: number, apply: Step["apply"], more: Partial<Step> = {}, service = false): Step {
    const bare = service ? "backend" : actor;
    return { label: `${service ? "service as " : ""}${actor}: ${sql} ${JSON.stringify(params).slice(0, 120)}`, actor, status, apply, run: () => this.server.query(bare, sql, params, service ? "service" : "user"), ...more };
  }

  // ---- sends -------------------------------------------------------------------------------------------------------

  private send(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const type = this.pick([null, null, null, "ai", "group"]);
    const own = model.userOf(s, actor).convs.get(id);
    const service = this.chance(0.1);
    let status = 200;
    let asGroup = false;
    if (own !== undefined) {
      if (own.group !== 0 && !own.present) status = 403;
    } else if (type !== "ai") {
      if (s.groups.has(id)) status = 403;
      asGroup = type === "group";
    }
    const target = model.groupOf(s, actor, id);
    const inGroup = target !== undefined || asGroup;
    let from = actor;
    if (service) from = this.pick([actor, "assistant:gpt", "somebody"]);
    else if (this.chance(0.2)) {
      from = "assistant";
      if (inGroup && status === 200) status = 403;
    }
    const contents = this.chance(0.2) ? [this.text(actor), this.text(actor), this.text(actor)] : [this.text(actor)];
    const table = this.chance(0.2) ? "conversations" : "messages";
    const params: any[] = [id, type, from, ...contents];
    const values = contents.map((_, i) => `($1, $2, $3, $${i + 4})`).join(", ");
    const sql = `INSERT INTO ${service ? `${actor}.` : ""}${table} (conversation_id, conversation_type, "from", content) VALUES ${values}`;
    const apply = (to: State, made: number[]) => contents.forEach((content, i) => model.append(to, actor, id, from, content, made[i], asGroup));
    return this.step(actor, sql, params, status, apply, { affected: contents.length, makes: contents }, service);
  }

  /** The same message under one key, from one device or two at once. */
  private keyed(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const group = model.groupOf(s, actor, id);
    if (group === undefined) return this.send();
    const key = `k${Math.floor(this.rng() * 6)}`;
    const known = `${group.no} ${actor} ${key}`;
    const content = this.text(actor);
    const sql = "INSERT INTO messages (conversation_id, content, client_msg_id) VALUES ($1, $2, $3)";
    const first = s.keys.get(known);
    const step = this.step(actor, sql, [id, content, key], 200, (to, made) => {
      if (first !== undefined) return assert.equal(made[0], first, `${actor}: another id for ${known}`);
      to.keys.set(known, made[0]);
      model.append(to, actor, id, actor, content, made[0], false);
    });
    step.affected = first === undefined ? 1 : 0;
    if (first === undefined) step.makes = [content];
    const once = step.run;
    step.run = async () => {
      const answers = await Promise.all([once(), once(), once()]);
      const [a] = answers.sort((x, y) => (y.body.rowsAffected ?? 0) - (x.body.rowsAffected ?? 0));
      for (const b of answers.slice(1)) assert.deepEqual([b.status, b.body.rowsAffected, b.body.insertedId], [200, 0, a.body.insertedId]);
      return a;
    };
    return step;
  }

  /** A service that brings old messages with their ids. */
  private migrated(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    if (!model.userOf(s, actor).convs.has(id)) return this.send();
    const own = model.userOf(s, actor).convs.get(id)!;
    const group = model.groupOf(s, actor, id);
    const msg = 1 + Math.floor(this.rng() * 40);
    const to = group === undefined ? [actor] : [...group.members.keys()];
    const taken = to.some((m) => model.userOf(s, m).rows.has(msg) || model.userOf(s, m).deleted.has(msg));
    const status = own.group !== 0 && !own.present ? 403 : taken ? 409 : 200;
    const content = this.text(actor);
    const sql = `INSERT INTO ${actor}.messages (msg_id, conversation_id, "from", content) VALUES ($1, $2, 'old', $3)`;
    return this.step(actor, sql, [msg, id, content], status, (to) => model.append(to, actor, id, "old", content, msg, false), { affected: 1, makes: [content] }, true);
  }

  // ---- edits and deletions -----------------------------------------------------------------------------------------

  private someRows(actor: string): { where: string; params: any[]; rows: model.Row[] } {
    const all = [...model.userOf(this.state, actor).rows.values()];
    if (all.length > 0 && this.chance(0.75)) {
      // The newest, the oldest, or any.
      all.sort((a, b) => a.id - b.id);
      const row = this.chance(0.25) ? all[0] : this.chance(0.3) ? all.at(-1)! : this.pick(all);
      return { where: "msg_id = $1", params: [row.id], rows: [row] };
    }
    const id = this.pick(ids);
    const from = this.pick(people);
    const rows = all.filter((row) => row.conv === id && row.from === from && row.id % 3 === 0);
    return { where: `conversation_id = $1 AND "from" = $2 AND msg_id % 3 = 0`, params: [id, from], rows };
  }

  private edit(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const { where, params, rows } = this.someRows(actor);
    const service = this.chance(0.1);
    const set = this.chance(0.8) ? { content: this.text(actor) } : { metadata: { edited: ++this.n } };
    const column = "content" in set ? "content" : "metadata";
    const sql = `UPDATE ${service ? `${actor}.` : ""}messages SET ${column} = $${params.length + 1} WHERE ${where}`;
    const status = model.allowed(s, actor, rows, service) ? 200 : 403;
    return this.step(actor, sql, [...params, Object.values(set)[0]], status, (to) => model.edit(to, actor, rows.map((r) => r.id), set), { affected: rows.length }, service);
  }

  private dropOwn(): Step {
    const actor = this.pick(people);
    const { where, params, rows } = this.someRows(actor);
    return this.step(actor, `DELETE FROM messages WHERE ${where}`, params, 200, (to) => model.drop(to, actor, rows.map((r) => r.id)), { affected: rows.length });
  }

  private dropForAll(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const all = [...model.userOf(s, actor).rows.values()].sort((a, b) => a.id - b.id);
    if (all.length === 0) return this.send();
    const row = this.chance(0.2) ? all[0] : this.chance(0.3) ? all.at(-1)! : this.pick(all);
    return {
      label: `${actor}: DELETE ${row.id} for everyone`,
      actor,
      status: model.allowed(s, actor, [row]) ? 200 : 403,
      affected: 1,
      run: () => this.server.request("DELETE", `/api/v1/messages/${row.id}?for=everyone`, { token: this.server.token(actor) }),
      apply: (to) => model.holders(to, actor, row).forEach((name) => model.drop(to, name, [row.id])),
    };
  }

  private dropConversation(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const conv = model.userOf(s, actor).convs.get(id);
    return this.step(actor, "DELETE FROM conversations WHERE conversation_id = $1", [id], 200, (to) => {
      if (conv === undefined) return;
      model.drop(to, actor, model.rowsOf(to, actor, id).map((r) => r.id));
      const group = model.groupOf(to, actor, id);
      if (group !== undefined) {
        model.leave(to, actor, group);
        model.settle(to, group);
      }
      model.userOf(to, actor).convs.delete(id);
    }, { affected: conv === undefined ? 0 : 1 });
  }

  // ---- members -----------------------------------------------------------------------------------------------------

  private make(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const members = people.filter((name) => name !== actor && this.chance(0.5)).map((user_id) => ({ user_id, role: this.pick(roles) }));
    const metadata = this.chance(0.5) ? { history: "shared" } : null;
    const taken = s.groups.has(id) || [actor, ...members.map((m) => m.user_id)].some((name) => model.userOf(s, name).convs.has(id));
    const body = { conversation_id: id, conversation_type: "group", title: `made ${++this.n}`, members, metadata };
    return {
      label: `${actor}: makes ${JSON.stringify(body)}`,
      actor,
      status: taken ? 409 : 201,
      run: () => this.server.request("POST", "/api/v1/conversations", { token: this.server.token(actor), body }),
      apply: (to) => {
        model.makeGroup(to, actor, id, body.title, metadata);
        for (const m of members) model.enter(to, to.groups.get(id)!, m.user_id, m.role, to.clock);
      },
    };
  }

  private join(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const who = this.pick(people.filter((name) => name !== actor));
    const role = this.pick(roles);
    const group = model.groupOf(s, actor, id);
    const own = model.userOf(s, actor).convs.get(id);
    const theirs = model.userOf(s, who).convs.get(id);
    const sql = "INSERT INTO conversation_users (conversation_id, user_id, role) VALUES ($1, $2, $3)";
    if (group === undefined && own === undefined && !s.groups.has(id)) {
      const status = theirs === undefined ? 200 : 409;
      return this.step(actor, sql, [id, who, role], status, (to) => {
        model.makeGroup(to, actor, id);
        model.enter(to, to.groups.get(id)!, who, role, to.clock);
      });
    }
    let status = 200;
    if (group === undefined) status = own !== undefined && own.group === 0 ? 409 : 403;
    else {
      const mine = ranks[group.members.get(actor)!.role];
      if (mine < ranks.admin || ranks[role] > mine) status = 403;
      else if (theirs !== undefined && (theirs.group !== group.no || theirs.present)) status = 409;
    }
    return this.step(actor, sql, [id, who, role], status, (to) => model.enter(to, to.groups.get(id)!, who, role, ++to.clock), { affected: 1, copies: { user: who, group: id } });
  }

  private part(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const group = model.groupOf(s, actor, id);
    const own = model.userOf(s, actor).convs.get(id);
    const all = this.chance(0.05);
    const who = this.chance(0.5) ? actor : this.pick(people);
    const sql = `DELETE FROM conversation_users WHERE conversation_id = $1${all ? "" : " AND user_id = $2"}`;
    const params = all ? [id] : [id, who];
    const leaving = group === undefined ? [] : [...group.members.keys()].filter((name) => all || name === who);
    let status = 200;
    if (own?.group === 0 && (all || who === actor)) status = 403;
    const mine = group?.members.get(actor)?.role;
    for (const name of leaving)
      if (name !== actor && mine !== "owner" && (mine !== "admin" || group!.members.get(name)!.role === "owner")) status = 403;
    return this.step(actor, sql, params, status, (to) => {
      if (leaving.length === 0) return;
      const g = to.groups.get(id)!;
      for (const name of leaving) model.leave(to, name, g);
      model.settle(to, g);
    }, { affected: leaving.length });
  }

  private rank(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const who = this.pick(people);
    const role = this.pick(roles);
    const group = model.groupOf(s, actor, id);
    const own = model.userOf(s, actor).convs.get(id);
    const target = group?.members.get(who);
    let status = 200;
    if (own?.group === 0 && who === actor) status = 403;
    if (group !== undefined && target !== undefined) {
      const mine = group.members.get(actor)!.role;
      const owners = [...group.members.values()].filter((m) => m.role === "owner").length;
      if (mine === "member" || (mine === "admin" && (target.role === "owner" || role === "owner"))) status = 403;
      else if (target.role === "owner" && role !== "owner" && owners === 1) status = 400;
    }
    return this.step(actor, "UPDATE conversation_users SET role = $3 WHERE conversation_id = $1 AND user_id = $2", [id, who, role], status, (to) => {
      if (target !== undefined) to.groups.get(id)!.members.get(who)!.role = role;
    }, { affected: target === undefined ? 0 : 1 });
  }

  private mark(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const rows = model.rowsOf(s, actor, id);
    const marker = rows.length === 0 || this.chance(0.1) ? null : this.pick(rows).id + this.pick([-1, 0, 0, 1]);
    const who = this.chance(0.9) ? actor : this.pick(people);
    const own = model.userOf(s, actor).convs.get(id);
    const group = model.groupOf(s, actor, id);
    const hit = own?.group === 0 ? who === actor : group !== undefined && group.members.has(who);
    return this.step(actor, "UPDATE conversation_users SET last_read_msg_id = $3 WHERE conversation_id = $1 AND user_id = $2", [id, who, marker], hit && who !== actor ? 403 : 200, (to) => {
      if (!hit) return;
      model.userOf(to, actor).convs.get(id)!.marker = marker;
      if (group !== undefined) to.groups.get(id)!.members.get(actor)!.marker = marker;
    }, { affected: hit ? 1 : 0 });
  }

  private describe(): Step {
    const s = this.state;
    const actor = this.pick(people);
    const id = this.pick(ids);
    const own = model.userOf(s, actor).convs.get(id);
    const group = model.groupOf(s, actor, id);
    const [column, value]: ["title" | "metadata", any] = this.chance(0.5)
      ? ["title", this.chance(0.2) ? null : `title ${++this.n}`]
      : ["metadata", this.pick([null, { history: "shared" }, { history: "shared", n: ++this.n }, { colour: "blue" }])];
    let status = 200;
    if (own !== undefined && own.group !== 0) status = group !== undefined && group.members.get(actor)!.role !== "member" ? 200 : 403;
    return this.step(actor, `UPDATE conversations SET ${column} = $2 WHERE conversation_id = $1`, [id, value], status, (to) => {
      if (own === undefined) return;
      const names = group === undefined ? [actor] : [...group.members.keys()];
      for (const name of names) model.userOf(to, name).convs.get(id)![column] = value;
      if (group !== undefined) to.groups.get(id)![column] = value;
    }, { affected: own === undefined ? 0 : 1 });
  }

  next(): Step {
    const dice = this.rng();
    if (dice < 0.36) return this.send();
    if (dice < 0.4) return this.keyed();
    if (dice < 0.43) return this.migrated();
    if (dice < 0.54) return this.edit();
    if (dice < 0.6) return this.dropOwn();
    if (dice < 0.66) return this.dropForAll();
    if (dice < 0.68) return this.dropConversation();
    if (dice < 0.72) return this.make();
    if (dice < 0.81) return this.join();
    if (dice < 0.87) return this.part();
    if (dice < 0.91) return this.rank();
    if (dice < 0.97) return this.mark();
    return this.describe();
  }

  // ---- playing -----------------------------------------------------------------------------------------------------

  private settleAnswer(step: Step, answer: Answer): void {
    assert.equal(answer.status, step.status, `${step.label}: ${JSON.stringify(answer.body)}`);
    if (step.status >= 400) return;
    if (step.affected !== undefined) assert.equal(answer.body.rowsAffected, step.affected, step.label);
    step.apply(this.state, answer.body.insertedIds ?? [answer.body.insertedId]);
  }

  async play(step: Step): Promise<void> {
    this.trace.push(`${step.status} ${step.label}`);
    this.settleAnswer(step, await step.run());
    if (step.status < 400 && step.copies !== undefined) await model.fillHistory(this.state, this.server, step);
  }

  /** SIGKILL while a statement is under way: afterwards it has happened, or it has not. */
  async playKilled(step: Step): Promise<void> {
    this.trace.push(`killed ${step.status} ${step.label}`);
    const running = step.run().then((answer) => answer, () => undefined);
    await new Promise((done) => setTimeout(done, this.rng() * 12));
    await this.server.kill();
    const answer = await running;
    await this.server.up();
    if (answer !== undefined) this.settleAnswer(step, answer);
    else if (step.status < 400) {
      const before = structuredClone(this.state);
      const found: number[] = [];
      for (const content of step.makes ?? []) {
        const { rows } = await this.server.sql(step.actor, "SELECT msg_id FROM messages WHERE content = $1", [model.preview(content)]);
        if (rows.length > 0) found.push(rows[0][0]);
      }
      assert.ok(found.length === 0 || found.length === step.makes!.length, `${step.label}: half there`);
      let happened = found.length > 0;
      if (step.makes === undefined) {
        step.apply(this.state, []);
        if (step.copies !== undefined && (await this.isMember(step.copies))) await model.fillHistory(this.state, this.server, step);
        happened = await this.check(false).then(() => true, () => false);
        if (!happened) this.state = before;
      } else if (happened) step.apply(this.state, found);
      this.trace.push(happened ? "  happened" : "  did not happen");
    }
    if (answer !== undefined && step.status < 400 && step.copies !== undefined) await model.fillHistory(this.state, this.server, step);
    for (const mirror of this.mirrors) await mirror.connect(this.server);
  }

  /** Many statements at once: each is done or refused, and afterwards all tables and devices agree. */
  async storm(killed: boolean): Promise<void> {
    // What came and went before a device could see it is unknown to the model: no deletions before a kill.
    const deletions = killed ? [] : [() => this.dropOwn(), () => this.dropForAll()];
    const kinds = [...deletions, () => this.send(), () => this.send(), () => this.edit(), () => this.join(), () => this.part(), () => this.rank(), () => this.mark(), () => this.describe(), () => this.migrated()];
    const steps = Array.from({ length: 40 }, () => this.pick(kinds)()).filter((step) => !/^\S+: DELETE FROM conversation_users WHERE conversation_id = \$1 \[/.test(step.label));
    this.trace.push(killed ? "killed storm" : "storm", ...steps.map((step) => `  ${step.label}`));
    const consolidating = this.chance(0.6) ? this.server.consolidate() : undefined;
    const running = Promise.all(steps.map((step) => step.run().catch(() => undefined)));
    consolidating?.catch(() => {});
    if (killed) {
      await new Promise((done) => setTimeout(done, this.rng() * 60));
      await this.server.kill();
    }
    (await running).forEach((answer, i) => answer === undefined ? assert.ok(killed) : assert.ok([200, 400, 403, 404, 409].includes(answer.status) && answer.body.error !== "INVALID_REQUEST", `${steps[i].label}: ${answer.status} ${JSON.stringify(answer.body)}`));
    if (killed) {
      await this.server.up();
      for (const mirror of this.mirrors) await mirror.connect(this.server);
    } else await consolidating;
    for (const name of people)
      for (let i = 0; (await this.server.sql(name, "SELECT 1 FROM conversation_users WHERE CAST(metadata AS TEXT) LIKE '%copying%'")).rows.length > 0; i++) {
        assert.ok(i < 2000, "a history copy does not end");
        await new Promise((done) => setTimeout(done, 10));
      }
    for (const mirror of this.mirrors) await mirror.drain();
    this.state = await model.adopt(this.state, this.server, people, this.mirrors);
  }

  private async isMember(of: { user: string; group: string }): Promise<boolean> {
    return (await this.server.sql(of.user, "SELECT 1 FROM conversation_users WHERE conversation_id = $1", [of.group])).rows.length > 0;
  }

  async check(mirrors = true): Promise<void> {
    for (const name of people) await model.compare(this.state, this.server, name, this.chance(0.3));
    if (!mirrors) return;
    for (const mirror of this.mirrors) await mirror.compare(this.state);
    await model.compareFiles(this.state, this.server, people, this.pick(people));
  }
}

async function play(seed: number, rounds: number, report: (text: string) => void): Promise<void> {
  const server = await Server.start({
    KALAMDB_LARGE_CONTENT_BYTES: String(model.LARGE),
    KALAMDB_CONSOLIDATE_ROWS: "40",
    KALAMDB_CONSOLIDATE_MIN_ROWS: "5",
    KALAMDB_CONSOLIDATE_INTERVAL_MS: "400",
    KALAMDB_HOT_TAIL_ROWS: "4",
  });
  const game = new Game(server, random(seed));
  for (const mirror of game.mirrors) await mirror.connect(server);
  try {
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < 25; i++) await game.play(game.next());
      if (game.chance(0.4)) {
        await game.check();
        await game.storm(game.chance(0.3));
        await game.check();
      }
      const dice = game.rng();
      if (dice < 0.4) await server.consolidate(game.chance(0.5) ? undefined : game.pick(people));
      else if (dice < 0.6) await game.playKilled(game.next());
      else if (dice < 0.65) {
        await server.stop();
        await server.up();
        for (const mirror of game.mirrors) await mirror.connect(server);
      }
      await game.check();
    }
  } catch (error) {
    report(`seed ${seed}:\n${game.trace.slice(-40).join("\n")}`);
    throw error;
  }
  for (const mirror of game.mirrors) mirror.close();
  await server.destroy();
}

it("everybody has what the model says", { timeout: 3600000 }, async (t) => {
  const rounds = Number(process.env.KALAMDB_MODEL_ROUNDS ?? 12);
  const seeds = process.env.KALAMDB_TEST_SEED === undefined ? [1, 300] : [Number(process.env.KALAMDB_TEST_SEED)];
  for (const seed of seeds) await play(seed, rounds, (text) => t.diagnostic(text));
});
