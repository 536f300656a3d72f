package history

import (
	"context"
	"database/sql"
	"errors"
)

// Exec runs a statement in a database of any kind.
func Exec(name, statement string) error {
	db, err := openConn(name)
	if err != nil {
		return err
	}
	_, err = db.Exec(statement)
	return errors.Join(err, db.Close())
}

// Name returns the file's.
func Name(d *DB) string { return d.name }

// Fill makes a history of many builds in one transaction.
func Fill(ctx context.Context, name string, n int, build func(i int) *Build) (err error) {
	d, err := Open(ctx, name, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.write(ctx, func(tx *sql.Tx) error {
		for i := range n {
			r := rowOf(build(i))
			if _, err := insert(ctx, tx, &r); err != nil {
				return err
			}
		}
		return nil
	})
}
