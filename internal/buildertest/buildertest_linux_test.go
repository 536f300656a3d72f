package buildertest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// expression is a derivation that only a builder can build, for the client has no job to spare.
// It says on the way what its kernel's pressure is.
const expression = `{ name, system ? builtins.currentSystem }: derivation {
  inherit name system;
  builder = "/bin/sh";
  args = [ "-c" "read line < /proc/pressure/cpu; echo building ${name} >&2; echo \"$line\" > $out" ];
}`

const quiet = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"

// build builds a derivation of this name and returns its output's path.
func build(t *testing.T, c *buildertest.Client, name string) string {
	t.Helper()
	file := c.WriteFile(t, "expression.nix", expression, 0o644)
	return c.Run(t, "nix-build", file, "--argstr", "name", name, "--no-out-link", "--max-jobs", "0")
}

func TestEveryReleaseBuildsOnEveryRelease(t *testing.T) {
	for _, release := range realnix.Releases() {
		start := time.Now()
		builder := buildertest.Start(t, &buildertest.Options{Release: release})
		t.Logf("builder with Nix %s: %s", release, time.Since(start).Round(time.Millisecond))
		if builder.Isolated() {
			builder.SetReading(t, "pressure/cpu", quiet)
		}
		for _, daemon := range []bool{false, true} {
			for _, client := range realnix.Releases() {
				name := fmt.Sprintf("client-%s-daemon-%t", client, daemon)
				t.Run("builder "+release+" "+name, func(t *testing.T) {
					c := buildertest.NewClient(t, &buildertest.ClientOptions{Release: client, Daemon: daemon})
					link := buildertest.Relay(t, builder)
					c.SetConf(t, "builders = "+c.Line(t, buildertest.Machine{Builder: builder, Addr: link.Addr()}))
					out := build(t, c, name)
					text, err := os.ReadFile(c.Path(out))
					require.NoError(t, err, "the output is in the client's store")
					require.Equal(t, quiet, string(text), "what the builder's kernel says")
					require.FileExists(t, builder.Path(out), "the output is in the builder's store")
					require.Positive(t, link.Stats().Down)
				})
			}
		}
	}
}

func TestBuildersStoresAreTheirOwn(t *testing.T) {
	one, two := buildertest.Start(t, nil), buildertest.Start(t, nil)
	c := buildertest.NewClient(t, nil)
	c.SetConf(t, "builders = "+c.Line(t, buildertest.Machine{Builder: one}))
	out := build(t, c, "one")
	require.FileExists(t, one.Path(out))
	require.NoFileExists(t, two.Path(out))
	require.NotEqual(t, one.Addr(), two.Addr())
}

func TestAnUntrustedUserIsNotTrusted(t *testing.T) {
	for _, untrusted := range []bool{false, true} {
		b := buildertest.Start(t, &buildertest.Options{User: "maker", Untrusted: untrusted})
		c := buildertest.NewClient(t, nil)
		line := c.Line(t, buildertest.Machine{Builder: b})
		url, key := strings.Fields(line)[0], strings.Fields(line)[2]
		said := c.Run(t, "nix", "store", "ping", "--json", "--store", url+"?ssh-key="+key+
			"&base64-ssh-public-host-key="+strings.Fields(line)[7])
		trusted := `"trusted":true`
		if untrusted {
			trusted = `"trusted":false`
		}
		require.Contains(t, said, trusted)
	}
}

func TestADiskThatIsFull(t *testing.T) {
	b := buildertest.Start(t, &buildertest.Options{StoreBytes: 8 << 20})
	if !b.Isolated() {
		t.Skip("a disk of its own needs namespaces")
	}
	require.ErrorContains(t, os.WriteFile(b.Path("/nix/full"), make([]byte, 9<<20), 0o600), "no space left")
}

func TestSSHDStopsAndStarts(t *testing.T) {
	b := buildertest.Start(t, nil)
	c := buildertest.NewClient(t, nil)
	c.SetConf(t, "builders = "+c.Line(t, buildertest.Machine{Builder: b}))
	b.StopSSHD(t)
	file := c.WriteFile(t, "expression.nix", expression, 0o644)
	out, err := c.Command(t, "nix-build", file, "--argstr", "name", "refused", "--no-out-link", "--max-jobs", "0").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "refused")
	b.SetSSHD("MaxSessions 0")
	b.StartSSHD(t)
	out, err = c.Command(t, "nix-build", file, "--argstr", "name", "refused", "--no-out-link", "--max-jobs", "0").CombinedOutput()
	require.Error(t, err, string(out))
	b.StopSSHD(t)
	b.SetSSHD("")
	b.StartSSHD(t)
	require.FileExists(t, b.Path(build(t, c, "again")))
}

func TestWithoutNamespaces(t *testing.T) {
	t.Setenv("NIXTRAP_NO_NAMESPACES", "1")
	for _, release := range realnix.Releases() {
		b := buildertest.Start(t, &buildertest.Options{Release: release})
		c := buildertest.NewClient(t, &buildertest.ClientOptions{Release: release})
		c.SetConf(t, "builders = "+c.Line(t, buildertest.Machine{Builder: b}))
		require.False(t, b.Isolated())
		if release == "2.8" {
			out := build(t, c, "chrooted")
			require.FileExists(t, b.Path(out))
			require.FileExists(t, c.Path(out))
			continue
		}
		path := c.Run(t, "nix-store", "--add", c.WriteFile(t, "copied", "text", 0o644))
		columns := strings.Fields(c.Line(t, buildertest.Machine{Builder: b}))
		c.Run(t, "nix", "copy", "--to", columns[0]+"?ssh-key="+columns[2]+"&base64-ssh-public-host-key="+columns[7],
			"--no-check-sigs", path)
		require.FileExists(t, b.Path(path))
	}
}

func TestNothingIsLeftOfABuilder(t *testing.T) {
	var dir, host string
	t.Run("builder", func(t *testing.T) {
		b := buildertest.Start(t, &buildertest.Options{User: "maker"})
		dir, host = filepath.Dir(b.Key), b.Host
		require.NotEmpty(t, leftovers(t, dir, host), "the check sees a builder that runs")
		c := buildertest.NewClient(t, &buildertest.ClientOptions{Daemon: true})
		c.SetConf(t, "builders = "+c.Line(t, buildertest.Machine{Builder: b}))
		build(t, c, "left")
	})
	require.Empty(t, leftovers(t, dir, host))
	require.NoDirExists(t, dir)
}

func TestNothingIsLeftOfABuilderWhoseTestIsKilled(t *testing.T) {
	if os.Getenv("BUILDERTEST_KILLED") != "" {
		b := buildertest.Start(t, &buildertest.Options{User: "maker"})
		fmt.Println("builder", filepath.Dir(b.Key), b.Host)
		require.NoError(t, exec.Command("kill", "-9", fmt.Sprint(os.Getpid())).Run())
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "BUILDERTEST_KILLED=1")
	out, err := cmd.Output()
	require.ErrorContains(t, err, "killed", string(out))
	_, line, found := strings.Cut(string(out), "builder ")
	require.True(t, found, string(out))
	names := strings.Fields(line)
	dir, host := names[0], names[1]
	buildertest.Await(t, "no process or route is left", func() bool { return leftovers(t, dir, host) == "" })
	require.NoError(t, os.RemoveAll(dir), "a killed process leaves files, which are not mounted on")
}

// leftovers lists what a builder has on the machine: processes and mounts that name its folder, a route to its host.
func leftovers(t *testing.T, dir, host string) string {
	t.Helper()
	var left []string
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, p := range processes {
		if text, _ := os.ReadFile(p); strings.Contains(string(text), dir) {
			left = append(left, string(text))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	if strings.Contains(string(mounts), dir) {
		left = append(left, "mounts of "+dir)
	}
	routes, err := exec.Command("ip", "route").Output()
	require.NoError(t, err)
	if strings.Contains(string(routes), host+" ") {
		left = append(left, "route to "+host)
	}
	return strings.Join(left, "\n")
}
