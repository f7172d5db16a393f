-- The ledger: a table's truth, written in the same transaction as its rows.
-- Run again when ledger.VERSION rises: every statement must do nothing where its work is done.
CREATE SCHEMA IF NOT EXISTS loadsheet;

-- Numbers every load and every run of a transform, rising in commit order per target because each is drawn under the
-- target's lock. Rows carry it as _load_id.
CREATE SEQUENCE IF NOT EXISTS loadsheet.load_no;

-- One row per table of a pipeline and target: who may write next (fence) and how far it has come (watermark). The fence
-- also numbers the attempts in the lake, which all targets share, so it rises over the targets.
CREATE TABLE IF NOT EXISTS loadsheet.scope (
    pipeline text NOT NULL,
    table_name text NOT NULL,
    target text NOT NULL,
    fence bigint NOT NULL DEFAULT 0,
    watermark text,
    last_load_no bigint,
    content_sha256 text,
    source_oid bigint,
    columns jsonb,
    PRIMARY KEY (pipeline, table_name)
);
-- Version 2. The attempt that the next load must read, by name and hash; the source as the last load met it;
-- the column that the watermark is of.
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS sealed_load_id text;
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS sealed_manifest text;
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS sealed_sha256 text;
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS source jsonb;
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS cursor text;
-- Version 5. A target has its own state: another schema's table is not as far. `storage` tells whether the target is
-- still the table that the last load left.
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS storage text;
DO $$
BEGIN
    IF (SELECT cardinality(conkey) FROM pg_constraint
        WHERE conrelid = 'loadsheet.scope'::regclass AND contype = 'p') = 2 THEN
        ALTER TABLE loadsheet.scope DROP CONSTRAINT scope_pkey;
        ALTER TABLE loadsheet.scope ADD PRIMARY KEY (pipeline, table_name, target);
    END IF;
END $$;

-- Version 6. The data intervals that were read completely, of tables that are read by interval. Those that adjoin are
-- one.
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS intervals tstzmultirange NOT NULL DEFAULT '{}';
-- Version 7. Columns that drift has added, and that older rows have no values of yet (`fill: auto`).
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS unfilled jsonb;

-- Version 7. When the source was last searched for deleted rows, by its own clock, and how many of the target's rows
-- were gone. These have left it, or were marked; where the spec asked for a report alone, they have stayed.
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS deletes_checked_at timestamptz;
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS deletes_removed bigint;

-- Version 8. The last time, by the source's clock, at which the target was known to have everything that the source had
-- committed; and the session for which the last look has left rows unread. A look that finds nothing new writes these only
-- where the pipeline asks for it (fresh_within).
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS current_at timestamptz;
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS waits_for text NOT NULL DEFAULT '';

-- Version 9. What other processes need to read a part of the extraction under way, and the ranges that were read
-- (`extract_tasks`). NULL as soon as it is sealed, or another has the fence.
ALTER TABLE loadsheet.scope ADD COLUMN IF NOT EXISTS shared_read jsonb;

-- One row per committed load.
CREATE TABLE IF NOT EXISTS loadsheet.load (
    load_id text PRIMARY KEY,
    load_no bigint NOT NULL UNIQUE,
    pipeline text NOT NULL,
    table_name text NOT NULL,
    target text NOT NULL,
    run_id text NOT NULL,
    fence bigint NOT NULL,
    action text NOT NULL,
    format text NOT NULL,
    extracted bigint NOT NULL,
    duplicates bigint NOT NULL,
    inserted bigint NOT NULL,
    updated bigint NOT NULL,
    deleted bigint NOT NULL,
    replaced boolean NOT NULL,
    bytes bigint NOT NULL,
    lower_cursor text,
    upper_cursor text,
    held_by text NOT NULL,
    manifest text NOT NULL,
    source jsonb NOT NULL,
    version text NOT NULL,
    extract_seconds double precision NOT NULL,
    load_seconds double precision NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Version 3. The source's clock when the rows were read, in the terms of the table's cursor.
ALTER TABLE loadsheet.load ADD COLUMN IF NOT EXISTS clock text;
-- Version 5. The target's rows after the load, counted where earlier loads do not explain them: somebody else changed the
-- target. What reads it must then be built in full.
ALTER TABLE loadsheet.load ADD COLUMN IF NOT EXISTS counted bigint;
-- Version 7. The rows of the target that were gone from the source: deleted, or marked as deleted.
ALTER TABLE loadsheet.load ADD COLUMN IF NOT EXISTS gone bigint NOT NULL DEFAULT 0;
-- Version 7. The hash of the load's manifest, which a restore asks for; of a restore (action 'restore'), the number of
-- the load whose rows it has brought back.
ALTER TABLE loadsheet.load ADD COLUMN IF NOT EXISTS manifest_sha256 text;
ALTER TABLE loadsheet.load ADD COLUMN IF NOT EXISTS restored bigint;
CREATE INDEX IF NOT EXISTS load_of_table ON loadsheet.load (pipeline, table_name, load_no);
CREATE INDEX IF NOT EXISTS load_of_target ON loadsheet.load (target, load_no);

-- One row per successful run of a transform that had something to do.
CREATE TABLE IF NOT EXISTS loadsheet.transform_run (
    run_no bigint PRIMARY KEY,
    pipeline text NOT NULL,
    transform text NOT NULL,
    target text NOT NULL,
    run_id text NOT NULL,
    sql_sha256 text NOT NULL,
    full_build boolean NOT NULL,
    since_load bigint NOT NULL,
    seen_load bigint NOT NULL,
    inserted bigint NOT NULL,
    updated bigint NOT NULL,
    deleted bigint NOT NULL,
    replaced boolean NOT NULL,
    seconds double precision NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS transform_run_of_target ON loadsheet.transform_run (target, run_no);

-- Version 4. The last failure of a table or a transform; `worked_at` is when it worked again. Written in a transaction
-- of its own, after the step's was rolled back.
CREATE TABLE IF NOT EXISTS loadsheet.failure (
    pipeline text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    step text NOT NULL,
    run_id text NOT NULL,
    code text NOT NULL,
    message text NOT NULL,
    since timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    worked_at timestamptz,
    PRIMARY KEY (pipeline, kind, name)
);
-- Version 5. A failure is one of a target.
ALTER TABLE loadsheet.failure ADD COLUMN IF NOT EXISTS target text NOT NULL DEFAULT '';
DO $$
BEGIN
    IF (SELECT cardinality(conkey) FROM pg_constraint
        WHERE conrelid = 'loadsheet.failure'::regclass AND contype = 'p') = 3 THEN
        ALTER TABLE loadsheet.failure DROP CONSTRAINT failure_pkey;
        ALTER TABLE loadsheet.failure ADD PRIMARY KEY (pipeline, kind, name, target);
    END IF;
END $$;

-- Version 7. The last comparison of a table with its source, or of a mart with its SELECT. `through` is the last load (or
-- build) that it saw. A look at a part of the rows has a row of its own, which the next look at the whole removes.
CREATE TABLE IF NOT EXISTS loadsheet.verified (
    pipeline text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    target text NOT NULL,
    is_whole boolean NOT NULL,
    part text NOT NULL,
    verdict text NOT NULL,
    source_rows bigint NOT NULL,
    target_rows bigint NOT NULL,
    missing bigint NOT NULL,
    extra bigint NOT NULL,
    different bigint NOT NULL,
    newer bigint NOT NULL,
    unproven bigint NOT NULL,
    through bigint NOT NULL,
    watermark text,
    verified_at timestamptz NOT NULL,
    PRIMARY KEY (pipeline, kind, name, target, is_whole)
);
