package narinfo

import (
	"fmt"
	"strconv"
	"strings"
)

// CacheInfo is the file nix-cache-info at a binary cache's root.
type CacheInfo struct {
	StoreDir      string // "": the file doesn't say, and a client assumes its own
	WantMassQuery bool   // whether clients may ask for paths in bulk ("nix-env -qas"); false is written as nothing
	Priority      int    // lower is asked first; 0: absent, which Nix takes for 50
}

// ParseCacheInfo reads nix-cache-info as Nix does: lines of NAME ":" VALUE with white space around the value ignored,
// lines without a colon and unknown names skipped, the last of equal names taken.
// A store directory that is not absolute and clean, and a priority that is no number, are errors.
func ParseCacheInfo(text []byte) (*CacheInfo, error) {
	if len(text) > maxCacheInfo {
		return nil, fmt.Errorf("narinfo: nix-cache-info of %d bytes, more than %d", len(text), maxCacheInfo)
	}
	c := &CacheInfo{}
	for line := range strings.SplitSeq(string(text), "\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		if err := c.set(name, strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("narinfo: nix-cache-info: %s %q: %w", name, clip(value), err)
		}
	}
	return c, nil
}

// maxCacheInfo bounds nix-cache-info, which has a few dozen bytes.
const maxCacheInfo = 64 << 10

func (c *CacheInfo) set(name, value string) (err error) {
	switch name {
	case "StoreDir":
		c.StoreDir, err = value, checkStoreDir(value)
	case "WantMassQuery":
		c.WantMassQuery = value == "1"
	case "Priority":
		c.Priority, err = strconv.Atoi(value)
	}
	return err
}

// MarshalText writes the file: StoreDir, WantMassQuery and Priority, each if it isn't its zero value.
func (c *CacheInfo) MarshalText() ([]byte, error) {
	var b []byte
	if c.StoreDir != "" {
		if err := checkStoreDir(c.StoreDir); err != nil {
			return nil, fmt.Errorf("narinfo: nix-cache-info: StoreDir %q: %w", clip(c.StoreDir), err)
		}
		b = fmt.Appendf(b, "StoreDir: %s\n", c.StoreDir)
	}
	if c.WantMassQuery {
		b = append(b, "WantMassQuery: 1\n"...)
	}
	if c.Priority != 0 {
		b = fmt.Appendf(b, "Priority: %d\n", c.Priority)
	}
	return b, nil
}
