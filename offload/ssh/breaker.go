package ssh

import (
	"math/rand/v2"
	"time"
)

// State is a circuit breaker's.
type State string

// The states of a breaker.
const (
	// Ready: the last attempt to connect succeeded, or none was made.
	Ready State = "ready"
	// Suspended: Opens fail at once until an attempt, at a time that is set, succeeds.
	Suspended State = "suspended"
	// Probing: that attempt is under way. Opens still fail at once.
	Probing State = "probing"
)

// breaker remembers whether a builder is worth an attempt. The pool's mutex guards it.
type breaker struct {
	min, max time.Duration

	state    State
	failures int // in a row
	last     *Error
	until    time.Time // the next attempt
}

// fail opens the breaker and returns how long it stays so: a random part of a bound that doubles. Keys don't mend
// themselves, and who tries them too often is shut out by some: for them the bound is ten times the longest.
func (b *breaker) fail(err *Error) time.Duration {
	bound := b.max
	if b.failures < 16 { // beyond that the shift overflows
		bound = min(b.max, b.min<<b.failures)
	}
	if err.Kind == HostKey || err.Kind == Authentication {
		bound = 10 * b.max
	}
	b.failures++
	b.state, b.last = Suspended, err
	wait := rand.N(bound) + 1
	b.until = time.Now().Add(wait)
	return wait
}

// connected closes the breaker. The failures count until a command has ended on the connection.
func (b *breaker) connected() { b.state, b.until = Ready, time.Time{} }

// proved forgets the failures.
func (b *breaker) proved() { b.failures = 0 }
