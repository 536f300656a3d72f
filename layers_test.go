// Package nixtrap_test holds the rules of the repository as a whole.
package nixtrap_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/voidnxlab/nixtrap"

// layers says which packages of this module each package may import. A package that is not here fails the test.
var layers = map[string][]string{
	"nar":                                {},
	"signing":                            {},
	"narinfo":                            {"signing"},
	"store":                              {"nar", "narinfo"},
	"store/storetest":                    {"nar", "narinfo", "signing", "store"},
	"store/nixproto":                     {"nar", "narinfo", "signing", "store"},
	"store/localstore":                   {"nar", "narinfo", "signing", "store", "store/nixproto"},
	"store/bucketstore":                  {"nar", "narinfo", "signing", "store", "store/bucketstore/catalog"},
	"store/bucketstore/catalog":          {"narinfo"},
	"store/bucketstore/catalog/sqlite":   {"store/bucketstore/catalog"},
	"store/bucketstore/catalog/postgres": {"store/bucketstore/catalog"},
	"store/bucketstore/gc":               {"narinfo", "store/bucketstore/catalog"},
	"store/bucketstore/s3":               {"store", "store/bucketstore"},
	"store/bucketstore/filestest":        {"store", "store/bucketstore"},
	"store/artefact":                     {"nar", "narinfo", "store"},
	"store/httpstore":                    {"narinfo", "signing", "store"},
	"store/httpstore/upload":             {"narinfo", "signing", "store"},
	"store/pullthrough":                  {"narinfo", "store"},
	"httpcache":                          {"nar", "narinfo", "signing", "store"},
	"httpcache/token":                    {"httpcache", "store"},
	"httpcache/clientcert":               {"httpcache"},
	"httpcache/oidc":                     {"httpcache"},
	"offload":                            {},
	"offload/machines":                   {"offload", "signing"},
	"offload/drv":                        {"offload"},
	"offload/host":                       {"offload"},
	"offload/history":                    {"offload"},
	"offload/ssh":                        {},
	"offload/hook":                       {},
	"offload/shim":                       {"narinfo", "offload", "offload/drv", "store", "store/nixproto"},
	"offload/daemon":                     {"narinfo", "offload", "store", "store/nixproto"},
	"offload/doctor": {
		"offload", "offload/coordinator", "offload/daemon", "offload/host", "offload/machines", "offload/ssh", "store/nixproto",
	},
	"offload/coordinator": {
		"narinfo", "offload", "offload/daemon", "offload/drv", "offload/history", "offload/hook", "offload/host", "offload/shim", "offload/ssh",
		"store", "store/nixproto",
	},

	"internal/acmetest":    {},
	"internal/archivetest": {},
	"internal/background":  {},
	"internal/buffer":      {},
	"internal/buildertest": {"internal/realnix"},
	"internal/catalogtest": {
		"narinfo", "store/bucketstore/catalog", "store/bucketstore/catalog/postgres", "store/bucketstore/catalog/sqlite",
	},
	"internal/debian":     {},
	"internal/filehash":   {"narinfo"},
	"internal/glob":       {},
	"internal/memnet":     {},
	"internal/narfile":    {"narinfo", "store"},
	"internal/oidctest":   {},
	"internal/pause":      {},
	"internal/peer":       {},
	"internal/pgtest":     {},
	"internal/plainhttp":  {},
	"internal/realnix":    {},
	"internal/relay":      {},
	"internal/s3test":     {},
	"internal/shelf":      {},
	"internal/tlstest":    {},
	"internal/subcommand": {},

	"cmd/narserved": {
		"nar", "narinfo", "signing", "store", "store/artefact", "store/localstore", "store/bucketstore",
		"store/bucketstore/catalog", "store/bucketstore/catalog/sqlite", "store/bucketstore/catalog/postgres",
		"store/bucketstore/gc", "store/bucketstore/s3", "store/httpstore", "store/httpstore/upload", "store/pullthrough",
		"httpcache", "httpcache/token", "httpcache/oidc", "httpcache/clientcert",
	},

	"cmd/nix-offload": {
		"narinfo", "store", "store/localstore", "offload", "offload/coordinator", "offload/doctor", "offload/history", "offload/hook", "offload/machines",
		"offload/shim", "offload/ssh",
	},

	"bench/internal/stats":    {},
	"bench/internal/rawhttp":  {},
	"bench/internal/proc":     {},
	"bench/internal/program":  {},
	"bench/internal/workload": {},
	"bench/internal/target":   {"bench/internal/rawhttp"},
	"bench/internal/archive":  {},
	"bench/internal/protocol": {"nar", "narinfo", "signing", "bench/internal/archive", "bench/internal/rawhttp"},
	"bench/conform":           {"narinfo", "signing", "bench/internal/program", "bench/internal/protocol"},
	"bench/internal/contest": {
		"narinfo", "bench/internal/archive", "bench/internal/proc", "bench/internal/rawhttp", "bench/internal/target", "bench/internal/workload",
	},
	"bench/internal/report":    {"bench/internal/contest", "bench/internal/stats"},
	"bench/internal/madestore": {"narinfo", "bench/internal/workload"},
	"bench/shootout": {
		"narinfo", "bench/internal/contest", "bench/internal/madestore", "bench/internal/proc", "bench/internal/report",
		"bench/internal/program", "bench/internal/stats", "bench/internal/target", "bench/internal/workload",
	},

	"examples/nar":         {"nar"},
	"examples/signing":     {"signing"},
	"examples/narinfo":     {"narinfo", "signing"},
	"examples/store":       {"narinfo", "store", "store/bucketstore"},
	"examples/nixproto":    {"narinfo", "store/nixproto"},
	"examples/bucketstore": {"narinfo", "store", "store/bucketstore"},
	"examples/s3":          {"store/bucketstore", "store/bucketstore/s3"},
	"examples/localstore":  {"narinfo", "store", "store/localstore"},
	"examples/artefact":    {"httpcache", "store/artefact", "store/localstore"},
	"examples/httpstore":   {"narinfo", "signing", "store", "store/httpstore"},
	"examples/upload":      {"narinfo", "store/httpstore", "store/httpstore/upload", "store/localstore"},
	"examples/pullthrough": {"narinfo", "signing", "store/httpstore", "store/pullthrough"},
	"examples/httpcache":   {"httpcache", "signing", "store/bucketstore", "store/localstore"},
	"examples/token":       {"httpcache", "httpcache/token"},
	"examples/clientcert":  {"httpcache", "httpcache/clientcert"},
	"examples/oidc":        {"httpcache", "httpcache/oidc"},
	"examples/offload":     {"offload"},
	"examples/machines":    {"offload/machines"},
	"examples/drv":         {"offload/drv"},
	"examples/host":        {"offload", "offload/host"},
	"examples/history":     {"offload", "offload/history"},
	"examples/ssh":         {"offload/ssh"},
	"examples/hook":        {"offload/hook"},
	"examples/coordinator": {"offload/coordinator", "offload/machines", "offload/shim", "offload/drv"},
	"examples/shim":        {"offload/coordinator", "offload/shim", "store/localstore"},
	"examples/doctor":      {"offload/doctor"},
	"examples/daemon":      {"offload", "offload/daemon"},
	"examples/catalog": {
		"store/bucketstore", "store/bucketstore/catalog", "store/bucketstore/catalog/sqlite",
	},
	"examples/gc": {"store/bucketstore/catalog/sqlite", "store/bucketstore/gc"},
}

// embeds lists the modules that come along with each public package: what an embedder pays for importing it.
var embeds = map[string][]string{
	"nar":          {"golang.org/x/sys"},
	"signing":      {},
	"narinfo":      {"github.com/nix-community/go-nix"},
	"store":        {"github.com/nix-community/go-nix", "golang.org/x/sys"},
	"offload/hook": {},
	"store/nixproto": {
		"github.com/nix-community/go-nix", "golang.org/x/sys",
	},
	"store/bucketstore": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "github.com/therootcompany/xz",
		"golang.org/x/sys",
	},
	"store/bucketstore/catalog": {"github.com/nix-community/go-nix"},
	"store/bucketstore/gc":      {"github.com/nix-community/go-nix"},
	"store/bucketstore/catalog/postgres": {
		"github.com/jackc/pgpassfile", "github.com/jackc/pgservicefile", "github.com/jackc/pgx/v5",
		"github.com/jackc/puddle/v2", "github.com/nix-community/go-nix", "golang.org/x/sync", "golang.org/x/text",
	},
	"store/artefact": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "golang.org/x/sync", "golang.org/x/sys",
	},
	"httpcache": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "github.com/therootcompany/xz",
		"golang.org/x/sys",
	},
	"httpcache/token": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "github.com/therootcompany/xz",
		"golang.org/x/sys",
	},
	"httpcache/clientcert": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "github.com/therootcompany/xz",
		"golang.org/x/sys",
	},
	"httpcache/oidc": {
		"github.com/klauspost/compress", "github.com/therootcompany/xz",
		"github.com/coreos/go-oidc/v3", "github.com/go-jose/go-jose/v4", "github.com/nix-community/go-nix",
		"golang.org/x/oauth2", "golang.org/x/sys",
	},
	"store/httpstore": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "github.com/therootcompany/xz",
		"golang.org/x/sys",
	},
	"store/httpstore/upload": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "golang.org/x/sync", "golang.org/x/sys",
	},
	"store/pullthrough": {
		"github.com/klauspost/compress", "github.com/nix-community/go-nix", "github.com/therootcompany/xz",
		"golang.org/x/sys",
	},
	"offload":          {},
	"offload/machines": {"github.com/BurntSushi/toml"},
	"offload/drv":      {"github.com/nix-community/go-nix"},
	"offload/host":     {"golang.org/x/sys"},
	"offload/history": {
		"github.com/dustin/go-humanize", "github.com/google/uuid", "github.com/remyoudompheng/bigfft", "golang.org/x/exp",
		"golang.org/x/sys", "modernc.org/libc", "modernc.org/mathutil", "modernc.org/memory", "modernc.org/sqlite",
	},
	"offload/ssh":  {"golang.org/x/crypto"},
	"offload/shim": {"github.com/nix-community/go-nix", "golang.org/x/sys"},
	"offload/coordinator": {
		"github.com/dustin/go-humanize", "github.com/google/uuid", "github.com/nix-community/go-nix",
		"github.com/remyoudompheng/bigfft", "golang.org/x/crypto", "golang.org/x/exp", "golang.org/x/sys", "modernc.org/libc",
		"modernc.org/mathutil", "modernc.org/memory", "modernc.org/sqlite",
	},
	"store/bucketstore/s3": {
		"github.com/cespare/xxhash/v2", "github.com/dustin/go-humanize", "github.com/google/uuid",
		"github.com/klauspost/compress", "github.com/klauspost/cpuid/v2", "github.com/klauspost/crc32",
		"github.com/minio/crc64nvme", "github.com/minio/md5-simd", "github.com/minio/minio-go/v7",
		"github.com/nix-community/go-nix", "github.com/philhofer/fwd", "github.com/rs/xid", "github.com/therootcompany/xz",
		"github.com/tinylib/msgp", "github.com/zeebo/xxh3", "go.yaml.in/yaml/v3", "golang.org/x/crypto",
		"golang.org/x/net", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/text", "gopkg.in/ini.v1",
	},
}

type goPackage struct {
	ImportPath   string
	Name         string
	Doc          string
	Standard     bool
	Imports      []string
	Deps         []string
	Module       *struct{ Path string }
	TestGoFiles  []string
	XTestGoFiles []string
}

func listPackages(t *testing.T, args ...string) map[string]goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	packages := make(map[string]goPackage)
	for dec := json.NewDecoder(out); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		packages[p.ImportPath] = p
	}
	require.NoError(t, cmd.Wait())
	return packages
}

// rel returns the path within this module, and false for packages of others.
func rel(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, module+"/")
}

func TestImportsFollowTheLayers(t *testing.T) {
	for _, p := range listPackages(t, "./...") {
		name, ok := rel(p.ImportPath)
		if !ok {
			continue // this folder: tests alone
		}
		allowed, known := layers[name]
		if !known {
			t.Errorf("package %s has no layer: add it to layers", name)
		}
		for _, imported := range p.Imports {
			target, ours := rel(imported)
			if !ours || (strings.HasPrefix(target, "internal/") && target != "internal/realnix") {
				continue
			}
			if !slices.Contains(allowed, target) {
				t.Errorf("package %s must not import %s", name, target)
			}
		}
	}
}

func TestEmbeddersPayForNothingElse(t *testing.T) {
	packages := listPackages(t, "-deps", "./...")
	for name, want := range embeds {
		modules := make(map[string]bool)
		for _, dep := range packages[module+"/"+name].Deps {
			if p := packages[dep]; !p.Standard && p.Module.Path != module {
				modules[p.Module.Path] = true
			}
		}
		var got []string
		for m := range modules {
			got = append(got, m)
		}
		require.ElementsMatch(t, want, got, "modules that package %s brings along", name)
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range listPackages(t, "./...") {
		if _, ok := rel(p.ImportPath); ok {
			require.NotEmpty(t, p.Doc, "package comment of %s", p.ImportPath)
		}
	}
}

func TestEveryExportedNameHasAComment(t *testing.T) {
	for name := range layers {
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "examples/") {
			continue
		}
		files, err := filepath.Glob(filepath.Join(name, "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				requireComments(t, file)
			}
		}
	}
}

func requireComments(t *testing.T, file string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	require.NoError(t, err)
	for _, name := range undocumented(tree) {
		t.Errorf("%s: exported %s has no comment", file, name)
	}
}

func TestEveryPackageHasAnExample(t *testing.T) {
	for name := range layers {
		if strings.HasPrefix(name, "store/storetest") || name == "store/bucketstore/filestest" ||
			strings.HasPrefix(name, "internal/") ||
			strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "examples/") || strings.HasPrefix(name, "bench/") ||
			strings.HasPrefix(name, "store/bucketstore/catalog/") { // openers: examples/catalog has one
			continue
		}
		example := filepath.Join("examples", filepath.Base(name))
		require.FileExists(t, filepath.Join(example, "main.go"), "the smallest embedding of package %s", name)
	}
}

func TestModuleReplacesNothing(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	require.NotContains(t, string(text), "replace ", "a replaced module would not reach those who go get this one")
}
