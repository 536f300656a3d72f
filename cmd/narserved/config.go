package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

// Config is what a server is told. In the configuration file, which is TOML, each key is the name of the flag that
// means the same: `listen = [":5000"]` is `--listen :5000`. Repeatable flags are arrays.
// A flag overrides the file, and a repeatable flag replaces the file's whole array. Unknown keys are errors.
//
// Where a file is wanted, a name without a slash is looked for in $CREDENTIALS_DIRECTORY first, so that a systemd unit
// with LoadCredential=signing-key:/some/where needs no more than `sign-key = ["signing-key"]`.
type Config struct {
	// Listen are the addresses to serve on: "HOST:PORT", ":PORT" (all addresses), "unix:PATH" (mode 0660) or
	// "unix:PATH?mode=0600", "systemd" (every inherited socket) or "systemd:NAME" (those with this FileDescriptorName).
	// Port 0 picks a free one. Inherited sockets that nothing names replace the default, 127.0.0.1:5000.
	Listen []string `toml:"listen"`

	// AdminListen is an address, as in Listen, for /healthz and /status. Whoever reaches it learns which paths are
	// asked for and which are damaged. Default: none.
	AdminListen string `toml:"admin-listen"`

	// Store is what to serve: "auto" (this machine's Nix store, else an empty directory cache below
	// $XDG_DATA_HOME), "local" (its database alone), "daemon" (its daemon alone), "unix:///SOCKET", "/ROOT" (a store
	// made by `nix --store /ROOT`), "file:///DIR" (a directory that `nix copy --to file:///DIR` filled), or
	// "s3://BUCKET[/FOLDER]?endpoint=HOST&region=REGION" (the same in an S3-compatible bucket).
	// auto, local and daemon take ?store=DIR&state=DIR&log=DIR&real=DIR, and otherwise honour NIX_STORE_DIR,
	// NIX_STATE_DIR, NIX_LOG_DIR and NIX_DAEMON_SOCKET_PATH as Nix does.
	Store string `toml:"store"`

	// SignKey are the secret key files to sign with, in Nix's format. Default: a key that is made once in StateDir.
	SignKey []string `toml:"sign-key"`

	// Unsigned adds no signature: paths are served with those that the store has.
	Unsigned bool `toml:"unsigned"`

	// Priority is this cache's rank among a client's substituters; the lowest is asked first.
	// cache.nixos.org has 40. Default: 30, as nix-serve.
	Priority int `toml:"priority"`

	// Roots limits serving to the closures of these store paths, or of what symlinks to them lead to
	// ("/run/current-system"); a symlink that changes is followed within a minute. Default: every path in the store.
	Roots []string `toml:"roots"`

	// TrustedKey limits serving to paths that have a signature by one of these public keys ("NAME:BASE64") in the
	// store. Default: every path in the store.
	TrustedKey []string `toml:"trusted-key"`

	// MemoryCache is the memory for small files of this machine's store, such as "128MiB" (default) or "0".
	// Paths that are read again are then served from there; it has no use for a directory.
	MemoryCache size `toml:"memory-cache"`

	// TLSCert and TLSKey are PEM files with a certificate chain and its key: TCP addresses then speak HTTPS only.
	// They are read again when they change; a pair that does not fit keeps the old one in use.
	TLSCert string `toml:"tls-cert"`
	TLSKey  string `toml:"tls-key"`

	// ACMEDomain are the host names to get a certificate for. The authority must reach port 443 of this server, and
	// using this accepts its terms of service. Certificates are kept in StateDir.
	ACMEDomain []string `toml:"acme-domain"`

	// ACMEEmail is told to the authority, for its warnings. Default: none.
	ACMEEmail string `toml:"acme-email"`

	// ACMEDirectory is the authority's directory URL. Default: Let's Encrypt.
	ACMEDirectory string `toml:"acme-directory"`

	// StateDir is the folder for the signing key, proofs of content and certificates. Who can write there can have
	// wrong bytes served. Default: $STATE_DIRECTORY; else /var/lib/narserved for root;
	// else narserved below $XDG_STATE_HOME or ~/.local/state.
	StateDir string `toml:"state-dir"`

	// TokenFile is the file with the tokens that `narserved token` makes, unless Catalog is in PostgreSQL, which then has
	// them; a file that is there counts beside it. Who can write it can make tokens.
	// It is a path, not looked for among credentials, for it changes. Default: tokens.json in StateDir.
	TokenFile string `toml:"token-file"`

	// Compression is how the archives of a live store are offered: "none", "zstd" (from the artefact cache), or "auto",
	// which is zstd wherever the cache can be used. A directory's archives are served as it keeps them.
	Compression string `toml:"compression"`

	// ArtefactCache is the most disk space that compressed archives may take: a number of bytes, or one with a unit as
	// in "500MB" and "20GiB". "0" switches compression off. "auto" is a tenth of the free space, but not above 20GiB.
	ArtefactCache string `toml:"artefact-cache"`

	// ArtefactDir is the folder for them. Who can write there can have wrong bytes served, though not unnoticed by
	// clients. Default: artefacts below $CACHE_DIRECTORY, else below StateDir.
	ArtefactDir string `toml:"artefact-dir"`

	// Upload takes uploads of those who have a token with the scope push (see narserved token) into Store, which must be
	// file:///DIR, which is made if it is not there, or s3://BUCKET. Each archive is checked while it arrives, and a path is published
	// after its archive and after all that it refers to.
	Upload bool `toml:"upload"`

	// UploadKey takes only paths that have a signature by one of these public keys ("NAME:BASE64"). Default: any path.
	UploadKey []string `toml:"upload-key"`

	// SignUploads adds our signatures to what is uploaded, for those who read the directory without this server.
	SignUploads bool `toml:"sign-uploads"`

	// MaxArchiveSize is the most bytes that one uploaded archive may have. Default: "16GiB".
	MaxArchiveSize size `toml:"max-archive-size"`

	// MaxNARSize is the most bytes that one may decode to. Default: "64GiB".
	MaxNARSize size `toml:"max-nar-size"`

	// UploadLease is how long an uploaded archive waits for its path, and how long what an uploader was told is there
	// is kept from the collector. Default: "1h".
	UploadLease duration `toml:"upload-lease"`

	// Private serves only those who have a token, or another credential, that may read or push.
	Private bool `toml:"private"`

	// ClientCA is a PEM file with the authorities of client certificates. A client may then show one: see ClientCert.
	ClientCA string `toml:"client-ca"`

	// Catalog is where is kept who refers to whom in an upload directory, who uploaded it and when it was used last: a
	// file for SQLite, or "postgres://…" where several servers share a bucket, and their tokens. Default: catalog.sqlite
	// below StateDir.
	Catalog string `toml:"catalog"`

	// Upstream are the URLs of binary caches that are asked for what is not in Store. All are asked at the same time, and
	// the first of them that has a path wins. Default: none.
	Upstream []string `toml:"upstream"`

	// UpstreamKey are the public keys ("NAME:BASE64") of which one must have signed what an upstream has; each counts for
	// all upstreams. https://cache.nixos.org has its own key too, unless one of that name is given.
	UpstreamKey []string `toml:"upstream-key"`

	// UpstreamNetrc is a file with logins for upstreams, in the form of Nix's netrc-file. It is read at the start.
	// Default: none.
	UpstreamNetrc string `toml:"upstream-netrc"`

	// UpstreamBudget is how long an upstream may take to tell whether it has a path. Default: "2s".
	UpstreamBudget duration `toml:"upstream-budget"`

	// UpstreamTTLNegative is how long a path that an upstream does not have is not asked for again. Default: "30s".
	UpstreamTTLNegative duration `toml:"upstream-ttl-negative"`

	// UpstreamComplete are those of the upstreams where what an uploaded path refers to may be. Default: it must be here.
	UpstreamComplete []string `toml:"upstream-complete"`

	// Keep is the bucket, a binary cache, where what upstreams are asked for is kept: "/DIR", which is made if it is not
	// there and may be that of Store, or "s3://BUCKET" as Store has it; "none"; or "auto": with uploads, and only with Upload.
	Keep string `toml:"keep"`

	// MaxSize is how many bytes an upload directory's archives may have together, such as "200GiB"; the collector deletes
	// what was used longest ago. Where pins and leases alone have more, uploads are refused. Default: "0", no bound.
	MaxSize size `toml:"max-size"`

	// KeepUsed is for how long after its last use an uploaded path is kept, such as "90d". Default: "0", for ever.
	KeepUsed age `toml:"keep-used"`

	// GCInterval is how often the collector runs. "0s": never, `narserved gc` does. Default: "1h".
	GCInterval duration `toml:"gc-interval"`

	// DrainTimeout is how long a server that was told to stop lets running transfers finish. Default: "5m".
	DrainTimeout duration `toml:"drain-timeout"`

	// LogFormat is "text" (default) or "json".
	LogFormat string `toml:"log-format"`

	// LogLevel is "debug" (each request), "info" (default), "warn" or "error".
	LogLevel string `toml:"log-level"`

	// Cache, OIDC and ClientCert are tables of the file, and no flags.
	Cache      []CacheConfig `toml:"cache,omitempty"`
	OIDC       []OIDCConfig  `toml:"oidc,omitempty"`
	ClientCert []CertConfig  `toml:"client-cert,omitempty"`

	file string // that this was read from; "": flags alone
}

// tables are the keys that are no flags.
var tables = []string{"cache", "oidc", "client-cert"}

const (
	defaultListen   = "127.0.0.1:5000"
	flagListen      = "listen"
	flagAdminListen = "admin-listen"
	systemdSockets  = "systemd"

	defaultMemoryCache = 128 << 20
)

// defaultConfig leaves Listen and StateDir open: their defaults depend on the environment.
func defaultConfig() *Config {
	return &Config{
		Listen: []string{}, Store: "auto", SignKey: []string{}, Priority: httpcache.DefaultPriority, Roots: []string{},
		TrustedKey: []string{}, UploadKey: []string{}, MemoryCache: defaultMemoryCache, MaxArchiveSize: bucketstore.DefaultMaxArchive,
		MaxNARSize: bucketstore.DefaultMaxNAR, UploadLease: duration(bucketstore.DefaultLease), ACMEDomain: []string{}, Compression: auto,
		Upstream: []string{}, UpstreamKey: []string{}, UpstreamComplete: []string{}, UpstreamBudget: duration(2 * time.Second),
		UpstreamTTLNegative: duration(30 * time.Second), Keep: auto,
		ArtefactCache: auto, GCInterval: duration(time.Hour), DrainTimeout: duration(5 * time.Minute), LogFormat: "text", LogLevel: "info",
	}
}

// flags binds the server's flags to c.
func (c *Config) flags(set *flag.FlagSet) {
	set.Var(&list{values: &c.Listen}, flagListen,
		"`ADDRESS` to serve on: HOST:PORT, :PORT, unix:PATH[?mode=0660], systemd[:NAME] (repeatable)")
	set.StringVar(&c.AdminListen, flagAdminListen, c.AdminListen, "`ADDRESS` for /healthz and /status")
	set.StringVar(&c.Store, "store", c.Store, "`STORE` to serve: auto, local, daemon, unix:///SOCKET, /ROOT, file:///DIR, s3://BUCKET")
	set.Var(&list{values: &c.SignKey}, "sign-key", "secret key `FILE` to sign with (repeatable)")
	set.BoolVar(&c.Unsigned, "unsigned", c.Unsigned, "add no signature, make no key")
	set.IntVar(&c.Priority, "priority", c.Priority, "rank among a client's caches, lowest `N` first")
	set.Var(&list{values: &c.Roots}, "roots", "serve only the closure of this store `PATH` (repeatable)")
	set.Var(&list{values: &c.TrustedKey}, "trusted-key", "serve only what this public `KEY` has signed (repeatable)")
	set.Var(&c.MemoryCache, "memory-cache", "`SIZE` of memory for small files of the store, 0 for none")
	set.StringVar(&c.TLSCert, "tls-cert", c.TLSCert, "PEM `FILE` with the certificate chain")
	set.StringVar(&c.TLSKey, "tls-key", c.TLSKey, "PEM `FILE` with the certificate's key")
	set.Var(&list{values: &c.ACMEDomain}, "acme-domain", "get a certificate for this `HOST` (repeatable)")
	set.StringVar(&c.ACMEEmail, "acme-email", c.ACMEEmail, "mail `ADDRESS` for the certificate authority")
	set.StringVar(&c.ACMEDirectory, "acme-directory", c.ACMEDirectory, "directory `URL` of the certificate authority")
	c.tokenFlags(set)
	set.StringVar(&c.Compression, "compression", c.Compression, "offer a live store's archives as `KIND`: none, zstd, auto")
	set.StringVar(&c.ArtefactCache, "artefact-cache", c.ArtefactCache, "keep compressed archives up to this `SIZE`, as 20GiB")
	set.StringVar(&c.ArtefactDir, "artefact-dir", c.ArtefactDir, "`FOLDER` for compressed archives")
	set.BoolVar(&c.Upload, "upload", c.Upload, "take uploads into the store, which is file:///DIR")
	set.Var(&list{values: &c.UploadKey}, "upload-key", "take only uploads that this public `KEY` has signed (repeatable)")
	set.BoolVar(&c.SignUploads, "sign-uploads", c.SignUploads, "add our signatures to what is uploaded")
	set.Var(&c.MaxArchiveSize, "max-archive-size", "most `SIZE` of one uploaded archive")
	set.Var(&c.MaxNARSize, "max-nar-size", "most `SIZE` that one may decode to")
	set.Var(&c.UploadLease, "upload-lease", "how long an uploaded archive waits for its path, as `TIME` with a unit")
	set.BoolVar(&c.Private, "private", c.Private, "serve only those with a token that may read or push")
	set.StringVar(&c.ClientCA, "client-ca", c.ClientCA, "PEM `FILE` with the authorities of client certificates")
	c.catalogFlags(set)
	set.Var(&list{values: &c.Upstream}, "upstream", "ask the binary cache at this `URL` for what is not here (repeatable)")
	set.Var(&list{values: &c.UpstreamKey}, "upstream-key", "take from upstreams what this public `KEY` has signed (repeatable)")
	set.StringVar(&c.UpstreamNetrc, "upstream-netrc", c.UpstreamNetrc, "netrc `FILE` with logins for upstreams")
	set.Var(&c.UpstreamBudget, "upstream-budget", "how long an upstream may take for a look-up, as `TIME` with a unit")
	set.Var(&c.UpstreamTTLNegative, "upstream-ttl-negative", "remember for this `TIME` that an upstream has not got a path")
	set.Var(&list{values: &c.UpstreamComplete}, "upstream-complete",
		"what uploads refer to may be at this upstream's `URL` (repeatable)")
	set.StringVar(&c.Keep, "keep", c.Keep, "`PLACE` for what upstreams are asked for: /DIR, s3://BUCKET, none, auto")
	c.keepFlags(set)
	set.Var(&c.GCInterval, "gc-interval", "how often what is not kept is deleted, as `TIME` with a unit; 0s for never")
	set.Var(&c.DrainTimeout, "drain-timeout", "how long transfers may go on after a stop, as `TIME` with a unit")
	set.StringVar(&c.LogFormat, "log-format", c.LogFormat, "`FORMAT` of the log: text, json")
	set.StringVar(&c.LogLevel, "log-level", c.LogLevel, "least `LEVEL` to log: debug, info, warn, error")
}

// tokenFlags binds the flags that say where the tokens file is.
func (c *Config) tokenFlags(set *flag.FlagSet) {
	set.StringVar(&c.StateDir, "state-dir", c.StateDir, "`FOLDER` for the signing key, proofs, certificates and tokens")
	set.StringVar(&c.TokenFile, "token-file", c.TokenFile, "`FILE` with the tokens that narserved token makes")
}

func (c *Config) catalogFlags(set *flag.FlagSet) {
	set.StringVar(&c.Catalog, "catalog", c.Catalog, "`FILE` or postgres://… with the catalog of an upload directory")
}

// keepFlags binds the flags that say what the collector keeps.
func (c *Config) keepFlags(set *flag.FlagSet) {
	set.Var(&c.MaxSize, "max-size", "keep at most this `SIZE` of archives, 0 for no bound")
	set.Var(&c.KeepUsed, "keep-used", "keep what was used within this `TIME`, as 90d, 12w or 36h; 0 for ever")
}

// list is a repeatable flag. Its first use drops the values that came from elsewhere.
type list struct {
	values *[]string
	set    bool
}

func (l *list) String() string {
	if l.values == nil {
		return ""
	}
	return strings.Join(*l.values, " ")
}

func (l *list) Set(value string) error {
	if !l.set {
		*l.values, l.set = nil, true
	}
	*l.values = append(*l.values, value)
	return nil
}

// readConfig reads a configuration file over c.
func (c *Config) readConfig(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return hint(fmt.Errorf("config: %w", err), configAdvice(err, file))
	}
	// Keys are looked at before their values are decoded, for the decoder takes a key in any case for the one that it
	// has, and the last one wins.
	var values map[string]any
	meta, err := toml.Decode(string(text), &values)
	if err == nil {
		err = checkKeys(file, text, meta.Keys())
	}
	if err == nil {
		meta, err = toml.Decode(string(text), c)
	}
	if err == nil && len(meta.Undecoded()) > 0 {
		key := meta.Undecoded()[0]
		return usageError{hint(fmt.Errorf("config: %s: unknown key %q", file, key.String()), "docs/operations.md has the tables' keys")}
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return err
	}
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		return usageError{hint(fmt.Errorf("config: %s line %d: %s", file, parse.Position.Line, parse.Message),
			"the file is TOML, as in listen = [\":5000\"]")}
	}
	if err != nil {
		return usageError{hint(fmt.Errorf("config: %s: %v", file, strings.TrimPrefix(err.Error(), "toml: ")),
			"text stands in quotes, a repeatable key takes an array: listen = [\":5000\"], drain-timeout = \"5m\", unsigned = true")}
	}
	return nil
}

func configAdvice(err error, file string) string {
	if errors.Is(err, fs.ErrPermission) {
		return "let this user read the file"
	}
	return fmt.Sprintf("name an existing TOML file instead of %s; narserved help serve lists what its keys may be", file)
}

// checkKeys refuses a key that is not the name of a setting, letter by letter.
func checkKeys(file string, text []byte, keys []toml.Key) error {
	for _, key := range keys {
		known, meant := settingNamed(key[0])
		if known && len(key) == 1 || slices.Contains(tables, key[0]) {
			continue
		}
		advice := "keys are named like flags, see narserved help serve"
		if meant != "" {
			advice = fmt.Sprintf("write %s", meant)
		}
		return usageError{hint(
			fmt.Errorf("config: %s line %d: unknown key %q", file, lineOf(text, key), key.String()), advice)}
	}
	return nil
}

// settingNamed reports whether there is a setting of that name; and if not, which one differs from it only by case and
// by how its words are joined, "" if none.
func settingNamed(key string) (known bool, meant string) {
	fold := strings.NewReplacer("-", "", "_", "")
	set := flag.NewFlagSet("", flag.ContinueOnError)
	new(Config).flags(set)
	if set.Lookup(key) != nil {
		return true, ""
	}
	set.VisitAll(func(f *flag.Flag) {
		if strings.EqualFold(fold.Replace(f.Name), fold.Replace(key)) {
			meant = f.Name
		}
	})
	return false, meant
}

// lineOf finds the line where a top-level key or table begins, 0 if it does not find it.
func lineOf(text []byte, key toml.Key) int {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		word, _, _ := strings.Cut(strings.TrimLeft(string(line), " \t["), "=")
		word, _, _ = strings.Cut(strings.TrimRight(word, " \t\r\n]"), ".")
		if strings.Trim(word, `"'`) == key[0] {
			return n
		}
	}
	return 0
}

// complete fills in what depends on the environment, and refuses settings that contradict each other.
func (c *Config) complete(env environ) error {
	if c.StateDir == "" {
		c.StateDir = defaultStateDir(env, os.Geteuid())
	}
	if c.TokenFile == "" && c.StateDir != "" {
		c.TokenFile = filepath.Join(c.StateDir, tokenFileName)
	}
	if c.ArtefactDir == "" {
		c.ArtefactDir = c.defaultArtefactDir(env)
	}
	_, err := newLogger(nil, c.LogFormat, c.LogLevel)
	switch {
	case err != nil:
		return usageError{err}
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return usageError{hint(errors.New("tls-cert and tls-key belong together"), "give both or neither")}
	case c.TLSCert != "" && len(c.ACMEDomain) > 0:
		return usageError{hint(errors.New("tls-cert and acme-domain contradict each other"), "choose one of them")}
	case len(c.ACMEDomain) == 0 && c.ACMEEmail+c.ACMEDirectory != "":
		return usageError{hint(errors.New("acme-email and acme-directory do nothing without acme-domain"),
			"add --acme-domain HOST")}
	case c.Unsigned && len(c.SignKey) > 0:
		return usageError{hint(errors.New("unsigned and sign-key contradict each other"), "choose one of them")}
	case c.Priority < 0:
		return usageError{hint(fmt.Errorf("priority: %d is negative", c.Priority), "use 1 or more; 30 is usual")}
	case c.DrainTimeout < 0:
		return usageError{hint(fmt.Errorf("drain-timeout: %s is negative", c.DrainTimeout), "use 0s to cut at once")}
	}
	if err := c.checkArtefacts(); err != nil {
		return err
	}
	if err := c.checkUpstreams(); err != nil {
		return err
	}
	if err := c.checkUploads(); err != nil {
		return err
	}
	if err := c.checkAccess(); err != nil {
		return err
	}
	if _, err := publicKeys("trusted-key", c.TrustedKey); err != nil {
		return err
	}
	if isBucket(c.Store) {
		if err := checkBucket(c.Store); err != nil {
			return err
		}
	} else {
		if _, err := localOptions(c.Store, env); err != nil {
			return err
		}
	}
	if c.AdminListen != "" {
		if _, err := parseAddress(flagAdminListen, c.AdminListen); err != nil {
			return err
		}
	}
	for _, spec := range c.Listen {
		if _, err := parseAddress(flagListen, spec); err != nil {
			return err
		}
	}
	return nil
}

// defaultStateDir is where state goes if nobody says so, "" if the environment names no place.
func defaultStateDir(env environ, uid int) string {
	if dirs := env["STATE_DIRECTORY"]; dirs != "" {
		first, _, _ := strings.Cut(dirs, ":")
		return first
	}
	if uid == 0 {
		return "/var/lib/narserved"
	}
	return homeDir(env, "XDG_STATE_HOME", ".local/state")
}

// homeDir is narserved's folder of one of the kinds that the XDG specification knows, "" if there is no home.
// As that specification demands, a relative path in the variable is ignored.
func homeDir(env environ, variable, below string) string {
	if dir := env[variable]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "narserved")
	}
	if home := env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, below, "narserved")
	}
	return ""
}

// credential finds a file that a name without a slash means: in systemd's credentials if it is there.
func credential(env environ, name string) string {
	if dir := env["CREDENTIALS_DIRECTORY"]; dir != "" && name != "" && !strings.Contains(name, "/") {
		if file := filepath.Join(dir, name); exists(file) {
			return file
		}
	}
	return name
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
