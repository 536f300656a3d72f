package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// keeping is a way in which a directory keeps an archive, and a client asks for it.
type keeping struct {
	name        string
	compression string
	anonymous   bool // the narinfo has neither FileHash nor FileSize
	decoded     bool // the client asks for the NAR itself where the narinfo names the compressed file
}

// TestDamagedArchiveNeverYieldsAWrongNAR damages archives of a directory cache before and during a transfer, before
// and after they were proved, and mends them.
func TestDamagedArchiveNeverYieldsAWrongNAR(t *testing.T) {
	content := make([]byte, 12<<20) // more than a connection's buffers hold
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, content, 0o644))
	var archive bytes.Buffer
	require.NoError(t, nar.Pack(t.Context(), &archive, file))

	for _, kept := range []keeping{
		{name: "none", compression: "none"},
		{name: "none without FileHash", compression: "none", anonymous: true},
		{name: "zstd", compression: "zstd"},
		{name: "zstd without FileHash", compression: "zstd", anonymous: true},
		{name: "zstd decoded", compression: "zstd", decoded: true},
	} {
		t.Run(kept.name, func(t *testing.T) {
			b := newBucket(t)
			s := startServer(t, "--store", b.URI())
			victims := make(map[string]*victim)
			for name, damage := range damages {
				for _, proved := range []bool{false, true} {
					for _, during := range []bool{false, true} {
						v := newVictim(t, s, b, kept, archive.Bytes(), len(victims))
						v.damage, v.proved, v.during = damage, proved, during
						victims[fmt.Sprintf("%s/proved=%t/during=%t", name, proved, during)] = v
					}
				}
			}
			for name, v := range victims {
				t.Run(name, v.testDamage)
			}
			for name, v := range victims { // after all of them, for a damaged path is not looked at again at once
				t.Run(name+"/mended", v.testMended)
			}
		})
	}
}

// victim is one path of a directory cache.
type victim struct {
	server  *server
	info    *narinfo.Info
	file    string // where its archive is
	stored  []byte // what that holds
	narinfo string // URLs
	nar     string
	listing string
	want    []byte // what the archive's URL answers

	damage         func(t *testing.T, file string)
	proved, during bool // whether the archive is proved before, and when the damage is done
}

func newVictim(t *testing.T, s *server, b *bucket, kept keeping, archive []byte, n int) *victim {
	t.Helper()
	info := &narinfo.Info{URL: fmt.Sprintf("nar/archive-%d", n), Compression: kept.compression,
		NarHash: sha256Hash(t, archive), NarSize: int64(len(archive))}
	var err error
	info.StorePath, err = narinfo.NewStorePath(narinfo.DefaultStoreDir, fmt.Sprintf("%032d-victim", n))
	require.NoError(t, err)
	v := &victim{server: s, info: info, file: filepath.Join(b.Dir, info.URL), stored: archive}
	if kept.compression == "zstd" {
		encoder, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		v.stored = encoder.EncodeAll(archive, nil)
	}
	if !kept.anonymous {
		info.FileHash, info.FileSize = sha256Hash(t, v.stored), int64(len(v.stored))
	}
	require.NoError(t, os.WriteFile(v.file, v.stored, 0o644))
	b.write(t, info)
	v.narinfo = s.URL + "/" + string(info.StorePath.HashPart()) + ".narinfo"
	v.listing = s.URL + "/" + string(info.StorePath.HashPart()) + ".ls"
	v.nar, v.want = narURL(t, s.URL, info), v.stored
	if kept.decoded {
		v.nar, v.want = strings.TrimSuffix(v.nar, ".zst"), archive
	}
	return v
}

func (v *victim) testDamage(t *testing.T) {
	if v.proved {
		v.prove(t)
	}
	body, complete := fetchWhile(t, v.nar, v.during, func() { v.damage(t, v.file) })
	if complete && !bytes.Equal(body, v.want) {
		t.Fatal("a wrong archive came to its end")
	}
	if !v.during {
		for range 3 {
			v.requireAbsent(t)
		}
		require.Equal(t, 1, v.alarms(), "the log has one alarm")
		require.True(t, v.quarantined(t), "/status has it")
	}
}

func (v *victim) testMended(t *testing.T) {
	copyBytes(t, v.stored, v.file)
	require.Eventually(t, func() bool { return v.right(t) }, 20*time.Second, 100*time.Millisecond,
		"a mended path is served again")
	require.False(t, v.quarantined(t))
	if v.alarms() > 0 {
		require.Contains(t, v.server.log.String(), `msg="path served again" path=`+string(v.info.StorePath))
	}
}

// prove has the archive read until its proof can be remembered: not before its last change is past.
func (v *victim) prove(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		stat, err := os.Stat(v.file)
		require.NoError(t, err)
		return time.Since(stat.ModTime()) > 2100*time.Millisecond
	}, 10*time.Second, 50*time.Millisecond)
	for range 2 {
		require.True(t, v.right(t))
		part := get(t, v.nar, "Range", "bytes=100-199")
		require.Equal(t, http.StatusPartialContent, part.status)
		require.Equal(t, v.want[100:200], part.body)
	}
}

func (v *victim) right(t *testing.T) bool {
	t.Helper()
	if get(t, v.narinfo).status != http.StatusOK || get(t, v.listing).status != http.StatusOK {
		return false
	}
	a := get(t, v.nar)
	return a.err == nil && a.status == http.StatusOK && bytes.Equal(a.body, v.want)
}

func (v *victim) requireAbsent(t *testing.T) {
	t.Helper()
	require.Equal(t, http.StatusNotFound, get(t, v.narinfo).status, "narinfo of a damaged path")
	require.Equal(t, http.StatusNotFound, get(t, v.nar).status, "archive of a damaged path")
	require.Equal(t, http.StatusNotFound, get(t, v.listing).status, "listing of a damaged path")
}

func (v *victim) alarms() int {
	return strings.Count(v.server.log.String(), `level=ERROR msg="path quarantined" path=`+string(v.info.StorePath))
}

func (v *victim) quarantined(t *testing.T) bool {
	t.Helper()
	var status struct{ Quarantined []struct{ Path string } }
	require.NoError(t, json.Unmarshal(get(t, v.server.Admin+"/status").body, &status))
	for _, q := range status.Quarantined {
		if q.Path == string(v.info.StorePath) {
			return true
		}
	}
	return false
}

// copyBytes puts a new file in place of one that may be there.
func copyBytes(t *testing.T, content []byte, file string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file+".new", content, 0o644))
	require.NoError(t, os.Rename(file+".new", file))
}
