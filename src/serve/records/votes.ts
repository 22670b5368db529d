import { z } from "zod";
import type { NewVote, Vote } from "../api.ts";
import type { ChatTurn } from "../host.ts";
import { type Database, openDatabase, type Row } from "./database.ts";

const text = z.string().max(100_000);
const messages = z
  .array(z.strictObject({ role: z.string().min(1).max(64), name: z.string().min(1).max(64).optional(), content: text }))
  .min(1)
  .max(1000);
const settings = z.record(z.string().max(64), z.union([z.number(), z.string().max(1000), z.null()])).optional();
const side = z.strictObject({ model: z.string().min(1).max(256), reply: text });

export const newVote = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("thumb"),
    prompt: messages,
    model: z.string().min(1).max(256),
    reply: text,
    value: z.union([z.literal(1), z.literal(-1)]),
    settings,
  }),
  z.strictObject({ kind: z.literal("preference"), prompt: messages, chosen: side, rejected: side, settings }),
]);

/** A line of the export: conversational preference data as TRL writes it, which the `data` room reads. */
export interface PreferenceLine {
  prompt: ChatTurn[];
  /** One message, the reply. */
  chosen: ChatTurn[];
  rejected: ChatTurn[];
}

/** People's judgements of replies. The database is opened by the first call that needs it. */
export class VoteStore {
  readonly #url: string | undefined;
  readonly #folder: string;
  #database: Promise<Database> | undefined;

  constructor(url: string | undefined, folder: string) {
    this.#url = url;
    this.#folder = folder;
  }

  #open(): Promise<Database> {
    this.#database ??= openDatabase(this.#url, this.#folder).catch((error) => {
      this.#database = undefined; // the next vote tries again
      throw error;
    });
    return this.#database;
  }

  async add(vote: z.output<typeof newVote>): Promise<Vote> {
    const database = await this.#open();
    const common = [vote.kind, JSON.stringify(vote.prompt)];
    const how = vote.settings === undefined ? null : JSON.stringify(vote.settings);
    const values =
      vote.kind === "thumb"
        ? [...common, vote.model, vote.reply, vote.value, null, null, how]
        : [...common, vote.chosen.model, vote.chosen.reply, null, vote.rejected.model, vote.rejected.reply, how];
    const [row] = await database.query(
      `INSERT INTO votes (kind, prompt, model, reply, value, rejected_model, rejected_reply, settings)
       VALUES ($1, $2::jsonb, $3, $4, $5, $6, $7, $8::jsonb) RETURNING *`,
      values,
    );
    return voteOf(row as Row);
  }

  /** Newest first, before the vote `before` where given. */
  async list(limit: number, before?: number): Promise<Vote[]> {
    const database = await this.#open();
    const rows = await database.query(
      "SELECT * FROM votes WHERE id < coalesce($2::bigint, 9223372036854775807) ORDER BY id DESC LIMIT $1",
      [limit, before ?? null],
    );
    return rows.map(voteOf);
  }

  /** @returns whether it was there */
  async remove(id: number): Promise<boolean> {
    const database = await this.#open();
    return (await database.query("DELETE FROM votes WHERE id = $1 RETURNING id", [id])).length > 0;
  }

  /**
   * Preferences as training data, oldest first: what people preferred side by side, and replies to the same prompt of
   * which one has a thumb up and another a thumb down. Equal replies teach nothing and are left out.
   */
  async *preferences(): AsyncGenerator<PreferenceLine> {
    const database = await this.#open();
    let after = 0;
    for (;;) {
      const rows = await database.query(
        `SELECT id, prompt, reply AS chosen, rejected_reply AS rejected FROM votes
         WHERE kind = 'preference' AND id > $1 AND reply <> rejected_reply ORDER BY id LIMIT 500`,
        [after],
      );
      for (const row of rows) yield line(row);
      const last = rows.at(-1);
      if (last === undefined) break;
      after = Number(last.id);
    }
    const pairs = await database.query(
      `SELECT DISTINCT up.prompt, up.reply AS chosen, down.reply AS rejected FROM votes up JOIN votes down
       ON up.prompt = down.prompt AND up.reply <> down.reply
       WHERE up.kind = 'thumb' AND up.value = 1 AND down.kind = 'thumb' AND down.value = -1`,
    );
    for (const row of pairs) yield line(row);
  }

  async close(): Promise<void> {
    const database = await this.#database?.catch(() => undefined);
    this.#database = undefined;
    await database?.close();
  }
}

function line(row: Row): PreferenceLine {
  const prompt = row.prompt as ChatTurn[];
  // A last message that only says who answers is the beginning of both replies, not a turn of its own.
  const last = prompt.at(-1);
  const opened = last?.role === "assistant" && last.content === "" ? last : undefined;
  const reply = (content: unknown) => [{ role: "assistant", ...opened, content: String(content) }];
  return { prompt: opened ? prompt.slice(0, -1) : prompt, chosen: reply(row.chosen), rejected: reply(row.rejected) };
}

function voteOf(row: Row): Vote {
  const createdAt = row.created_at instanceof Date ? row.created_at.toISOString() : String(row.created_at);
  const reply = { model: String(row.model), reply: String(row.reply) };
  const vote: NewVote =
    row.kind === "thumb"
      ? { kind: "thumb", prompt: row.prompt as ChatTurn[], ...reply, value: row.value === 1 ? 1 : -1 }
      : {
          kind: "preference",
          prompt: row.prompt as ChatTurn[],
          chosen: reply,
          rejected: { model: String(row.rejected_model), reply: String(row.rejected_reply) },
        };
  const how = row.settings as NewVote["settings"] | null;
  return { ...vote, ...(how == null ? {} : { settings: how }), id: Number(row.id), createdAt };
}
