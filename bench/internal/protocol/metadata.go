package protocol

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
)

var metadataChecks = []check{
	{"nix-cache-info names the paths' store directory", checkCacheInfo},
	{"narinfos are of the paths asked for", checkNarinfoPath},
	{"narinfos are canonical", checkCanonical},
	{"narinfos have a valid signature", checkSignature},
	{"narinfos name archives within the cache", checkURL},
	{"narinfo as JSON says the same", checkJSON},
	{"absent paths are 404", checkAbsent},
}

func checkCacheInfo(ctx context.Context, s *session) error {
	a, err := s.want(ctx, 200, "/nix-cache-info")
	if err != nil {
		return err
	}
	info, err := narinfo.ParseCacheInfo(a.body)
	if err != nil {
		return err
	}
	if dir := s.Paths[0].Dir(); info.StoreDir != dir {
		return fmt.Errorf("StoreDir is %q, not %q", info.StoreDir, dir)
	}
	if info.Priority < 0 {
		return fmt.Errorf("the priority is %d", info.Priority)
	}
	return nil
}

func checkNarinfoPath(_ context.Context, s *session) error {
	for _, i := range s.items {
		if i.info.StorePath != i.path {
			return fmt.Errorf("asked for %s, got %s", i.path, i.info.StorePath)
		}
	}
	return nil
}

func checkCanonical(_ context.Context, s *session) error {
	for _, i := range s.items {
		text, err := i.info.MarshalText()
		if err != nil {
			return fmt.Errorf("%s: %w", i.path, err)
		}
		if !bytes.Equal(text, i.text) {
			return fmt.Errorf("%s: it reads\n%s\nand would be\n%s", i.path, i.text, text)
		}
	}
	return nil
}

func checkSignature(_ context.Context, s *session) error {
	if len(s.Keys) == 0 {
		return skip("no --public-key given")
	}
	for _, i := range s.items {
		if _, ok := i.info.VerifiedBy(s.Keys); !ok {
			return fmt.Errorf("%s: none of %d signatures is by a key given", i.path, len(i.info.Signatures))
		}
	}
	return nil
}

func checkURL(_ context.Context, s *session) error {
	for _, i := range s.items {
		url := i.info.URL
		if strings.ContainsAny(url, " \\\x00") || strings.HasPrefix(url, "/") || strings.Contains(url, "..") {
			return fmt.Errorf("%s: URL %q", i.path, url)
		}
		if i.info.Compression == "" {
			return fmt.Errorf("%s: no Compression, which Nix takes for bzip2", i.path)
		}
	}
	return nil
}

// jsonInfo is what a narinfo as JSON has in common in the servers that have it.
type jsonInfo struct {
	Path        string   `json:"path"`
	NarHash     string   `json:"narHash"`
	NarSize     int64    `json:"narSize"`
	References  []string `json:"references"`
	Compression string   `json:"compression"`
}

func checkJSON(ctx context.Context, s *session) error {
	for _, i := range s.items {
		url := narinfoURL(i.path) + "?json"
		a, err := s.optional(ctx, url)
		if err != nil {
			return err
		}
		if bytes.Equal(a.body, i.text) || bytes.HasPrefix(a.body, []byte("StorePath:")) {
			return absent("?json makes no difference")
		}
		var got jsonInfo
		if err := json.Unmarshal(a.body, &got); err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
		hash, err := narinfo.ParseHash(got.NarHash)
		if err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
		var references []string
		for _, r := range i.info.References {
			references = append(references, string(r))
		}
		if got.Path != string(i.path) || hash != i.info.NarHash || got.NarSize != i.info.NarSize ||
			got.Compression != i.info.Compression || !slices.Equal(got.References, references) {
			return fmt.Errorf("%s: it says %.300s", url, a.body)
		}
	}
	return nil
}

// Hashes of nothing.
const (
	absentPart = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
	absentHash = "0000000000000000000000000000000000000000000000000000"
)

func checkAbsent(ctx context.Context, s *session) error {
	for _, url := range []string{
		"/" + absentPart + ".narinfo",
		"/nar/" + absentPart + "-" + absentHash + ".nar",
		"/nar/" + absentHash + ".nar",
		"/nar/" + absentHash + ".nar.zst",
		"/nar/" + absentHash + ".nar?hash=" + absentPart,
		"/" + absentPart + ".ls",
		"/log/" + absentPart + "-nothing.drv",
		"/realisations/sha256:" + "00000000000000000000000000000000000000000000000000000000000000ff" + "!out.doi",
		"/debuginfo/00000000000000000000000000000000000000ff",
		"/serve/" + absentPart + "/",
	} {
		if _, err := s.want(ctx, 404, url); err != nil {
			return err
		}
	}
	return nil
}
