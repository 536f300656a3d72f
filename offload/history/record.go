package history

import (
	"context"
	"database/sql"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
)

// row is a build as it is kept.
type row struct {
	pname, stem, system, machine, label, features string

	cores     int
	wall, cpu float64 // seconds
	peak      int64
	output    int64
	in, out   int64
	result    offload.Result
	at        int64  // Unix milliseconds
	origin    string // "" for our own, otherwise who reported it
}

const maxText = 256 // bytes of a word in the database

// Record adds a build. It counts from now on, even if an error tells that it will be forgotten when the process ends.
func (d *DB) Record(ctx context.Context, b *Build) error {
	if b.Request == nil || b.Machine == "" || b.Wall < 0 || b.Result == "" {
		return errors.New("history: a build needs a request, a machine and a result")
	}
	r := rowOf(b)
	err := d.write(ctx, func(tx *sql.Tx) error {
		if _, err := insert(ctx, tx, &r); err != nil {
			return err
		}
		return d.bound(ctx, tx, &r)
	})
	if err != nil {
		d.index.add(&r)
		return err
	}
	d.index.refresh(ctx)
	return nil
}

func rowOf(b *Build) row {
	return row{
		pname: short(b.Request.PName), stem: short(b.Request.Stem), system: short(b.Request.System), machine: short(b.Machine),
		label: short(b.Request.Label()), features: short(strings.Join(b.Request.Features, " ")), cores: b.Cores,
		wall: b.Wall.Seconds(), cpu: b.CPU.Seconds(), peak: max(b.PeakMemory, 0), output: max(b.OutputBytes, 0),
		in: b.BytesIn, out: b.BytesOut, result: b.Result, at: b.Ended.UnixMilli(),
	}
}

func short(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

func insert(ctx context.Context, tx *sql.Tx, r *row) (inserted int64, err error) {
	result, err := tx.ExecContext(ctx, `insert or ignore into builds (pname, stem, system, machine, label, features, cores, wall, cpu,
		peak_memory, output, bytes_in, bytes_out, result, at, origin) values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		r.pname, r.stem, r.system, r.machine, r.label, r.features, r.cores, r.wall, r.cpu, r.peak, r.output, r.in, r.out,
		string(r.result), r.at, r.origin)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// bound deletes what a row makes too much. The oldest are those that were recorded first.
func (d *DB) bound(ctx context.Context, tx *sql.Tx, r *row) error {
	key := []any{r.pname, r.stem, r.system, r.machine}
	if r.pname != "" { // versions that end in letters make stems of their own
		key[1] = nil
	}
	_, err := tx.ExecContext(ctx, `delete from builds where id in (select id from builds
		where pname = ?1 and (?2 is null or stem = ?2) and system = ?3 and machine = ?4 order by id desc limit -1 offset ?5)`,
		append(key, d.options.PerKey)...)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `delete from builds where id <= (select id from builds order by id desc limit 1 offset ?)`, d.options.Total)
	return err
}

// reportColumns are nix-output-monitor's, in the order that it writes them.
var reportColumns = [...]string{"hostname", "derivation name", "utc time", "build seconds"}

const maxReports = 100_000

// SeedReports adds nix-output-monitor's build-reports.csv, and returns how many builds are new.
// They count for names alone, as the file has no systems. Reading it again adds nothing twice; lines that
// make no sense are passed over. The function names the machine of a host, which is "" or "localhost" for this one;
// "" from it leaves the host's builds out.
func (d *DB) SeedReports(ctx context.Context, reports io.Reader, machine func(host string) string) (int, error) {
	rows, err := parseReports(reports, machine)
	if err != nil {
		return 0, err
	}
	added := 0
	err = d.write(ctx, func(tx *sql.Tx) error {
		added = 0
		for i := range rows {
			n, err := insert(ctx, tx, &rows[i])
			if err != nil {
				return err
			}
			added += int(n)
			if err := d.bound(ctx, tx, &rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	d.index.refresh(ctx)
	return added, nil
}

func parseReports(reports io.Reader, machine func(host string) string) ([]row, error) {
	lines := csv.NewReader(io.LimitReader(reports, 64<<20))
	lines.FieldsPerRecord = -1
	lines.ReuseRecord = true
	columns := [4]int{0, 1, 2, 3}
	var rows []row
	for first := true; len(rows) < maxReports; first = false {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if _, syntax := errors.AsType[*csv.ParseError](err); syntax {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("history: build reports: %w", err)
		}
		if first && findColumns(fields, &columns) {
			continue
		}
		if r, ok := parseReport(fields, columns, machine); ok {
			rows = append(rows, r)
		}
	}
	return rows, nil
}

// findColumns says whether a line is a head, and where the columns are.
func findColumns(fields []string, columns *[4]int) bool {
	found := *columns
	for i, name := range reportColumns {
		found[i] = -1
		for j, field := range fields {
			if strings.EqualFold(strings.TrimSpace(field), name) {
				found[i] = j
			}
		}
		if found[i] < 0 {
			return false
		}
	}
	*columns = found
	return true
}

func parseReport(fields []string, columns [4]int, machine func(host string) string) (r row, ok bool) {
	var values [4]string
	for i, c := range columns {
		if c >= len(fields) {
			return r, false
		}
		values[i] = strings.Clone(strings.TrimSpace(fields[c]))
	}
	ended, err := time.Parse(time.DateTime, strings.TrimSuffix(values[2], " UTC"))
	seconds, err2 := strconv.ParseFloat(values[3], 64)
	r = row{
		stem: short(values[1]), machine: short(machine(values[0])), wall: seconds, result: offload.Built, at: ended.UnixMilli(), origin: "nom",
	}
	return r, err == nil && err2 == nil && seconds >= 0 && seconds < 1e8 && r.stem != "" && r.machine != ""
}
