package pgtest_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/pgtest"
)

func TestServerKeepsWhatWasCommitted(t *testing.T) {
	server := pgtest.Start(t)
	first, second := server.Database(t), server.Database(t)
	require.NotEqual(t, first, second)
	db, err := sql.Open("pgx", first)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `CREATE TABLE kept (n BIGINT)`)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), `INSERT INTO kept VALUES (7)`)
	require.NoError(t, err)
	server.Restart(t)
	again, err := sql.Open("pgx", first)
	require.NoError(t, err)
	defer again.Close()
	var n int
	require.NoError(t, again.QueryRowContext(t.Context(), `SELECT n FROM kept`).Scan(&n))
	require.Equal(t, 7, n)
}
