import { dirname } from "node:path";
import { makeFolder } from "../../runs/atomic.ts";
import { acquireLock } from "../../runs/lock.ts";
import { HowdahError } from "../../tensor/errors.ts";
import { migrations, versionTable } from "./schema.ts";

export type Row = Record<string, unknown>;

/** The little that we need of PostgreSQL, the same for a server and for the embedded one. */
export interface Database {
  /** One statement with $1, $2, ... */
  query(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** Several statements without values, all or none. */
  script(text: string): Promise<void>;
  close(): Promise<void>;
}

/**
 * Opens the database and brings its tables to this version.
 * @param url postgres://...; without it an embedded PGlite lives in `folder`
 * @throws HowdahError "database" or LockError, each saying what to do
 */
export async function openDatabase(url: string | undefined, folder: string): Promise<Database> {
  const database = url === undefined ? await openEmbedded(folder) : await openServer(url);
  try {
    await migrate(database);
    return database;
  } catch (error) {
    await database.close();
    throw error;
  }
}

/** Two servers that start at once on one PostgreSQL take turns: held until the transaction ends, the number is ours. */
const takeTurns = "SELECT pg_advisory_xact_lock(7103114)";

/** @throws HowdahError "database" when the tables are of a later howdah */
async function migrate(database: Database): Promise<void> {
  await database.script(`${takeTurns}; ${versionTable};`);
  const [row] = await database.query("SELECT max(version) AS version FROM howdah_schema");
  const have = Number(row?.version ?? 0);
  if (have > migrations.length) {
    throw new HowdahError(
      "database",
      `The database has version ${have} of the tables, this howdah knows ${migrations.length}: use the newer howdah that wrote it.`,
    );
  }
  for (let version = have + 1; version <= migrations.length; version++) {
    // The second of two servers finds the work done.
    await database.script(`
      ${takeTurns};
      DO $howdah$ BEGIN
        IF coalesce((SELECT max(version) FROM howdah_schema), 0) = ${version - 1} THEN
          ${migrations[version - 1]}
          DELETE FROM howdah_schema;
          INSERT INTO howdah_schema VALUES (${version});
        END IF;
      END $howdah$;`);
  }
}

async function openEmbedded(folder: string): Promise<Database> {
  makeFolder(dirname(folder));
  // PGlite is one process's: a second one on the same folder would destroy it.
  const lock = acquireLock(`${folder}.lock`, `The database of votes ${folder}`);
  try {
    // Heavy (a WebAssembly PostgreSQL): only loaded when someone votes.
    const { PGlite } = await import("@electric-sql/pglite");
    const db = await PGlite.create(folder);
    return {
      query: async (text, values = []) => (await db.query<Row>(text, [...values])).rows,
      script: async (text) => {
        await db.transaction(async (tx) => {
          await tx.exec(text);
        });
      },
      close: async () => {
        await db.close();
        lock.release();
      },
    };
  } catch (error) {
    lock.release();
    throw new HowdahError("database", `Cannot open the embedded database in ${folder}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** What we use of the package `pg`, which is an optional peer and may be missing. */
interface PgModule {
  readonly default: {
    Pool: new (options: { connectionString: string; max: number }) => PgPool;
  };
}
interface PgPool {
  query(text: string, values?: unknown[]): Promise<{ rows: Row[] }>;
  on(event: "error", listener: (error: Error) => void): void;
  end(): Promise<void>;
}

async function openServer(url: string): Promise<Database> {
  if (!/^postgres(ql)?:\/\//.test(url)) {
    throw new HowdahError(
      "database",
      "DATABASE_URL must begin with postgres:// (or be unset, for the embedded database).",
    );
  }
  const name: string = "pg";
  let pg: PgModule;
  try {
    pg = (await import(name)) as PgModule;
  } catch (error) {
    throw new HowdahError(
      "database",
      "DATABASE_URL is set but the package `pg` is not installed: run `npm install pg`, or unset it.",
      {
        cause: error,
      },
    );
  }
  const pool = new pg.default.Pool({ connectionString: url, max: 4 });
  pool.on("error", () => {}); // an idle connection that breaks; the next query reports if the server is really away
  try {
    await pool.query("SELECT 1");
  } catch (error) {
    await pool.end();
    // The URL holds a password: name only where it points.
    throw new HowdahError("database", `Cannot reach PostgreSQL at ${new URL(url).host}: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return {
    query: async (text, values = []) => (await pool.query(text, [...values])).rows,
    script: async (text) => {
      await pool.query(`BEGIN; ${text}; COMMIT;`); // one message without values: PostgreSQL undoes all of it on an error
    },
    close: () => pool.end(),
  };
}
