// Package gc deletes from a bucket what its catalog says is no longer wanted, and never a part of what is.
//
// [Collect] is all there is. It makes a plan over the whole of the catalog, all caches together, and then deletes batch
// by batch; each batch looks at its paths anew, so that pushes and downloads go on meanwhile.
//
// # What is kept
//
// Of these rules an earlier one is stronger. With each path everything that it refers to is kept, all the way down.
//
//  1. What is pinned, and the pin has not expired; what is leased; what a publication under way needs; archives that
//     are leased, which uploads under way are.
//  2. Nothing more once the archives kept have MaxSize bytes. What was used last comes first. An archive counts once,
//     whoever shares it.
//  3. What was used within KeepUsed.
//
// A path counts as used when anything that refers to it was. So a closure is as old as its youngest referrer, and goes
// from the top. If rule 1 alone keeps more than MaxSize, everything else goes and the excess is reported. Where neither
// MaxSize nor KeepUsed is set, only what was left half done goes, and archives that no path needs.
//
// # Deletion
//
// A referrer goes before what it refers to, a narinfo before its archive; whoever reads the bucket never sees a path
// that is not whole. What happens between the plan and a deletion keeps a path: a pin, a lease, a use, a new referrer.
// A collection that dies, at any point, is finished by the next one. Two do not meet: the second is told who is at it.
//
// # Cost
//
// The plan is made in memory: some 1.5 kB for each path with ten references. A batch costs three transactions.
package gc
