// Package artefact keeps compressed archives of a store that keeps none itself, on disk and within a budget.
//
// Most callers want [Open], and hand the [Cache] to httpcache as its Options.Artefacts.
//
// # An artefact
//
// An artefact is a path's NAR compressed with Zstandard, as a row of independent frames.
// Where a frame ends depends on the NAR's size alone: a NAR of up to 1 MiB is one frame, any other begins with one of
// 256 KiB, so that a client has its first bytes at once, and goes on with half of what is left, within 4 and 8 MiB.
// The first frame and every third is compressed more thoroughly.
// So frames are compressed side by side, and the bytes are the same on every machine.
// The window is at most 8 MiB, and each frame has a checksum.
//
// The encoder that makes these very bytes has a name ([Cache.Encoder]). It is part of the artefact's name and of its
// URL, and changes whenever the bytes do.
//
// # Made once
//
// The first [Cache.Open] of a path begins a job that compresses into a file; whoever comes meanwhile reads that file
// while it grows. The job goes on when its clients leave, unless it had to wait and has not begun.
// A NAR whose reader does not end with [io.EOF] after exactly NarSize bytes leaves nothing behind, and all who read it
// get the error: the last frame is written only after the end was seen, for stores prove a NAR there.
//
// # On disk
//
//	DIR/lock                             held while a Cache is open: one process, one folder
//	DIR/NARHASH-ENCODER-FILEHASH.zst     an artefact; hashes are SHA-256 in Nix's base 32
//	DIR/tmp-RANDOM                       one that grows; removed by the next Open after a crash
//
// There is no index. An artefact is published by fsync, rename and fsync of the folder. It is proved against the
// FILEHASH of its name at its first use, and again whenever its inode, size or times changed; one that is damaged is
// removed and made anew. What else lies in the folder is left alone.
//
// # Bounds
//
// The budget holds at every moment: room is made before a frame is written, by removing the artefacts that were not
// used for the longest time and that nobody reads. Files that grow count, and so do removed ones that are still read.
//
// Memory is bounded by the number of encoders E, whatever the size and number of NARs: frames that wait or are being
// compressed have (E+1) times 8 MiB, their compressed forms at most as much again, usually a third, and each encoder
// some 16 MiB. Ten seconds after the last archive what frames had is given back.
// E+2 jobs run at a time, others wait.
//
// Where there is no room, on the disk or in the budget, the archive is compressed straight into the reader, one frame
// after the other; it then cannot be sought in. Up to 16 such readers hold one compressed frame each, others wait.
package artefact
