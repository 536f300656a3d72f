package localstore

import "time"

// SetAges makes proofs of young files possible: tests cannot wait for files to grow old, nor forge their change times.
// Quarantined paths are looked at every 20 ms, the database at each look-up.
func SetAges(o *Options, proof, keep time.Duration) {
	o.ages = ages{proof: proof, keep: keep, look: 20 * time.Millisecond, memory: 20 * time.Millisecond}
}

// MemoryUsed returns what the memory cache takes, with what its readers still hold.
func (s *Store) MemoryUsed() int64 {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	return s.memory.used
}

// KeptInfos returns for how many hash parts the database's answer is kept.
func (s *Store) KeptInfos() int {
	c := &s.sources.db.infos
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.young) + len(c.old)
}
