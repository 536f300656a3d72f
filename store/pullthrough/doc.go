// Package pullthrough keeps what is read from a remote store: while a client gets an archive, the same bytes are stored.
//
// Most callers want [New], over a store of package httpstore and whatever receives uploads. It is a package of its own,
// and no part of httpstore, because it needs nothing of HTTP: any store that hands archives out undecoded can be pulled
// through, into anything that is a [Receiver].
//
// # One download
//
// The first request for a path's archive, or for its NAR, begins a job: the archive is read from the remote store, once,
// into a temporary file without a name. Whoever asks for it, the first client, clients that come while it goes on, and
// the [Receiver], reads that file from its beginning while it grows, each at its own pace. So a slow client delays
// nobody, a client that leaves ends nothing, and what becomes of the receiver does not concern the clients.
// The remote store proves what it hands out (see package store): the last byte reaches the file, and the end its
// readers, only when all was right. If it fails, all readers fail.
//
// A job whose clients have all left goes on for Linger at most, and not at all if the receiver has no interest any more.
// A job is over when the receiver has returned: until then requests join it. Later ones go to the remote store again,
// unless whoever put the stores together asks first where the receiver keeps things, as store.Layered does.
//
// A part of an archive (after a Seek) is given when the whole is proved.
//
// # Bounds
//
// Files that are being read take at most Spool bytes of disk, as their jobs reckon at the start: FileSize each, or, where
// the narinfo has none, NarSize, a quarter more and 1 MiB. What does not fit is passed on to its client from the remote
// store, and not stored; so is what was under way when the disk proves full. A job has one buffer of 256 KiB.
//
// # Who must not fetch
//
// Under [store.LocalOnly] nothing is found. Looking a path up never stores anything.
package pullthrough
