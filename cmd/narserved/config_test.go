package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testProcess(env ...string) *process {
	return &process{
		args: []string{"narserved"}, env: parseEnviron(env),
		stdout: new(bytes.Buffer), stderr: new(bytes.Buffer),
	}
}

// flagNames are the flags of narserved serve that are settings.
func flagNames() (names []string) {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	defaultConfig().flags(set)
	set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

func TestEachFlagIsAKeyOfTheFile(t *testing.T) {
	var keys []string
	for field := range reflect.TypeFor[Config]().Fields() {
		if !field.IsExported() {
			continue
		}
		if name, table := strings.CutSuffix(field.Tag.Get("toml"), ",omitempty"); table {
			require.Contains(t, tables, name)
			continue
		}
		keys = append(keys, field.Tag.Get("toml"))
	}
	slices.Sort(keys)
	require.Equal(t, flagNames(), keys)
}

func TestOperationsGuideNamesEachFlag(t *testing.T) {
	guide, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	for _, name := range append(flagNames(), "config") {
		require.Contains(t, string(guide), "| `--"+name+"` |", "docs/operations.md has a row for the flag")
	}
	for line := range strings.Lines(string(guide)) {
		if name, ok := strings.CutPrefix(line, "| `--"); ok {
			name, _, _ = strings.Cut(name, "`")
			require.Contains(t, append(flagNames(), "config"), name, "docs/operations.md names a flag that is not there")
		}
	}
}

// TestOperationsGuideNamesEachMessage keeps what operators grep for true: each message of the guide is in the code, and
// each alarm and warning of the code in the guide.
func TestOperationsGuideNamesEachMessage(t *testing.T) {
	guide, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	var code strings.Builder
	for _, pattern := range []string{"*.go", "../../httpcache/*.go", "../../httpcache/*/*.go", "../../store/*/*.go",
		"../../store/*/*/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			if !strings.HasSuffix(file, "_test.go") {
				code.Write(text)
			}
		}
	}
	for _, call := range regexp.MustCompile(`\.(?:Error|Warn)\(("[^"]+")`).FindAllStringSubmatch(code.String(), -1) {
		require.Contains(t, string(guide), "`"+strings.Trim(call[1], `"`)+"`", "docs/operations.md says what to do about it")
	}
	rows := regexp.MustCompile(`(?m)^\| (?:ERROR|WARN|INFO) \| (.*?) \|`).FindAllStringSubmatch(string(guide), -1)
	require.NotEmpty(t, rows)
	for _, row := range rows {
		for _, message := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			require.Contains(t, code.String(), `"`+message[1]+`"`, "docs/operations.md names a message that is not logged")
		}
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(file, []byte(`
listen = ["127.0.0.1:1", "127.0.0.1:2"]
roots = ["/a", "/b"]
priority = 10
drain-timeout = "7s"
unsigned = true
`), 0o600))
	p := testProcess("STATE_DIRECTORY=/state")
	cmd := &command{name: "serve"}
	c, err := p.serveConfig(cmd, []string{"--listen", ":3", "--config", file, "--priority", "20", "--listen", ":4"})
	require.NoError(t, err)
	require.Equal(t, []string{":3", ":4"}, c.Listen, "a repeatable flag replaces the whole array")
	require.Equal(t, []string{"/a", "/b"}, c.Roots)
	require.Equal(t, 20, c.Priority)
	require.Equal(t, duration(7*time.Second), c.DrainTimeout)
	require.True(t, c.Unsigned)
	require.Equal(t, "/state", c.StateDir)

	c, err = p.serveConfig(cmd, []string{"--config=" + file, "--unsigned=false", "--drain-timeout=1m"})
	require.NoError(t, err)
	require.False(t, c.Unsigned)
	require.Equal(t, duration(time.Minute), c.DrainTimeout)
	require.Equal(t, []string{"127.0.0.1:1", "127.0.0.1:2"}, c.Listen)
}

func TestDefaultStateDir(t *testing.T) {
	for _, test := range []struct {
		name string
		env  []string
		uid  int
		want string
	}{
		{"systemd", []string{"STATE_DIRECTORY=/var/lib/x:/var/lib/y", "HOME=/home/u"}, 1000, "/var/lib/x"},
		{"systemd as root", []string{"STATE_DIRECTORY=/var/lib/x"}, 0, "/var/lib/x"},
		{"root", []string{"HOME=/root", "XDG_STATE_HOME=/root/.state"}, 0, "/var/lib/narserved"},
		{"XDG", []string{"HOME=/home/u", "XDG_STATE_HOME=/state"}, 1000, "/state/narserved"},
		{"XDG relative is ignored", []string{"HOME=/home/u", "XDG_STATE_HOME=state"}, 1000, "/home/u/.local/state/narserved"},
		{"home", []string{"HOME=/home/u"}, 1000, "/home/u/.local/state/narserved"},
		{"nothing", nil, 1000, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, defaultStateDir(parseEnviron(test.env), test.uid))
		})
	}
}

func TestParseAddress(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       address
		ok         bool
	}{
		{"host and port", "127.0.0.1:5000", address{network: "tcp", where: "127.0.0.1:5000"}, true},
		{"port", ":5000", address{network: "tcp", where: ":5000"}, true},
		{"IPv6", "[::1]:5000", address{network: "tcp", where: "[::1]:5000"}, true},
		{"host named systemd", "systemd.example.org:80", address{network: "tcp", where: "systemd.example.org:80"}, true},
		{"unix", "unix:/run/s", address{network: "unix", where: "/run/s", mode: 0o660}, true},
		{"unix with mode", "unix:/run/s?mode=0600", address{network: "unix", where: "/run/s", mode: 0o600}, true},
		{"systemd", "systemd", address{network: "systemd"}, true},
		{"systemd by name", "systemd:cache", address{network: "systemd", where: "cache"}, true},
		{"no port", "127.0.0.1", address{}, false},
		{"empty port", "127.0.0.1:", address{}, false},
		{"IPv6 without brackets", "::1:5000", address{}, false},
		{"unix without path", "unix:", address{}, false},
		{"unix with set-uid", "unix:/s?mode=4755", address{}, false},
		{"unix with unknown option", "unix:/s?owner=me", address{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseAddress("listen", test.text)
			if !test.ok {
				require.Equal(t, 2, exitStatus(err))
				require.Contains(t, message(err), "\nhint: ")
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestSettingNamed(t *testing.T) {
	for _, test := range []struct {
		key   string
		known bool
		meant string
	}{
		{"listen", true, ""},
		{"tls-cert", true, ""},
		{"Listen", false, "listen"},
		{"LISTEN", false, "listen"},
		{"tls_cert", false, "tls-cert"},
		{"TLSCert", false, "tls-cert"},
		{"lisen", false, ""},
		{"", false, ""},
	} {
		t.Run(test.key, func(t *testing.T) {
			known, meant := settingNamed(test.key)
			require.Equal(t, test.known, known)
			require.Equal(t, test.meant, meant)
		})
	}
}

func TestTheNixOSCacheComesWithItsKey(t *testing.T) {
	const other = "cache.nixos.org-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	const mine = "mine-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, row := range []struct {
		name, at    string
		given, want []string
	}{
		{"alone", "https://cache.nixos.org", nil, []string{nixosKey}},
		{"with a slash", "https://cache.nixos.org/", nil, []string{nixosKey}},
		{"beside others", "https://cache.nixos.org", []string{mine}, []string{nixosKey, mine}},
		{"replaced", "https://cache.nixos.org", []string{other}, []string{other}},
		{"unencrypted", "http://cache.nixos.org", nil, nil},
		{"another port", "https://cache.nixos.org:8443", nil, nil},
		{"another host", "https://cache.nixos.org.example.org", []string{mine}, []string{mine}},
	} {
		keys, err := (&Config{UpstreamKey: row.given}).upstreamKeys(row.at)
		require.NoError(t, err, row.name)
		var got []string
		for _, k := range keys {
			got = append(got, k.String())
		}
		require.Equal(t, row.want, got, row.name)
	}
}
