package coordinator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/relay"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/history"
	"github.com/voidnxlab/nixtrap/offload/machines"
	"github.com/voidnxlab/nixtrap/offload/shim"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// TestMain makes this program a shim where Nix starts it as one, by the name of a link.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); strings.HasPrefix(name, "lease-") || name == "shim" {
		if err := beShim(); err != nil {
			fmt.Fprintln(os.Stderr, "shim:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beShim is what `nix-offload shim` does.
func beShim() error {
	socket, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), "socket"))
	if err != nil {
		return err
	}
	local, err := localstore.Open(context.Background(), &localstore.Options{NoDaemon: true})
	if err != nil {
		return err
	}
	defer local.Close()
	o := &shim.Options{Program: os.Args[0], Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if text, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), "patience")); err == nil {
		if o.Patience, err = time.ParseDuration(string(text)); err != nil {
			return err
		}
	}
	return shim.Serve(context.Background(), stdio{}, local, coordinator.NewClient(string(socket)), o)
}

type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return os.Stdin.Close() }

// site is a client with a coordinator.
type site struct {
	*coordinator.Coordinator
	client  *buildertest.Client
	history *history.DB
	dir     string // of shims, as the client sees it
}

func newSite(t *testing.T, client *buildertest.Client, list ...offload.Machine) *site {
	t.Helper()
	s := &site{client: client, dir: client.Dir() + "/shims"}
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(client.Path(s.dir), 0o755))
	client.WriteFile(t, "shims/shim", string(self), 0o755)
	socket := client.Dir() + "/socket-of-coordinator"
	client.WriteFile(t, "shims/socket", socket, 0o644)
	s.history, err = history.Open(t.Context(), filepath.Join(t.TempDir(), "history"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.history.Close()) })
	transport := &coordinator.SSH{}
	t.Cleanup(func() { require.NoError(t, transport.Close()) })
	client.Run(t, "nix-store", "--add", s.dir+"/socket") // which makes the store's database
	store, err := localstore.Open(t.Context(), &localstore.Options{Root: client.Root(), NoDaemon: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	s.Coordinator, err = coordinator.New(coordinator.Options{
		Machines: list, Transport: transport, History: s.history, ShimDir: s.dir, ShimProgram: s.dir + "/shim",
		StoreRoot: client.Root(), Store: store,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	l, err := net.Listen("unix", client.Path(socket))
	require.NoError(t, err)
	server := &http.Server{Handler: coordinator.NewHandler(s.Coordinator)}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// machine is how the coordinator knows a builder.
func machine(t *testing.T, c *buildertest.Client, b *buildertest.Builder, name string) offload.Machine {
	t.Helper()
	return machineAt(t, c, b, name, "")
}

// machineAt is machine behind a link.
func machineAt(t *testing.T, c *buildertest.Client, b *buildertest.Builder, name, addr string) offload.Machine {
	t.Helper()
	list, err := machines.Parse(c.Line(t, buildertest.Machine{Builder: b, Addr: addr, Jobs: 4}), nil)
	require.NoError(t, err)
	list[0].Name = name
	list[0].Identity = b.Key
	return list[0]
}

// start starts a builder that, whatever else this machine does, has nothing to do.
func start(t *testing.T, release string) *buildertest.Builder {
	t.Helper()
	return startWith(t, &buildertest.Options{Release: release})
}

func startWith(t *testing.T, o *buildertest.Options) *buildertest.Builder {
	t.Helper()
	b := buildertest.Start(t, o)
	if !b.Isolated() {
		t.Skip("readings of a builder's own need namespaces")
	}
	for name, text := range map[string]string{
		"pressure/cpu": idle, "pressure/memory": idle, "pressure/io": idle, "loadavg": "0.00 0.00 0.00 1/100 1000\n",
	} {
		b.SetReading(t, name, text)
	}
	return b
}

const idle = `some avg10=0.00 avg60=0.00 avg300=0.00 total=1
full avg10=0.00 avg60=0.00 avg300=0.00 total=1
`

const expression = `{ name, script }: derivation {
  inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  src = builtins.toFile "source" "a source of ${name}\n";
}`

func (s *site) build(t *testing.T, name, script string) (out string, log string, err error) {
	t.Helper()
	file := s.client.WriteFile(t, "expression.nix", expression, 0o644)
	cmd := s.client.Command(t, "nix-build", file, "--argstr", "name", name, "--argstr", "script", script, "--no-out-link",
		"--max-jobs", "0", "--option", "build-poll-interval", "1", "--option", "builders",
		"ssh-ng://localhost?remote-program="+s.dir+"/shim "+machines.ThisSystem()+" - 4 1 - - -")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	return strings.TrimSpace(string(text)), stderr.String(), err
}

// The shim listed as a plain builder, for any Nix.
func TestEveryReleaseBuildsThroughAShim(t *testing.T) {
	for _, release := range realnix.Releases() {
		b := start(t, release)
		for _, daemon := range []bool{false, true} {
			for _, client := range realnix.Releases() {
				t.Run(fmt.Sprintf("%s on %s, daemon %t", client, release, daemon), func(t *testing.T) {
					c := buildertest.NewClient(t, &buildertest.ClientOptions{Release: client, Daemon: daemon})
					s := newSite(t, c, machine(t, c, b, "one"))
					name := fmt.Sprintf("from-%s-%t", client, daemon)
					out, log, err := s.build(t, name, "echo building on purpose >&2; read line < $src; echo $line > $out")
					require.NoError(t, err, log)
					require.Contains(t, log, "building on purpose")
					text, err := os.ReadFile(c.Path(out))
					require.NoError(t, err)
					require.Equal(t, "a source of "+name+"\n", string(text))
					require.FileExists(t, b.Path(out))

					_, log, err = s.build(t, name+"-failing", "echo about to fail >&2; exit 3")
					require.Error(t, err)
					require.Contains(t, log, "about to fail")
					records, err := s.history.Decisions(t.Context(), "", 10)
					require.NoError(t, err)
					require.Len(t, records, 2)
					require.Equal(t, offload.Failed, records[0].Outcome.Result)
					require.Equal(t, offload.Built, records[1].Outcome.Result)
					status, err := json.Marshal(s.Status())
					require.NoError(t, err)
					require.NotContains(t, string(status), "from-", "no lease is left")
				})
			}
		}
	}
}

var _ io.ReadWriteCloser = stdio{}

// graph is derivations that need each other: two rows of three, and one on top.
const graph = `{ tag }: let
  make = name: script: inputs: derivation {
    name = "${tag}-${name}"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
    inherit inputs; filler = builtins.toFile "filler" "${tag}";
  };
  row = names: inputs: map (n: make n "echo building ${n} >&2; sleep 0.1; echo ${n} > $out" inputs) names;
  first = row [ "a" "b" "c" ] [];
  second = row [ "d" "e" "f" ] first;
in make "top" "echo $inputs > $out" second`

// buildGraph builds a graph with our shim as the client's builder.
func (s *site) buildGraph(t *testing.T, tag string) (log string, err error) {
	t.Helper()
	return s.run(t, s.client.WriteFile(t, "graph.nix", graph, 0o644), "--argstr", "tag", tag)
}

// run builds with our shim as the client's builder.
func (s *site) run(t *testing.T, args ...string) (log string, err error) {
	t.Helper()
	text, err := s.client.Command(t, "nix-build", append(args, "--no-out-link", "--max-jobs", "0", "--option", "build-poll-interval", "1",
		"--option", "builders", "ssh-ng://localhost?remote-program="+s.dir+"/shim "+machines.ThisSystem()+" - 4 1 - - -")...).CombinedOutput()
	return string(text), err
}

// A builder that fails in any of these ways costs no build.
func TestBuildersThatFailLoseNoBuild(t *testing.T) {
	good := start(t, "2.34")
	for _, fault := range []struct {
		name string
		make func(t *testing.T, b *buildertest.Builder, link *relay.Relay)
	}{
		{"dead", func(_ *testing.T, _ *buildertest.Builder, link *relay.Relay) { link.Refuse() }},
		{"silent", func(_ *testing.T, _ *buildertest.Builder, link *relay.Relay) { link.Stall() }},
		{"cut while inputs are sent", func(_ *testing.T, _ *buildertest.Builder, link *relay.Relay) { link.CutAfter(20_000) }},
		{"no sessions", func(t *testing.T, b *buildertest.Builder, _ *relay.Relay) {
			b.StopSSHD(t)
			b.SetSSHD("MaxSessions 0")
			b.StartSSHD(t)
		}},
		{"no daemon", func(t *testing.T, b *buildertest.Builder, _ *relay.Relay) {
			b.StopSSHD(t)
			b.SetSSHD("SetEnv PATH=/nowhere")
			b.StartSSHD(t)
		}},
		{"full disk", func(t *testing.T, b *buildertest.Builder, _ *relay.Relay) {
			require.Error(t, os.WriteFile(b.Path("/nix/full"), make([]byte, 200<<20), 0o600))
		}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			bad := startWith(t, &buildertest.Options{StoreBytes: 150 << 20})
			link := buildertest.Relay(t, bad)
			c := buildertest.NewClient(t, nil)
			flawed := machineAt(t, c, bad, "flawed", link.Addr())
			flawed.Weight = 100 // so that all builds would like to go there
			fault.make(t, bad, link)
			s := newSite(t, c, machine(t, c, good, "good"), flawed)
			log, err := s.buildGraph(t, strings.ReplaceAll(fault.name, " ", "-"))
			require.NoError(t, err, log)
			for _, m := range s.Machines() {
				require.Zero(t, m.Running, m.Machine.Name)
			}
		})
	}
}

// leaves are so many derivations that need nothing of each other.
const leaves = `{ tag, n ? 20 }: builtins.genList (i: derivation {
  name = "${tag}-${toString i}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" "sleep 0.1; echo done > $out" ];
}) n`

// went counts where the builds of a tag have ended.
func (s *site) went(t *testing.T, tag string) map[string]int {
	t.Helper()
	records, err := s.history.Decisions(t.Context(), "", 1000)
	require.NoError(t, err)
	count := make(map[string]int)
	for _, r := range records {
		if strings.HasPrefix(r.Request.Name, tag) && r.Outcome != nil && r.Outcome.Result == offload.Built {
			count[r.Outcome.Machine]++
		}
	}
	return count
}

// busy is a machine whose processors are short of time, and work is queued.
func busy(t *testing.T, b *buildertest.Builder) {
	t.Helper()
	b.SetReading(t, "pressure/cpu", strings.ReplaceAll(idle, "some avg10=0.00", "some avg10=70.00"))
	b.SetReading(t, "loadavg", "9.00 9.00 9.00 9/100 1000\n")
}

func TestBuildsFollowTheReadings(t *testing.T) {
	one, two := start(t, "2.34"), start(t, "2.26")
	c := buildertest.NewClient(t, nil)
	busy(t, one)
	s := newSite(t, c, machine(t, c, one, "one"), machine(t, c, two, "two"))
	file := c.WriteFile(t, "leaves.nix", leaves, 0o644)
	build := func(tag string) {
		out, err := c.Command(t, "nix-build", file, "--argstr", "tag", tag, "--no-out-link", "--max-jobs", "0", "--option", "build-poll-interval", "1", "--option", "builders",
			"ssh-ng://localhost?remote-program="+s.dir+"/shim "+machines.ThisSystem()+" - 4 1 - - -").CombinedOutput()
		require.NoError(t, err, string(out))
	}
	read := func(holds func(load1 float64) bool) {
		buildertest.Await(t, "the readings are known", func() bool {
			r := s.Machines()[0].Readings
			return r.Load1 != nil && holds(*r.Load1)
		})
	}
	read(func(load1 float64) bool { return load1 > 5 })
	build("first")
	require.GreaterOrEqual(t, s.went(t, "first")["two"], 16, "%v", s.went(t, "first"))

	busy(t, two)
	one.SetReading(t, "pressure/cpu", idle)
	one.SetReading(t, "loadavg", "0.00 0.00 0.00 1/100 1000\n")
	read(func(load1 float64) bool { return load1 == 0 })
	buildertest.Await(t, "the other's too", func() bool { return *s.Machines()[1].Readings.Load1 > 5 })
	build("second")
	require.GreaterOrEqual(t, s.went(t, "second")["one"], 16, "%v", s.went(t, "second"))
}

// A builder that does not trust its user builds all the same what needs no trust.
func TestABuilderThatDoesNotTrustUs(t *testing.T) {
	for _, release := range []string{"2.26", "2.34"} {
		b := startWith(t, &buildertest.Options{Release: release, User: "maker", Untrusted: true})
		c := buildertest.NewClient(t, nil)
		s := newSite(t, c, machine(t, c, b, "one"))
		out, log, err := s.build(t, "untrusted-"+release, "read line < $src; echo $line > $out")
		require.NoError(t, err, log)
		require.FileExists(t, c.Path(out))
		_, log, err = s.build(t, "untrusted-failing-"+release, "echo about to fail >&2; exit 3")
		require.Error(t, err)
		require.Contains(t, log, "about to fail")
	}
}

// needy is a derivation with an input that somebody built.
const needy = `{ release }: let
  make = name: script: rest: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  } // rest);
in rec {
  input = make "input-for-${release}" "echo built here > $out" {};
  top = make "needy-${release}" "cat $input > $out" { inherit input; };
}`

// What a builder refuses for want of trust says whom it does not trust, and what to write where.
func TestDistrustIsExplained(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			b := startWith(t, &buildertest.Options{Release: release, User: "maker", Untrusted: true})
			require.NoError(t, b.Command(t, "nix-store", "--init").Run())
			c := buildertest.NewClient(t, nil)
			s := newSite(t, c, machine(t, c, b, "one"))
			c.WriteFile(t, "shims/patience", "1s", 0o644)
			file := c.WriteFile(t, "needy.nix", needy, 0o644)
			c.Run(t, "nix-build", file, "-A", "input", "--argstr", "release", release, "--no-out-link", "--option", "builders", "")
			log, err := s.run(t, file, "-A", "top", "--argstr", "release", release)
			require.Error(t, err)
			require.Contains(t, log, "one does not trust maker")
			require.Contains(t, log, "in its /etc/nix/nix.conf: extra-trusted-users = maker")
			require.Contains(t, s.Status().Machines[0].LastError, "does not trust maker")
		})
	}
}

// A key that is wrong, on the one side or the other, is told with the machine, where it is listed, and what to do.
func TestWrongKeysAreExplained(t *testing.T) {
	b := start(t, "2.34")
	other := filepath.Join(t.TempDir(), "other")
	otherKey := buildertest.GenerateKey(t, other)
	for name, test := range map[string]struct {
		change func(m *offload.Machine)
		says   []string
	}{
		"host": {
			func(m *offload.Machine) { m.HostKey = string(ssh.MarshalAuthorizedKey(otherKey)) },
			[]string{`builder "one"`, "builders:1 (eighth column", "if the builder was set up anew, pin"},
		},
		"user": {
			func(m *offload.Machine) { m.Identity = other },
			[]string{`builder "one"`, `none of our keys for user "root"`, "add to ~root/.ssh/authorized_keys there: ssh-ed25519 "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := buildertest.NewClient(t, nil)
			m := machine(t, c, b, "one")
			test.change(&m)
			s := newSite(t, c, m)
			c.WriteFile(t, "shims/patience", "1s", 0o644)
			_, log, err := s.build(t, "with-a-wrong-key-"+name, "echo done > $out")
			require.Error(t, err)
			for _, part := range test.says {
				require.Contains(t, log, part)
				require.Contains(t, s.Status().Machines[0].LastError, part)
			}
		})
	}
}

// A key that may start nix-store --serve and nothing else is enough.
func TestABuilderThatAllowsTheServeProtocolAlone(t *testing.T) {
	for _, release := range realnix.Releases() {
		for _, user := range []string{"root", "maker"} {
			t.Run(release+" as "+user, func(t *testing.T) {
				b := startWith(t, &buildertest.Options{Release: release, User: user})
				// Two daemons that make a new store's database at once fail.
				require.NoError(t, b.Command(t, "nix-store", "--init").Run())
				key, err := os.ReadFile(b.Key)
				require.NoError(t, err)
				signer, err := ssh.ParsePrivateKey(key)
				require.NoError(t, err)
				b.AuthorizedKeys(t, `restrict,command="nix-store --serve --write" `+string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
				c := buildertest.NewClient(t, nil)
				s := newSite(t, c, machine(t, c, b, "one"))
				for i := range 2 { // the second build knows how to begin
					name := fmt.Sprintf("restricted-%s-%s-%d", release, user, i)
					out, log, err := s.build(t, name, "echo first of $name >&2; read line < $src; echo $line > $out; printf 'last of %s' $name >&2")
					require.NoError(t, err, log)
					require.Contains(t, log, "first of "+name)
					require.Contains(t, log, "last of "+name)
					text, err := os.ReadFile(c.Path(out))
					require.NoError(t, err)
					require.Equal(t, "a source of "+name+"\n", string(text))
					require.Contains(t, c.Run(t, "nix-store", "--read-log", out), "first of "+name)
				}
				_, log, err := s.build(t, "restricted-failing", "echo about to fail >&2; exit 3")
				require.Error(t, err)
				require.Contains(t, log, "about to fail")
				require.Contains(t, log, "exit code 3")
				records, err := s.history.Decisions(t.Context(), "", 10)
				require.NoError(t, err)
				require.Len(t, records, 3)
				require.Equal(t, offload.Failed, records[0].Outcome.Result)
			})
		}
	}
}

// large is a derivation with a large source.
const large = `{ name, file }: derivation {
  inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo done > $out" ]; PATH = "/usr/bin:/bin";
  src = builtins.path { path = file; name = "large"; };
}`

func TestABuildGoesWhereItsInputsAre(t *testing.T) {
	one, two := start(t, "2.34"), start(t, "2.26")
	c := buildertest.NewClient(t, nil)
	s := newSite(t, c, machine(t, c, one, "one"), machine(t, c, two, "two"))
	expression := c.WriteFile(t, "large.nix", large, 0o644)
	const size = 100_000_000
	source := c.WriteFile(t, "source", strings.Repeat("\x00", size), 0o644)
	build := func(name string) *offload.Decision {
		out, err := c.Command(t, "nix-build", expression, "--argstr", "name", name, "--argstr", "file", source, "--no-out-link",
			"--max-jobs", "0", "--option", "build-poll-interval", "1", "--option", "builders",
			"ssh-ng://localhost?remote-program="+s.dir+"/shim "+machines.ThisSystem()+" - 4 1 - - -").CombinedOutput()
		require.NoError(t, err, string(out))
		records, err := s.history.Decisions(t.Context(), "", 1)
		require.NoError(t, err)
		require.Equal(t, name, records[0].Request.Name)
		return &records[0]
	}
	require.NoError(t, s.Drain("one", time.Now().Add(time.Hour)))
	require.Equal(t, "two", build("first").Outcome.Machine)
	require.NoError(t, s.Drain("one", time.Time{}))

	record := build("second")
	require.Equal(t, "two", record.Outcome.Machine)
	upload := make(map[string]float64)
	for _, r := range record.Choice.Ranking {
		for _, term := range r.Terms {
			if term.Name == offload.TermUpload {
				upload[r.Machine] = term.Seconds
			}
		}
	}
	require.NotContains(t, upload, "two", "all is there")
	require.InDelta(t, size/10e6, upload["one"], 0.1, "it has said that it lacks the source")
}
