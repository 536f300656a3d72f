// Package oidc knows the senders of requests by OpenID Connect ID tokens, such as those that GitHub Actions and GitLab
// CI give to each job: a pipeline may then push without a secret that anybody keeps.
//
// Most callers want [New], with one [Issuer] for each kind of sender.
// A request carries the token as [httpcache.Credential] says: with Bearer, or as the password of a netrc file. (Tried
// with Nix 2.8, 2.26 and 2.34: their curl sends a password of 3900 bytes, and none where it has 4200.)
//
// # What is checked
//
//   - The text is a JWT in compact form of at most 16 KiB, typed "JWT" or not at all.
//   - Its signature is by one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 and EdDSA, never by
//     "none" or a shared secret, and the key is the one with the token's kid in the key set of the very issuer that
//     the token names. Keys of RSA have 2048 bits or more.
//   - iss is the configured URL, character by character, and aud is or contains the configured audience.
//   - exp, which must be there, is not past; iat, which must be there, and nbf, which need not, are not to come. Clocks
//     may differ by [Leeway].
//   - Each bound claim has a value that one of its patterns fits. A claim that is a list fits if an element does;
//     numbers and booleans are compared as they are written. A claim that is absent, null or an object fits nothing.
//
// In a pattern a star stands for any run of characters, slashes included, so that "refs/heads/*" fits every branch.
// Everything else stands for itself, and the whole value must match.
//
// A token is not bound to a request: who gets hold of it may use it until it expires.
// What to bind depends on the issuer: GitHub's "repository" alone lets a repository's pull requests in as well; a "ref" of
// "refs/heads/main" beside it does not.
//
// # Issuers that everybody shares
//
// Anyone can have a token of GitHub's or GitLab.com's issuer, for any audience and any branch: "ref" alone binds
// nothing. For those two New insists on a claim that names whom the token is for, and that its patterns leave no room
// for a stranger who chooses a similar name ("org*" fits organisation-of-somebody-else).
// For an issuer of your own it insists on one pattern that is more than a star.
//
// # Keys
//
// An issuer's keys are fetched when they are first needed: by discovery, from URL/.well-known/openid-configuration, and
// then from the jwks_uri there, both over HTTPS alone, within 5 s and at most 1 MiB each. They are fetched again
//
//   - when a token comes and they are older than 15 minutes: in the background, or before the answer if they are older
//     than an hour, so that a key which an issuer has withdrawn works for an hour at most. While the issuer cannot be
//     reached they stay in use until they are 24 hours old;
//   - for a kid that is not known, once in 10 s at most, so that forged tokens cannot make us ask an issuer often. That
//     long a new key may be unknown.
//
// After a failure the next attempt is made after 1 s, then 2 s, and so on up to 5 minutes. Until it succeeds, requests
// with tokens whose key is not known fail at once, with an error that is not [httpcache.ErrBadCredential].
// Nobody waits for another issuer.
package oidc
