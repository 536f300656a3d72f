package nixproto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// reply writes an operation's result, and flushes it. nil is an empty one.
type reply func(*encoder) error

// operation runs what was asked, and returns how to answer it.
type operation func(ctx context.Context) (reply, error)

// operation reads an operation's arguments.
func (s *Session) operation(o op) operation {
	read, ok := operations[o]
	if !ok {
		s.dec.fail("operation %d is not known", uint64(o)) // nor where it ends
		return nil
	}
	return read(s, s.dec)
}

// operations reads the arguments of each operation. It is not changed.
var operations = map[op]func(*Session, *decoder) operation{
	opIsValidPath:           readIsValidPath,
	opValidPaths:            readValidPaths,
	opPathInfo:              readPathInfo,
	opNARFromPath:           readNARFromPath,
	opAddToStoreNAR:         readAddToStoreNAR,
	opAddMultipleToStore:    readAddMultipleToStore,
	opAddToStore:            readAddToStore,
	opBuildDerivation:       readBuildDerivation,
	opBuildPathsWithResults: readBuildPathsWithResults,
	opBuildPaths:            readBuildPaths,
	opMissing:               readMissing,
	opSetOptions:            readSetOptions,
	opRealisation:           readRealisation,
	opRegisterRealisation:   readRegisterRealisation,
	opDerivationOutputMap:   readDerivationOutputMap,
	opAllValidPaths:         readAllValidPaths,
	opPathFromHashPart:      readPathFromHashPart,
	opAddSignatures:         readAddSignatures,
	opAddTempRoot: func(s *Session, d *decoder) operation {
		return withPath(s, d, func(ctx context.Context, h TempRootHandler, p narinfo.StorePath) (reply, error) {
			return one, h.AddTempRoot(ctx, p)
		})
	},
	opEnsurePath: func(s *Session, d *decoder) operation {
		return withPath(s, d, func(ctx context.Context, h EnsureHandler, p narinfo.StorePath) (reply, error) {
			return one, h.EnsurePath(ctx, p)
		})
	},
	opReferrers: func(s *Session, d *decoder) operation {
		return withPath(s, d, func(ctx context.Context, h ListHandler, p narinfo.StorePath) (reply, error) {
			return withPaths(h.Referrers(ctx, p))
		})
	},
	opValidDerivers: func(s *Session, d *decoder) operation {
		return withPath(s, d, func(ctx context.Context, h DerivationHandler, p narinfo.StorePath) (reply, error) {
			return withPaths(h.ValidDerivers(ctx, p))
		})
	},
}

// able returns a handler as one that can do more.
func able[H any](s *Session) (H, error) {
	h, ok := s.handler.(H)
	if !ok {
		return h, fmt.Errorf("this operation of this server is %w", errors.ErrUnsupported)
	}
	return h, nil
}

func withPath[H any](
	s *Session, d *decoder, run func(ctx context.Context, h H, path narinfo.StorePath) (reply, error),
) operation {
	path := parsePath(d, d.string())
	return func(ctx context.Context) (reply, error) {
		h, err := able[H](s)
		if err != nil {
			return nil, err
		}
		return run(ctx, h, path)
	}
}

// result makes a reply of what writes a result.
func result(write func(*encoder)) reply {
	return func(e *encoder) error {
		write(e)
		return e.flush()
	}
}

// one is the result of operations that have none.
func one(e *encoder) error {
	e.uint64(1)
	return e.flush()
}

func withPaths(paths []narinfo.StorePath, err error) (reply, error) {
	return result(func(e *encoder) { e.paths(paths) }), err
}

func readIsValidPath(s *Session, d *decoder) operation {
	path := parsePath(d, d.string())
	return func(ctx context.Context) (reply, error) {
		valid, err := s.handler.ValidPaths(ctx, []narinfo.StorePath{path}, nil)
		return result(func(e *encoder) { e.bool(slices.Contains(valid, path)) }), err
	}
}

func readValidPaths(s *Session, d *decoder) operation {
	paths := decodePaths(d)
	o := &ValidPathsOptions{Substitute: d.bool()}
	return func(ctx context.Context) (reply, error) { return withPaths(s.handler.ValidPaths(ctx, paths, o)) }
}

func readPathInfo(s *Session, d *decoder) operation {
	path := parsePath(d, d.string())
	return func(ctx context.Context) (reply, error) {
		info, err := s.handler.PathInfo(ctx, path)
		if errors.Is(err, store.ErrNotFound) {
			return result(func(e *encoder) { e.bool(false) }), nil
		}
		return result(func(e *encoder) {
			e.bool(true)
			encodePathInfo(e, info)
		}), err
	}
}

func readNARFromPath(s *Session, d *decoder) operation {
	path := parsePath(d, d.string())
	return func(ctx context.Context) (reply, error) {
		h, err := able[NARHandler](s)
		if err != nil {
			return nil, err
		}
		nar, err := h.NARFromPath(ctx, path)
		if err != nil {
			return nil, err
		}
		return func(e *encoder) error {
			defer nar.Close()
			return sendArchive(e, nar)
		}, nil
	}
}

// sendArchive sends a NAR. What goes wrong is told where an archive's word is expected, and ends the session.
func sendArchive(e *encoder, nar io.Reader) error {
	scan := &narScanner{d: newDecoder(nar)}
	err := copyLarge(e, scan)
	if err == nil {
		if _, more := scan.d.r.Peek(1); !errors.Is(more, io.EOF) {
			return fmt.Errorf("%w: bytes behind a NAR", ErrProtocol)
		}
	}
	if err != nil {
		if scan.content == 0 {
			encodeError(e, asRemote(err))
			_ = e.flush()
		}
		return err
	}
	return e.flush()
}

func readAddToStoreNAR(s *Session, d *decoder) operation {
	info := decodePathInfo(d, parsePath(d, d.string()))
	o := decodeAddOptions(d)
	return s.adding(o, func(frames *frameReader) *received {
		return &received{d: newDecoder(frames), n: 1, first: info}
	})
}

func readAddMultipleToStore(s *Session, d *decoder) operation {
	o := decodeAddOptions(d)
	return s.adding(o, func(frames *frameReader) *received {
		r := &received{d: newDecoder(frames), max: uint64(s.options.MaxRequest)}
		r.d.limit(wordSize)
		r.n = r.d.uint64()
		return r
	})
}

func (s *Session) adding(o *AddOptions, open func(*frameReader) *received) operation {
	return s.framed(func(ctx context.Context, frames *frameReader) (reply, error) {
		h, err := able[AddHandler](s)
		if err != nil {
			return nil, err
		}
		if err := s.holdTo(o); err != nil {
			return nil, err
		}
		paths := open(frames)
		paths.trusted = s.trusted()
		if err := h.AddMultipleToStore(ctx, paths, o); err != nil {
			return nil, err
		}
		return nil, paths.skip(ctx)
	})
}

func (s *Session) trusted() bool { return s.options.Trust == Trusted }

// holdTo takes from a client what it is not trusted with.
func (s *Session) holdTo(o *AddOptions) error {
	if s.trusted() {
		return nil
	}
	o.DontCheckSigs = false
	if o.Repair {
		return errNotTrusted("repair paths")
	}
	return nil
}

func errNotTrusted(what string) error {
	return fmt.Errorf("this server does not trust its client to %s", what)
}

func readAddToStore(s *Session, d *decoder) operation {
	what := decodeContent(d)
	return s.framed(func(ctx context.Context, frames *frameReader) (reply, error) {
		h, err := able[ContentHandler](s)
		if err != nil {
			return nil, err
		}
		if what.Repair && !s.trusted() {
			return nil, errNotTrusted("repair paths")
		}
		info, err := h.AddToStore(ctx, what, frames)
		return result(func(e *encoder) {
			e.string(string(info.Info.StorePath))
			encodePathInfo(e, info)
		}), err
	})
}

// framed runs an operation whose arguments end with frames, and reads what is left of them:
// before success is told, for a client takes that for a breach of the protocol, but after a failure.
func (s *Session) framed(run func(context.Context, *frameReader) (reply, error)) operation {
	return func(ctx context.Context) (answer reply, err error) {
		frames := &frameReader{d: s.dec}
		err = s.guard(func() (err error) {
			answer, err = run(ctx, frames)
			return err
		})
		if err != nil && s.dec.err == nil {
			if flushed := s.finish(err); flushed != nil {
				return nil, flushed
			}
		}
		_, _ = io.Copy(io.Discard, frames) // its error sticks in the decoder
		return answer, err
	}
}

func readBuildDerivation(s *Session, d *decoder) operation {
	path := parsePath(d, d.string())
	drv := decodeDerivation(d)
	mode := decodeBuildMode(d)
	return func(ctx context.Context) (reply, error) {
		h, err := able[BuildHandler](s)
		if err != nil {
			return nil, err
		}
		if !s.trusted() && !drv.ContentAddressed() {
			return nil, errNotTrusted("build input-addressed derivations")
		}
		r, err := h.BuildDerivation(ctx, path, drv, mode)
		return result(func(e *encoder) { encodeResult(e, r, s.peer.Version.resultParts()) }), err
	}
}

func (s *Session) building(paths []DerivedPath, mode BuildMode, answer func([]PathResult) (reply, error)) operation {
	return func(ctx context.Context) (reply, error) {
		h, err := able[BuildHandler](s)
		if err != nil {
			return nil, err
		}
		if mode == BuildRepair && !s.trusted() {
			return nil, errNotTrusted("repair paths")
		}
		results, err := h.BuildPathsWithResults(ctx, paths, mode)
		if err != nil {
			return nil, err
		}
		return answer(results)
	}
}

func readBuildPathsWithResults(s *Session, d *decoder) operation {
	paths, mode := decodeDerivedPaths(d), decodeBuildMode(d)
	return s.building(paths, mode, func(results []PathResult) (reply, error) {
		return result(func(e *encoder) {
			listTo(e, results, func(r PathResult) { encodePathResult(e, r, s.peer.Version) })
		}), nil
	})
}

func readBuildPaths(s *Session, d *decoder) operation {
	paths, mode := decodeDerivedPaths(d), decodeBuildMode(d)
	return s.building(paths, mode, func(results []PathResult) (reply, error) {
		for _, r := range results {
			if !r.Status.OK() {
				return nil, errors.New(r.Message)
			}
		}
		return one, nil
	})
}

func readMissing(s *Session, d *decoder) operation {
	paths := decodeDerivedPaths(d)
	return func(ctx context.Context) (reply, error) {
		h, err := able[BuildHandler](s)
		if err != nil {
			return nil, err
		}
		m, err := h.Missing(ctx, paths)
		return result(func(e *encoder) {
			e.paths(m.WillBuild)
			e.paths(m.WillSubstitute)
			e.paths(m.Unknown)
			e.uint64(uint64(m.DownloadSize))
			e.uint64(uint64(m.NarSize))
		}), err
	}
}

func readSetOptions(s *Session, d *decoder) operation {
	settings := decodeSettings(d)
	return func(ctx context.Context) (reply, error) {
		if h, ok := s.handler.(SettingsHandler); ok {
			return nil, h.SetOptions(ctx, settings)
		}
		return nil, nil
	}
}

func readRealisation(s *Session, d *decoder) operation {
	id := d.string()
	return func(ctx context.Context) (reply, error) {
		h, err := able[RealisationHandler](s)
		if err != nil {
			return nil, err
		}
		text, err := h.Realisation(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return result(func(e *encoder) { e.strings(nil) }), nil
		}
		return result(func(e *encoder) { e.strings([]string{string(text)}) }), err
	}
}

func readRegisterRealisation(s *Session, d *decoder) operation {
	text := []byte(d.string())
	return func(ctx context.Context) (reply, error) {
		h, err := able[RealisationHandler](s)
		if err != nil {
			return nil, err
		}
		return nil, h.RegisterRealisation(ctx, bytes.Clone(text))
	}
}

func readDerivationOutputMap(s *Session, d *decoder) operation {
	return withPath(s, d, func(ctx context.Context, h DerivationHandler, drv narinfo.StorePath) (reply, error) {
		outputs, err := h.DerivationOutputs(ctx, drv)
		return result(func(e *encoder) {
			mapTo(e, outputs, func(p narinfo.StorePath) { e.string(string(p)) })
		}), err
	})
}

func readAllValidPaths(s *Session, _ *decoder) operation {
	return func(ctx context.Context) (reply, error) {
		h, err := able[ListHandler](s)
		if err != nil {
			return nil, err
		}
		return withPaths(h.AllValidPaths(ctx))
	}
}

func readPathFromHashPart(s *Session, d *decoder) operation {
	text := d.string()
	hash, err := narinfo.ParseHashPart(text)
	if err != nil {
		d.fail("%v", err)
	}
	return func(ctx context.Context) (reply, error) {
		h, err := able[ListHandler](s)
		if err != nil {
			return nil, err
		}
		path, err := h.PathFromHashPart(ctx, hash)
		if errors.Is(err, store.ErrNotFound) {
			path, err = "", nil
		}
		return result(func(e *encoder) { e.string(string(path)) }), err
	}
}

func readAddSignatures(s *Session, d *decoder) operation {
	path := parsePath(d, d.string())
	signatures := d.strings()
	return func(ctx context.Context) (reply, error) {
		h, err := able[SignatureHandler](s)
		if err != nil {
			return nil, err
		}
		return one, h.AddSignatures(ctx, path, signatures)
	}
}
