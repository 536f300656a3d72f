package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/daemon"
	"github.com/voidnxlab/nixtrap/offload/host"
	"github.com/voidnxlab/nixtrap/offload/ssh"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// patience is how long one question to a builder may take.
const patience = 30 * time.Second

// builder examines a builder.
type builder struct {
	report
	of        *offload.Machine
	transport *coordinator.SSH
}

func examineBuilder(ctx context.Context, m *offload.Machine, transport *coordinator.SSH) []Finding {
	b := &builder{report{machine: m.Name}, m, transport}
	b.keyFile()
	if protocol := b.daemon(ctx); protocol == daemon.Worker {
		b.readings(ctx)
		b.settings(ctx)
	}
	return b.findings
}

func (b *builder) keyFile() {
	info, err := os.Stat(b.of.Identity)
	if b.of.Identity == "" || err != nil {
		return // logging in says so
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		b.add(Warning, "key-file", fmt.Sprintf("%s has mode %04o: OpenSSH refuses it, and so does Nix without nix-offload", b.of.Identity, mode),
			"chmod 600 "+b.of.Identity)
	}
}

// daemon connects to the builder's Nix and tells what that is spoken to in, "" if there is none.
func (b *builder) daemon(ctx context.Context) daemon.Protocol {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, protocol, err := daemon.Open(ctx, b.of, "", func(ctx context.Context, command string, stderr io.Writer) (io.ReadWriteCloser, error) {
		return b.transport.Open(ctx, b.of, command, stderr)
	})
	if err != nil {
		b.unreachable(err)
		return ""
	}
	b.add(Good, "connection", "it is reached at "+b.of.Address(), "")
	client, err := nixproto.NewClient(ctx, conn, nil)
	if err != nil {
		b.add(Fault, "daemon", err.Error(), "Nix 2.4 or newer is needed there")
		return ""
	}
	defer client.Close()
	peer := client.Peer()
	switch {
	case protocol == daemon.Serve:
		b.add(Warning, "daemon", "its key allows nix-store --serve alone: nothing is known of its load, memory, disks and trust",
			"in its authorized_keys, leave out command=, or have it start nix-daemon --stdio; then readings are still not to be had")
		return protocol
	case peer.Trust == nixproto.NotTrusted:
		b.add(Fault, "trust", fmt.Sprintf("its Nix does not trust %s: it takes no inputs without a signature that it trusts", b.user()),
			fmt.Sprintf("in its /etc/nix/nix.conf: extra-trusted-users = %s, then restart nix-daemon there", b.user()))
	}
	name := "Nix " + peer.NixVersion
	if peer.NixVersion == "" {
		name = "a Nix that does not say its version"
	}
	b.add(Good, "daemon", fmt.Sprintf("%s answers, protocol %s", name, peer.Version), "")
	return protocol
}

func (b *builder) user() string {
	if b.of.User != "" {
		return b.of.User
	}
	return "the user"
}

// unreachable says why there is no connection, or no Nix at its end.
func (b *builder) unreachable(err error) {
	check, fix := "connection", ""
	if e, ok := errors.AsType[*ssh.Error](err); ok {
		fix = e.Hint
		if e.Kind == ssh.CommandNotFound || e.Kind == ssh.Exited {
			check = "daemon"
		}
		if e.Kind == ssh.Lost || fix == "" && e.Kind == ssh.Unreachable {
			fix = "is it switched on, and is its name right?"
		}
		without := *e
		without.Hint = ""
		b.add(Fault, check, without.Error(), fix)
		return
	}
	b.add(Fault, "daemon", err.Error(), "is it Nix that answers there? A shell that prints a greeting is taken for it")
}

// ask runs a command on the builder and returns what it prints.
func (b *builder) ask(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := b.transport.Open(ctx, b.of, command, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if in, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = in.CloseWrite()
	}
	text, err := io.ReadAll(io.LimitReader(conn, host.MaxOutput))
	if len(text) > 0 {
		err = nil // its status says nothing of what it has printed
	}
	return string(text), err
}

const (
	minDisk   = 1 << 30 // bytes that a builder should have left
	minInodes = 10_000
)

// readings examines what the builder says of its load and its disks.
func (b *builder) readings(ctx context.Context) {
	text, err := b.ask(ctx, host.Script())
	if err != nil {
		b.add(Warning, "readings", err.Error(), "builds go there only when nothing better is known")
		return
	}
	r := host.Parse(text, time.Now())
	var unknown []string
	for name, is := range map[string]bool{
		"load": r.Load1 != nil, "memory": r.MemoryAvailable != nil, "pressure (PSI)": r.CPU.Some != nil, "store": r.Store.Bytes != nil,
	} {
		if !is {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	switch {
	case len(unknown) == 4:
		b.add(Warning, "readings", "it tells nothing of itself: its key is restricted, or its shell is none", "allow the key a shell, or run an agent there")
	case len(unknown) > 0:
		b.add(Warning, "readings", "it does not tell its "+strings.Join(unknown, ", "), "a kernel without PSI needs psi=1 on its command line")
	default:
		b.add(Good, "readings", fmt.Sprintf("load %.2f, %.1f GiB of memory free", *r.Load1, float64(*r.MemoryAvailable)/(1<<30)), "")
	}
	b.disk("its store", r.Store)
	b.disk("the folder that its builds work in", r.Build)
}

func (b *builder) disk(what string, s offload.Space) {
	switch {
	case s.Bytes != nil && *s.Bytes < minDisk:
		b.add(Fault, "disk", fmt.Sprintf("%s has %d MiB left", what, *s.Bytes>>20), "nix-collect-garbage there, or set min-free in its nix.conf")
	case s.Inodes != nil && *s.Inodes < minInodes:
		b.add(Fault, "disk", fmt.Sprintf("%s has %d inodes left", what, *s.Inodes), "nix-collect-garbage there")
	}
}

// maxSkew is how wrong a builder's clock may be.
const maxSkew = 30 * time.Second

// settings compares the builder's line with what its Nix is set to, and its clock with this machine's.
func (b *builder) settings(ctx context.Context) {
	var tries []string
	for _, args := range showConfig() {
		tries = append(tries, "nix "+strings.Join(args, " ")+" 2>/dev/null")
	}
	asked := time.Now()
	text, err := b.ask(ctx, "date +%s; "+strings.Join(tries, " || "))
	took := time.Since(asked)
	now, config, _ := strings.Cut(text, "\n")
	seconds, malformed := strconv.ParseInt(strings.TrimSpace(now), 10, 64)
	if err != nil || malformed != nil {
		return // readings have said so
	}
	if skew := time.Unix(seconds, 0).Sub(asked); skew < -maxSkew || skew > maxSkew+took {
		b.add(Fault, "clock", fmt.Sprintf("its clock is off by %s", skew.Round(time.Second)), "run a time service there, such as systemd-timesyncd")
	} else {
		b.add(Good, "clock", "its clock is right", "")
	}
	var s settings
	if err := json.Unmarshal([]byte(config), &s); err != nil {
		b.add(Warning, "systems", "its Nix does not tell its settings: whether it builds what its line says is not known",
			"is `nix` on the PATH of sessions that are not interactive?")
		return
	}
	b.compare("systems", b.of.Systems, append([]string{s.System.Value}, s.ExtraPlatforms.Value...), "system", "extra-platforms")
	b.compare("features", append(slices.Clone(b.of.Features), b.of.MandatoryFeatures...), s.SystemFeatures.Value, "feature", "extra-system-features")
}

func (b *builder) compare(check string, listed, has []string, one, name string) {
	var lacks []string
	for _, l := range listed {
		if !slices.Contains(has, l) {
			lacks = append(lacks, l)
		}
	}
	if lacks == nil {
		b.add(Good, check, fmt.Sprintf("its Nix has each %s of its line: %s", one, strings.Join(listed, ", ")), "")
		return
	}
	b.add(Fault, check, fmt.Sprintf("its line has the %s %s, which its Nix lacks (it has %s)", one, strings.Join(lacks, ", "), strings.Join(has, ", ")),
		fmt.Sprintf("take it out of the line, or set in its /etc/nix/nix.conf: %s = %s", name, strings.Join(lacks, " ")))
}
