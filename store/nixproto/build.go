package nixproto

import (
	"context"
	"errors"
	"fmt"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// BuildDerivation builds drv, which is what the derivation at path says but need not be in the store there.
// Its InputSrcs must be valid: nothing is substituted. The log comes as events (see [Options]).
//
// A build that fails is a result. A daemon that does not trust its client builds nothing but
// content-addressed derivations, and answers others with a [RemoteError].
func (c *Client) BuildDerivation(
	ctx context.Context, path narinfo.StorePath, drv *Derivation, mode BuildMode,
) (*BuildResult, error) {
	var result BuildResult
	err := c.call(ctx, opBuildDerivation, func(e *encoder) {
		e.string(string(path))
		encodeDerivation(e, drv)
		e.uint64(uint64(mode))
	}, func(d *decoder) { result = decodeResult(d, c.peer.Version.resultParts()) })
	if err != nil {
		return nil, err
	}
	return &result, nil
}

// BuildPathsWithResults makes each of the paths valid, by substitution or a build, and says for each how that went.
// Derivations among them must be in the store, with all that they refer to. The results stand in any order.
// A daemon below 1.34 is errors.ErrUnsupported: see [Client.BuildPaths].
func (c *Client) BuildPathsWithResults(
	ctx context.Context, paths []DerivedPath, mode BuildMode,
) (results []PathResult, err error) {
	if !c.peer.Version.AtLeast(1, 34) {
		return nil, fmt.Errorf("nixproto: %s by version %v: %w", opBuildPathsWithResults, c.peer.Version, errors.ErrUnsupported)
	}
	err = c.call(ctx, opBuildPathsWithResults, func(e *encoder) {
		encodeDerivedPaths(e, paths)
		e.uint64(uint64(mode))
	}, func(d *decoder) {
		results = listOf(d, func() PathResult { return decodePathResult(d, c.peer.Version) })
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// BuildPaths is [Client.BuildPathsWithResults] for any version, where the first failure is a [RemoteError].
func (c *Client) BuildPaths(ctx context.Context, paths []DerivedPath, mode BuildMode) error {
	return c.call(ctx, opBuildPaths, func(e *encoder) {
		encodeDerivedPaths(e, paths)
		e.uint64(uint64(mode))
	}, func(d *decoder) { d.uint64() })
}

// EnsurePath makes a path valid, by substitution if need be. A path that cannot be had is a [RemoteError].
func (c *Client) EnsurePath(ctx context.Context, path narinfo.StorePath) error {
	return c.call(ctx, opEnsurePath, onePath(path), func(d *decoder) { d.uint64() })
}

// AddTempRoot keeps the garbage collector from a path, valid or not, until the connection ends.
func (c *Client) AddTempRoot(ctx context.Context, path narinfo.StorePath) error {
	return c.call(ctx, opAddTempRoot, onePath(path), func(d *decoder) { d.uint64() })
}

// Missing says what it takes to make paths valid.
type Missing struct {
	WillBuild      []narinfo.StorePath // derivations
	WillSubstitute []narinfo.StorePath // outputs
	Unknown        []narinfo.StorePath // neither
	DownloadSize   int64               // bytes of what is substituted, compressed
	NarSize        int64               // the same unpacked
}

// Missing asks what [Client.BuildPaths] would do.
func (c *Client) Missing(ctx context.Context, paths []DerivedPath) (*Missing, error) {
	m := new(Missing)
	err := c.call(ctx, opMissing, func(e *encoder) { encodeDerivedPaths(e, paths) }, func(d *decoder) {
		m.WillBuild, m.WillSubstitute, m.Unknown = decodePaths(d), decodePaths(d), decodePaths(d)
		m.DownloadSize, m.NarSize = d.int64(), d.int64()
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// RegisterRealisation records what a content-addressed derivation's output was realised to, as Nix's JSON text.
// A daemon of Nix 2.35 or later, which has another form, is errors.ErrUnsupported.
func (c *Client) RegisterRealisation(ctx context.Context, realisation []byte) error {
	if err := c.needsRealisationsByHash(); err != nil {
		return err
	}
	return c.call(ctx, opRegisterRealisation, func(e *encoder) { e.string(string(realisation)) }, func(*decoder) {})
}
