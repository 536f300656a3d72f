package main

import (
	"fmt"
	"time"
)

// duration is a time with its unit, as "90s" or "5m". A bare number is refused, for it would be nanoseconds.
type duration time.Duration

// Set implements flag.Value.
func (d *duration) Set(text string) error {
	v, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is no time (as 90s, 5m or 0s)", text)
	}
	*d = duration(v)
	return nil
}

// UnmarshalText is for the configuration file, where a duration is a string.
func (d *duration) UnmarshalText(text []byte) error { return d.Set(string(text)) }

// MarshalText is what config check prints.
func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String implements flag.Value.
func (d duration) String() string { return time.Duration(d).String() }
