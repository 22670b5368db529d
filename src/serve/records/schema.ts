/**
 * The tables of what people record, as a list of migrations: version N is what the first N make. A migration that has
 * been released is never edited; a change of mind is a new one. Plain SQL that PostgreSQL 14+ and PGlite both run.
 */
export const migrations: readonly string[] = [
  `
  CREATE TABLE votes (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at      timestamptz NOT NULL DEFAULT now(),
    kind            text NOT NULL CHECK (kind IN ('thumb', 'preference')),
    -- The conversation up to the reply: [{role, name?, content}].
    prompt          jsonb NOT NULL,
    -- A thumb's reply, or the better of two.
    model           text NOT NULL,
    reply           text NOT NULL,
    value           smallint CHECK (value IN (-1, 1)),
    rejected_model  text,
    rejected_reply  text,
    -- How the reply was sampled: temperature, seed and so on.
    settings        jsonb,
    CHECK ((kind = 'thumb') = (value IS NOT NULL)),
    CHECK ((kind = 'preference') = (rejected_model IS NOT NULL AND rejected_reply IS NOT NULL))
  );
  CREATE INDEX votes_by_kind ON votes (kind, id);
  `,
];

/** One row: the version that the tables have. */
export const versionTable = "CREATE TABLE IF NOT EXISTS howdah_schema (version integer NOT NULL)";
