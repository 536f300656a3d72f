// Package history remembers builds, and tells from them what the next one takes.
//
// [Open] opens a file, [DB.Record] adds a build, [DB.Estimates] answers for a request and a list of machines,
// [DB.Speeds] says how fast each machine has proved to be. The same file keeps decision records: [DB.Note],
// [DB.Finish] and [DB.Decisions].
//
// # Estimates
//
// The first of these that has builds enough is asked, over the last 20 builds each:
//
//	this-machine     the same package and system on the same machine (2, or all there are)
//	other-machines   the same package and system anywhere, scaled by the machines' speeds (1)
//	name-stem        names that differ in a version alone, scaled; reports of nix-output-monitor count here (1)
//	label            the same label (see offload.Request.Label), scaled (5)
//	global           all builds, scaled, for requests without a label (20)
//
// The package is known by pname, or by the name's stem where there is none.
// Durations are those of builds that succeeded. P50 is the median and P90 the nearest rank; of fewer than 5 builds
// half as much again is expected, for they say little about the worst.
// Memory is of this package's builds whatever their result, if there are any; one that ran out of memory counts for half as
// much again as it had.
// A machine whose speed is not known gets an estimate that is Relative.
//
// # Speeds
//
// Packages that were built on several machines tell how these compare: the logarithm of the median duration is taken for
// the sum of what the package takes and what the machine adds, and both are fitted. Little evidence pulls towards 1, the
// average machine. Builds under 2 s and fixed outputs don't count.
//
// # The file
//
// It is an SQLite database in WAL mode on a local file system, which several processes may have open, for its owner alone:
//
//	builds     one row a build
//	decisions  one row a decision, the record as JSON, deflated
//
// PRAGMA user_version is the version of the tables, 1. Numbers of rows are bounded, for each package on each machine and
// in all; the oldest go first.
//
// History is a help and never a hindrance. A damaged file is moved aside, with a line in the log, and begun anew.
// Where there can be no file (a full disk, a folder that may not be written, a newer version's tables), builds are
// remembered as long as the process runs and the file is not back, and a line says so. Only contradictory options are an error of [Open].
//
// # Speed
//
// Builds are held in memory, about 150 bytes each. An estimate asks the database whether other processes have written,
// and reads what they have; it waits for no lock.
package history
