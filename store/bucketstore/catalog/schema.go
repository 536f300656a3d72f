package catalog

import (
	"context"
	"fmt"
	"strings"
)

// migrations bring a database from each version of the schema to the next. What was once released is never changed.
//
// Times are milliseconds since 1970, 0 is never. ID is the dialect's own type of a key that is never given twice.
var migrations = []string{
	`CREATE TABLE archives (
	  id ID,
	  key TEXT NOT NULL UNIQUE,
	  state INTEGER NOT NULL,              -- uploading, live, deleting
	  file_hash TEXT NOT NULL,
	  file_size BIGINT NOT NULL,
	  nar_hash TEXT NOT NULL,
	  nar_size BIGINT NOT NULL,
	  compression TEXT NOT NULL,
	  version TEXT NOT NULL,
	  created BIGINT NOT NULL,
	  leased_until BIGINT NOT NULL,
	  until BIGINT NOT NULL                -- when whoever deletes it is no longer at it
	);
	CREATE TABLE holdings (                -- which cache has uploaded an archive whole
	  archive BIGINT NOT NULL REFERENCES archives (id),
	  cache TEXT NOT NULL,
	  uploader TEXT NOT NULL,
	  created BIGINT NOT NULL,
	  PRIMARY KEY (archive, cache)
	);
	CREATE TABLE paths (
	  id ID,
	  cache TEXT NOT NULL,
	  hash TEXT NOT NULL,                  -- the path's hash part
	  attempt BIGINT NOT NULL,             -- 0 live, -1 being deleted, or a number of its own while published: an index says it all
	  state INTEGER NOT NULL,              -- publishing, live, deleting
	  path TEXT NOT NULL,
	  archive BIGINT NOT NULL REFERENCES archives (id),
	  nar_hash TEXT NOT NULL,
	  nar_size BIGINT NOT NULL,
	  deriver TEXT NOT NULL,
	  refs TEXT NOT NULL,                  -- hash parts of what it refers to but itself, sorted, without anything between
	  uploader TEXT NOT NULL,
	  created BIGINT NOT NULL,
	  last_used BIGINT NOT NULL,
	  leased_until BIGINT NOT NULL,
	  until BIGINT NOT NULL,               -- when whoever publishes or deletes it is no longer at it
	  UNIQUE (cache, hash, attempt)
	);
	CREATE INDEX paths_archive ON paths (archive);
	CREATE INDEX paths_unsettled ON paths (state) WHERE state <> 2;
	CREATE TABLE referrers (               -- paths.refs, the other way round
	  cache TEXT NOT NULL,
	  hash TEXT NOT NULL,
	  referrer BIGINT NOT NULL,            -- an id of paths; without a foreign key, which would want another index
	  PRIMARY KEY (cache, hash, referrer)
	) WITHOUT_ROWID;
	CREATE TABLE pins (
	  id ID,
	  cache TEXT NOT NULL,
	  name TEXT NOT NULL,
	  hash TEXT NOT NULL,
	  path TEXT NOT NULL,
	  pinned_by TEXT NOT NULL,
	  created BIGINT NOT NULL,
	  expires BIGINT NOT NULL,             -- 0: never
	  replaced BIGINT NOT NULL             -- when another took its name or it was removed; 0: it holds
	);
	CREATE UNIQUE INDEX pins_name ON pins (cache, name) WHERE replaced = 0;
	CREATE INDEX pins_hash ON pins (cache, hash) WHERE replaced = 0;
	CREATE TABLE tokens (
	  id TEXT PRIMARY KEY,
	  hash TEXT NOT NULL UNIQUE,           -- SHA-256 of the secret, in hexadecimal
	  name TEXT NOT NULL,
	  caches TEXT NOT NULL,                -- JSON
	  scopes TEXT NOT NULL,                -- JSON
	  created BIGINT NOT NULL,
	  expires BIGINT NOT NULL,
	  revoked BIGINT NOT NULL
	);
	CREATE TABLE locks (
	  name TEXT PRIMARY KEY,
	  holder TEXT NOT NULL,
	  since BIGINT NOT NULL,
	  expires BIGINT NOT NULL
	)`,
}

// migrationLock is the number of the advisory lock under which PostgreSQL migrates: "nixtrap" as a number.
const migrationLock = 0x6e697874726170

// migrate brings the schema up to date in one transaction, which excludes all others that would.
func (c *Catalog) migrate(ctx context.Context) error {
	return c.do(ctx, writing, func(t *tx) error {
		if t.dialect == PostgreSQL {
			if _, err := t.exec(`SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
				return err
			}
		}
		if _, err := t.exec(`CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)`); err != nil {
			return err
		}
		version := 0
		found, err := t.row(`SELECT version FROM schema_version`, nil, &version)
		if err != nil {
			return err
		}
		if version > len(migrations) {
			return fmt.Errorf("catalog: the database has version %d of the schema, and this program knows up to %d: "+
				"a newer release has opened it", version, len(migrations))
		}
		if !found {
			if _, err := t.exec(`INSERT INTO schema_version (version) VALUES (0)`); err != nil {
				return err
			}
		}
		return t.migrate(version)
	})
}

func (t *tx) migrate(version int) error {
	if version == len(migrations) {
		return nil
	}
	types := strings.NewReplacer(" ID,", " INTEGER PRIMARY KEY AUTOINCREMENT,", ") WITHOUT_ROWID", ") WITHOUT ROWID")
	if t.dialect == PostgreSQL {
		types = strings.NewReplacer(" ID,", " BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,", ") WITHOUT_ROWID", ")")
	}
	for _, script := range migrations[version:] {
		for statement := range strings.SplitSeq(types.Replace(withoutComments(script)), ";") {
			if _, err := t.exec(statement); err != nil {
				return err
			}
		}
	}
	_, err := t.exec(`UPDATE schema_version SET version = $1`, len(migrations))
	return err
}

func withoutComments(script string) string {
	var b strings.Builder
	for line := range strings.Lines(script) {
		line, _, _ = strings.Cut(line, "--")
		b.WriteString(line + "\n")
	}
	return b.String()
}
