package localstore

import "time"

// SetAges makes proofs of young files possible: tests cannot wait for files to grow old, nor forge their change times.
// Quarantined paths are looked at every 20 ms, the database at each look-up.
func SetAges(o *Options, proof, keep time.Duration) {
	o.ages = ages{proof: proof, keep: keep, look: 20 * time.Millisecond}
}
