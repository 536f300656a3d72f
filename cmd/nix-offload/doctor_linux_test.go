package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/offload/doctor"
)

// examine runs doctor and returns what is not right, by machine and check.
func (f *office) examine(t *testing.T, env []string, args ...string) map[string]doctor.Finding {
	t.Helper()
	cmd := f.command(t, append([]string{"doctor", "--json"}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var list []doctor.Finding
	require.NoError(t, json.Unmarshal(out, &list), "%s%s", out, stderr.String())
	wrong := make(map[string]doctor.Finding)
	for _, found := range list {
		if found.Grade != doctor.Good {
			require.NotEmpty(t, found.Fix, "%v", found)
			key := found.Check
			if found.Machine != "" {
				key = found.Machine + " " + key
			}
			wrong[key] = found
		}
	}
	if exit, failed := errors.AsType[*exec.ExitError](err); doctor.Sick(list) {
		require.True(t, failed, "a fault is an exit status")
		require.Equal(t, 1, exit.ExitCode())
	} else {
		require.NoError(t, err, "%s%s", out, stderr.String())
	}
	return wrong
}

// listing is a machine's table.
func listing(name string, b *buildertest.Builder, keyFile string, more ...string) string {
	return fmt.Sprintf("[[machine]]\nname = %q\nuri = \"ssh-ng://%s@%s\"\nidentity = %q\nhost-key = %q\n%s\n\n", name, b.User, b.Addr(),
		keyFile, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(b.HostKey))), strings.Join(more, "\n"))
}

func TestDoctorFindsWhatIsWrong(t *testing.T) {
	good := quietBuilder(t, "2.34")
	f := newOffice(t, &buildertest.ClientOptions{Release: "2.34"}, good)
	require.Empty(t, f.examine(t, nil, "--machines", f.Dir()+"/machines"), "nothing is wrong")
	said, err := f.command(t, "doctor", "--machines", f.Dir()+"/machines").Output()
	require.NoError(t, err)
	require.Regexp(t, `^\d+ things are right, 0 are not\n$`, string(said))

	untrusted := buildertest.Start(t, &buildertest.Options{User: "maker", Untrusted: true})
	noNix := buildertest.Start(t, &buildertest.Options{Path: "/var/empty"})
	full := buildertest.Start(t, &buildertest.Options{StoreBytes: 300 << 20})
	late := buildertest.Start(t, &buildertest.Options{Path: "/nix/fake:/usr/local/bin:/usr/bin:/bin"})
	require.NoError(t, os.MkdirAll(late.Path("/nix/fake"), 0o755))
	require.NoError(t, os.WriteFile(late.Path("/nix/fake/date"), []byte("#!/bin/sh\necho 1000000000\n"), 0o755))
	restricted := buildertest.Start(t, nil)
	key := func(b *buildertest.Builder, name string, mode os.FileMode) string {
		text, err := os.ReadFile(b.Key)
		require.NoError(t, err)
		f.WriteFile(t, name, string(text), mode)
		return f.Dir() + "/" + name
	}
	text, err := os.ReadFile(restricted.Key)
	require.NoError(t, err)
	signer, err := ssh.ParsePrivateKey(text)
	require.NoError(t, err)
	restricted.AuthorizedKeys(t, `restrict,command="nix-store --serve --write" `+string(ssh.MarshalAuthorizedKey(signer.PublicKey())))

	another := filepath.Join(t.TempDir(), "another")
	anotherKey := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(buildertest.GenerateKey(t, another))))
	anotherText, err := os.ReadFile(another)
	require.NoError(t, err)
	stranger := f.WriteFile(t, "stranger", string(anotherText), 0o600)
	goodKey := key(good, "good", 0o600)
	goodHostKey := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(good.HostKey)))
	f.WriteFile(t, "bad.toml", listing("fine", good, goodKey)+
		strings.Replace(listing("closed", good, goodKey), good.Addr(), good.Host+":1", 1)+
		strings.Replace(listing("nowhere", good, goodKey), good.Addr(), "nowhere.invalid", 1)+
		strings.Replace(listing("other-host", good, goodKey), goodHostKey, anotherKey, 1)+
		listing("stranger", good, stranger)+
		listing("keyless", good, f.Dir()+"/absent")+
		listing("open-key", good, key(good, "open", 0o644))+
		listing("arm", good, goodKey, `systems = ["x86_64-linux", "aarch64-linux"]`)+
		listing("kvm", good, goodKey, `features = ["big", "kvm"]`)+
		listing("untrusted", untrusted, key(untrusted, "untrusted", 0o600))+
		listing("bare", noNix, key(noNix, "bare", 0o600))+
		listing("full", full, key(full, "full", 0o600))+
		listing("late", late, key(late, "late", 0o600))+
		listing("restricted", restricted, key(restricted, "restricted", 0o600))+
		"[[machine]]\nuri = \"broken\"\nmax-jobs = \"many\"\n", 0o600)
	wrong := f.examine(t, nil, "--machines", f.Dir()+"/bad.toml")
	line := func(name string) string {
		content, err := os.ReadFile(f.Path(f.Dir() + "/bad.toml"))
		require.NoError(t, err)
		before, _, found := strings.Cut(string(content), fmt.Sprintf("name = %q", name))
		require.True(t, found)
		return fmt.Sprintf("bad.toml:%d", strings.Count(before, "\n"))
	}
	for key, says := range map[string][]string{
		"machines":              {"bad.toml:", "max-jobs"},
		"coordinator":           {"does not know"},
		"closed connection":     {"refuses connections"},
		"nowhere connection":    {"nowhere.invalid"},
		"other-host connection": {line("other-host"), "host key"},
		"stranger connection":   {"accepts none of our keys", `user "root"`},
		"keyless connection":    {"/absent", "no such file"},
		"open-key key-file":     {"/open has mode 0644"},
		"arm systems":           {"aarch64-linux"},
		"kvm features":          {"kvm"},
		"untrusted trust":       {"does not trust maker"},
		"bare daemon":           {"no such command"},
		"full disk":             {"its store has"},
		"late clock":            {"its clock is off by"},
		"restricted daemon":     {"nix-store --serve"},
	} {
		found, ok := wrong[key]
		require.True(t, ok, "%s is not among %v", key, wrong)
		for _, part := range says {
			require.Contains(t, found.Text, part, key)
		}
		delete(wrong, key)
	}
	// What else is said is true of builders whose readings are this machine's.
	for key := range wrong {
		require.NotContains(t, key, "fine ", "%v", wrong[key])
	}
	require.Contains(t, f.examine(t, nil, "--machines", f.Dir()+"/none")["machines"].Text, "there is no")
	require.Contains(t, f.examine(t, nil, "--machines", f.Dir()+"/machines", "--socket", "/absent")["coordinator"].Text, "/absent")
}

func TestDoctorLooksAtTheHook(t *testing.T) {
	program, err := program()
	require.NoError(t, err)
	text, err := os.ReadFile(program)
	require.NoError(t, err)
	for _, release := range []string{"2.8", "2.26", "2.34"} {
		c := buildertest.NewClient(t, &buildertest.ClientOptions{Release: release})
		f := &office{Client: c, program: c.WriteFile(t, "nix-offload", string(text), 0o755)}
		require.NoError(t, os.Symlink("nix-offload", c.Path(c.Dir()+"/nix-offload-hook")))
		hook := "build-hook = " + c.Dir() + "/nix-offload-hook"
		for name, test := range map[string]struct {
			conf, environ string
			right         []string // releases
			says          string
		}{
			"stock":              {says: "does not ask nix-offload"},
			"in nix.conf":        {conf: hook, right: []string{"2.8", "2.34"}, says: "does not ask nix-offload"},
			"in the environment": {environ: hook, right: []string{"2.8", "2.26", "2.34"}},
			"in both":            {conf: hook, environ: hook, right: []string{"2.8", "2.26", "2.34"}},
			"with arguments":     {environ: "build-hook = " + f.program + " hook", right: []string{"2.26", "2.34"}, says: "without arguments"},
			"absent":             {environ: "build-hook = /absent/nix-offload-hook", says: "/absent/nix-offload-hook"},
			"somebody else's":    {environ: "build-hook = /bin/true", says: "/bin/true"},
			"the shim among the builders": {
				conf:  "builders = ssh-ng://localhost?remote-program=/x/nix-offload-shim x86_64-linux - 4",
				right: []string{"2.8", "2.26", "2.34"},
			},
		} {
			t.Run(release+" "+name, func(t *testing.T) {
				c.SetConf(t, test.conf)
				found, wrong := f.examine(t, []string{"NIX_CONFIG=" + test.environ}, "--socket", "/absent")["hook"]
				for _, r := range test.right {
					if r == release {
						require.False(t, wrong, "%v", found)
						return
					}
				}
				require.True(t, wrong)
				require.Contains(t, found.Text, test.says)
			})
		}
	}
}
