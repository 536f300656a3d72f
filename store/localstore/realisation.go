package localstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// realisation is a file realisations/ID.doi of a binary cache: keys in order, no white space, paths without directory.
type realisation struct {
	DependentRealisations map[string]string `json:"dependentRealisations"`
	ID                    string            `json:"id"`
	OutPath               string            `json:"outPath"`
	Signatures            []string          `json:"signatures"`
}

// Both parts come from one statement, and so from one snapshot; the first row is the realisation itself.
const realisationQuery = `
with this as (select r.id, r.drvPath, r.outputName, r.signatures, v.path
  from Realisations r join ValidPaths v on v.id = r.outputPath where r.drvPath = ?1 and r.outputName = ?2
  order by r.id limit 1)
select 0, drvPath, outputName, path, signatures from this
union all
select 1, r.drvPath, r.outputName, v.path, '' from this
  join RealisationsRefs f on f.referrer = this.id
  join Realisations r on r.id = f.realisationReference
  join ValidPaths v on v.id = r.outputPath
order by 1`

func (s *dbSource) realisation(ctx context.Context, id string) ([]byte, error) {
	drv, output, ok := strings.Cut(id, "!")
	notFound := fmt.Errorf("localstore: realisation %q: %w", id, store.ErrNotFound)
	if !ok {
		return nil, notFound
	}
	var found *realisation
	err := s.db.query(ctx, func(c *sqlite.Conn) error {
		found = nil
		if has, err := hasRealisations(c); err != nil || !has {
			return err
		}
		return eachRow(c, realisationQuery, func(stmt *sqlite.Stmt) {
			base := narinfo.StorePath(stmt.ColumnText(3)).Base()
			if stmt.ColumnInt(0) == 0 {
				found = &realisation{DependentRealisations: map[string]string{}, ID: id, OutPath: base}
				found.Signatures = append([]string{}, strings.Fields(stmt.ColumnText(4))...)
				slices.Sort(found.Signatures)
				return
			}
			found.DependentRealisations[stmt.ColumnText(1)+"!"+stmt.ColumnText(2)] = base
		}, drv, output)
	})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, notFound
	}
	return json.Marshal(found)
}

// hasRealisations reports whether content-addressed derivations were ever used here: Nix makes the tables only then.
func hasRealisations(c *sqlite.Conn) (has bool, err error) {
	err = oneRow(c, `select 1 from sqlite_master where type = 'table' and name = 'RealisationsRefs'`,
		func(*sqlite.Stmt) { has = true })
	return has, err
}
