package history

import (
	"bytes"
	"compress/flate"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/voidnxlab/nixtrap/offload"
)

// maxRecord is the size in bytes of the largest record that is kept; one with 1,000 machines is smaller.
const maxRecord = 1 << 20

// ErrNotFound is returned for a decision that is not kept, or no longer.
var ErrNotFound = errors.New("no such decision")

// Note keeps a decision's record, and returns its number, which it also sets.
// Records that are too old, or too many, go.
func (d *DB) Note(ctx context.Context, decision *offload.Decision) (id int64, err error) {
	record, err := marshal(decision)
	if err != nil {
		return 0, err
	}
	err = d.write(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "insert into decisions (drv, at, record) values (?, ?, ?)",
			decision.Request.DrvPath, decision.When.UnixMilli(), record)
		if err != nil {
			return err
		}
		if id, err = result.LastInsertId(); err != nil {
			return err
		}
		oldest := decision.When.Add(-d.options.DecisionAge).UnixMilli()
		_, err = tx.ExecContext(ctx, `delete from decisions where id <= (select id from decisions order by id desc limit 1 offset ?)
			or id in (select id from decisions where at < ? order by id limit 100)`, d.options.Decisions, oldest)
		return err
	})
	if err != nil {
		return 0, err
	}
	decision.ID = id
	return id, nil
}

func marshal(decision *offload.Decision) ([]byte, error) {
	copied := *decision
	copied.ID = 0 // the row's number says it
	record, err := json.Marshal(&copied)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if len(record) > maxRecord {
		return nil, fmt.Errorf("history: a record of %d bytes", len(record))
	}
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if _, err := w.Write(record); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return b.Bytes(), nil
}

func unmarshal(record []byte) (*offload.Decision, error) {
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(record)), maxRecord+1))
	if err != nil {
		return nil, err
	}
	var decision offload.Decision
	if err := json.Unmarshal(text, &decision); err != nil {
		return nil, err
	}
	return &decision, nil
}

// Finish adds to a record how the build ended. It returns ErrNotFound if the record is not kept any more.
func (d *DB) Finish(ctx context.Context, id int64, outcome *offload.Outcome) error {
	return d.write(ctx, func(tx *sql.Tx) error {
		var record []byte
		err := tx.QueryRowContext(ctx, "select record from decisions where id = ?", id).Scan(&record)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		decision, err := unmarshal(record)
		if err != nil {
			return err
		}
		decision.Outcome = outcome
		if record, err = marshal(decision); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "update decisions set record = ? where id = ?", record, id)
		return err
	})
}

// Decisions returns the records of a derivation's decisions, the latest first, at most so many; none is no error.
// An empty path is any derivation.
func (d *DB) Decisions(ctx context.Context, drvPath string, limit int) ([]offload.Decision, error) {
	d.writing.Lock()
	f := d.file
	d.writing.Unlock()
	if f == nil {
		return nil, errNoFile
	}
	query, args := "select id, record from decisions where drv = ? order by id desc limit ?", []any{drvPath, limit}
	if drvPath == "" {
		query, args = "select id, record from decisions order by id desc limit ?", []any{limit}
	}
	rows, err := f.queries.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer rows.Close()
	var decisions []offload.Decision
	for rows.Next() {
		var id int64
		var record []byte
		if err := rows.Scan(&id, &record); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		decision, err := unmarshal(record)
		if err != nil {
			continue // another version's
		}
		decision.ID = id
		decisions = append(decisions, *decision)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return decisions, nil
}
