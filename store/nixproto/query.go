package nixproto

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
)

// op is an operation's number on the wire.
type op uint64

const (
	opIsValidPath           op = 1
	opReferrers             op = 6
	opAddToStore            op = 7
	opBuildPaths            op = 9
	opEnsurePath            op = 10
	opAddTempRoot           op = 11
	opSetOptions            op = 19
	opAllValidPaths         op = 23
	opPathInfo              op = 26
	opPathFromHashPart      op = 29
	opValidPaths            op = 31
	opValidDerivers         op = 33
	opBuildDerivation       op = 36
	opAddSignatures         op = 37
	opNARFromPath           op = 38
	opAddToStoreNAR         op = 39
	opMissing               op = 40
	opDerivationOutputMap   op = 41
	opRegisterRealisation   op = 42
	opRealisation           op = 43
	opAddMultipleToStore    op = 44
	opBuildPathsWithResults op = 46
)

var opNames = map[op]string{
	opIsValidPath:           "is valid path",
	opReferrers:             "referrers",
	opAddToStore:            "add to store",
	opBuildPaths:            "build paths",
	opEnsurePath:            "ensure path",
	opAddTempRoot:           "add temporary root",
	opSetOptions:            "set options",
	opAllValidPaths:         "all valid paths",
	opPathInfo:              "path info",
	opPathFromHashPart:      "path from hash part",
	opValidPaths:            "valid paths",
	opValidDerivers:         "valid derivers",
	opBuildDerivation:       "build derivation",
	opAddSignatures:         "add signatures",
	opNARFromPath:           "NAR from path",
	opAddToStoreNAR:         "add NAR to store",
	opMissing:               "missing",
	opDerivationOutputMap:   "derivation outputs",
	opRegisterRealisation:   "register realisation",
	opRealisation:           "realisation",
	opAddMultipleToStore:    "add multiple to store",
	opBuildPathsWithResults: "build paths with results",
}

// String says the operation in words.
func (o op) String() string { return opNames[o] }

// featureRealisationByPath is offered by daemons that know realisations by derivation path instead of by hash.
const featureRealisationByPath = "realisation-with-path-not-hash"

// PathInfo is what a daemon knows of a valid path.
type PathInfo struct {
	Info             *narinfo.Info // without what says how an archive is stored (URL, Compression, FileHash, FileSize)
	RegistrationTime time.Time     // when the path became valid, in whole seconds; zero if not known
	Ultimate         bool          // built here rather than fetched
}

// PathInfo returns the metadata of a valid path.
func (c *Client) PathInfo(ctx context.Context, path narinfo.StorePath) (*PathInfo, error) {
	var info *PathInfo
	err := c.call(ctx, opPathInfo, onePath(path), func(d *decoder) {
		if d.bool() {
			info = decodePathInfo(d, path)
		}
	})
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, notFound("path", string(path))
	}
	return info, nil
}

// PathFromHashPart returns the valid path with the given hash part.
func (c *Client) PathFromHashPart(ctx context.Context, hash narinfo.HashPart) (narinfo.StorePath, error) {
	var path narinfo.StorePath
	err := c.call(ctx, opPathFromHashPart, func(e *encoder) { e.string(string(hash)) }, func(d *decoder) {
		path = decodeOptionalPath(d)
		if path != "" && path.HashPart() != hash {
			d.fail("asked for %q, got %q", hash, path)
		}
	})
	if err != nil {
		return "", err
	}
	if path == "" {
		return "", notFound("hash part", string(hash))
	}
	return path, nil
}

// IsValidPath reports whether the path is in the store.
func (c *Client) IsValidPath(ctx context.Context, path narinfo.StorePath) (valid bool, err error) {
	err = c.call(ctx, opIsValidPath, onePath(path), func(d *decoder) { valid = d.bool() })
	return valid, err
}

// ValidPathsOptions say what is done besides asking. nil and the zero value are the same.
type ValidPathsOptions struct {
	Lock       bool // first keep the garbage collector from all of the paths, valid or not, until the connection ends
	Substitute bool // first fetch what is missing and can be had
}

// ValidPaths returns those of the paths that are valid, sorted.
// With Lock, the worker protocol takes a message for each path.
func (c *Client) ValidPaths(
	ctx context.Context, paths []narinfo.StorePath, o *ValidPathsOptions,
) ([]narinfo.StorePath, error) {
	if o == nil {
		o = new(ValidPathsOptions)
	}
	if o.Lock {
		for _, path := range paths {
			if err := c.AddTempRoot(ctx, path); err != nil {
				return nil, err
			}
		}
	}
	return c.paths(ctx, opValidPaths, func(e *encoder) {
		e.paths(paths)
		e.bool(o.Substitute)
	})
}

// Referrers returns the valid paths whose references include path, sorted; path itself if it refers to itself.
// A path that is not valid has none.
func (c *Client) Referrers(ctx context.Context, path narinfo.StorePath) ([]narinfo.StorePath, error) {
	return c.paths(ctx, opReferrers, onePath(path))
}

// AllValidPaths returns all paths in the store, sorted. The result takes about 100 bytes a path.
func (c *Client) AllValidPaths(ctx context.Context) ([]narinfo.StorePath, error) {
	return c.paths(ctx, opAllValidPaths, func(*encoder) {})
}

// ValidDerivers returns the valid derivations that have path as an output, sorted.
// A path that is not valid may have some.
func (c *Client) ValidDerivers(ctx context.Context, path narinfo.StorePath) ([]narinfo.StorePath, error) {
	return c.paths(ctx, opValidDerivers, onePath(path))
}

// DerivationOutputs returns the paths of a valid derivation's outputs by their names.
// The path of an output that is not known before it is built is "". The paths need not be valid.
// A path that is no derivation is an error, and not sent: Nix 2.8's daemon dies of it.
func (c *Client) DerivationOutputs(ctx context.Context, drv narinfo.StorePath) (map[string]narinfo.StorePath, error) {
	if !drv.IsDerivation() {
		return nil, fmt.Errorf("nixproto: %s: %q is no derivation", opDerivationOutputMap, drv)
	}
	if err := c.mustBeValid(ctx, drv); err != nil {
		return nil, err
	}
	outputs := make(map[string]narinfo.StorePath)
	err := c.call(ctx, opDerivationOutputMap, onePath(drv), func(d *decoder) {
		for range d.count() {
			name := d.string()
			path := decodeOptionalPath(d)
			if d.err != nil {
				return
			}
			outputs[name] = path
		}
	})
	if err != nil {
		return nil, err
	}
	return outputs, nil
}

// Realisation returns the JSON text of what a content-addressed derivation's output was realised to,
// by its id "sha256:BASE16!OUTPUT".
// A daemon of Nix 2.35 or later, which has no such ids, is errors.ErrUnsupported;
// one whose experimental feature ca-derivations is off may answer with a [RemoteError].
func (c *Client) Realisation(ctx context.Context, id string) ([]byte, error) {
	if err := c.needsRealisationsByHash(); err != nil {
		return nil, err
	}
	var found []string
	err := c.call(ctx, opRealisation, func(e *encoder) { e.string(id) }, func(d *decoder) {
		if found = d.strings(); len(found) > 1 {
			d.fail("%d realisations of one id", len(found))
		}
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, notFound("realisation", id)
	}
	return []byte(found[0]), nil
}

func (c *Client) needsRealisationsByHash() error {
	if slices.Contains(c.peer.Features, featureRealisationByPath) {
		return fmt.Errorf("nixproto: realisation by hash from a daemon of Nix %q: %w",
			c.peer.NixVersion, errors.ErrUnsupported)
	}
	return nil
}

// mustBeValid asks first, where an operation would answer an absent path with an error like any other.
func (c *Client) mustBeValid(ctx context.Context, path narinfo.StorePath) error {
	valid, err := c.IsValidPath(ctx, path)
	if err == nil && !valid {
		err = notFound("path", string(path))
	}
	return err
}

func (c *Client) paths(ctx context.Context, o op, encode func(*encoder)) (paths []narinfo.StorePath, err error) {
	err = c.call(ctx, o, encode, func(d *decoder) { paths = decodePaths(d) })
	if err != nil {
		return nil, err
	}
	return paths, nil
}

func onePath(path narinfo.StorePath) func(*encoder) {
	return func(e *encoder) { e.string(string(path)) }
}

func notFound(what, name string) error {
	return fmt.Errorf("nixproto: %s %q: %w", what, name, store.ErrNotFound)
}

func decodePathInfo(d *decoder, path narinfo.StorePath) *PathInfo {
	info := &narinfo.Info{StorePath: path}
	info.Deriver = decodeOptionalPath(d)
	info.NarHash = decodeNarHash(d)
	info.References = decodePaths(d)
	registered := decodeTime(d)
	if info.NarSize = d.int64(); info.NarSize < 1 && d.err == nil {
		d.fail("NAR size %d", info.NarSize)
	}
	ultimate := d.bool()
	info.Signatures = listOf(d, func() signing.Signature { return signing.Signature(d.string()) })
	info.CA = decodeContentAddress(d)
	return &PathInfo{Info: info, RegistrationTime: registered, Ultimate: ultimate}
}

// encodePathInfo writes all but the path itself.
func encodePathInfo(e *encoder, i *PathInfo) {
	e.string(string(i.Info.Deriver))
	e.string(i.Info.NarHash.Base16())
	e.paths(i.Info.References)
	encodeTime(e, i.RegistrationTime)
	e.uint64(uint64(i.Info.NarSize))
	e.bool(i.Ultimate)
	listTo(e, i.Info.Signatures, func(s signing.Signature) { e.string(string(s)) })
	e.string(string(i.Info.CA))
}

// decodeNarHash reads a SHA-256 as bare base 16.
func decodeNarHash(d *decoder) narinfo.Hash {
	text := d.string()
	if d.err != nil {
		return narinfo.Hash{}
	}
	digest, err := hex.DecodeString(text)
	if err != nil {
		d.fail("NAR hash %q is not base 16", text)
		return narinfo.Hash{}
	}
	hash, err := narinfo.NewHash(narinfo.SHA256, digest)
	if err != nil {
		d.fail("NAR hash %q: %v", text, err)
	}
	return hash
}

func decodeContentAddress(d *decoder) narinfo.ContentAddress {
	text := d.string()
	if d.err != nil || text == "" {
		return ""
	}
	ca, err := narinfo.ParseContentAddress(text)
	if err != nil {
		d.fail("%v", err)
	}
	return ca
}

func decodePaths(d *decoder) []narinfo.StorePath {
	paths := listOf(d, func() narinfo.StorePath { return parsePath(d, d.string()) })
	slices.Sort(paths)
	return paths
}

func decodeOptionalPath(d *decoder) narinfo.StorePath {
	text := d.string()
	if text == "" {
		return ""
	}
	return parsePath(d, text)
}

func parsePath(d *decoder, text string) narinfo.StorePath {
	if d.err != nil {
		return ""
	}
	path, err := narinfo.ParseStorePath(text)
	if err != nil {
		d.fail("%v", err)
	}
	return path
}
