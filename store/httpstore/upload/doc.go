// Package upload pushes store paths, with all that they refer to, to a binary cache over HTTP: the writing half of
// package httpstore.
//
// Most callers want [New] and then [Client.Push]. The server may be one of package httpcache's or any other that takes
// what `nix copy --to https://…` sends.
//
// # Requests
//
//	POST missing-paths          which paths of the closure are not there, in batches; servers of package httpcache have it
//	HEAD HASHPART.narinfo       the same for one path, where the server does not know the request above
//	HEAD nar/FILEHASH.nar.EXT   whether an archive is there already
//	PUT  nar/FILEHASH.nar.EXT   an archive
//	PUT  HASHPART.narinfo       publishes a path: after its archive, and after all that it refers to
//
// So each path that can be read from the cache is complete at any time, and a Push that was cut off is taken up where
// it was by another: what is published is not looked at again, and what was uploaded whole is not sent again.
//
// 404, 410 and, of HEAD, 403 mean that something is not there. 401, and 403 of anything else, end the whole Push
// ([ErrDenied]). Redirects are not followed, for the credentials would go along.
//
// # Archives
//
// An archive's name is the hash of its compressed bytes, and so must be known before the first of them is sent.
// Each is therefore compressed once into memory, or into a temporary file where it has more than 1 MiB: compressing it
// twice instead, first for the name and then for the wire, would cost the more expensive thing twice, and both times
// again for each retry. Uncompressed archives are named by the hash that the store has, and are streamed from it.
// An archive that the store keeps compressed (see [store.ArchiveOpener]) is sent as it is.
//
// The store proves what it reads, as the contract of [store.Store] says, so nothing is published that is not what its
// metadata promises.
//
// # Failures
//
// A request without an answer, or with 408, 429, 500, 502, 503 or 504, is made again after a time that doubles, with as
// much again at random, and is never shorter than the answer's Retry-After. So is one that does not come on for a while.
// Any other answer is a [StatusError]. A path that fails fails alone, with all that refers to it; the rest is pushed.
// A refusal because something has to come first (409) is mended once, by asking anew what is missing: the server may
// have collected it meanwhile.
package upload
