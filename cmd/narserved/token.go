package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/store"
)

// tokenFileName is where the tokens are, below the state folder.
const tokenFileName = "tokens.json"

// lifetime is how long a token is valid: days or weeks, or a duration. 0: for ever.
type lifetime time.Duration

// Set implements flag.Value.
func (l *lifetime) Set(text string) error {
	d, err := parseLifetime(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is no time (as 90d, 12w or 36h)", text)
	}
	*l = lifetime(d)
	return nil
}

func parseLifetime(text string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		number, ok := strings.CutSuffix(text, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err == nil && n > math.MaxInt64/int64(length) {
			err = strconv.ErrRange
		}
		return time.Duration(n) * length, err
	}
	return time.ParseDuration(text)
}

// String implements flag.Value.
func (l *lifetime) String() string {
	if l == nil || *l == 0 {
		return ""
	}
	return time.Duration(*l).String()
}

// newToken is what token create was told.
type newToken struct {
	name, host     string
	scopes, caches []string
	expires        lifetime
}

func (n *newToken) flags(set *flag.FlagSet) {
	set.StringVar(&n.name, "name", "", "`NAME` for lists and logs, and for who uploaded what")
	set.Var(&list{values: &n.scopes}, "scope", "what it may do, `SCOPE`: read, push, admin, several with commas (repeatable)")
	set.Var(&list{values: &n.caches}, "cache", "only for the cache with this `NAME` (repeatable)")
	set.Var(&n.expires, "expires", "`TIME` after which it is no longer valid")
	set.StringVar(&n.host, "host", "", "`HOST` that clients reach the cache by, for the line that is printed")
}

// runTokenCreate makes a token. The token goes to stdout, alone.
func (p *process) runTokenCreate(ctx context.Context, cmd *command, args []string) error {
	var n newToken
	c, _, err := p.tokenConfig(cmd, args, 0, n.flags)
	if err != nil {
		return err
	}
	if err := p.checkTokenCaches(c, n.caches); err != nil {
		return err
	}
	made, record, err := n.generate(cmd)
	if err != nil {
		return err
	}
	tokens, closer, err := c.openTokens(ctx, nil)
	if err != nil {
		return err
	}
	defer closer.Close()
	if !isPostgreSQL(c.Catalog) && filepath.Dir(c.TokenFile) == filepath.Clean(c.StateDir) {
		if err := c.makeStateDir(); err != nil {
			return hint(fmt.Errorf("token: %w", err), c.tokenAdvice(err))
		}
	}
	if err := tokens.Add(ctx, record); err != nil {
		return hint(err, c.tokenAdvice(err))
	}
	if n.host == "" {
		n.host = c.netrcHost()
	}
	// The secret is not among the talk: that may end in a log where stdout goes to a file.
	fmt.Fprintf(p.stderr, `Token %s was made in %s, and is shown only now. Nix sends it with this line in its netrc-file
(/etc/nix/netrc by default, which should have mode 0600), where TOKEN is what stdout has:

    machine %s login token password TOKEN

`, record.ID, c.tokenPlace(), n.host)
	_, err = fmt.Fprintln(p.stdout, made.Text())
	return err
}

// checkTokenCaches refuses names of caches that the server does not have. Without its configuration file nobody knows which
// it has: then their form alone is looked at, and it says so.
func (p *process) checkTokenCaches(c *Config, names []string) error {
	for _, name := range names {
		err := c.checkCaches("token", []string{name})
		if errors.Is(err, errNoSuchCache) && c.file == "" {
			fmt.Fprintf(p.stderr, "Whether there is a cache named %q, nobody has looked: name the server's file with --config.\n", name)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// netrcHost is a guess at what clients call this server.
func (c *Config) netrcHost() string {
	if len(c.ACMEDomain) > 0 {
		return c.ACMEDomain[0]
	}
	return hostName()
}

// generate makes the token and its record.
func (n *newToken) generate(cmd *command) (*token.Token, *token.Record, error) {
	switch {
	case n.name == "":
		return nil, nil, cmd.misuse("needs a --name")
	case !printable(n.name):
		return nil, nil, usageError{hint(fmt.Errorf("token: name %q cannot be printed", n.name), "use letters, digits and spaces")}
	case len(n.scopes) == 0:
		return nil, nil, cmd.misuse("needs a --scope")
	case strings.ContainsFunc(n.host, func(r rune) bool { return unicode.IsSpace(r) || r == '/' || r == ':' }):
		return nil, nil, usageError{hint(fmt.Errorf("token: %q is no host name", n.host), "without scheme and port: cache.example.org")}
	}
	scopes, err := httpcache.ParseScope(strings.Join(n.scopes, ","))
	if err != nil {
		return nil, nil, usageError{hint(err, "as in --scope read,push")}
	}
	made, record, err := token.GenerateToken(nil)
	if err != nil {
		return nil, nil, err
	}
	record.Name, record.Scopes, record.Caches = n.name, scopes, n.caches
	if n.expires > 0 {
		record.Expires = record.Created.Add(time.Duration(n.expires))
	}
	return made, record, nil
}

func printable(text string) bool {
	return len(text) <= 128 && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// tokenConfig reads the settings that say where the tokens are, the command's own flags, and as many words.
func (p *process) tokenConfig(
	cmd *command, args []string, want int, own func(*flag.FlagSet),
) (c *Config, words []string, err error) {
	c, words, err = p.configFlags(cmd, args, func(c *Config, set *flag.FlagSet) {
		c.tokenFlags(set)
		c.catalogFlags(set)
		own(set)
	})
	switch {
	case err != nil:
		return nil, nil, err
	case len(words) > want:
		return nil, nil, cmd.misuse(fmt.Sprintf("got %d arguments too many", len(words)-want))
	case len(words) < want:
		return nil, nil, cmd.misuse("takes one ID")
	}
	return c, words, c.complete(p.env)
}

// runTokenList prints the tokens as a table or as JSON.
func (p *process) runTokenList(ctx context.Context, cmd *command, args []string) error {
	var asJSON bool
	c, _, err := p.tokenConfig(cmd, args, 0, func(set *flag.FlagSet) {
		set.BoolVar(&asJSON, "json", false, "print an array of objects")
	})
	if err != nil {
		return err
	}
	tokens, closer, err := c.openTokens(ctx, nil)
	if err != nil {
		return err
	}
	defer closer.Close()
	records, err := tokens.List(ctx)
	if err != nil {
		return hint(err, c.tokenAdvice(err))
	}
	if asJSON {
		return p.printTokensJSON(records)
	}
	if len(records) == 0 {
		_, err := fmt.Fprintf(p.stderr, "There are no tokens in %s.\n", c.tokenPlace())
		return err
	}
	return p.printTokens(records)
}

func (p *process) printTokens(records []*token.Record) error {
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tSCOPES\tCACHES\tCREATED\tEXPIRES\tNAME")
	for _, r := range records {
		expires := "never"
		if !r.Expires.IsZero() {
			expires = r.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			r.ID, r.State(time.Now()), r.Scopes, cachesText(r.Caches), r.Created.Format(time.RFC3339), expires, r.Name)
	}
	return table.Flush()
}

// cachesText names the caches; the one at the root, whose name is empty, is shown as "".
func cachesText(caches []string) string {
	if caches == nil || slices.Contains(caches, httpcache.AllCaches) {
		return httpcache.AllCaches
	}
	var names []string
	for _, name := range caches {
		if name == "" {
			name = `""`
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}

// tokenJSON is what is known of a token. Times are null where there is none.
type tokenJSON struct {
	ID      string      `json:"id"`
	Name    string      `json:"name"`
	State   token.State `json:"state"`
	Scopes  []string    `json:"scopes"`
	Caches  []string    `json:"caches"` // ["*"]: all
	Created time.Time   `json:"created"`
	Expires *time.Time  `json:"expires"`
	Revoked *time.Time  `json:"revoked"`
}

func (p *process) printTokensJSON(records []*token.Record) error {
	objects := []tokenJSON{}
	for _, r := range records {
		object := tokenJSON{
			ID: r.ID, Name: r.Name, State: r.State(time.Now()), Scopes: r.Scopes.Names(), Caches: r.Caches, Created: r.Created,
		}
		if r.Caches == nil {
			object.Caches = []string{httpcache.AllCaches}
		}
		if !r.Expires.IsZero() {
			object.Expires = &r.Expires
		}
		if !r.Revoked.IsZero() {
			object.Revoked = &r.Revoked
		}
		objects = append(objects, object)
	}
	encoder := json.NewEncoder(p.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(objects)
}

// runTokenRevoke revokes a token, named by its ID or by its text.
func (p *process) runTokenRevoke(ctx context.Context, cmd *command, args []string) error {
	c, words, err := p.tokenConfig(cmd, args, 1, func(*flag.FlagSet) {})
	if err != nil {
		return err
	}
	id := words[0]
	if leaked, err := token.ParseToken(id); err == nil {
		id = leaked.ID()
	}
	tokens, closer, err := c.openTokens(ctx, nil)
	if err != nil {
		return err
	}
	defer closer.Close()
	err = tokens.Revoke(ctx, id, time.Now().UTC().Truncate(time.Second))
	if errors.Is(err, store.ErrNotFound) {
		return hint(errors.New("token: there is no token of that ID in "+c.tokenPlace()), "narserved token list shows the IDs")
	}
	if err != nil {
		return hint(err, c.tokenAdvice(err))
	}
	_, err = fmt.Fprintf(p.stderr, "Token %s is revoked. Running servers refuse it within %s.\n", id, token.DefaultMaxAge)
	return err
}
