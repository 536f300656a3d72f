package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Pin keeps a path and all that it refers to.
type Pin struct {
	Cache    string
	Name     string
	Path     narinfo.StorePath
	By       string
	Created  time.Time
	Expires  time.Time // zero: never
	Replaced time.Time // when another took its name or it was removed; zero: it is the current one
}

// Pin makes a live path the one that a name of the cache pins, until expires, zero for ever. What the name pinned before
// stays in the history. A path that is not live is ErrNotFound.
func (c *Catalog) Pin(ctx context.Context, cache, name string, path narinfo.StorePath, by string, expires time.Time) error {
	return c.do(ctx, writing, func(t *tx) error {
		var known narinfo.StorePath
		_, err := t.row(`SELECT path FROM paths WHERE cache = $1 AND hash = $2 AND attempt = 0`+t.dialect.forShare(),
			[]any{cache, string(path.HashPart())}, &known)
		if err != nil {
			return err
		}
		if known != path {
			return fmt.Errorf("%w: path %q", ErrNotFound, path)
		}
		if err := t.exclude(slot{cache, narinfo.HashPart("pin " + name)}); err != nil {
			return err
		}
		if _, err := t.unpin(cache, name); err != nil {
			return err
		}
		_, err = t.exec(`INSERT INTO pins (cache, name, hash, path, pinned_by, created, expires, replaced)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 0)`,
			cache, name, string(path.HashPart()), string(path), by, t.now, milliseconds(expires))
		return err
	})
}

// Unpin removes the current pin of a name; it stays in the history. Where there is none the error is ErrNotFound.
func (c *Catalog) Unpin(ctx context.Context, cache, name string) error {
	return c.do(ctx, writing, func(t *tx) error {
		n, err := t.unpin(cache, name)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: pin %q", ErrNotFound, name)
		}
		return err
	})
}

func (t *tx) unpin(cache, name string) (int64, error) {
	return t.exec(`UPDATE pins SET replaced = $3 WHERE cache = $1 AND name = $2 AND replaced = 0`, cache, name, t.now)
}

const selectPins = `SELECT cache, name, path, pinned_by, created, expires, replaced FROM pins WHERE `

// Pins returns the current pins of a cache, sorted by name, expired ones too.
func (c *Catalog) Pins(ctx context.Context, cache string) ([]Pin, error) {
	return c.pins(ctx, `cache = $1 AND replaced = 0 ORDER BY name`, cache)
}

// PinHistory returns all that a name has ever pinned, the newest first; "" is all names.
func (c *Catalog) PinHistory(ctx context.Context, cache, name string) ([]Pin, error) {
	return c.pins(ctx, `cache = $1 AND (name = $2 OR $2 = '') ORDER BY id DESC`, cache, name)
}

func (c *Catalog) pins(ctx context.Context, condition string, args ...any) ([]Pin, error) {
	var pins []Pin
	err := c.do(ctx, reading, func(t *tx) (err error) {
		pins, err = t.pins(condition, args...)
		return err
	})
	return pins, err
}

func (t *tx) pins(condition string, args ...any) ([]Pin, error) {
	var pins []Pin
	var p Pin
	var created, expires, replaced int64
	err := t.each(selectPins+condition, args,
		[]any{&p.Cache, &p.Name, &p.Path, &p.By, &created, &expires, &replaced}, func() error {
			p.Created, p.Expires, p.Replaced = fromMilliseconds(created), fromMilliseconds(expires), fromMilliseconds(replaced)
			pins = append(pins, p)
			return nil
		})
	return pins, err
}
