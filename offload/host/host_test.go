package host_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/host"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const (
	pressure = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=2.25 avg60=0.00 avg300=0.00 total=1\n"
	meminfo  = "MemTotal:       1000 kB\nMemFree:        100 kB\nMemAvailable:   600 kB\nSwapTotal:      10 kB\nSwapFree:       5 kB\nHugePages_Total: 0\n"
)

const printed = `Last login: yesterday
@@ cpu
` + pressure + `@@ memory
some avg10=3.00 avg60=1.00 avg300=0.00 total=1
@@ io
@@ loadavg
2.50 1.00 0.50 3/100 4711
@@ meminfo
` + meminfo + `@@ cores
8
@@ store
Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/disk by name    2000      1000      1000      50% /nix store
Filesystem       Inodes  IUsed    IFree IUse% Mounted on
/dev/disk by name  3000   1000     2000   34% /nix store
@@ build
Filesystem 1024-blocks Used Available Capacity Mounted on
tmpfs             7000 1000      6000      15% /tmp
Filesystem Inodes IUsed IFree IUse% Mounted on
tmpfs           0     0     0     - /tmp
@@ users
872415232
_nixbld2
nixbld1
nixbld1+
nixbldx
root
1000
@@ power
Mains 0 - - -
Battery - 41 - Discharging
Battery - 3 Device Discharging
USB 0 - - -
Battery - 80 System Not charging
@@ nix
nix-store (Nix) 2.26.3
@@ sysctl
@@ new
1 2 3
@@ end
`

func TestParse(t *testing.T) {
	require.Equal(t, offload.Readings{
		At:          now,
		CPU:         offload.Pressure{Some: new(12.5), Full: new(2.25)},
		Memory:      offload.Pressure{Some: new(3.0)},
		Load1:       new(2.5),
		Cores:       new(8),
		MemoryTotal: new(int64(1000 << 10)), MemoryAvailable: new(int64(600 << 10)),
		SwapTotal: new(int64(10 << 10)), SwapFree: new(int64(5 << 10)),
		Store:  offload.Space{Bytes: new(int64(1000 << 10)), Inodes: new(int64(2000))},
		Build:  offload.Space{Bytes: new(int64(6000 << 10))},
		Builds: new(4), OnBattery: new(true), BatteryPercent: new(41.0),
		NixVersion: "2.26.3",
	}, host.Parse(printed, now))
}

func TestWhatMakesNoSenseIsUnknown(t *testing.T) {
	nothing := offload.Readings{At: now}
	tests := []struct{ name, output string }{
		{"nothing", ""},
		{"the serve protocol's greeting", "\xcb\xf9\x52\x54\x00\x00\x00\x00\x07\x02"},
		{"a refusal", "This account is currently not available.\n"},
		{"empty sections", "@@ cpu\n@@ loadavg\n@@ meminfo\n@@ cores\n@@ store\n@@ users\n@@ nix\n@@ end\n"},
		{"pressure above all time", "@@ cpu\nsome avg10=101\n@@ end\n"},
		{"pressure of no number", "@@ cpu\nsome avg10=nan\nfull avg10=-1\n@@ end\n"},
		{"load of no number", "@@ loadavg\nInf\n@@ end\n"},
		{"no memory", "@@ meminfo\nMemTotal: 0 kB\nMemAvailable: -1 kB\n@@ end\n"},
		{"too much memory", "@@ meminfo\nMemTotal: 9223372036854775807 kB\n@@ end\n"},
		{"no cores", "@@ cores\n0\n@@ end\n"},
		{"a version of words", "@@ nix\nnix: command not found\n@@ end\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, nothing, host.Parse(tt.output, now)) })
	}
	for i := range len(printed) - len("\n@@ end\n") {
		require.Equal(t, nothing, host.Parse(printed[:i], now), "broken off after %d bytes", i)
	}
}

func TestMacOS(t *testing.T) {
	r := host.Parse("@@ sysctl\nhw.memsize: 17179869184\nvm.loadavg: { 1.25 1.50 1.75 }\n@@ end\n", now)
	require.Equal(t, new(int64(16<<30)), r.MemoryTotal)
	require.Equal(t, new(1.25), r.Load1)
}

// write makes a tree of small files.
func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
}

func TestReadBelowARoot(t *testing.T) {
	root := t.TempDir()
	require.Equal(t, offload.Readings{OnBattery: new(false)}, timeless(host.Read(&host.Options{Root: root})), "an empty folder")

	write(t, root, map[string]string{
		"proc/pressure/cpu": pressure, "proc/loadavg": "2.50 1 1 1/1 1\n", "proc/meminfo": meminfo,
		"proc/12/status": "Name:\tsh\nUid:\t30001\t30001\t30001\t30001\n", "proc/13/status": "Name:\tsh\nUid:\t30001\t30001\t30001\t30001\n",
		"proc/14/status": "Name:\tsh\nUid:\t0\t0\t0\t0\n", "proc/15/status": "Name:\tsh\nUid:\t872415300\t0\t0\t0\n",
		"etc/passwd":                        "root:x:0:0::/:/bin/sh\nnixbld1:x:30001:30000::/:/sbin/nologin\n",
		"sys/devices/system/cpu/online":     "0-2,8\n",
		"sys/class/power_supply/AC/type":    "Mains\n",
		"sys/class/power_supply/BAT/type":   "Battery\n",
		"sys/class/power_supply/BAT/status": "Discharging\n", "sys/class/power_supply/BAT/capacity": "55\n",
		"nix/store/x": "",
	})
	r := timeless(host.Read(&host.Options{Root: root, BuildDir: "/nix"}))
	if runtime.GOOS == "linux" {
		require.NotNil(t, r.Store.Bytes)
		require.NotNil(t, r.Build.Bytes)
	}
	r.Store, r.Build = offload.Space{}, offload.Space{}
	require.Equal(t, offload.Readings{
		CPU: offload.Pressure{Some: new(12.5), Full: new(2.25)}, Load1: new(2.5), Cores: new(4),
		MemoryTotal: new(int64(1000 << 10)), MemoryAvailable: new(int64(600 << 10)),
		SwapTotal: new(int64(10 << 10)), SwapFree: new(int64(5 << 10)),
		Builds: new(2), OnBattery: new(true), BatteryPercent: new(55.0),
	}, r)
}

func timeless(r offload.Readings) offload.Readings {
	r.At = time.Time{}
	return r
}

// Every shell that builders have says what this machine's files say.
func TestTheScriptAgreesWithRead(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("host: no /proc here")
	}
	for _, shell := range [][]string{{"dash"}, {"bash"}, {"bash", "--posix"}, {"busybox", "sh"}, {"ksh"}, {"zsh"}} {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			if _, err := exec.LookPath(shell[0]); err != nil {
				t.Skip("host: no " + shell[0] + " here")
			}
			cmd := exec.CommandContext(t.Context(), shell[0], shell[1:]...)
			cmd.Stdin = strings.NewReader(host.Script())
			out, err := cmd.Output()
			require.NoError(t, err)
			requireAlike(t, host.Read(nil), host.Parse(string(out), now))
		})
	}
}

func TestTheScriptOnMachinesOfRealNix(t *testing.T) {
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			cmd := nix.Command(t, "sh", "-c", host.Script())
			out, err := cmd.Output()
			require.NoError(t, err)
			r := host.Parse(string(out), now)
			require.True(t, strings.HasPrefix(r.NixVersion, nix.Release+"."), r.NixVersion)
			require.NotNil(t, r.Store.Bytes)
			require.NotNil(t, r.MemoryAvailable)
		})
	}
}

func requireAlike(t *testing.T, a, b offload.Readings) {
	t.Helper()
	require.Equal(t, a.Cores, b.Cores)
	require.Equal(t, a.MemoryTotal, b.MemoryTotal)
	require.Equal(t, a.CPU.Some == nil, b.CPU.Some == nil)
	require.Equal(t, a.OnBattery, b.OnBattery)
	require.Equal(t, a.Store.Inodes == nil, b.Store.Inodes == nil)
	require.Equal(t, a.Build.Bytes == nil, b.Build.Bytes == nil)
	if a.Store.Bytes != nil {
		require.InEpsilon(t, *a.Store.Bytes, *b.Store.Bytes, 0.2)
	}
	require.NotNil(t, b.Builds)
}

func FuzzParse(f *testing.F) {
	f.Add(printed)
	f.Add("@@ sysctl\nvm.loadavg: { }\n@@ power\nBattery - - - -\n@@ users\nnixbld\n@@ end")
	f.Fuzz(func(t *testing.T, output string) {
		r := host.Parse(output, now)
		for _, p := range []*float64{r.CPU.Some, r.CPU.Full, r.Memory.Some, r.IO.Full, r.BatteryPercent} {
			require.True(t, p == nil || *p >= 0 && *p <= 100)
		}
		for _, n := range []*int64{r.MemoryTotal, r.MemoryAvailable, r.Store.Bytes, r.Store.Inodes} {
			require.True(t, n == nil || *n >= 0)
		}
		require.True(t, r.Cores == nil || *r.Cores > 0)
	})
}

func BenchmarkRead(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		host.Read(nil)
	}
}

func BenchmarkParse(b *testing.B) {
	b.SetBytes(int64(len(printed)))
	b.ReportAllocs()
	for b.Loop() {
		host.Parse(printed, now)
	}
}
