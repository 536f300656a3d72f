// Package httpstore is a remote Nix binary cache, read over HTTP, as a store.
//
// Most callers want [New], with the cache's URL and its public keys. The [Store] is then read with package store.
//
// # Requests
//
//	HASHPART.narinfo             looked up within a budget, once for all who ask at the same time
//	whatever the narinfo's URL   an archive: relative, with or without a query, or absolute on the cache's own host
//	nix-cache-info               for [Store.CacheInfo] and [Store.Priority]
//	log/NAME.drv                 build logs, plain or compressed
//	realisations/ID.doi          what content-addressed derivations were realised to; passed on as they are
//
// 404, 410 and 403 mean that something is not there, as they do to Nix: S3 answers 403 for what is absent.
// Any other status but 200, 206 and 304 is an error. Redirects are followed, at most five, not from https to http, and
// without credentials to another host. An archive is asked for without a Content-Encoding; what comes with one
// nevertheless is decoded, as is a narinfo.
//
// # Trust
//
// Nothing that the cache says is believed.
//
// A narinfo is accepted if one of the trusted keys signed it. The signature covers path, NarHash, NarSize and
// References, which are then as good as the key; URL, Compression, FileHash, FileSize and Deriver are anybody's claim.
// Without a signature it is accepted if its content address proves the path: if that is of the kind "fixed:r:sha256",
// is NarHash itself, the path follows from it, and the path does not refer to itself. Other content addresses would
// need the content to be looked into. What is not accepted is [store.ErrNotFound], and [ErrUntrusted] too.
//
// A NAR reaches its end only if its size and hash are NarSize and NarHash. An archive as it is reaches its end only if
// it has FileHash and FileSize; where the narinfo has no FileHash of type sha256, it is decoded on the side while it
// passes, and its last byte is held back until NarHash is found right. So every end that is reached is proved, and
// whatever is cut, too long, or wrong by a byte ends in an error.
//
// A part of an archive as it is (after a Seek) is given only when all of it has been read and proved: it then lies in a
// temporary file.
//
// # Memory of answers
//
// Metadata are kept for PositiveTTL and asked for again under the condition that they have changed. Absence is kept for
// NegativeTTL. So unlike other stores this one may for a while not notice that its cache has changed; it never gives
// other bytes than its metadata promise. A path whose archive is absent or damaged is not found for NegativeTTL.
//
// # A cache that fails
//
// After FailuresToOpen requests in a row that got no answer, a status of 5xx, 429, 401 or 407, no requests are made for
// a while ([ErrUnavailable]); then one is tried. Metadata of before are good for StaleIfError longer.
//
// An archive that is cut, or does not come on for StallTimeout, is taken up again where it was, if the cache said that
// it accepts ranges and gave a strong ETag, and that ETag is still the same.
//
// # Limits
//
// A narinfo has at most [narinfo.MaxSize] bytes, a realisation 1 MiB, a decoded log 256 MiB, nix-cache-info 64 KiB.
// Of an archive at most FileSize bytes are read, or, where that is absent, NarSize, a quarter more and 1 MiB.
// Decoders are bounded as package bucketstore's are.
package httpstore
