package machines_test

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/machines"
)

// files opens texts by name.
type files map[string]string

func (f files) options() *machines.Options {
	return &machines.Options{File: "list", System: "x86_64-linux", Open: func(name string) (io.ReadCloser, error) {
		text, ok := f[name]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

func plain(scheme, user, host string) offload.Machine {
	return offload.Machine{
		Name: host, Scheme: scheme, User: user, Host: host, Systems: []string{"x86_64-linux"}, MaxJobs: 1, SpeedFactor: 1,
	}
}

func with(m offload.Machine, change func(*offload.Machine)) offload.Machine {
	change(&m)
	return m
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		want       []offload.Machine
	}{
		{"nothing", "", nil},
		{"bare host", "big", []offload.Machine{plain("ssh", "", "big")}},
		{"user", "nix@big", []offload.Machine{plain("ssh", "nix", "big")}},
		{"scheme", "ssh-ng://nix@big", []offload.Machine{plain("ssh-ng", "nix", "big")}},
		{"port", "ssh://big:2222", []offload.Machine{with(plain("ssh", "", "big"), func(m *offload.Machine) { m.Name, m.Port = "big:2222", 2222 })}},
		{"address", "ssh-ng://[fe80::1]:22", []offload.Machine{with(plain("ssh-ng", "", "fe80::1"), func(m *offload.Machine) { m.Name, m.Port = "[fe80::1]:22", 22 })}},
		{"address without brackets", "::1", []offload.Machine{with(plain("ssh", "", "::1"), func(m *offload.Machine) { m.Name = "[::1]" })}},
		{"localhost", "ssh-ng://localhost?remote-program=/bin/shim%20--build", []offload.Machine{
			with(plain("ssh-ng", "", "localhost"), func(m *offload.Machine) { m.RemoteProgram = []string{"/bin/shim", "--build"} }),
		}},
		{"parameters", "ssh://big?compress=true&ssh-key=/k&base64-ssh-public-host-key=c3NoLWVkMjU1MTkgQUFBQQ==", []offload.Machine{
			with(plain("ssh", "", "big"), func(m *offload.Machine) {
				m.Identity, m.HostKey, m.Params = "/k", "ssh-ed25519 AAAA", map[string]string{"compress": "true"}
			}),
		}},
		{"column over parameter", "ssh://big?ssh-key=/k - /other", []offload.Machine{
			with(plain("ssh", "", "big"), func(m *offload.Machine) { m.Identity = "/other" }),
		}},
		{"all columns", "big a,b /key 8 2.5 y,x,y z c3NoLWVkMjU1MTkgQUFBQQ== more", []offload.Machine{
			with(plain("ssh", "", "big"), func(m *offload.Machine) {
				m.Systems, m.Identity, m.MaxJobs, m.SpeedFactor = []string{"a", "b"}, "/key", 8, 2.5
				m.Features, m.MandatoryFeatures, m.HostKey = []string{"x", "y"}, []string{"z"}, "ssh-ed25519 AAAA"
			}),
		}},
		{"speed 0", "big - - - 0", []offload.Machine{plain("ssh", "", "big")}},
		{"two of one host", "big;big aarch64-linux", []offload.Machine{
			plain("ssh", "", "big"),
			with(plain("ssh", "", "big"), func(m *offload.Machine) { m.Name, m.Systems = "big#2", []string{"aarch64-linux"} }),
		}},
		{"comments", "# all\na # one; two\n;b", []offload.Machine{plain("ssh", "", "a"), plain("ssh", "", "b")}},
		{"files", "a; @ more\n@none", []offload.Machine{plain("ssh", "", "a"), plain("ssh", "", "b"), plain("ssh", "", "c")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := machines.Parse(tt.text, files{"more": "b\n@deeper", "deeper": "c"}.options())
			require.NoError(t, err)
			require.Equal(t, tt.want, anywhere(got))
		})
	}
}

func TestFaultsNameFileLineColumnAndFix(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no store", "a\n- x", "machines: list:2: column 1 (store URI): there is no store URI: write ssh-ng://HOST or ssh://HOST"},
		{"local", "local", `list:1: column 1 (store URI): "local" is the asking machine's own store`},
		{"auto", "auto?x=1", "asking machine's own store"},
		{"daemon", "daemon", "asking machine's own store"},
		{"question mark", "?x=1", "asking machine's own store"},
		{"folder", "/nix/other", "is a folder"},
		{"socket", "unix:///run/x", `scheme "unix" takes no builds`},
		{"cache", "https://cache.example.org", `scheme "https"`},
		{"no host", "ssh://", "names no host"},
		{"option for a host", "ssh://-oProxyCommand=x", "names no host"},
		{"option hidden for a host", "ssh://%2DoProxyCommand=x", "names no host"},
		{"password", "ssh://a:b@c", "is no user's name"},
		{"port", "ssh://a:x", "is no port"},
		{"port too large", "ssh://a:65536", "is no port"},
		{"open bracket", "ssh://[::1", "is no address in brackets"},
		{"parameter", "ssh://a?x", `"x" is no parameter`},
		{"systems", "a ,", `list:1: column 2 (systems): "," names no system`},
		{"jobs", "\n\na - - x", `list:3: column 4 (jobs): "x" is no number of jobs: write a whole number, or - for 1`},
		{"jobs negative", "a - - -1", "column 4"},
		{"speed", "a - - 1 x", "column 5 (speed factor)"},
		{"speed negative", "a - - 1 -2", "the speed factor -2 is negative"},
		{"speed not finite", "a - - 1 inf", "column 5"},
		{"speed no number", "a - - 1 nan", "column 5"},
		{"host key", "a - - 1 1 - - %", "column 8 (host key): \"%\" is not base64: write what `base64"},
		{"in a file", "@bad", "machines: bad:2: column 4"},
		{"loop", "@loop", "@loop is included too deep: does it include itself?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := machines.Parse(tt.text, files{"bad": "\na - - x", "loop": "@loop"}.options())
			require.ErrorContains(t, err, tt.want)
			var fault *machines.Error
			require.True(t, errors.As(err, &fault))
			require.NotEmpty(t, fault.Fix)
		})
	}
}

func TestMachinesBesideAFaultAreRead(t *testing.T) {
	got, err := machines.Parse("a\nb - - x\nc", files{}.options())
	require.Error(t, err)
	require.Equal(t, []offload.Machine{plain("ssh", "", "a"), plain("ssh", "", "c")}, anywhere(got))

	got, err = machines.ParseTOML("[[machine]]\nuri='a'\n[[machine]]\nuri='b'\nx=1\n", files{}.options())
	require.ErrorContains(t, err, "machines: list:5: x: unknown key")
	require.Equal(t, []offload.Machine{plain("ssh", "", "a")}, anywhere(got))
}

// anywhere leaves out where machines are described.
func anywhere(list []offload.Machine) []offload.Machine {
	list = slices.Clone(list)
	for i := range list {
		list[i].Source = ""
	}
	return list
}

func TestMachinesTellWhereTheyAreDescribed(t *testing.T) {
	o := files{"m": "a; b\n@more", "more": "# none\nc", "x.toml": "\n[[machine]]\nuri = 'd'\n\n[[machine]]\nuri = 'e'"}.options()
	var sources []string
	for _, file := range []string{"m", "x.toml"} {
		list, err := machines.Read(file, o)
		require.NoError(t, err)
		for _, m := range list {
			sources = append(sources, m.Name+" "+m.Source)
		}
	}
	require.Equal(t, []string{"a m:1", "b m:1", "c more:2", "d x.toml:2", "e x.toml:5"}, sources)
}

func TestRead(t *testing.T) {
	o := files{"/etc/nix/machines": "a", "x.toml": "[[machine]]\nuri = 'b'", "bad": "a - - x"}.options()
	for file, want := range map[string]string{"/etc/nix/machines": "a", "x.toml": "b"} {
		got, err := machines.Read(file, o)
		require.NoError(t, err)
		require.Equal(t, []offload.Machine{plain("ssh", "", want)}, anywhere(got))
	}
	_, err := machines.Read("bad", o)
	require.ErrorContains(t, err, "machines: bad:1: column 4")
	_, err = machines.Read("none", o)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestAFileThatMayNotBeReadIsAFault(t *testing.T) {
	o := &machines.Options{Open: func(string) (io.ReadCloser, error) { return nil, fs.ErrPermission }}
	_, err := machines.Parse("@x", o)
	require.ErrorContains(t, err, "machines: builders:1: permission denied: make it a readable file, or remove @x")
}

const everyKey = `
# builders
[[machine]]
name = "big"
uri = "ssh-ng://nix@big.example:2222?compress=true"
systems = ["x86_64-linux", "i686-linux"]
features = ["kvm", "big-parallel"]
mandatory-features = ["gpu"]
tags = ["cellar"]
max-jobs = 8
speed-factor = 2.5
user = "builder"
port = 22
identity = "/etc/nix/key"
agent = "/run/agent"
host-key = "ssh-ed25519 AAAA"
remote-program = ["/run/current-system/sw/bin/nix-daemon", "--quiet"]
memory-limit = "24GiB"
memory-reserve = 1000
weight = 2
drained = true
trusted-keys = ["big-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]
`

func TestParseTOML(t *testing.T) {
	got, err := machines.ParseTOML(everyKey, files{}.options())
	require.NoError(t, err)
	require.Equal(t, []offload.Machine{{
		Name: "big", Scheme: "ssh-ng", User: "builder", Host: "big.example", Port: 22, Params: map[string]string{"compress": "true"},
		Systems: []string{"x86_64-linux", "i686-linux"}, Features: []string{"big-parallel", "kvm"}, MandatoryFeatures: []string{"gpu"},
		Tags: []string{"cellar"}, MaxJobs: 8, SpeedFactor: 2.5, Identity: "/etc/nix/key", Agent: "/run/agent",
		HostKey:       "ssh-ed25519 AAAA",
		RemoteProgram: []string{"/run/current-system/sw/bin/nix-daemon", "--quiet"},
		MemoryLimit:   24 << 30, MemoryReserve: 1000, Weight: 2, Drained: true,
		TrustedKeys: []string{"big-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="},
	}}, anywhere(got))

	got, err = machines.ParseTOML("[[machine]]\nuri = 'big'", files{}.options())
	require.NoError(t, err)
	require.Equal(t, []offload.Machine{plain("ssh", "", "big")}, anywhere(got))
}

func TestFaultsInTOMLNameLineKeyAndFix(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"syntax", "[[machine]]\nuri = x", "machines: list:2: "},
		{"no uri", "\n[[machine]]\nname='a'", "machines: list:2: uri: there is no store URI: write ssh-ng://HOST"},
		{"unknown key", "[[machine]]\nuri='a'\n\nspeed = 1", "machines: list:4: speed: unknown key: the keys of"},
		{"unknown key after a text", "[[machine]]\nuri='a'\nname='''\nspeed=1\n'''\n[[machine]]\nspeed = 1", "machines: list:7: speed: unknown key"},
		{"unknown quoted key", "[[machine]]\nuri='a'\n\"speed\" = 1", "machines: list:3: speed: unknown key"},
		{"unknown table", "[[machine]]\nuri='a'\n[machine.ssh]\nport=1", "machines: list:3: ssh: unknown key"},
		{"key outside", "mode = 'x'\n[[machine]]\nuri='a'", "machines: list:1: mode: unknown key: keys stand in tables"},
		{"table outside", "[[machine]]\nuri='a'\n[mode]", "machines: list:3: mode: unknown key"},
		{"one machine", "[machine]\nuri='a'", "machine: not a list of tables: write [[machine]]"},
		{"jobs", "[[machine]]\nuri='a'\nmax-jobs=-1", "list:3: max-jobs: -1 is no whole number from 0"},
		{"jobs in quotes", "[[machine]]\nuri='a'\nmax-jobs='4'", "list:3: max-jobs: 4 is no whole number"},
		{"speed", "[[machine]]\nuri='a'\nspeed-factor=-0.5", "speed-factor: the speed factor -0.5 is negative"},
		{"speed not finite", "[[machine]]\nuri='a'\nspeed-factor=inf", "speed-factor: +Inf is no number"},
		{"weight", "[[machine]]\nuri='a'\nweight=0", "weight: is not above 0"},
		{"size", "[[machine]]\nuri='a'\nmemory-limit='many'", `memory-limit: many is no size: write such as "24GiB"`},
		{"negative size", "[[machine]]\nuri='a'\nmemory-reserve=-1", "is no size"},
		{"port", "[[machine]]\nuri='a'\nport=0", "port: 0 is no whole number from 1 to 65535"},
		{"drained", "[[machine]]\nuri='a'\ndrained='yes'", "drained: is no boolean"},
		{"host key", "[[machine]]\nuri='a'\nhost-key='x'", "is no host key"},
		{"trusted key", "[[machine]]\nuri='a'\ntrusted-keys=['x']", "write a public key, NAME:BASE64"},
		{"feature", "[[machine]]\nuri='a'\nfeatures=['a b']", `features: "a b" is no single word`},
		{"features", "[[machine]]\nuri='a'\nfeatures='kvm'", "features: is no list"},
		{"no system", "[[machine]]\nuri='a'\nsystems=[]", "systems: names no system"},
		{"local", "[[machine]]\nuri='local'", "list:2: uri: \"local\" is the asking machine's own store"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := machines.ParseTOML(tt.text, files{}.options())
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestFormatIsReadBack(t *testing.T) {
	m := with(plain("ssh-ng", "nix", "big"), func(m *offload.Machine) {
		m.Port, m.Name = 22, "big:22"
		m.Identity, m.MaxJobs, m.SpeedFactor = "/k", 3, 2.5
		m.Features, m.MandatoryFeatures, m.HostKey = []string{"a", "b"}, []string{"c"}, "ssh-ed25519 AAAA me@here"
		m.RemoteProgram, m.Params = []string{"/bin/a+b", "--x"}, map[string]string{"compress": "true", "a&b": "c=d;#"}
	})
	line, err := machines.Format(&m)
	require.NoError(t, err)
	got, err := machines.Parse(line, files{}.options())
	require.NoError(t, err)
	require.Equal(t, []offload.Machine{m}, anywhere(got))

	m.Identity = "/a key"
	_, err = machines.Format(&m)
	require.ErrorContains(t, err, "column 3 (SSH identity file)")
}

func FuzzParse(f *testing.F) {
	for _, tt := range nixTable {
		f.Add(tt.builders)
	}
	f.Add("@a;ssh://[::1]:22?x=%20\n#")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := machines.Parse(text, files{"a": "b"}.options())
		names := make(map[string]bool)
		for i := range list {
			require.False(t, names[list[i].Name], "two machines are called %q", list[i].Name)
			names[list[i].Name] = true
			line, err := machines.Format(&list[i])
			if err != nil {
				continue // a key with a semicolon in it, from a parameter
			}
			again, err := machines.Parse(line, files{}.options())
			require.NoError(t, err, line)
			require.Len(t, again, 1)
			again[0].Name = list[i].Name
			require.Equal(t, anywhere(list[i:i+1]), anywhere(again), line)
		}
		_ = err
	})
}

func FuzzParseTOML(f *testing.F) {
	f.Add(everyKey)
	f.Add("[[machine]]\nuri='a'\n[machine.x]\ny=1")
	f.Fuzz(func(t *testing.T, text string) {
		list, _ := machines.ParseTOML(text, files{}.options())
		for i := range list {
			require.NotEmpty(t, list[i].Host)
			require.NotEmpty(t, list[i].Systems)
		}
	})
}
