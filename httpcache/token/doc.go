// Package token makes and checks tokens: secrets of our own making that say who sends a request to a cache.
//
// Most callers want [New] over a [FileStore], and [GenerateToken] to make a token.
//
// # A token's text
//
//	nixtrap_ID_SECRET
//
// ID is 16 characters, which are lower-case letters and the digits 2 to 7. It names the token in lists and logs and is
// no secret. (Up to 32 are read, and no fewer than 10.) SECRET is 32 random bytes in base64url without padding,
// 43 characters. The prefix is for programs that look for leaked secrets.
// A request carries the text as [httpcache.Credential] says: with Bearer, or as the password of a netrc file.
//
// # What is kept
//
// A [Record] has the SHA-256 of the secret's 32 bytes and never the secret: who reads the store cannot use the tokens.
// (The secret is random, so that a slow hash would protect it no better.) A secret is compared in constant time, and
// against a hash even if there is no token of that ID. Whether an ID exists may be found out by the time that the store
// takes.
//
// # Revocation
//
// A record is trusted for [DefaultMaxAge] after it was read, 5 s, unless [Options] say otherwise: that long a token
// may work after it was revoked. Expiry is exact. A request that is running when its token is revoked runs to its end.
//
// # The file of a FileStore
//
//	{
//	  "version": 1,
//	  "tokens": [
//	    {
//	      "id": "abcdefghij234567",
//	      "sha256": "BASE16",
//	      "name": "ci",
//	      "scopes": "read,push",
//	      "caches": ["*"],
//	      "created": "2026-01-02T15:04:05Z",
//	      "expires": "2026-04-02T15:04:05Z",
//	      "revoked": "2026-02-02T15:04:05Z"
//	    }
//	  ]
//	}
//
// caches ["*"] are all and [] is none; expires and revoked are left out where there is no such time. An unknown field is
// an error, lest a misspelt "expires" be a token for ever, and so is a missing one. Records are never removed, so that what a token has done can
// still be told apart by its ID.
package token
