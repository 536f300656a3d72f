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
