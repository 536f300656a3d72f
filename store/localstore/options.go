package localstore

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// ErrNoStore reports that there is neither a database nor a daemon where the options say.
var ErrNoStore = errors.New("no Nix store here")

const defaultLayoutCache = 64 << 20

// Options say where a store is and how it is read. nil and the zero value mean the machine's own store.
// All folders are absolute.
type Options struct {
	// StoreDir is the directory in store paths; "" means /nix/store.
	StoreDir string

	// Root is the folder of a store made with `nix --store ROOT`:
	// files in ROOT/nix/store, state in ROOT/nix/var/nix, logs in ROOT/nix/var/log/nix.
	// "" means the file system's own root.
	Root string

	// RealStoreDir is where the files are; "" means ROOT/nix/store, or StoreDir where there is no Root.
	RealStoreDir string

	// StateDir holds db/db.sqlite; "" means ROOT/nix/var/nix.
	StateDir string

	// LogDir holds drvs/; "" means ROOT/nix/var/log/nix.
	LogDir string

	// DaemonSocket is where to ask if the database cannot be read; "" means STATEDIR/daemon-socket/socket.
	DaemonSocket string

	// NoDaemon never asks the daemon.
	NoDaemon bool

	// NoDatabase asks the daemon alone.
	NoDatabase bool

	// ProofFile is a SQLite file of our own where proofs are kept across restarts, made if need be.
	// Who can write to it can have wrong bytes served. "" keeps proofs in memory.
	ProofFile string

	// LayoutCache bounds the memory for layouts and file identities, in bytes; 0 means 64 MiB.
	// A path takes some 200 bytes a file.
	LayoutCache int64

	// MemoryCache bounds the memory for files of up to 256 KiB of proved paths that were read as a whole, in bytes, and
	// so spares their opening; 0 is none. A path is kept whole but for its larger files, or not at all.
	MemoryCache int64

	// Logger receives alarms (Error), the source of metadata and its changes (Info). nil discards them.
	Logger *slog.Logger

	// Trace is told of costly work. nil is none.
	Trace *Trace

	ages ages
}

// Trace has functions that are called, if not nil, on the goroutine that does the work. They must be quick.
type Trace struct {
	// Scanned is called after the tree of a path was walked, or could not be.
	Scanned func(path narinfo.StorePath, err error)

	// Hashed is called after a whole path was hashed; err is nil if it is what the database promises.
	Hashed func(path narinfo.StorePath, narSize int64, err error)

	// Remembered is called after a path was read into memory; size is what it takes there, in bytes.
	Remembered func(path narinfo.StorePath, size int64)
}

// ages are how long something must have been left alone.
type ages struct {
	proof time.Duration // a file before it was hashed, for a proof
	keep  time.Duration // a file before its proof is written to the proof file
	look  time.Duration // a quarantined path before a lookup has its files looked at
	info  time.Duration // the database before a lookup asks whether it has changed

	memory time.Duration // files on disk of which memory has copies before they are compared
}

// withDefaults returns a complete copy of o.
func (o *Options) withDefaults() (*Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.NoDaemon && (c.NoDatabase || c.DaemonSocket != "") {
		return nil, errors.New("localstore: NoDaemon contradicts NoDatabase and DaemonSocket")
	}
	setDefault(&c.StoreDir, narinfo.DefaultStoreDir)
	real := c.StoreDir
	if c.Root != "" {
		real = filepath.Join(c.Root, "nix/store")
	}
	setDefault(&c.RealStoreDir, real)
	setDefault(&c.StateDir, filepath.Join("/", c.Root, "nix/var/nix"))
	setDefault(&c.LogDir, filepath.Join("/", c.Root, "nix/var/log/nix"))
	if !c.NoDaemon {
		setDefault(&c.DaemonSocket, filepath.Join(c.StateDir, "daemon-socket/socket"))
	}
	for _, dir := range []string{c.StoreDir, c.Root, c.RealStoreDir, c.StateDir, c.LogDir, c.DaemonSocket} {
		if dir != "" && !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("localstore: %q is not an absolute path", dir)
		}
	}
	if c.LayoutCache <= 0 {
		c.LayoutCache = defaultLayoutCache
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ages == (ages{}) {
		c.ages = ages{proof: 2 * time.Second, keep: 2 * time.Minute, look: time.Second, info: time.Millisecond, memory: 10 * time.Second}
	}
	return &c, nil
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// ParseURI makes options of a store URI as Nix's --store takes it:
//
//	"", "auto"            the database, else the daemon
//	"daemon"              the daemon alone
//	"unix:///SOCKET"      the daemon alone, at that socket
//	"local"               the database alone
//	"/ROOT"               the database alone, of a store under ROOT
//
// All but the last take parameters: ?root=…&store=…&state=…&log=…&real=….
// Other parameters and other stores are errors.
func ParseURI(uri string) (*Options, error) {
	if strings.HasPrefix(uri, "/") {
		return &Options{Root: filepath.Clean(uri), NoDaemon: true}, nil
	}
	kind, query, _ := strings.Cut(uri, "?")
	o := &Options{}
	switch {
	case kind == "" || kind == "auto":
	case kind == "local" || kind == "local://":
		o.NoDaemon = true
	case kind == "daemon" || kind == "unix://":
		o.NoDatabase = true
	case strings.HasPrefix(kind, "unix:///"):
		socket, err := url.PathUnescape(strings.TrimPrefix(kind, "unix://"))
		if err != nil {
			return nil, fmt.Errorf("localstore: store %q: %v", uri, err)
		}
		o.NoDatabase, o.DaemonSocket = true, socket
	default:
		return nil, fmt.Errorf(
			"localstore: %q is not a store on this machine (auto, daemon, local, unix:///SOCKET or /ROOT)", uri)
	}
	return o, o.setParameters(uri, query)
}

func (o *Options) setParameters(uri, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("localstore: store %q: %v", uri, err)
	}
	fields := map[string]*string{
		"root": &o.Root, "store": &o.StoreDir, "state": &o.StateDir, "log": &o.LogDir, "real": &o.RealStoreDir,
	}
	for name, v := range values {
		field := fields[name]
		if field == nil {
			return fmt.Errorf("localstore: store %q: no parameter %q (root, store, state, log, real)", uri, name)
		}
		*field = v[len(v)-1]
	}
	return nil
}
