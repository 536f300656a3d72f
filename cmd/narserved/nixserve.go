package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

const nixServeHelp = `
It takes the flags of nix-serve (which are starman's) and of nix-serve-ng, so that NixOS's
services.nix-serve.package can be this program. NIX_SECRET_KEY_FILE names the key to sign with;
without it paths are served with the signatures that they have. narserved, under its own name, can do more.

Examples:
  nix-serve --listen 0.0.0.0:5000
  NIX_SECRET_KEY_FILE=/etc/nix/cache.sec nix-serve --port 8000 --priority 40`

// nixServe is what nix-serve's command line says, before it is translated.
type nixServe struct {
	listen, sockets []string
	host            string
	port            int
	quiet, verbose  bool
	logFormat       string
	showVersion     bool
}

// runNixServe is the program under the name of nix-serve.
func (p *process) runNixServe(ctx context.Context, args []string) error {
	cmd := &command{name: "nix-serve", args: "[flags]", short: "serve this machine's Nix store", long: nixServeHelp}
	c, ignored, err := p.nixServeConfig(cmd, args)
	if err != nil || c == nil {
		return ignoreHelp(err)
	}
	for _, name := range ignored {
		fmt.Fprintf(p.stderr, "narserved: --%s of nix-serve has no effect here\n", name)
	}
	return p.serve(ctx, c)
}

// nixServeConfig translates nix-serve's flags. It returns nil if they only asked for the version.
func (p *process) nixServeConfig(cmd *command, args []string) (c *Config, ignored []string, err error) {
	c, n := defaultConfig(), nixServe{host: "*", port: 5000}
	set := cmd.flagSet()
	n.flags(set, c)
	words, err := p.parse(cmd, set, args)
	if err != nil {
		return nil, nil, err
	}
	if len(words) > 0 {
		return nil, nil, cmd.misuse(fmt.Sprintf("takes no arguments, but got %q", words[0]))
	}
	if n.showVersion {
		return nil, nil, p.runVersion(context.Background(), cmd, nil)
	}
	set.Visit(func(f *flag.Flag) {
		if _, ok := ignoredFlags()[f.Name]; ok {
			ignored = append(ignored, f.Name)
		}
		if _, ok := refusedFlags()[f.Name]; ok && err == nil {
			err = usageError{hint(fmt.Errorf("nix-serve: --%s is not supported", f.Name),
				"start it from systemd, with User= and Group= in the unit")}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	if err := n.apply(c, p.env); err != nil {
		return nil, nil, err
	}
	return c, ignored, c.complete(p.env)
}

// flags declares nix-serve's flags, short forms included. Some go straight into the configuration.
func (n *nixServe) flags(set *flag.FlagSet, c *Config) {
	for _, name := range []string{"listen", "l"} {
		set.Var(&appended{&n.listen}, name, "`ADDRESS`: HOST:PORT, :PORT or the path of a unix socket (repeatable)")
	}
	for _, name := range []string{"socket", "S"} {
		set.Var(&appended{&n.sockets}, name, "`PATH` of a unix socket (repeatable)")
	}
	for _, name := range []string{"host", "o"} {
		set.StringVar(&n.host, name, n.host, "`HOST` to listen on; * is all addresses")
	}
	for _, name := range []string{"port", "p"} {
		set.IntVar(&n.port, name, n.port, "`PORT` to listen on")
	}
	set.IntVar(&c.Priority, "priority", c.Priority, "rank among a client's caches, lowest `N` first")
	set.StringVar(&c.Store, "store", c.Store, "`STORE` to serve, as narserved's --store")
	set.StringVar(&c.TLSCert, "ssl-cert", "", "PEM `FILE` with the certificate chain")
	set.StringVar(&c.TLSKey, "ssl-key", "", "PEM `FILE` with the certificate's key")
	set.BoolVar(&n.quiet, "quiet", false, "log warnings and errors only")
	set.BoolVar(&n.verbose, "verbose", false, "log each request")
	set.StringVar(&n.logFormat, "log-format", "", "`FORMAT` of nix-serve-ng; only quiet and verbose matter")
	for _, name := range []string{"version", "v"} {
		set.BoolVar(&n.showVersion, name, false, "print the version")
	}
	inert := func(names map[string]string, usage string) {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if value := names[name]; value != "" {
				set.String(name, "", fmt.Sprintf("`%s`: %s", value, usage))
			} else {
				set.Bool(name, false, usage)
			}
		}
	}
	inert(ignoredFlags(), "no effect")
	inert(refusedFlags(), "refused")
}

// appended is a repeatable flag that begins empty.
type appended struct{ values *[]string }

func (a *appended) String() string { return "" }

func (a *appended) Set(value string) error {
	*a.values = append(*a.values, value)
	return nil
}

// ignoredFlags tune processes that we do not have. They name their value, "" if they take none.
func ignoredFlags() map[string]string {
	return map[string]string{
		"workers": "N", "max-requests": "N", "backlog": "N", "timeout": "SECONDS", "keepalive-timeout": "SECONDS",
		"read-timeout": "SECONDS", "compression-level": "N", "env": "NAME", "E": "NAME", "server": "NAME", "s": "NAME",
		"loader": "NAME", "L": "NAME", "access-log": "FILE", "error-log": "FILE", "pid": "FILE",
		"preload-app": "", "disable-keepalive": "", "disable-proctitle": "", "no-default-middleware": "",
		"enable-ssl": "", // as in nix-serve-ng, --ssl-cert says enough
	}
}

// refusedFlags would do harm if they were ignored.
func refusedFlags() map[string]string {
	return map[string]string{"daemonize": "", "D": "", "user": "NAME", "group": "NAME"}
}

// apply translates what is not in c yet.
func (n *nixServe) apply(c *Config, env environ) error {
	for _, spec := range n.listen {
		address, ssl := nixServeAddress(spec)
		if ssl && c.TLSCert == "" {
			return usageError{hint(fmt.Errorf("nix-serve: --listen %s: there is no certificate", spec),
				"add --ssl-cert FILE --ssl-key FILE")}
		}
		c.Listen = append(c.Listen, address)
	}
	for _, path := range n.sockets {
		c.Listen = append(c.Listen, "unix:"+path)
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{net.JoinHostPort(anyHost(n.host), strconv.Itoa(n.port))}
	}
	if file := env["NIX_SECRET_KEY_FILE"]; file != "" {
		c.SignKey = []string{file}
	}
	c.Unsigned = len(c.SignKey) == 0
	if remote := env["NIX_REMOTE"]; isAuto(c.Store) && remote != "" && remote != "daemon" {
		c.Store = remote
	}
	c.Compression = "none" // nix-serve compresses nothing and writes nothing to the disk
	switch {
	case n.quiet || n.logFormat == "quiet":
		c.LogLevel = "warn"
	case n.verbose || strings.HasPrefix(n.logFormat, "verbose"):
		c.LogLevel = "debug"
	}
	return nil
}

// nixServeAddress translates starman's HOST:PORT, :PORT, HOST:PORT:ssl or SOCKET. HOST may be an IPv6 address without
// brackets, which is what NixOS's module makes of one.
func nixServeAddress(s string) (address string, ssl bool) {
	s, ssl = strings.CutSuffix(s, ":ssl")
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || strings.Contains(s, "/") {
		return "unix:" + s, ssl
	}
	return net.JoinHostPort(anyHost(strings.Trim(s[:colon], "[]")), s[colon+1:]), ssl
}

// anyHost turns the ways to say "all addresses" into ours.
func anyHost(host string) string {
	switch host {
	case "*", "*4", "*6", "!4", "!6":
		return ""
	}
	return host
}
