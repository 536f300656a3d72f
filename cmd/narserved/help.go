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
  narserved serve --store file:///srv/cache --roots /nix/var/nix/profiles/system
  narserved serve --store file:///srv/cache --upload --upstream https://cache.nixos.org`

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

const pushHelp = `
Pushes the paths and all that they need to a binary cache that takes uploads: one of narserved serve --upload, or any
other that nix copy --to https://… could push to. What is there already is not sent again, so a push that was stopped is
run again. A path is published after all that it refers to. PATH is as in narserved query.

The credential is the token in --token-file, else the login for the URL's host in --netrc-file.

With --queue DIR what narserved post-build-hook has queued there is pushed instead, and the queue's entries removed. Several
may work on one queue. An entry that can never be pushed is moved to DIR/failed, with a file .reason beside it.
--watch goes on doing so until SIGTERM, trying again what failed; without --queue, in push-queue in the state folder.
--watch-store moreover queues each path that becomes valid in the store from now on, or since another --watch-store of the
same queue was stopped; derivations only with --drv.

Examples:
  narserved push --to https://cache.example.org --token-file token /run/current-system
  narserved push --to https://cache.example.org $(nix-build)
  narserved push --to https://cache.example.org --token-file token --watch`

const postBuildHookHelp = `
Is for nix.conf's post-build-hook: it puts the paths in $OUT_PATHS into a queue, durably, and returns at once, so that a
build neither waits for a cache nor fails for it. narserved push --watch works the queue off.
As that setting is a file without arguments, make one, or a symlink named narserved-post-build-hook to narserved.
Paths in the queue are not kept from Nix's garbage collector.

Examples:
  ln -s /usr/bin/narserved /etc/nix/narserved-post-build-hook
  post-build-hook = /etc/nix/narserved-post-build-hook       (in nix.conf)`

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
another. A stock Nix looks at a cache before it uploads, so push lets it read a private one.
Without --cache the token is for every cache of the server; the one at the root is named "".
TIME is as 90d, 12w or 36h. Without --expires the token is valid until it is revoked.
Tokens are kept in the tokens file, which belongs to the owner of its folder, if root makes it; or in the catalog, if that
is in PostgreSQL, where all servers that share it know them. --config names the server's file, which says so.

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

const fsckHelp = `
Compares an upload directory with its catalog, and prints a line for each finding: its kind, the file, what is wrong.
A server may go on meanwhile. The exit status is 0 if nothing is wrong or all of it was repaired, else 1.
With --content every archive is read, hashed and decoded. With --rebuild a catalog that was lost is made anew from the
directory; pins, names of uploaders and times of use cannot be found there. Nobody should push meanwhile.

  KIND               is                                           --repair
  malformed          a narinfo that cannot be read                removes it; push the path again
  narinfo-unknown    a path that the catalog does not know        reads its archive and enters it
  narinfo-differs    a path of which the catalog knows otherwise  reads its archive and enters it
  narinfo-absent     a path of the catalog without a file         forgets it, if nothing keeps it; else push it again
  reference-absent   a path that refers to what is not there      does nothing: push what is missing, or delete the path
  archive-absent     an archive that is gone                      does nothing: push the path again
  archive-size       an archive of the wrong size                 removes it; push the path again
  archive-hash       an archive of the wrong hash                 removes it; push the path again
  archive-content    an archive that holds another NAR            removes it, or the wrong narinfo; push the path again
  archive-unchecked  an archive that cannot be decoded here       does nothing
  archive-unneeded   an archive that nothing refers to            removes it
  left-over          what an interrupted writer has left          removes it, a day later

Examples:
  narserved fsck --store file:///srv/cache
  narserved fsck --config /etc/narserved.toml --content --json
  narserved fsck --config /etc/narserved.toml --repair=archive-unneeded,left-over`

const gcHelp = `
Deletes from an upload directory what is not kept, and prints what and why. Kept are, with all that they refer to: what
is pinned; what is just being uploaded; what was used within --keep-used; and of that what fits under --max-size, what
was used last first. Without either only what was left half done goes, and archives that no path needs.
A server with --upload does the same by itself, every --gc-interval; one at a time can.

Examples:
  narserved gc --config /etc/narserved.toml --dry-run --all
  narserved gc --store file:///srv/cache --max-size 200GiB --keep-used 90d`

const pinAddHelp = `
Keeps PATH and all that it refers to, until NAME pins another path, is removed, or TIME has passed. What NAME has pinned
before stays in the history. PATH is a store path, a file inside one, a symlink to one, or a hash part.

Examples:
  narserved pin add release-1.4 /nix/store/1b9p07z77phvv2hf6gm9f28syp39f1ag-hello --config /etc/narserved.toml
  narserved pin add nightly ./result --expires 30d --store file:///srv/cache`

const pinRemoveHelp = `
The path goes with a later collection, unless something else keeps it. The history stays.

Examples:
  narserved pin remove release-1.3 --config /etc/narserved.toml`

const pinListHelp = `
Lists the pins of a cache, expired ones, too; or only that of NAME.

Examples:
  narserved pin list --config /etc/narserved.toml
  narserved pin list nightly --history --json --store file:///srv/cache`

const deleteHelp = `
Deletes a path that has leaked or is wrong, at once, beside a running server: first its narinfo, then its archive, unless
another path has the same content. If others refer to it, it names them and deletes nothing, unless told to delete
them, too. A pin keeps a path from being deleted; remove it first. What was deleted is printed, a path a line.
Proxies, and clients that fetched the path, have it still.

Examples:
  narserved delete /nix/store/1b9p07z77phvv2hf6gm9f28syp39f1ag-secret --config /etc/narserved.toml
  narserved delete --with-referrers 1b9p07z77phvv2hf6gm9f28syp39f1ag --store file:///srv/cache`
