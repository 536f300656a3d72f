// Package httpcache serves a Nix store over HTTP as a binary cache: an [http.Handler] over any [store.Store].
//
// Most callers want [New]. The handler reads only; it keeps no state of its own beside buffers and the texts of narinfos, so two of
// them over one store, with different settings, do not meet.
//
// # What is answered
//
//	/nix-cache-info                    the cache's store directory and priority
//	/HASHPART.narinfo                  metadata of a path; with ?json as JSON
//	/nar/HASHPART-NARHASH.nar          its archive; this is the shape that our narinfos name
//	/nar/HASHPART-NARHASH.nar.EXT      the archive as the store keeps it, compressed
//	/nar/NARHASH.nar?hash=HASHPART     harmonia's shape of the same
//	/nar/HASHPART.nar                  nix-serve's old shape of the same
//	/nar/FILEHASH.nar.EXT              a bucket's own file, only where no [Policy] is set
//	/HASHPART.ls                       the archive's table of contents
//	/log/DRV                           a derivation's build log, decoded
//	/realisations/ID.doi               what a content-addressed derivation's output was realised to
//	/build-trace-v2/DRV/OUTPUT.doi     the same, as newer Nix asks
//	/debuginfo/BUILDID                 where the debug symbols of an executable are
//	/serve/HASHPART/FILE               a file or directory out of a path
//	/                                  a page for people: keys and settings to copy
//	/healthz                           "ok", or 503 while the store cannot answer
//
// GET and HEAD are answered everywhere, PUT and DELETE where Options say so. POST /missing-paths asks which of many
// paths are to be uploaded, if the receiver is a [MissingFinder]. Anything else is 405. docs/protocol.md has every header and status.
//
// # Never a wrong byte
//
// Whether there is an answer is settled before the status line: the body is opened and its first block read before.
// An error after that aborts the connection ([http.ErrAbortHandler]) or the HTTP/2 stream, so that no client can take
// what it has for the whole. The body's store proves its bytes, as the contract of [store.Store] says.
//
// # Who sends a request
//
// An [Authorizer] finds out who sends a request, and the [Identity] that it returns says what the sender may do in which
// cache. The packages token, oidc and clientcert below this one have authorizers, and [AnyOf] asks several.
// Every request for which a Handler is called is answered: asking comes before.
//
// # Wrapping the handler
//
// A middleware whose ResponseWriter hides ReadFrom or SetWriteDeadline costs speed, or the protection from clients that
// stop reading. It must let the panic of an aborted answer pass.
package httpcache
