package nixproto

import (
	"context"
	"io"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Handler answers the clients of [Serve]. What else it is able to do is in the interfaces below, which it may implement
// too; a client that asks for more is told that it is not supported, and goes on.
//
// The methods are those of [Client], with the same meaning, and a Client is a Handler that can do it all:
// so a server that passes everything on to another daemon is one call.
//
// One connection calls one method at a time, on the goroutine of [Serve]. The context ends when the client leaves.
// A [RemoteError] reaches the client with its level and trace, any other error as its text;
// [store.ErrNotFound] becomes the answer that there is no such thing, where the protocol has one.
// A panic becomes an error of that operation.
type Handler interface {
	// PathInfo returns the metadata of a valid path, or [store.ErrNotFound].
	PathInfo(ctx context.Context, path narinfo.StorePath) (*PathInfo, error)

	// ValidPaths returns those of the paths that are valid.
	ValidPaths(ctx context.Context, paths []narinfo.StorePath, o *ValidPathsOptions) ([]narinfo.StorePath, error)
}

// NARHandler hands out archives.
type NARHandler interface {
	// NARFromPath opens the NAR of a valid path. Serve closes it. The archive's framing is checked on the way,
	// and one that breaks ends the connection.
	NARFromPath(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error)
}

// AddHandler takes paths.
type AddHandler interface {
	// AddMultipleToStore adds paths, for the operations AddMultipleToStore and AddToStoreNar.
	//
	// A NAR that is not one, or not of its size, fails while it is read; its hash is for the handler to check.
	// What is not read is passed over, after an error too, for as long as the client goes on sending. Ultimate and DontCheckSigs are false, and Repair is refused,
	// if the client is not trusted.
	AddMultipleToStore(ctx context.Context, paths Source, o *AddOptions) error
}

// ContentHandler takes content whose path follows from it: derivations and sources of `nix build --store`.
type ContentHandler interface {
	// AddToStore adds content. data ends where the content does, whatever its form.
	AddToStore(ctx context.Context, what *Content, data io.Reader) (*PathInfo, error)
}

// BuildHandler builds.
type BuildHandler interface {
	// BuildDerivation builds drv. A client that is not trusted gets here with content-addressed derivations alone.
	BuildDerivation(ctx context.Context, path narinfo.StorePath, drv *Derivation, mode BuildMode) (*BuildResult, error)

	// BuildPathsWithResults makes paths valid, for the operations BuildPathsWithResults and BuildPaths.
	BuildPathsWithResults(ctx context.Context, paths []DerivedPath, mode BuildMode) ([]PathResult, error)

	// Missing says what that would take.
	Missing(ctx context.Context, paths []DerivedPath) (*Missing, error)
}

// EnsureHandler fetches paths from elsewhere.
type EnsureHandler interface {
	EnsurePath(ctx context.Context, path narinfo.StorePath) error
}

// TempRootHandler keeps a garbage collector from paths until the connection ends.
type TempRootHandler interface {
	AddTempRoot(ctx context.Context, path narinfo.StorePath) error
}

// SettingsHandler hears of the client's settings. Without it they are accepted, as all daemons do, and have no effect.
type SettingsHandler interface {
	SetOptions(ctx context.Context, s *Settings) error
}

// RealisationHandler knows what content-addressed derivations were built to, as Nix's JSON texts.
type RealisationHandler interface {
	Realisation(ctx context.Context, id string) ([]byte, error)
	RegisterRealisation(ctx context.Context, realisation []byte) error
}

// DerivationHandler knows the outputs of valid derivations.
type DerivationHandler interface {
	DerivationOutputs(ctx context.Context, drv narinfo.StorePath) (map[string]narinfo.StorePath, error)
	ValidDerivers(ctx context.Context, path narinfo.StorePath) ([]narinfo.StorePath, error)
}

// ListHandler finds paths.
type ListHandler interface {
	PathFromHashPart(ctx context.Context, hash narinfo.HashPart) (narinfo.StorePath, error)
	Referrers(ctx context.Context, path narinfo.StorePath) ([]narinfo.StorePath, error)
	AllValidPaths(ctx context.Context) ([]narinfo.StorePath, error)
}

// SignatureHandler takes signatures of valid paths.
type SignatureHandler interface {
	AddSignatures(ctx context.Context, path narinfo.StorePath, signatures []string) error
}

var _ interface {
	Handler
	NARHandler
	AddHandler
	ContentHandler
	BuildHandler
	EnsureHandler
	TempRootHandler
	SettingsHandler
	RealisationHandler
	DerivationHandler
	ListHandler
	SignatureHandler
} = (*Client)(nil)
