// Package catalog knows of a bucket's files what cannot be read from them cheaply: who refers to whom, what uses how
// much, who uploaded what, when it was last used, what is pinned and what is leased; and who may do what to a file just
// now. It is a database, SQLite or PostgreSQL, by way of database/sql and without a driver: packages catalog/sqlite and
// catalog/postgres open one. The files themselves are others' (package store/bucketstore); everything but pins, tokens
// and names of uploaders can be made from them again, with [Catalog.Rebuild].
//
// A bucket holds caches, each with a name. All share the archives, nar/FILEHASH.nar.zst for one; a cache may refer to an
// archive once it has itself uploaded it whole ([Catalog.Holds]). A cache's paths are its narinfos, see [NarinfoKey].
//
// # From upload to deletion
//
// A file and its row cannot change in one step. So a row always says beforehand what may happen to the file, and who
// says it has a lease: until it ends nobody else touches the file, and whoever has it is done with the file long before.
// What is left when a process dies is finished or undone by a later one.
//
//	archive   BeginUpload  uploading   the bytes may be there or not; nobody deletes the key
//	          AddArchive   live        the bytes are there
//	          Delete       deleting    they may be there or not; BeginUpload is ErrDeleting
//	path      Publish      publishing  the narinfo may be there or not; its archive and references are kept
//	                       live        it is there
//	          Delete       deleting    it may be there or not; nobody may refer to it
//
// So these hold at any moment, whatever died when: a narinfo that lies in the bucket has its archive there, and its
// references, in that cache or where [Publication.Elsewhere] found them; of two that refer to one another the referrer
// is gone first; a narinfo before its archive. Package store/bucketstore/gc decides what is deleted.
//
// # Concurrency
//
// Every method is one transaction unless it says otherwise, takes effect whole or not at all, and is seen by all once
// it has returned. On SQLite one transaction writes at a time and reads see the last state before them; on PostgreSQL
// rows are locked, and a transaction that another one was in the way of is done again. "Database is locked" and
// serialization failures do not come out of this package; waiting ends with the context.
//
// A power cut may take back the last moments of what is only an allowance (leases, uses, and, on SQLite, an
// archive or publication that was finished but is found again by its files) and nothing else.
//
// # Limits
//
// Times are kept in milliseconds. A list given to a method may be long (10,000 hash parts are one query), a transaction
// over it is as long. Replicas' clocks must agree to within a third of [Options].Lease.
package catalog
