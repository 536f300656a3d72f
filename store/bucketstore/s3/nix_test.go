package s3_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/s3test"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// TestNixReadsABucketItself has every Nix copy out of a bucket that Put has filled, with no server of ours between.
func TestNixReadsABucketItself(t *testing.T) {
	s := s3test.StartPublic(t)
	url := "s3://" + s.Bucket + "?endpoint=" + s.Host() + "&scheme=http&region=" + s3test.Region
	o, err := s3.ParseURL(url)
	require.NoError(t, err)
	o.CredentialsFile = s.CredentialsFile
	b := open(t, o)
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			path, cache := fileCache(t, n)
			putFolder(t, b, n.Host(cache))
			sources := []string{s.BucketURL()}
			if n.Release == "2.34" { // Debian builds the older ones without S3
				sources = append(sources, url)
			}
			for _, source := range sources {
				out := n.TempDir(t)
				copyPath(t, n, source, "file://"+out, path)
				require.Equal(t, narinfo(t, n.Host(cache)), narinfo(t, n.Host(out)), source)
			}
		})
	}
}

// fileCache makes a path, and a binary cache in a folder that has it.
func fileCache(t *testing.T, n realnix.Nix) (path, cache string) {
	t.Helper()
	file := filepath.Join(n.TempDir(t), "s3-"+strings.ReplaceAll(n.Release, ".", "-"))
	require.NoError(t, os.WriteFile(n.Host(file), []byte(t.Name()), 0o644))
	path = n.Run(t, "nix-store", "--add", file)
	cache = n.TempDir(t)
	n.Run(t, "nix", "copy", "--to", "file://"+cache+"?compression=zstd", path)
	return path, cache
}

// putFolder puts a folder's files, metadata last.
func putFolder(t *testing.T, b *s3.Bucket, dir string) {
	t.Helper()
	for _, metadata := range []bool{false, true} {
		require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".narinfo") != metadata {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			key, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			_, err = b.Put(t.Context(), key, f, -1)
			return err
		}))
	}
}

// copyPath copies with a home without credentials, and without a look for a machine's role.
func copyPath(t *testing.T, n realnix.Nix, from, to, path string) {
	t.Helper()
	cmd := n.Command(t, "nix", "copy", "--from", from, "--to", to, "--no-check-sigs", path)
	cmd.Env = append(cmd.Env, "AWS_EC2_METADATA_DISABLED=true")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", from, output)
}

func narinfo(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	text, err := os.ReadFile(found[0])
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "NarHash: ") {
			return line
		}
	}
	t.Fatalf("%s has no NarHash", found[0])
	return ""
}
