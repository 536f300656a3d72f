package main

const serveHelp = `
Without flags it serves this machine's Nix store on 127.0.0.1:5000, signed with a key that it makes once, and prints
the lines that clients need. On a machine without a Nix store it serves an empty directory to be filled.
SIGTERM and SIGINT let running transfers finish; a second one cuts them. SIGHUP reads the TLS certificate again.

Examples:
  narserved serve --listen :5000
  narserved serve --config /etc/narserved.toml
  narserved serve --listen :443 --acme-domain cache.example.org
  narserved serve --listen unix:/run/narserved/socket --sign-key /etc/nix/cache.sec
  narserved serve --store file:///srv/cache --roots /nix/var/nix/profiles/system`

const queryHelp = `
KIND is one of
  info, path   all that the store knows of the paths
  references   what the paths refer to
  referrers    what refers to the paths
  closure      the paths and all that they need, each after what it needs
  deriver      the derivation that built each path
  search       paths whose name contains a word, or fits a pattern such as "glibc-2.*"

PATH is a store path, a file inside one, a symlink to one, or a hash part (32 characters).

Examples:
  narserved query closure /run/current-system
  narserved query info --json 1b9p07z77phvv2hf6gm9f28syp39f1ag
  narserved query search "glibc-2.*"`

const keyGenerateHelp = `
NAME is, by custom, a host name and a number. Clients find a signature's key by its name alone,
so two keys need two names.
With --out the secret key goes to that file (mode 0600, never overwritten) and the public key to stdout.
Without, the secret goes to stdout and the public key to stderr.

Examples:
  narserved key generate cache.example.org-1 --out /etc/nix/cache.sec
  narserved key generate cache.example.org-1 | systemd-creds encrypt - cache.cred`

const keyPublicHelp = `
The public half is what clients put into nix.conf's trusted-public-keys.

Examples:
  narserved key public /etc/nix/cache.sec`

const tokenCreateHelp = `
Prints a new token to stdout, once: only its hash is kept. A stock Nix sends it as the password of its netrc-file;
stderr has the line for that.
Scopes are read (fetch from private caches), push (upload) and admin (delete, pin, collect garbage), and none includes
another. A stock Nix looks at a cache before it uploads: to push to a private one it needs read,push.
Without --cache the token is for every cache of the server; the one at the root is named "".
TIME is as 90d, 12w or 36h. Without --expires the token is valid until it is revoked.
The tokens file belongs to the owner of its folder, if root makes it.

Examples:
  narserved token create --name ci --scope read,push --expires 90d
  narserved token create --name laptops --scope read --cache team --host cache.example.org > token`

const tokenListHelp = `
Lists tokens in the order in which they were made, revoked and expired ones, too. Secrets are not known.

Examples:
  narserved token list
  narserved token list --json`

const tokenRevokeHelp = `
ID is what token list shows; a whole token does as well, as it was found where it should not be.
A running server refuses the token within 5 seconds. A revoked token cannot be made valid again.

Examples:
  narserved token revoke q7yjw2m5ldcx3f6a`

const configCheckHelp = `
Reads the file as serve would, and prints every setting with the value that it then has, as TOML.
Key files, certificates and the store are not opened.

Examples:
  narserved config check /etc/narserved.toml`
