// Package machines reads lists of builders: Nix's, and our own that say more.
//
// [Read] reads a file of either kind. [Parse] reads Nix's builders setting or the content of a file like
// /etc/nix/machines, [ParseTOML] the other form, [Format] writes a machine as a line for Nix.
//
// # Nix's form
//
// Lines are split by ";" into entries; # begins a comment that ends with the line.
// An entry @FILE stands for what is in FILE, and for nothing if there is no such file.
// Every other entry is a machine, in columns separated by white space; - or nothing is a column's default:
//
//	1  store URI          ssh://[USER@]HOST[:PORT][?PARAMETERS], the same with ssh-ng, or [USER@]HOST for ssh
//	2  systems            separated by commas; the asking machine's
//	3  SSH identity file  none
//	4  jobs               a whole number; 1
//	5  speed factor       a number; 1, and 0 means 1
//	6  features           separated by commas; none
//	7  mandatory features separated by commas; none
//	8  host key           base64 of a line as in known_hosts without the host's name; none
//
// Columns after the eighth are ignored, as Nix does.
//
// Releases differ: the speed factor is a whole number before Nix 2.20; in 2.26 and before a ";" also ends a comment,
// @FILE is one only at the beginning of a line, and a line of blanks is an error.
// This package reads what the newest reads. It is stricter in that a store to which no build can be sent over SSH
// (local, auto, daemon, unix://, https://, a path) is an error, as are a speed factor that is not finite and a file
// that includes itself.
//
// # TOML
//
// A file with tables [[machine]]. Keys of a table, all optional but uri:
//
//	uri                 the store URI, as above
//	name                what it is called; the URI's host
//	systems, features, mandatory-features, tags
//	                    lists of strings
//	max-jobs, speed-factor
//	                    as above
//	user, port, identity, agent, host-key, remote-program
//	                    for SSH: override the URI's. agent is a socket's path, host-key as in known_hosts,
//	                    remote-program a list of words
//	memory-limit        most memory of all our builds there: bytes, or a string such as "24GiB"
//	memory-reserve      memory left alone, likewise
//	weight              how welcome: a cost counts half at 2
//	drained             true: no new builds
//	trusted-keys        public keys "NAME:BASE64", one of which must have signed what is built there
//
// An unknown key is an error that names its line.
//
// # Errors
//
// Each fault is an [*Error] with file, line, column and what to write instead. The parsers return the machines without
// a fault beside the joined errors, so that a caller may go on without the others.
package machines
