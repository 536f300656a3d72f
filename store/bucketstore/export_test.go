package bucketstore

import "time"

// SetLook says how long quarantined paths are left alone.
func SetLook(o *Options, look time.Duration) { o.look = look }

// Looks returns how often archives of quarantined paths were read again.
func (s *Store) Looks() int {
	s.quarantine.mu.Lock()
	defer s.quarantine.mu.Unlock()
	return s.quarantine.looks
}
