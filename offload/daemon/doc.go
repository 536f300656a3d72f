// Package daemon connects to the Nix of a builder, by whatever that builder allows.
//
// [Open] returns a connection for the worker protocol, in three ways:
//
//	nix-daemon --stdio            which speaks it
//	PROGRAM --stdio               where the machine's remote-program names the daemon of ssh-ng://
//	nix-store --serve --write     where a key in authorized_keys allows that command alone, or the machine is ssh:// and
//	                              names its program. It speaks the older serve protocol; what stands before it here speaks
//	                              the worker protocol, and makes log events of what it prints
//
// The serve protocol tells neither whether the user is trusted nor why something failed, but on the command's standard
// error: so an error ends the connection, and has the end of that text.
package daemon
