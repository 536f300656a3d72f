package main

const hookHelp = `
Is for Nix's build-hook setting. For each build it asks the coordinator where that is to be done. A build that goes to
another machine is left to the build-remote of the same Nix, which is told of that machine alone. Where the coordinator
has no answer in time, build-remote decides by the setting "builders", as it would without this hook.

Nix 2.8 takes one file without arguments: make a symlink named nix-offload-hook to nix-offload.
Nix 2.25 to 2.33 ignore build-hook in nix.conf: set it in the environment of nix-daemon.

Examples:
  build-hook = /usr/bin/nix-offload hook                     (in nix.conf)
  build-hook = /usr/bin/nix-offload-hook                     (in nix.conf of Nix 2.8)
  Environment="NIX_CONFIG=build-hook = /usr/bin/nix-offload hook"    (in nix-daemon.service.d/offload.conf)`

const coordinatorHelp = `
Reads the list of builders, keeps a connection to each, reads how they are, and answers hooks and shims on a unix socket,
for root and for who runs it. What it decides it remembers for thirty days: see nix-offload explain.

It can be stopped and started at any time: what is being built goes on, or begins again.

Examples:
  nix-offload coordinator
  nix-offload coordinator --machines builders.toml --key /etc/nix/builder_ed25519
  nix-offload coordinator --config /etc/nix/offload.toml`

const explainHelp = `
Shows what was known of every machine when it was decided, what each would have cost, in seconds, and why others were
refused. DRV is a derivation's store path; without one it is the last decision.

Examples:
  nix-offload explain /nix/store/…-hello-2.12.1.drv
  nix-offload explain --limit 20 --json`

const modeHelp = `
auto weighs this machine against the builders; local prefers this machine for all that it can build, remote the builders.
The mode holds for a time.

Examples:
  nix-offload mode local --ttl 2h
  nix-offload mode auto`

const shimHelp = `
Nix starts it where it is told of a builder ssh-ng://localhost?remote-program=PROGRAM. A builder is chosen when Nix asks for
a build, and another one if that fails. Nix 2.8 takes one file without arguments: a symlink named nix-offload-shim.

A Nix without our hook uses it as a plain builder, with as many slots as there are on all builders:

  builders = ssh-ng://localhost?remote-program=/usr/bin/nix-offload-shim x86_64-linux - 16 1 kvm,big-parallel -`
