// Package doctor finds out why builds are not sent to builders.
//
// [Examine] looks at this machine (the list of builders, the settings of its Nix, the hook, the coordinator) and at each
// builder (the way to it, its keys, its Nix, what that builds for, its disks and its clock). It changes nothing. What it
// says is a list of findings, each with what to do about it.
//
// # What is examined
//
//	machines      the file with the list of builders can be read, and each line of it
//	nix           this machine's Nix, and what its settings are
//	hook          Nix asks nix-offload: by its build-hook, or as a builder in its setting builders
//	coordinator   one answers, and knows the machines of the file
//	connection    the builder is reached, shows the right host key and takes our key
//	key-file      nobody else may read the private key: OpenSSH refuses it otherwise, and with it Nix's own formula
//	daemon        its Nix answers, in a protocol that is known
//	trust         its Nix takes what we send unsigned
//	systems       its Nix builds for what its line says
//	features      its Nix has the features that its line says
//	readings      it tells its load, memory and disks
//	disk          it has room
//	clock         its clock is right: a clock that is wrong spoils builds, and what is known of their age
package doctor
