// Package localstore is the machine's own Nix store as a [store.Store]:
// metadata from Nix's SQLite database, archives from the files on disk.
//
// Most callers want [Open] with nil [Options], or with those that [ParseURI] makes of a Nix store URI.
//
// # Metadata
//
// Nix's database is read directly, beside a running daemon and as any user who may read the file.
// What it says of a path is kept until anybody commits anything to it, which is looked for once a millisecond,
// so a path that was deleted or rebuilt is noticed.
// Nothing is ever written to Nix's folders, nor left in them, as root neither.
// How a database is opened depends on what lies beside it:
//
//	a -wal file                  read-only, the -shm file too
//	none, header says WAL        immutable; closed as soon as a -wal appears or the file changes
//	none, header says rollback   read-only, under SQLite's own locks
//
// While one of the first two is open, this package holds the read lock that SQLite's readers of a WAL database hold.
// It keeps others from deleting the -wal, which makes "no -wal before and after a query" mean "no writer meanwhile".
// So it also delays a change of Nix's setting use-sqlite-wal until the store is closed.
//
// SQLite shares what it knows of a database among all connections of a process:
// a process that reads Nix's database with this package cannot write to it with the same SQLite.
//
// Where the database cannot be read, the daemon is asked through its socket, and the database is tried again once a
// second. Either way the files are read from disk.
//
// # Never a wrong byte
//
// A path's files are described by its layout (names, kinds, sizes, targets) and by one [nar.FileID] for each.
// A proof states that files with exactly this layout and these identities hash to this NAR hash.
// It says nothing of when or under which number Nix registered the path,
// for whatever Nix does to a path, the same files hash to the same value:
// a proof can only become useless, never wrong.
//
// The archive of a path without a proof is hashed while it is read,
// and its last block is kept back until hash and size are those that the database promises.
// If no file changed meanwhile, that pass is a proof.
// A part of such an archive waits until the whole has been hashed, once for all who ask.
//
// The archive of a proved path is copied from the files, large ones by the kernel where the writer is a [FileSender].
// Each is compared with its identity after the last byte is read from it: what is read of a file that is then as it was
// when it was proved, is what was proved. Files of which parts went out before that are compared when they are opened
// too, and again before the last block is let go.
// What surrounds large files may come from memory ([Options.MemoryCache]), which holds bytes of the archive that was
// proved: then the files are compared every ten seconds in which the path is read.
// A file whose identity differs when it is opened stops the copy until the whole path has been hashed again:
// hard links that `nix store optimise` makes or breaks, or a repair, change identities and not content.
// A file that changes while it is read ends the copy with [store.ErrCorrupt].
// A changed link count alone (all but the change time equal) is never an alarm.
//
// A path that is not what the database promises, or changes or vanishes under a reader, is quarantined:
// an alarm is logged, and Info, Open, OpenRange and Layout answer [store.ErrNotFound]
// until its files change and a new hash, made once for each such change, finds them right.
// A path that Nix itself has deleted or replaced meanwhile is no alarm.
// The quarantine is kept in memory: after a restart such a path has no proof, and is found out again when it is read.
//
// # Limits
//
// The first 32 readers have a buffer of 1 MiB each, further ones of 256 KiB.
//
// What the kernel has taken of a large file is sent as it is when it leaves: a write to the file after the comparison
// reaches a client that has not read that far. Nix never writes to the files of a valid path.
//
// An open reader holds descriptors of its path, which Nix's garbage collector, running as root, takes for a use of it.
//
// A file that changed less than two seconds before it was hashed yields no proof,
// for a second change within the same tick of the file system's clock would not show.
// A proof is written to [Options.ProofFile] once its files are two minutes old and so outlive a power failure.
// A writer through a shared mapping may be noticed late: the kernel updates the file's times when it pleases.
// On a file system without stable inode numbers (some overlays and network file systems) identities differ at every
// look; then nothing is proved and each read hashes its path, which is slow and right.
// A change of bytes below the file system (a failing disk) changes no identity:
// it is found by the next pass that hashes, not by a copy.
package localstore
