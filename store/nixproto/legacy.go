package nixproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

const (
	legacyClientMagic = 0x390c9deb
	legacyServerMagic = 0x5452eecb
)

var (
	legacyMinVersion = Version{2, 5}
	legacyMaxVersion = Version{2, 7}
)

// command is a number of the serve protocol.
type command uint64

const (
	cmdValidPaths      command = 1
	cmdPathInfos       command = 2
	cmdDumpStorePath   command = 3
	cmdBuildPaths      command = 6
	cmdClosure         command = 7
	cmdBuildDerivation command = 8
	cmdAddToStoreNAR   command = 9
)

var commandNames = map[command]string{
	cmdValidPaths:      "valid paths",
	cmdPathInfos:       "path infos",
	cmdDumpStorePath:   "dump store path",
	cmdBuildPaths:      "build paths",
	cmdClosure:         "closure",
	cmdBuildDerivation: "build derivation",
	cmdAddToStoreNAR:   "add NAR to store",
}

// String says the command in words.
func (c command) String() string { return commandNames[c] }

// LegacyClient is one connection to `nix-store --serve --write`, for builders that allow no more than that.
//
// Its methods are those of [Client] where the serve protocol has the same, and everything that is said there of
// concurrency, contexts and failures is true here. But a failure has no words: the command prints them, and the log of a
// build, on its standard error, and ends; here that is an unexpected end. Events there are none.
type LegacyClient struct {
	link
	version  Version
	settings Settings
}

// NewLegacyClient greets a `nix-store --serve` at the other end of conn, which is its standard input and output.
// conn belongs to the client from now on, and is closed if NewLegacyClient fails.
func NewLegacyClient(ctx context.Context, conn io.ReadWriteCloser, o *Options) (*LegacyClient, error) {
	c := new(LegacyClient)
	if err := c.open(conn, o); err != nil {
		return nil, err
	}
	if err := c.while(ctx, "greet nix-store --serve", c.greet); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *LegacyClient) greet() error {
	c.dec.limit(maxHandshake)
	c.enc.uint64(legacyClientMagic)
	c.enc.uint64(legacyMaxVersion.word())
	if err := c.enc.flush(); err != nil {
		return err
	}
	if magic := c.dec.uint64(); c.dec.err == nil && magic != legacyServerMagic {
		c.dec.fail("magic number %#x is not nix-store --serve's", magic)
	}
	word := c.dec.uint64()
	if word > 0xffff {
		c.dec.fail("%#x is no version", word)
	}
	if c.dec.err != nil {
		return c.dec.err
	}
	offered := Version{uint8(word >> 8), uint8(word)}
	if offered.Major != legacyMinVersion.Major || offered.Minor < legacyMinVersion.Minor {
		return fmt.Errorf("%w: nix-store --serve speaks %v, need %v", ErrVersion, offered, legacyMinVersion)
	}
	c.version = offered.atMost(legacyMaxVersion)
	return nil
}

// Version returns the version of the serve protocol that is spoken, 2.5 to 2.7.
func (c *LegacyClient) Version() Version { return c.version }

// call sends one command and reads its result.
func (c *LegacyClient) call(ctx context.Context, cmd command, encode func(*encoder), decode func(*decoder)) error {
	return c.while(ctx, cmd.String(), func() error {
		c.enc.uint64(uint64(cmd))
		encode(c.enc)
		if err := c.enc.flush(); err != nil {
			return err
		}
		c.limitReply()
		decode(c.dec)
		return c.dec.err
	})
}

// SetOptions keeps the settings, to send with each build what the protocol has a place for:
// MaxSilentTime, KeepFailed (from 2.7), and the overrides "timeout" and "max-log-size", whole numbers. It does no I/O.
func (c *LegacyClient) SetOptions(_ context.Context, s *Settings) error {
	if err := s.check(); err != nil {
		return err
	}
	for _, name := range []string{"timeout", "max-log-size"} {
		if _, err := number(s.Overrides[name]); err != nil {
			return fmt.Errorf("nixproto: %s: %s is %q", opSetOptions, name, s.Overrides[name])
		}
	}
	c.settings = *s
	return nil
}

func number(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	return strconv.ParseUint(text, 10, 63)
}

// ValidPaths is like [Client.ValidPaths], in one message.
func (c *LegacyClient) ValidPaths(
	ctx context.Context, paths []narinfo.StorePath, o *ValidPathsOptions,
) (valid []narinfo.StorePath, err error) {
	if o == nil {
		o = new(ValidPathsOptions)
	}
	err = c.call(ctx, cmdValidPaths, func(e *encoder) {
		e.bool(o.Lock)
		e.bool(o.Substitute)
		e.paths(paths)
	}, func(d *decoder) { valid = decodePaths(d) })
	if err != nil {
		return nil, err
	}
	return valid, nil
}

// PathInfos returns the metadata of those of the paths that are valid. RegistrationTime and Ultimate are not told.
func (c *LegacyClient) PathInfos(
	ctx context.Context, paths []narinfo.StorePath,
) (map[narinfo.StorePath]*PathInfo, error) {
	infos := make(map[narinfo.StorePath]*PathInfo)
	err := c.call(ctx, cmdPathInfos, func(e *encoder) { e.paths(paths) }, func(d *decoder) {
		for path := decodeOptionalPath(d); path != "" && d.err == nil; path = decodeOptionalPath(d) {
			if !slices.Contains(paths, path) || infos[path] != nil {
				d.fail("metadata of %q was not asked for", path)
			}
			infos[path] = decodeLegacyInfo(d, path)
		}
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// PathInfo is [LegacyClient.PathInfos] for one path, or [store.ErrNotFound].
func (c *LegacyClient) PathInfo(ctx context.Context, path narinfo.StorePath) (*PathInfo, error) {
	infos, err := c.PathInfos(ctx, []narinfo.StorePath{path})
	if err != nil {
		return nil, err
	}
	if infos[path] == nil {
		return nil, notFound("path", string(path))
	}
	return infos[path], nil
}

func decodeLegacyInfo(d *decoder, path narinfo.StorePath) *PathInfo {
	info := &narinfo.Info{StorePath: path}
	info.Deriver = decodeOptionalPath(d)
	info.References = decodePaths(d)
	d.uint64() // bytes to download
	if info.NarSize = d.int64(); info.NarSize < 1 && d.err == nil {
		d.fail("NAR size %d", info.NarSize)
	}
	text := d.string()
	if d.err != nil {
		return nil
	}
	var err error
	if info.NarHash, err = narinfo.ParseHash(text); err != nil || info.NarHash.Type() != narinfo.SHA256 {
		d.fail("NAR hash %q", text)
	}
	info.CA = decodeContentAddress(d)
	info.Signatures = listOf(d, func() signing.Signature { return signing.Signature(d.string()) })
	return &PathInfo{Info: info}
}

// NARFromPath is like [Client.NARFromPath].
func (c *LegacyClient) NARFromPath(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	valid, err := c.ValidPaths(ctx, []narinfo.StorePath{path}, nil)
	if err != nil {
		return nil, err
	}
	if len(valid) == 0 {
		return nil, notFound("path", string(path)) // the command would end
	}
	err = c.while(ctx, cmdDumpStorePath.String(), func() error {
		c.enc.uint64(uint64(cmdDumpStorePath))
		c.enc.string(string(path))
		return c.enc.flush()
	})
	if err != nil {
		return nil, err
	}
	return c.openNAR(ctx, cmdDumpStorePath.String(), false)
}

// AddToStoreNAR adds one path, whose references must be valid. Signatures are not asked for, where the command may write
// to its store itself; Repair is errors.ErrUnsupported.
func (c *LegacyClient) AddToStoreNAR(ctx context.Context, info *PathInfo, nar io.Reader, o *AddOptions) error {
	if err := checkUpload(info); err != nil {
		return err
	}
	if o != nil && o.Repair {
		return fmt.Errorf("nixproto: %s with repair: %w", cmdAddToStoreNAR, errors.ErrUnsupported)
	}
	return c.while(ctx, cmdAddToStoreNAR.String(), func() error {
		c.enc.uint64(uint64(cmdAddToStoreNAR))
		c.enc.string(string(info.Info.StorePath))
		encodePathInfo(c.enc, info)
		if err := sendNAR(c.enc, info, nar); err != nil {
			return err
		}
		if err := c.enc.flush(); err != nil {
			return err
		}
		return c.expectOne()
	})
}

func (c *LegacyClient) expectOne() error {
	c.limitReply()
	if n := c.dec.uint64(); c.dec.err == nil && n != 1 {
		c.dec.fail("success is %d", n)
	}
	return c.dec.err
}

// AddMultipleToStore adds the paths one after the other, reading them on the caller's goroutine.
// If the source is an io.Closer, it is closed.
func (c *LegacyClient) AddMultipleToStore(ctx context.Context, paths Source, o *AddOptions) error {
	if closer, ok := paths.(io.Closer); ok {
		defer closer.Close()
	}
	for {
		info, nar, err := paths.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = c.AddToStoreNAR(ctx, info, nar, o)
		}
		if err != nil {
			return err
		}
	}
}

// BuildDerivation is like [Client.BuildDerivation], with the settings of SetOptions.
// The log is on the command's standard error. Another mode than BuildNormal is errors.ErrUnsupported.
func (c *LegacyClient) BuildDerivation(
	ctx context.Context, path narinfo.StorePath, drv *Derivation, mode BuildMode,
) (*BuildResult, error) {
	if mode != BuildNormal {
		return nil, fmt.Errorf("nixproto: %s to repair or check: %w", cmdBuildDerivation, errors.ErrUnsupported)
	}
	var result BuildResult
	err := c.call(ctx, cmdBuildDerivation, func(e *encoder) {
		e.string(string(path))
		encodeDerivation(e, drv)
		c.encodeBuildOptions(e)
	}, func(d *decoder) {
		result = decodeResult(d, resultParts{times: c.version.AtLeast(2, 3), outputs: c.version.AtLeast(2, 6)})
	})
	if err != nil {
		return nil, err
	}
	return &result, nil
}

// BuildPaths is like [Client.BuildPaths], with the settings of SetOptions. The message of a failure is the command's.
// A derivation as it is, rather than its outputs, is errors.ErrUnsupported: the command would build it.
func (c *LegacyClient) BuildPaths(ctx context.Context, paths []DerivedPath, mode BuildMode) error {
	list, err := legacyTargets(paths)
	if err == nil && mode != BuildNormal {
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("nixproto: %s: %w", cmdBuildPaths, err)
	}
	return c.while(ctx, cmdBuildPaths.String(), func() error {
		c.enc.uint64(uint64(cmdBuildPaths))
		c.enc.strings(list)
		c.encodeBuildOptions(c.enc)
		if err := c.enc.flush(); err != nil {
			return err
		}
		c.limitReply()
		if status := c.dec.uint64(); status != 0 {
			message := c.dec.longString()
			if c.dec.err == nil {
				return &RemoteError{Type: "Error", Message: message}
			}
		}
		return c.dec.err
	})
}

// legacyTargets writes outputs as "DRV!OUTPUT,OUTPUT" and all of them as "DRV".
func legacyTargets(paths []DerivedPath) ([]string, error) {
	var list []string
	for _, p := range paths {
		switch {
		case p.Outputs == nil && p.Path.IsDerivation():
			return nil, fmt.Errorf("%s as it is: %w", p.Path, errors.ErrUnsupported)
		case slices.Equal(p.Outputs, []string{"*"}):
			list = append(list, string(p.Path))
		default:
			list = append(list, p.String())
		}
	}
	return list, nil
}

func (c *LegacyClient) encodeBuildOptions(e *encoder) {
	timeout, _ := number(c.settings.Overrides["timeout"]) // SetOptions has checked them
	maxLog, _ := number(c.settings.Overrides["max-log-size"])
	e.uint64(uint64(c.settings.MaxSilentTime / time.Second))
	e.uint64(min(timeout, math.MaxInt32))
	e.uint64(maxLog)
	e.uint64(0) // no repetitions
	e.uint64(0) // nor whether they must agree
	if c.version.AtLeast(2, 7) {
		e.bool(c.settings.KeepFailed)
	}
}

// Closure returns the paths and all that they refer to, sorted. The paths must be valid, else the command ends.
func (c *LegacyClient) Closure(ctx context.Context, paths []narinfo.StorePath) (closure []narinfo.StorePath, err error) {
	err = c.call(ctx, cmdClosure, func(e *encoder) {
		e.bool(false) // without the outputs of derivations
		e.paths(paths)
	}, func(d *decoder) { closure = decodePaths(d) })
	if err != nil {
		return nil, err
	}
	return closure, nil
}
